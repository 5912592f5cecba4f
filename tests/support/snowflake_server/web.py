"""HTTP/1.1 on sockets that we can break: the standard library's server, with faults where the bytes go out."""

from __future__ import annotations

import json
import socket
import struct
import sys
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

from tests.support.snowflake_server.faults import Fault

_PIECE = 65_536  # bytes between two delays of a slow body


@dataclass(frozen=True, slots=True)
class Request:
    """One request, its body read."""

    method: str
    target: str  # as it came: path?query
    path: str  # percent-decoded
    raw_query: str
    query: dict[str, str]
    headers: dict[str, str]  # lower-case names
    body: bytes


@dataclass
class Response:
    """One answer: a body in memory, or a span of a file."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    content: Path | None = None
    span: tuple[int, int] = (0, 0)  # of content: [start, stop)
    fault: Fault | None = None  # what is to happen to it on its way

    @property
    def length(self) -> int:
        return self.span[1] - self.span[0] if self.content is not None else len(self.body)

    def bytes(self) -> bytes:
        """The body, read if it is in a file."""
        if self.content is None:
            return self.body
        with self.content.open("rb") as file:
            file.seek(self.span[0])
            return file.read(self.length)


def json_response(value: Any, status: int = 200) -> Response:
    return Response(status, json.dumps(value).encode(), {"Content-Type": "application/json"})


class Server(ThreadingHTTPServer):
    """Serves `answer` on a free loopback port, a thread for each connection."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, answer: Callable[[Request], Response]) -> None:
        self.answer = answer
        super().__init__(("127.0.0.1", 0), _Handler)

    def handle_error(self, request: Any, client_address: Any) -> None:
        # A client that went away is nothing to report.
        if not isinstance(sys.exc_info()[1], ConnectionError):
            traceback.print_exc()


class _Broken(ConnectionError):
    """The connection was broken on purpose."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # head and file go out in two writes
    server: Server

    def log_message(self, format: str, *args: Any) -> None:
        """Keep stderr for what went wrong here."""

    def serve(self) -> None:
        split = urlsplit(self.path)
        request = Request(
            method=self.command,
            target=self.path,
            path=unquote(split.path),
            raw_query=split.query,
            query={name: values[-1] for name, values in parse_qs(split.query).items()},
            headers={name.lower(): value for name, value in self.headers.items()},
            body=self._body(),
        )
        try:
            response = self.server.answer(request)
        except Exception:
            traceback.print_exc()
            # 400: the connector repeats a request that was answered with 500 for a long time.
            response = Response(400, traceback.format_exc(limit=-3).encode())
        self._send(response)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = serve

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding", "").lower() != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = []
        while size := int(self.rfile.readline().partition(b";")[0], 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        while self.rfile.readline().strip():
            pass
        return b"".join(parts)

    def _send(self, response: Response) -> None:
        fault = response.fault
        if fault is not None and fault.action == "latency":
            time.sleep(fault.delay)
        if fault is not None and fault.action == "status":
            response = Response(fault.status, b"", dict(fault.headers))
        if fault is not None and (fault.action == "unanswered" or (fault.action == "reset" and fault.after == 0)):
            self._break(reset=True)
        self.send_response(response.status)
        for name, value in response.headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(response.length))
        self.end_headers()
        if self.command == "HEAD":
            return
        if fault is None or fault.action in ("latency", "status"):
            self._send_body(response)
            return
        body = response.bytes()
        after = fault.after if fault.after >= 0 else max(0, len(body) + fault.after)
        if fault.action == "corrupt" and body:
            at = min(after, len(body) - 1)
            body = body[:at] + bytes([body[at] ^ 0xFF]) + body[at + 1 :]
        if fault.action in ("reset", "truncate", "lost"):
            self.connection.sendall(body[: len(body) // 2 if fault.action == "lost" else after])
            self._break(reset=fault.action != "truncate")
        if fault.action == "slow":
            for start in range(0, len(body), _PIECE):
                time.sleep(fault.delay)
                self.connection.sendall(body[start : start + _PIECE])
            return
        self.connection.sendall(body)

    def _send_body(self, response: Response) -> None:
        if response.content is None:
            self.connection.sendall(response.body)
        elif response.length:
            with response.content.open("rb") as file:
                self.connection.sendfile(file, response.span[0], response.length)

    def _break(self, *, reset: bool) -> None:
        """End the connection without a word: with RST, or with FIN."""
        self.close_connection = True
        if reset:
            # With no time to linger, close() sends RST. The reader holds the socket open until it is closed as well.
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.rfile.close()
            self.connection.close()
        raise _Broken
