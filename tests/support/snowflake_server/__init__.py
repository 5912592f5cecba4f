"""A local Snowflake for tests: a process on a free loopback port that the genuine connector talks to.

    with start() as server:
        connection = server.connect()
        server.fault("corrupt", file="data_.*0_1_0", after=100)

What it imitates, and what not, is in docs/local_snowflake.md. Nothing here is part of the product.
"""

from __future__ import annotations

import io
import json
import shutil
import subprocess
import sys
import tempfile
import urllib.request
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from tests.support import ROOT
from tests.support.snowflake_server.planted import ACCESS_TOKEN, MARK, PASSWORD, USER

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ACCESS_TOKEN", "MARK", "PASSWORD", "USER", "Server", "Statement", "StoredFile", "start"]

DATABASE, SCHEMA = "DB1", "S1"  # made at the start


@dataclass(frozen=True, slots=True)
class Statement:
    """A statement as the server saw it."""

    sql: str
    query_id: str
    session_id: int
    tag: str | None
    asynchronous: bool
    describe_only: bool
    status: str  # RUNNING, SUCCESS or FAILED_WITH_ERROR
    errno: int | None


@dataclass(frozen=True, slots=True)
class StoredFile:
    """A file in a stage, behind the connector's back."""

    path: str
    size: int
    md5: str
    content: str  # where the server keeps the bytes as they are stored

    def read(self) -> bytes:
        return Path(self.content).read_bytes()


