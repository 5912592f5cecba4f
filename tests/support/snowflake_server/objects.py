"""The object store behind the stages: path-style S3, and presigned URLs, with ranges."""

from __future__ import annotations

import re
from email.utils import formatdate

from tests.support.snowflake_server.faults import Fault, Plan
from tests.support.snowflake_server.sessions import BUCKET, Access, Clock
from tests.support.snowflake_server.settings import Settings
from tests.support.snowflake_server.stages import Stage, Store, StoredFile, shown_digest
from tests.support.snowflake_server.web import Request, Response

PREFIX = f"/{BUCKET}/"
_EXPIRED_STATUS = {"s3": 403, "gcs": 400}


class Objects:
    """Answers requests for the bytes of files."""

    def __init__(self, store: Store, access: Access, clock: Clock, plan: Plan, settings: Settings) -> None:
        self._store = store
        self._access = access
        self._clock = clock
        self._plan = plan
        self._settings = settings

    def location(self, stage: Stage, path: str = "") -> str:
        """Bucket and key of a path in a stage."""
        return f"{BUCKET}/{stage.key}/{path}"

    def path_of(self, request: Request) -> str | None:
        """The path inside its stage, of a request for a file's bytes."""
        return request.path.removeprefix(PREFIX).partition("/")[2] if request.path.startswith(PREFIX) else None

    def url(self, base: str, stage: Stage, path: str, lifetime: float) -> str:
        return self._access.url(base, f"/{self.location(stage, path)}", lifetime)

    def answer(self, request: Request) -> Response:
        key, _, path = request.path.removeprefix(PREFIX).partition("/")
        fault = self._plan.take(file=path, method=request.method)
        response = self._answer(request, key, path, fault)
        response.fault = fault if fault is not None and fault.action not in ("expired", "missing") else None
        return response

    def _answer(self, request: Request, key: str, path: str, fault: Fault | None) -> Response:
        refused = self._access.check(request.path, request.raw_query, request.query, request.headers)
        if refused == "expired" or (fault is not None and fault.action == "expired"):
            return self._expired(request)
        if refused is not None:
            return _error(403, "AccessDenied", "Access Denied")
        stage = self._store.by_key(key)
        if stage is None:
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        if request.method == "PUT":
            return self._put(request, stage, path)
        stored = self._store.file(stage, path)
        if stored is None or (fault is not None and fault.action == "missing"):
            return _error(404, "NoSuchKey", "The specified key does not exist.")
        return _get(request, stored, shown_digest(stored, self._settings.digests))

    def _expired(self, request: Request) -> Response:
        if "X-Amz-Signature" in request.query:
            status = self._settings.expired_status or _EXPIRED_STATUS[self._settings.transfer]
            return _error(status, "AccessDenied" if status == 403 else "ExpiredToken", "Request has expired")
        return _error(400, "ExpiredToken", "The provided token has expired.")

    def _put(self, request: Request, stage: Stage, path: str) -> Response:
        body = request.body
        if "aws-chunked" in request.headers.get("content-encoding", ""):
            body = _without_chunks(body)
        if request.headers.get("if-none-match") == "*" and self._store.file(stage, path) is not None:
            return _error(412, "PreconditionFailed", "At least one of the pre-conditions you specified did not hold")
        content = self._store.new_content()
        content.write_bytes(body)
        metadata = {name: value for name, value in request.headers.items() if name.startswith("x-amz-meta-")}
        stored = self._store.put(stage, path, content, self._clock.now(), metadata)
        return Response(headers={"ETag": f'"{stored.md5}"'})


def _get(request: Request, stored: StoredFile, digest: str | None) -> Response:
    headers = {
        "Last-Modified": formatdate(stored.modified, usegmt=True),
        "Accept-Ranges": "bytes",
        "Content-Type": "application/octet-stream",
        **({} if digest is None else {"ETag": f'"{digest}"'}),
        **stored.metadata,
    }
    span = (0, stored.size)
    status = 200
    if match := re.fullmatch(r"bytes=(\d*)-(\d*)", request.headers.get("range", "")):
        first, last = match.groups()
        if first:
            span = (int(first), min(int(last) + 1 if last else stored.size, stored.size))
        elif last:
            span = (max(0, stored.size - int(last)), stored.size)
        if span[0] >= span[1]:
            return _error(416, "InvalidRange", "The requested range is not satisfiable")
        status = 206
        headers["Content-Range"] = f"bytes {span[0]}-{span[1] - 1}/{stored.size}"
    return Response(status, headers=headers, content=stored.content, span=span)


def _without_chunks(body: bytes) -> bytes:
    """The payload of AWS's chunked framing: size[;signature] CRLF data CRLF ..., ended by size 0."""
    out: list[bytes] = []
    at = 0
    while True:
        end = body.index(b"\r\n", at)
        size = int(body[at:end].partition(b";")[0], 16)
        if size == 0:
            return b"".join(out)
        out.append(body[end + 2 : end + 2 + size])
        at = end + 2 + size + 2


def _error(status: int, code: str, message: str) -> Response:
    text = f'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>{code}</Code><Message>{message}</Message></Error>'
    return Response(status, text.encode(), {"Content-Type": "application/xml", "x-amz-request-id": "LOCAL"})
