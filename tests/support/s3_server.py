"""A local S3 for tests: moto's server in a process of its own, on a free loopback port, with a log of its requests.

    with start() as server:
        server.make_bucket("tests")
        FileSet.make(target_stage_loc="s3://tests/sets", storage_options=server.options(), ...)

`python -m tests.support.s3_server` is that process. It writes its port to stdout and ends when its standard input does,
so it outlives nobody. Moto checks keys and signatures once `require_keys` was called; its paths under "/control/" are
ours.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from tests.support import ROOT

KEY, SECRET = "AKIALOCALTESTS", "hunter2-of-the-local-s3"  # the word that the search for secrets looks for
REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Request:
    """A request as the server saw it."""

    method: str
    path: str  # "/bucket/key"
    query: str
    range: str
    status: int


class Server:
    """A running server. Everything that a test says to it takes effect before the call returns."""

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self.stop()
            raise RuntimeError("The local S3 did not start.")
        self.url = f"http://127.0.0.1:{int(line)}"

    def stop(self) -> None:
        """End the process, by its end of input, else by force."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()

    # --- how it is reached -------------------------------------------------------------------------------------------

    def options(self, **changes: Any) -> dict[str, Any]:
        """`storage_options` that reach it, `changes` over them."""
        return {"key": KEY, "secret": SECRET, "endpoint_url": self.url, **changes}

    def environment(self) -> dict[str, str]:
        """Variables by which a process reaches it without storage options."""
        return {
            "AWS_ACCESS_KEY_ID": KEY,
            "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_ENDPOINT_URL": self.url,
            "AWS_DEFAULT_REGION": REGION,
            "AWS_EC2_METADATA_DISABLED": "true",  # no machine is asked for its role
        }

    # --- what is in it, and what it does -----------------------------------------------------------------------------

    def reset(self) -> None:
        """Forget all buckets, keys, delays and logs."""
        self._ask("/moto-api/reset-auth", b"1000000000")
        self._ask("/moto-api/reset")
        self._ask("/control/reset")

    def make_bucket(self, name: str) -> str:
        """Make a bucket; returns "s3://name"."""
        self._ask(f"/{name}", method="PUT")
        return f"s3://{name}"

    def keys(self, bucket: str) -> list[str]:
        """Keys of all objects of a bucket, sorted."""
        return list(self._ask(f"/control/keys?{bucket}"))

    def delay(self, seconds: float) -> None:
        """Answer each request so much later, as a store that is far away does."""
        self._ask(f"/control/delay?{seconds}")

    def settle(self) -> None:
        """Return when nothing is asked any more: what a process that was killed had asked is still carried out."""
        deadline = time.monotonic() + 30
        while self._ask("/control/busy") and time.monotonic() < deadline:
            time.sleep(0.02)

    def require_keys(self) -> dict[str, str]:
        """Let only requests with a valid signature through from now on; the key and the secret of an account."""
        made: dict[str, str] = self._ask("/control/account")
        self._ask("/moto-api/reset-auth", b"0")
        return made

    # --- what it saw -------------------------------------------------------------------------------------------------

    def requests(self) -> list[Request]:
        """All requests to buckets since the start or `clear_log`, in order of their answers."""
        return [Request(*one) for one in self._ask("/control/log")]

    def clear_log(self) -> None:
        """Forget the requests so far."""
        self._ask("/control/clear")

    def fetches(self) -> Counter[str]:
        """Key -> GETs of the object, whole or in parts."""
        objects = (one.path.split("/", 2) for one in self.requests() if one.method == "GET" and one.path.count("/") > 1)
        return Counter(parts[2] for parts in objects if parts[2])

    def _ask(self, path: str, data: bytes = b"", method: str = "POST") -> Any:
        headers = {"Content-Type": "text/plain"}
        request = urllib.request.Request(self.url + path, data=data, method=method, headers=headers)
        with urllib.request.urlopen(request, timeout=30) as response:
            answer = response.read()
        return json.loads(answer) if path.startswith("/control/") else None


@contextmanager
def start() -> Iterator[Server]:
    """A server, for as long as the `with` block runs."""
    server = Server()
    try:
        yield server
    finally:
        server.stop()


# --- the process -----------------------------------------------------------------------------------------------------

_Answer = Callable[[str, list[tuple[str, str]]], Any]


class _Logged:
    """Moto's application, each of whose requests is delayed and noted."""

    def __init__(self, application: Callable[[dict[str, Any], _Answer], Iterable[bytes]]) -> None:
        self._application = application
        self._lock = threading.Lock()
        self._log: list[tuple[str, str, str, str, int]] = []
        self._delay_s = 0.0
        self._busy = 0

    def __call__(self, environ: dict[str, Any], start_response: _Answer) -> Iterable[bytes]:
        path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
        if path.startswith("/control/"):
            body = json.dumps(self._control(path.removeprefix("/control/"), query)).encode()
            start_response("200 OK", [("Content-Type", "application/json"), ("Content-Length", str(len(body)))])
            return [body]
        if path.startswith("/moto-api/"):
            return self._application(environ, start_response)
        statuses: list[str] = []

        def noting(status: str, headers: list[tuple[str, str]], *rest: Any) -> Any:
            statuses.append(status)
            return start_response(status, headers, *rest)

        with self._lock:
            self._busy += 1
        try:
            time.sleep(self._delay_s)
            body = list(self._application(environ, noting))
        finally:
            with self._lock:
                self._busy -= 1
        with self._lock:
            asked = environ.get("HTTP_RANGE", "")
            self._log.append((environ["REQUEST_METHOD"], path, query, asked, int(statuses[-1].split()[0])))
        return body

    def _control(self, what: str, argument: str) -> Any:
        with self._lock:
            if what == "log":
                return self._log
            if what == "busy":
                return self._busy
            if what == "delay":
                self._delay_s = float(argument)
            if what == "reset":
                self._delay_s = 0.0
            if what in ("clear", "reset"):
                self._log = []
        if what == "account":
            return _make_account()
        if what == "keys":
            return _keys_of(argument)
        return None


def _make_account() -> dict[str, str]:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.iam.models import iam_backends

    backend = iam_backends[DEFAULT_ACCOUNT_ID]["aws"]
    backend.create_user(region_name=REGION, user_name="trainer")
    policy = {"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:*", "Resource": "*"}]}
    backend.put_user_policy("trainer", "all", json.dumps(policy))
    key = backend.create_access_key(user_name="trainer")
    return {"key": key.access_key_id, "secret": key.secret_access_key}


def _keys_of(bucket: str) -> list[str]:
    from moto.core import DEFAULT_ACCOUNT_ID
    from moto.s3.models import s3_backends

    return sorted(s3_backends[DEFAULT_ACCOUNT_ID]["aws"].buckets[bucket].keys)


def _main() -> None:
    from moto.server import DomainDispatcherApplication, create_backend_app
    from werkzeug.serving import WSGIRequestHandler, make_server

    class Quiet(WSGIRequestHandler):
        """Keeps connections open, and logs nothing."""

        protocol_version = "HTTP/1.1"

        def log(self, type: str, message: str, *arguments: Any) -> None:
            pass

    application = _Logged(DomainDispatcherApplication(create_backend_app))
    server = make_server("127.0.0.1", 0, application, threaded=True, request_handler=Quiet)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(server.server_port, flush=True)
    sys.stdin.read()
    os._exit(0)  # threads may wait for a client


if __name__ == "__main__":
    _main()
