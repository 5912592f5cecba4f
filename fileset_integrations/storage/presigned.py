"""Files of a stage over plain HTTP, by presigned URLs: any bytes of them, renewed and resumed.

A presigned URL is a secret while it lives: it is in no message, log or repr.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import threading
import time
from collections.abc import Callable, Iterable
from http.client import HTTPException, HTTPResponse
from pathlib import Path
from ssl import SSLCertVerificationError

from fileset_integrations.errors import FileSetCorruptError, FileSetError, FileSetFetchError, StageFileNotFoundError
from fileset_integrations.storage.connecting import SnowflakeSession
from fileset_integrations.storage.downloads import Download, Patience
from fileset_integrations.storage.http import PASSING_STATUSES, RENEW_STATUSES, HttpClient, can_pass
from fileset_integrations.storage.locations import StageLocation, literal
from fileset_integrations.storage.ranges import RangeFile

_CHUNK_BYTES = 2**20
_URL_S = 3600  # the longest that stages of every kind allow
_RENEW_AFTER_S = 0.75 * _URL_S
_URLS_AT_ONCE = 64
_RENEWALS = 2  # fresh URLs in a row that do not help
_MD5 = re.compile(r"[0-9a-f]{32}")


class PresignedUrls:
    """Presigned URLs of a stage's files, fetched many at once and renewed before they expire."""

    def __init__(self, session: SnowflakeSession, location: StageLocation) -> None:
        self._session, self._location = session, location
        self._urls: dict[str, tuple[str, float]] = {}
        self._wanted: dict[str, None] = {}  # an ordered set
        self._lock = threading.Lock()

    def want(self, paths: Iterable[str]) -> None:
        """Say which files will be asked for, so that their URLs come with those of others."""
        with self._lock:
            self._wanted.update(dict.fromkeys(paths))

    def url(self, path: str, stale: str | None = None) -> str:
        """The URL of a file.

        Args:
            path: Path from the stage's root.
            stale: A URL of it that does not work any more.

        Raises:
            SnowflakeError: Snowflake gives none.
        """
        if found := self._good(path, stale):
            return found
        with self._lock:  # one statement at a time: whoever waits here finds the URL that the other one got
            if found := self._good(path, stale):
                return found
            if stale is not None and self._urls.get(path, ("", 0.0))[0] == stale:
                self._urls.clear()  # they were signed alike
            others = [one for one in self._wanted if one != path][: _URLS_AT_ONCE - 1]
            now = time.monotonic()
            for one, signed in self._sign([path, *others]).items():
                self._urls[one] = (signed, now)
                self._wanted.pop(one, None)
            return self._urls[path][0]

    def _good(self, path: str, stale: str | None) -> str | None:
        found, made = self._urls.get(path, ("", 0.0))
        return found if found and found != stale and time.monotonic() - made < _RENEW_AFTER_S else None

    def _sign(self, paths: list[str]) -> dict[str, str]:
        # https://docs.snowflake.com/en/sql-reference/functions/get_presigned_url; as Snowpark ML's file system asks.
        values = ", ".join(f"({literal(path)})" for path in paths)
        rows = self._session.execute(
            f"SELECT column1, GET_PRESIGNED_URL({literal('@' + self._location.qualified)}, column1, {_URL_S}) "
            f"FROM VALUES {values}",
            again=True,
        ).rows
        return {str(path): str(url) for path, url in rows}