class Server:
    """A running server. Everything that a test says to it takes effect before the call returns."""

    def __init__(self) -> None:
        self.folder = tempfile.mkdtemp(prefix="local-snowflake-")
        with Path(self.folder, "stderr.log").open("wb") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, self.folder],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
            )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError(f"The local Snowflake did not start:\n{self.errors()}")
        self.port = int(line)
        self.url = f"http://127.0.0.1:{self.port}"
        self.create(DATABASE, SCHEMA)

    def reset(self) -> None:
        """Forget all databases, files, faults, settings and logs. Sessions stay open, as they were after login."""
        self._ask("reset")
        self.create(DATABASE, SCHEMA)

    # --- the process -------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        return self._process.pid

    def stop(self) -> None:
        """End the process, by its end of input, else by force; remove its files."""
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):  # it has ended already
                self._process.stdin.write(b"stop")
                self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._last_errors = Path(self.folder, "stderr.log").read_text(errors="replace")
        shutil.rmtree(self.folder, ignore_errors=True)

    def errors(self) -> str:
        """What the server wrote to stderr: tracebacks of its own mistakes."""
        log = Path(self.folder, "stderr.log")
        return log.read_text(errors="replace") if log.exists() else getattr(self, "_last_errors", "")

    # --- connecting --------------------------------------------------------------------------------------------------

    def options(self, **changes: Any) -> dict[str, Any]:
        """Arguments of `snowflake.connector.connect`, `changes` over them; None leaves one out."""
        options = {
            "account": "local",
            "user": USER,
            "password": PASSWORD,
            "host": "127.0.0.1",
            "port": self.port,
            "protocol": "http",
            "database": DATABASE,
            "schema": SCHEMA,
            "use_proxy_env": False,  # the server is on this machine
            "session_parameters": {"CLIENT_OUT_OF_BAND_TELEMETRY_ENABLED": False},
            # Said, since the connector warns about a coming change of its default otherwise.
            "enable_server_session_keep_alive_auto_detection": False,
        }
        return {name: value for name, value in (options | changes).items() if value is not None}

    def connect(self, **changes: Any) -> Any:
        """A genuine connection; close it, or use it with `with`."""
        import snowflake.connector

        return snowflake.connector.connect(**self.options(**changes))

    def write_profile(self, folder: Path, name: str = "default", **changes: Any) -> Path:
        """Write connections.toml with one profile into `folder`, which SNOWFLAKE_HOME may name; returns the file."""
        options = self.options(**changes)
        del options["enable_server_session_keep_alive_auto_detection"]  # read as an argument only
        parameters = options.pop("session_parameters", {})
        lines = [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in options.items())]
        if parameters:
            lines += [f"[{name}.session_parameters]", *(f"{key} = {json.dumps(v)}" for key, v in parameters.items())]
        path = folder / "connections.toml"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        path.chmod(0o600)
        return path

    # --- databases, tables, files ------------------------------------------------------------------------------------

    def create(self, database: str, schema: str) -> None:
        """Make a database and a schema of exactly these names, if they are not there."""
        self._ask("create", name=[database, schema, ""])

    def load(self, table: str, rows: pa.Table) -> None:
        """Make or replace a table, such as 'DB1.S1.FLIGHTS', quickly; names are written as in SQL."""
        import pyarrow as pa

        buffer = io.BytesIO()
        with pa.ipc.new_stream(buffer, rows.schema) as writer:
            writer.write_table(rows)
        self._send(f"load?{urlencode({'table': table})}", buffer.getvalue())

    def files(self, location: str) -> list[StoredFile]:
        """The files whose path begins with that of '@db.schema.stage/path', sorted."""
        return [StoredFile(**found) for found in self._ask("files", location=location)]

    def put(self, location: str, content: bytes) -> None:
        """Store a file under exactly this path, whatever was there."""
        self._send(f"put?{urlencode({'location': location})}", content)

    def remove(self, location: str) -> None:
        """Remove the file of exactly this path, if it is there."""
        self._ask("remove", location=location)

    # --- what it saw -------------------------------------------------------------------------------------------------

    def statements(self, *, described: bool = False) -> list[Statement]:
        """All statements since the start or `clear_logs`, in order; those that were only described if asked for."""
        seen = [Statement(**logged) for logged in self._ask("statements")]
        return [statement for statement in seen if described or not statement.describe_only]

    def sql(self) -> list[str]:
        """The texts of `statements()`."""
        return [statement.sql for statement in self.statements()]

    def requests(self) -> list[dict[str, Any]]:
        """All HTTP requests: method, path, range, status, file (path in its stage), presigned, fault."""
        return list(self._ask("requests"))

    def fetches(self) -> Counter[str]:
        """How often each file's bytes were asked for with GET."""
        return Counter(seen["file"] for seen in self.requests() if seen["file"] and seen["method"] == "GET")

    def clear_logs(self) -> None:
        self._ask("clear_logs")

    def open_sessions(self) -> int:
        """How many logins have not been closed."""
        return int(self._ask("sessions"))

    # --- faults and time ---------------------------------------------------------------------------------------------

    def fault(self, action: str, **rule: Any) -> None:
        """Let something go wrong from now on: see `faults.Fault` for the arguments."""
        self._ask("fault", action=action, **rule)

    def faults(self) -> list[dict[str, Any]]:
        """The rules in force, each with `applied`: how often it struck."""
        return list(self._ask("faults"))

    def clear_faults(self) -> None:
        self._ask("clear_faults")

    def advance(self, seconds: float) -> None:
        """Move the server's clock forward: tokens, keys and URLs age."""
        self._ask("advance", seconds=seconds)

    def expire(self, what: str) -> None:
        """Let what was given out so far expire: "sessions", "urls" or "credentials"."""
        self._ask("expire", what=what)

    def configure(self, **settings: Any) -> None:
        """Change some of `settings.Settings`: `transfer`, `digests`, `expired_status`, `timestamp_unit`, ..."""
        self._ask("settings", **settings)

    def _ask(self, verb: str, **arguments: Any) -> Any:
        return self._send(verb, json.dumps(arguments).encode())

    def _send(self, target: str, body: bytes) -> Any:
        request = urllib.request.Request(f"{self.url}/_test/{target}", data=body, method="POST")
        with _OPENER.open(request, timeout=60) as response:
            answer = json.load(response)
        if "error" in answer:
            raise ValueError(f"The local Snowflake refuses {target}: {answer['error']}")
        return answer["value"]


# Not by a proxy that the environment names: the server is on this machine.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


@contextmanager
def start() -> Iterator[Server]:
    """A server for the time of a `with` block."""
    server = Server()
    try:
        yield server
    finally:
        server.stop()
