"""HTTP GET of presigned URLs, from any byte on.

The standard library's client: urllib3 writes the path and query of each request, and so the signature, to its log.
"""

from __future__ import annotations

import errno
import http.client
import socket
import ssl
import threading
import urllib.request
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from urllib.parse import SplitResult, unquote, urlsplit

_TIMEOUT_S = 30.0  # without a byte

# What can pass, in the sense of RFC 9110: the request timed out, was one of too many, or the server's own failure.
PASSING_STATUSES = frozenset((408, 425, 429, 500, 502, 503, 504))
# What S3, GCS and Azure answer to a URL whose time is over, among other things that a new URL may mend.
RENEW_STATUSES = frozenset((400, 401, 403))
_PASSING_ERRORS = (http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError, socket.gaierror)
_PASSING_ERRNOS = frozenset((errno.ENETUNREACH, errno.EHOSTUNREACH, errno.ENETDOWN, errno.EADDRNOTAVAIL))


def can_pass(error: Exception) -> bool:
    """Whether an error is of the way to the server, such that another attempt may succeed; a certificate's is not."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return False
    return isinstance(error, _PASSING_ERRORS) or getattr(error, "errno", None) in _PASSING_ERRNOS


@dataclass(frozen=True, slots=True, eq=False)
class _Way:
    """An open connection, and whether it goes to a proxy that is told whole URLs."""

    connection: http.client.HTTPConnection
    whole_urls: bool


class HttpClient:
    """Connections that are kept open, each thread's its own, until nobody holds the client any more.

    Proxies are those that the environment names when a connection is opened.
    """

    def __init__(self, timeout_s: float = _TIMEOUT_S) -> None:
        self._local = threading.local()
        self._timeout_s = timeout_s
        self._tls: ssl.SSLContext | None = None
        # Of all threads: those that end do not close theirs.
        self._open: set[http.client.HTTPConnection] = set()
        weakref.finalize(self, _close, self._open)

    @contextmanager
    def get(self, url: str, first: int = 0, last: int | None = None) -> Iterator[http.client.HTTPResponse]:
        """The response to a GET of bytes [first, last], or to the end; its body is still to be read.

        Raises:
            OSError, http.client.HTTPException: No answer came; see `can_pass`.
        """
        parts = urlsplit(url)
        headers = {"Accept-Encoding": "identity"}
        if first or last is not None:
            headers["Range"] = f"bytes={first}-{'' if last is None else last}"
        response = self._ask(parts, url, headers)
        try:
            yield response
        finally:
            if not response.isclosed():  # what is left of the body would be taken for the next answer
                self._drop(parts)

    def _ask(self, parts: SplitResult, url: str, headers: dict[str, str]) -> http.client.HTTPResponse:
        for kept in (True, False):
            way, reused = self._way(parts)
            target = url if way.whole_urls else parts._replace(scheme="", netloc="", fragment="").geturl()
            try:
                way.connection.request("GET", target, headers=headers)
                return way.connection.getresponse()
            except (ConnectionError, http.client.HTTPException) as error:
                self._drop(parts)
                # A kept connection may have been closed by the server while it was idle.
                if not (kept and reused) or isinstance(error, TimeoutError):
                    raise
            except BaseException:
                self._drop(parts)
                raise
        raise AssertionError("unreachable: the second attempt returns or raises")

    def _way(self, parts: SplitResult) -> tuple[_Way, bool]:
        """The connection to where a URL leads, and whether it was there already."""
        ways: dict[str, _Way] = self._local.__dict__.setdefault("ways", {})
        place = f"{parts.scheme}://{parts.netloc}"
        if place in ways:
            return ways[place], True
        proxy = _proxy(parts)
        made: http.client.HTTPConnection
        host, port = parts.hostname or "", parts.port
        if parts.scheme == "https":
            self._tls = self._tls or ssl.create_default_context()
            if proxy:
                made = http.client.HTTPSConnection(
                    proxy.hostname or "", proxy.port, timeout=self._timeout_s, context=self._tls
                )
                made.set_tunnel(host, port, _proxy_headers(proxy))
            else:
                made = http.client.HTTPSConnection(host, port, timeout=self._timeout_s, context=self._tls)
        elif proxy:
            made = http.client.HTTPConnection(proxy.hostname or "", proxy.port, timeout=self._timeout_s)
        else:
            made = http.client.HTTPConnection(host, port, timeout=self._timeout_s)
        self._open.add(made)
        ways[place] = _Way(made, proxy is not None and parts.scheme == "http")
        return ways[place], False

    def _drop(self, parts: SplitResult) -> None:
        way = self._local.__dict__.get("ways", {}).pop(f"{parts.scheme}://{parts.netloc}", None)
        if way is not None:
            self._open.discard(way.connection)
            way.connection.close()


def _close(connections: set[http.client.HTTPConnection]) -> None:
    while connections:
        connections.pop().close()


def _proxy(parts: SplitResult) -> SplitResult | None:
    proxy = urllib.request.getproxies().get(parts.scheme)
    if not proxy or urllib.request.proxy_bypass(parts.hostname or ""):
        return None
    return urlsplit(proxy if "://" in proxy else f"http://{proxy}")


def _proxy_headers(proxy: SplitResult) -> dict[str, str]:
    if proxy.username is None:
        return {}
    import base64

    user = f"{unquote(proxy.username)}:{unquote(proxy.password or '')}"
    return {"Proxy-Authorization": "Basic " + base64.b64encode(user.encode()).decode()}
