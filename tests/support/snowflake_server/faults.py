"""Faults on demand: what goes wrong, where, and how often.

A rule looks at one of three subjects: the text of a `statement`, the stage path of a `file` whose bytes are asked for,
or an HTTP `request` ("POST /session/v1/login-request?..."). The first rule that matches and is not used up applies.

| action | what the client sees |
|---|---|
| status | an answer with that HTTP status, nothing done |
| reset | after `after` bytes of the body, or before the head if 0, the connection breaks (RST) |
| truncate | after `after` bytes of the body, whose length was promised, the connection ends (FIN) |
| corrupt | byte `after` of the body flipped |
| slow | `delay` seconds before each 64 KiB of the body |
| latency | `delay` seconds before the answer, which is whole |
| lost | it is carried out, and the connection breaks in the middle of the answer: connector 5.2 gives up (errno 6) |
| unanswered | it is carried out, and the connection breaks before the answer: connector 5.2 asks again |
| error | the statement fails with `errno`, `sqlstate`, `message`, nothing done |
| expired | of a statement: the session token has expired; of a file: the URL or the credentials have |
| missing | of a file: 404; of COPY: the last file that it reports is not there |
| fewer | COPY writes all files, and reports one less |
| partial | COPY writes the first file, then fails with `errno` |
| wrong_md5, wrong_size, unlisted | LIST reports the last file with a wrong digest, a byte too many, or not at all |
| no_md5 | LIST reports no digests |
"""

from __future__ import annotations

import re
import threading
from dataclasses import asdict, dataclass
from typing import Any

TRANSPORT = frozenset({"status", "reset", "truncate", "corrupt", "slow", "latency", "lost", "unanswered"})
OF_STATEMENTS = frozenset(
    {"error", "expired", "missing", "fewer", "partial", "wrong_md5", "no_md5", "wrong_size", "unlisted"}
)
OF_FILES = frozenset({"expired", "missing"})


@dataclass(frozen=True, slots=True)
class Fault:
    """One rule. Exactly one of `statement`, `file`, `request` is a regular expression to be found in the subject.

    Args:
        action: See the module.
        statement: In the SQL text.
        file: In the path inside the stage, of GET requests for its bytes, or of those with `method`.
        request: In "METHOD path?query" of any HTTP request.
        method: HTTP method of `file` requests.
        times: How often it applies; -1 for always.
        skip: How many matches pass unharmed first.
        status: HTTP status of "status".
        headers: Of the answer with "status", such as Retry-After.
        after: Byte of the body at which it breaks or is flipped; negative counts from its end.
        delay: Seconds.
        errno: Of "error" and "partial".
        sqlstate: Likewise.
        message: Likewise.
    """

    action: str
    statement: str | None = None
    file: str | None = None
    request: str | None = None
    method: str = "GET"
    times: int = 1
    skip: int = 0
    status: int = 503
    headers: tuple[tuple[str, str], ...] = ()
    after: int = 0
    delay: float = 0.0
    errno: int = 603
    sqlstate: str = "XX000"
    message: str = "SQL execution internal error: planted by the test."

    def __post_init__(self) -> None:
        subjects = [subject for subject in (self.statement, self.file, self.request) if subject is not None]
        if len(subjects) != 1:
            raise ValueError(f"{self}: give exactly one of statement=, file=, request=.")
        re.compile(subjects[0])
        allowed = TRANSPORT
        allowed |= OF_STATEMENTS if self.statement is not None else OF_FILES if self.file is not None else frozenset()
        if self.action not in allowed:
            raise ValueError(f"{self.action!r} cannot happen there; possible are {', '.join(sorted(allowed))}.")


class Plan:
    """The rules in force, and how often each was met. Safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._rules: list[Fault] = []
        self._met: list[int] = []

    def add(self, fault: Fault) -> None:
        with self._lock:
            self._rules.append(fault)
            self._met.append(0)

    def clear(self) -> None:
        with self._lock:
            self._rules.clear()
            self._met.clear()

    def state(self) -> list[dict[str, Any]]:
        """Each rule with `applied`, how often it struck."""
        with self._lock:
            return [
                asdict(rule) | {"applied": max(0, min(met - rule.skip, rule.times if rule.times >= 0 else met))}
                for rule, met in zip(self._rules, self._met, strict=True)
            ]

    def take(
        self,
        *,
        statement: str | None = None,
        file: str | None = None,
        request: str | None = None,
        method: str | None = None,
    ) -> Fault | None:
        """The fault that strikes this subject now, if any; counted as used."""
        with self._lock:
            for index, rule in enumerate(self._rules):
                pairs = ((rule.statement, statement), (rule.file, file), (rule.request, request))
                if not any(
                    wanted is not None and found is not None and re.search(wanted, found) for wanted, found in pairs
                ):
                    continue
                if rule.file is not None and rule.method != method:
                    continue
                self._met[index] += 1
                if self._met[index] > rule.skip and (rule.times < 0 or self._met[index] <= rule.skip + rule.times):
                    return rule
        return None