class PresignedFiles:
    """A stage's files over HTTP.

    Args:
        urls: Where to get URLs.
        shown: How a path is named in errors.
    """

    def __init__(self, urls: PresignedUrls, shown: Callable[[str], str]) -> None:
        self.urls = urls
        self._client, self._shown = HttpClient(), shown

    def download(self, path: str, target: Path, size: int, with_md5: bool) -> Download:
        """Fetch a whole file, in as many pieces as it takes.

        Args:
            path: Path from the stage's root.
            target: The file to write.
            size: Bytes that it has.
            with_md5: Compute its md5 too, which costs as much as all the rest.

        Raises:
            StageFileNotFoundError: It is not there.
            FileSetCorruptError: It has another size.
            FileSetFetchError: It cannot be fetched, for good or for too long.
        """
        sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
        with target.open("wb", buffering=0) as file:

            def take(data: memoryview) -> None:
                sha256.update(data)
                if with_md5:
                    md5.update(data)
                while data:
                    data = data[file.write(data) :]

            stated = self._transfer(path, 0, size, size, take)
        return Download(sha256.hexdigest(), md5.hexdigest() if with_md5 else "", stated)

    def read(self, path: str, first: int, last: int, size: int) -> bytes:
        """Bytes [first, last) of a file of `size` bytes."""
        parts = bytearray()
        self._transfer(path, first, last, size, parts.extend)
        return bytes(parts)

    def open(self, path: str, size: int) -> RangeFile:
        """A file to read and seek in, of which only what is read travels."""
        return RangeFile(lambda first, last: self.read(path, first, last, size), size)

    def _transfer(self, path: str, first: int, last: int, size: int, take: Callable[[memoryview], None]) -> set[str]:
        """Hand bytes [first, last) to `take`, in order, each once; what the responses say of the whole file's md5."""
        shown = self._shown(path)
        patience, renewals, url = Patience(shown), 0, self.urls.url(path)
        stated: set[str] = set()
        buffer = memoryview(bytearray(min(_CHUNK_BYTES, max(last - first, 1))))
        position = first
        while position < last:
            cause, seconds = "", None
            try:
                with self._client.get(url, position, None if last == size else last - 1) as response:
                    if response.status in (200, 206):
                        _check_range(response, position, size, shown)
                        stated |= stated_md5(response)
                        while count := response.readinto(buffer[: min(len(buffer), last - position)]):
                            take(buffer[:count])
                            position += count
                            renewals = 0
                            patience.progress()
                        cause = f"its body ended after {position} of {size} bytes"
                    elif response.status in RENEW_STATUSES and renewals < _RENEWALS:
                        renewals += 1
                        url = self.urls.url(path, stale=url)
                        continue
                    else:
                        cause, seconds = _judge(response, shown), _retry_after(response)
            except FileSetError:
                raise
            except (OSError, HTTPException) as error:
                if isinstance(error, SSLCertVerificationError):
                    raise FileSetFetchError(
                        f"{shown}: cannot be fetched, the stage's certificate is not trusted ({error.verify_message}). "
                        "SSL_CERT_FILE may name the certificates of your network's proxy."
                    ) from None
                if not can_pass(error):
                    raise  # of the disk that it is written to
                cause = "the connection failed: " + type(error).__name__  # whose text may hold the URL
            if position < last:
                patience.wait(cause, seconds)
        return stated


def _judge(response: HTTPResponse, shown: str) -> str:
    """What an answer without the file means, where it may pass; else raises."""
    status = response.status
    response.read(_CHUNK_BYTES)  # an error's body is short; the connection can be used again
    if status in PASSING_STATUSES:
        return f"the stage answers HTTP {status}"
    if status == 404:
        raise StageFileNotFoundError(f"{shown}: the stage has no such file (HTTP 404). Make or copy the FileSet again.")
    if status == 416:
        raise FileSetCorruptError(
            f"{shown}: it is shorter than was written (HTTP 416). Make or copy the FileSet again."
        )
    hint = ", with fresh URLs too; ask whether the role may READ the stage" if status in RENEW_STATUSES else ""
    raise FileSetFetchError(f"{shown}: cannot be fetched, the stage answers HTTP {status}{hint}.")


def _check_range(response: HTTPResponse, position: int, size: int, shown: str) -> None:
    if response.status == 206:
        match = re.fullmatch(r"bytes (\d+)-\d+/(\d+|\*)", response.headers.get("Content-Range", ""))
        if match is None or int(match[1]) != position:
            raise FileSetFetchError(f"{shown}: cannot be fetched, the stage sent other bytes than were asked for.")
        total = size if match[2] == "*" else int(match[2])
    elif position:
        raise FileSetFetchError(f"{shown}: cannot be fetched, the stage sends whole files only, and breaks them off.")
    else:
        total = size if response.length is None else response.length
    if total != size:
        raise FileSetCorruptError(f"{shown}: {total} bytes, {size} were written. Make or copy the FileSet again.")


def _retry_after(response: HTTPResponse) -> float | None:
    text = response.headers.get("Retry-After", "")
    return float(text) if text.isdecimal() else None


def stated_md5(response: HTTPResponse) -> set[str]:
    """What a response says of the md5 of the whole file, hex: Content-MD5 of a whole body, and GCS's x-goog-hash.

    Not the ETag: it is the md5 on some clouds, for some uploads, and nothing tells which.
    """
    texts = [
        part.strip().removeprefix("md5=")
        for value in response.headers.get_all("x-goog-hash", [])
        for part in value.split(",")
        if part.strip().startswith("md5=")
    ]
    if response.status == 200:
        texts += response.headers.get_all("Content-MD5", [])
    found: set[str] = set()
    for text in texts:
        try:
            digest = base64.b64decode(text, validate=True).hex()
        except (binascii.Error, ValueError):
            continue
        if _MD5.fullmatch(digest):
            found.add(digest)
    return found
