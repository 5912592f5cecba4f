"""Sessions, tokens, keys to stages, signatures of URLs: everything that expires, and the clock it expires by."""

from __future__ import annotations

import hashlib
import hmac
import itertools
import secrets
import threading
import time
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from tests.support.snowflake_server.planted import MARK

SESSION_SECONDS = 3_600
MASTER_SECONDS = 14_400
CREDENTIAL_SECONDS = 3_600
BUCKET = "sfc-local-stages"  # the connector asks no bucket of such a name whether it is accelerated


class Clock:
    """The server's time, which a test can move forward."""

    def __init__(self) -> None:
        self._ahead = 0.0

    def now(self) -> float:
        return time.time() + self._ahead

    def advance(self, seconds: float) -> None:
        self._ahead += seconds

    def reset(self) -> None:
        self._ahead = 0.0


@dataclass
class ServerSession:
    """One login."""

    id: int
    token: str
    master_token: str
    expires: float
    master_expires: float
    user: str
    database: str | None
    schema: str | None
    warehouse: str | None
    role: str | None
    parameters: dict[str, Any] = field(default_factory=dict)
    last_query_id: str | None = None

    def __post_init__(self) -> None:
        self._at_login = (self.database, self.schema, self.warehouse, self.role, dict(self.parameters))

    def reset(self) -> None:
        """Stand where the login stood, with its parameters."""
        self.database, self.schema, self.warehouse, self.role, parameters = self._at_login
        self.parameters = dict(parameters)


class Sessions:
    """All sessions, by their tokens. Safe for threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._by_token: dict[str, ServerSession] = {}
        self._by_master: dict[str, ServerSession] = {}
        self._ids = itertools.count(100_001)

    def open(self, **about: Any) -> ServerSession:
        now = self._clock.now()
        session = ServerSession(
            id=next(self._ids),
            token=f"{MARK}-session-{secrets.token_hex(16)}",
            master_token=f"{MARK}-master-{secrets.token_hex(16)}",
            expires=now + SESSION_SECONDS,
            master_expires=now + MASTER_SECONDS,
            **about,
        )
        with self._lock:
            self._by_token[session.token] = session
            self._by_master[session.master_token] = session
        return session

    def find(self, token: str) -> ServerSession | None:
        """The session of a token, be it expired."""
        with self._lock:
            return self._by_token.get(token)

    def is_valid(self, session: ServerSession, token: str) -> bool:
        return session.token == token and self._clock.now() < session.expires

    def renew(self, master_token: str) -> ServerSession | None:
        """Give the session a new token, unless its master token has expired, too."""
        with self._lock:
            session = self._by_master.get(master_token)
            if session is None or self._clock.now() >= session.master_expires:
                return None
            session.token = f"{MARK}-session-{secrets.token_hex(16)}"
            session.expires = self._clock.now() + SESSION_SECONDS
            self._by_token[session.token] = session  # the old token stays known, as expired
            return session

    def expire(self) -> None:
        """Let all session tokens expire now; master tokens still renew them."""
        with self._lock:
            for session in self._by_token.values():
                session.expires = 0.0

    def reset(self) -> None:
        """Every session as after its login, its tokens fresh."""
        with self._lock:
            for session in self._by_master.values():
                session.reset()
                session.expires = self._clock.now() + SESSION_SECONDS
                session.master_expires = self._clock.now() + MASTER_SECONDS

    def close(self, session: ServerSession) -> None:
        with self._lock:
            self._by_master.pop(session.master_token, None)
            for token in [token for token, other in self._by_token.items() if other is session]:
                del self._by_token[token]

    def count(self) -> int:
        with self._lock:
            return len(self._by_master)


@dataclass(frozen=True, slots=True)
class Credentials:
    """Temporary keys to a stage's bucket, as AWS's STS gives."""

    key_id: str
    secret_key: str
    token: str
    expires: float


class Access:
    """Who may read and write objects: by temporary keys, or by a signed URL."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._key = secrets.token_bytes(16)
        self._lock = threading.Lock()
        self._credentials: dict[str, Credentials] = {}
        self._urls_valid_from = 0.0
        self._serial = itertools.count(1)

    def credentials(self) -> Credentials:
        given = Credentials(
            key_id=f"ASIALOCAL{next(self._serial):06d}",
            secret_key=f"{MARK}-aws-secret-{secrets.token_hex(8)}",
            token=f"{MARK}-aws-token-{secrets.token_hex(8)}",
            expires=self._clock.now() + CREDENTIAL_SECONDS,
        )
        with self._lock:
            self._credentials[given.key_id] = given
        return given

    def url(self, base: str, path: str, lifetime: float) -> str:
        """A URL of `path` that is good for `lifetime` seconds, in the form of AWS's presigned ones."""
        now = self._clock.now()
        date = datetime.fromtimestamp(now, UTC).strftime("%Y%m%dT%H%M%SZ")
        query = (
            f"X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date={date}&X-Amz-Expires={lifetime:g}&X-Amz-SignedHeaders=host"
        )
        query += f"&X-Local-Issued={now:.6f}"
        return f"{base}{quote(path)}?{query}&X-Amz-Signature={self._signature(path, query)}"

    def expire_urls(self) -> None:
        """Let all URLs signed so far expire."""
        self._urls_valid_from = self._clock.now()

    def expire_credentials(self) -> None:
        """Let all keys given so far expire."""
        with self._lock:
            self._credentials = {
                key: Credentials(key, old.secret_key, old.token, 0.0) for key, old in self._credentials.items()
            }

    def check(self, path: str, raw_query: str, query: dict[str, str], headers: dict[str, str]) -> str | None:
        """None if access is granted; else "expired" or "denied"."""
        if signature := query.get("X-Amz-Signature"):
            signed = raw_query.partition("&X-Amz-Signature=")[0]
            if not hmac.compare_digest(signature, self._signature(path, signed)):
                return "denied"
            issued = float(query["X-Local-Issued"])
            over = self._clock.now() >= issued + float(query["X-Amz-Expires"])
            return "expired" if over or issued <= self._urls_valid_from else None
        key_id = headers.get("authorization", "").partition("Credential=")[2].partition("/")[0]
        with self._lock:
            given = self._credentials.get(key_id)
        if given is None or headers.get("x-amz-security-token") != given.token:
            return "denied"
        return "expired" if self._clock.now() >= given.expires else None

    def _signature(self, path: str, query: str) -> str:
        return f"{MARK}{hmac.new(self._key, f'{path}?{query}'.encode(), hashlib.sha256).hexdigest()}"
