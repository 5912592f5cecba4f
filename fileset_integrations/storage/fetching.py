"""Fetching: files of a stage or a bucket become verified local files, many at once, each once per machine.

A file is accepted when its size, its footer's row count and a digest agree: the sha256 that the manifest or an earlier
fetch knows, else the md5 that LIST or the response states. A mismatch is fetched once more, then an error.
"""

from __future__ import annotations

import threading
import warnings
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Literal, Protocol

import pyarrow as pa
import pyarrow.parquet as pq

from fileset_integrations.counters import Counters
from fileset_integrations.errors import FileSetCorruptError
from fileset_integrations.forks import mend_after_fork
from fileset_integrations.storage.downloads import Download
from fileset_integrations.storage.fetched import FetchedFiles

Verify = Literal["auto", "strict"]

_FETCHES = 32  # at once; mostly waiting for the network
_FILES_AHEAD = 12  # fetched beyond those in use
_FILES_WANTED = 64  # said to be wanted at once, so that one statement signs the URLs of all
_REOPENS = 8  # of a file that others evict between fetch and open
_FETCHES_OF_ONE = 2  # a mismatch is fetched once more


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """One file of a snapshot that lies elsewhere, as it must be.

    Attributes:
        path: What it is fetched by: its URL, or its path from the stage's root.
        size: Bytes.
        rows: Rows.
        sha256: Digest in the manifest, hex; None where nobody has computed it.
        key: Its name in the cache.
    """

    path: str
    size: int
    rows: int
    sha256: str | None
    key: str


class Remote(Protocol):
    """Where fetched files come from."""

    def check_process(self) -> None:
        """Raises where this process must not fetch."""

    def download(self, path: str, target: Path, size: int, with_md5: bool) -> Download:
        """Write a file to `target`."""

    def listed_md5(self, file: RemoteFile) -> str | None:
        """Md5 that LIST states, hex; None where that is not the content's. Errors where the file is not as written."""

    def shown(self, path: str) -> str:
        """The path as errors name it."""

    def want(self, paths: Iterable[str]) -> None:
        """Told which files will be downloaded."""

    def unverified(self, file: RemoteFile) -> str | None:
        """What to warn of where nothing states the file's digest; None: nothing."""


class Fetcher:
    """Fetches files into the cache, with threads of its own.

    Args:
        remote: Where they come from.
        cache: Where they go.
        verify: "auto", or "strict": a file that nobody knows the sha256 of is fetched twice and compared.

    Attributes:
        counters: Files that were fetched, and their bytes.
    """

    def __init__(self, remote: Remote, cache: FetchedFiles, verify: Verify) -> None:
        self._remote, self._cache, self._verify = remote, cache, verify
        self.counters = Counters()
        self._warned = False
        self._aheads: weakref.WeakSet[ReadAhead] = weakref.WeakSet()
        self.after_fork()
        mend_after_fork(self)

    def after_fork(self) -> None:
        """Forget what the threads of the parent process were at."""
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None
        self._pending: dict[str, Future[str]] = {}

    def open(self, file: RemoteFile) -> pa.NativeFile:
        """A file, fetched where it is not cached, open for reading.

        Raises:
            FileSetCorruptError: It is not there, or not what was written.
            FileSetFetchError: It cannot be fetched.
        """
        for ahead in list(self._aheads):
            ahead.reached(file)
        for _ in range(_REOPENS):
            digest = file.sha256 or self._cache.known(file.key)
            if digest is not None and (opened := self._cache.open(digest, file.size)) is not None:
                return opened
            digest = self._result(file)
            if (opened := self._cache.open(digest, file.size)) is not None:
                return opened
        raise FileSetCorruptError(
            f"{self._remote.shown(file.path)}: it was fetched {_REOPENS} times, and each time evicted from the cache "
            "before it was read. Pass a larger cache_bytes, or fewer streams."
        )

    def cached(self, file: RemoteFile) -> bool:
        """Whether a file needs no fetching."""
        digest = file.sha256 or self._cache.known(file.key)
        return digest is not None and self._cache.holds(digest, file.size)

    def digest(self, file: RemoteFile) -> str:
        """Sha256 of a file, hex, which is fetched where nobody knows it."""
        return file.sha256 or self._cache.known(file.key) or self._result(file)

    def submit(self, file: RemoteFile) -> Future[str]:
        """Begin to fetch a file, unless that is under way; its sha256 when it is there."""
        self._remote.check_process()
        with self._lock:
            future = self._pending.get(file.key)
            if future is None:
                if self._pool is None:
                    self._pool = ThreadPoolExecutor(_FETCHES, thread_name_prefix="fileset-fetch")
                    weakref.finalize(self, self._pool.shutdown, wait=False, cancel_futures=True)
                future = self._pending[file.key] = self._pool.submit(self._fetch, file)
        future.add_done_callback(lambda done: self._settled(file.key, done))
        return future

    def _result(self, file: RemoteFile) -> str:
        while True:
            with suppress(CancelledError):  # by whoever asked for it first and wants it no more
                return self.submit(file).result()

    def _settled(self, key: str, future: Future[str]) -> None:
        with self._lock:
            if self._pending.get(key) is future:
                del self._pending[key]

    def fetch_all(self, files: Iterable[RemoteFile], done: Callable[[RemoteFile], object]) -> None:
        """Fetch files; `done` is told of each. The first failure ends it, once what is under way has come to an end."""
        waiting = iter(files)
        under_way: OrderedDict[str, tuple[RemoteFile, Future[str]]] = OrderedDict()
        while True:
            for file in waiting:
                under_way[file.key] = (file, self.submit(file))
                if len(under_way) >= 2 * _FETCHES:
                    break
            if not under_way:
                return
            _, (file, _) = under_way.popitem(last=False)
            try:
                self._result(file)
            except BaseException:
                for _, other in under_way.values():
                    other.cancel()
                raise
            done(file)

    @property
    def ahead_bytes(self) -> int | None:
        """Most bytes of files that are fetched before they are opened; None: any."""
        return None if self._cache.limit is None else self._cache.limit // 4

    def tell(self, ahead: ReadAhead) -> None:
        """Tell `ahead` of every file that is opened, for as long as it lives."""
        self._aheads.add(ahead)

    def want(self, files: Iterable[RemoteFile]) -> None:
        """Say which files will be fetched."""
        self._remote.want(file.path for file in files)

    def _fetch(self, file: RemoteFile) -> str:
        with self._cache.locked(file.key):
            expected = file.sha256 or self._cache.known(file.key)
            if expected is not None and self._cache.holds(expected, file.size):
                return expected  # another process was faster
            problem = ""
            for _ in range(_FETCHES_OF_ONE):
                fetched = self._attempt(file, expected)
                if fetched.ok:
                    return fetched.text
                problem = fetched.text
        raise FileSetCorruptError(
            f"{self._remote.shown(file.path)}: {problem}. It was fetched twice. Make or copy the FileSet again."
        )

    def _attempt(self, file: RemoteFile, expected: str | None) -> _Outcome:
        twice = expected is None and self._verify == "strict"
        with self._cache.room(file.key, file.size * (2 if twice else 1)) as room:
            target = room.folder / "data"
            download = self._remote.download(file.path, target, file.size, with_md5=expected is None)
            problem = self._problem(file, target, download, expected)
            if problem is None and twice:
                second = self._remote.download(file.path, room.folder / "again", file.size, with_md5=False)
                if second.sha256 != download.sha256:
                    problem = "it came with other bytes the second time"
            if problem is not None:
                return _Outcome(False, problem)
            self._cache.keep(room, target, download.sha256)
            self._cache.remember(file.key, download.sha256)
            self.counters.add(files_fetched=1, fetched_bytes=file.size)
            return _Outcome(True, download.sha256)

    def _problem(self, file: RemoteFile, target: Path, download: Download, expected: str | None) -> str | None:
        """What is wrong with a fetched file; None: nothing."""
        size = target.stat().st_size
        if size != file.size:
            return f"{size} bytes came, {file.size} were written"
        if expected is not None:
            return None if download.sha256 == expected else "its content is not what was written (another sha256)"
        listed = self._remote.listed_md5(file)
        stated = download.stated_md5 | ({listed} if listed else set())
        if stated and download.md5 not in stated:
            return "its content is not what the store says (another md5)"
        try:
            rows = pq.read_metadata(target).num_rows
        except (pa.ArrowException, OSError):
            return "it is no whole Parquet file"
        if rows != file.rows:
            return f"{rows} rows came, {file.rows} were written"
        if not stated and self._verify != "strict" and not self._warned and (warning := self._remote.unverified(file)):
            self._warned = True
            warnings.warn(warning, UserWarning, stacklevel=2)
        return None


@dataclass(frozen=True, slots=True)
class _Outcome:
    """Of one attempt: the sha256, or what was wrong."""

    ok: bool
    text: str


class ReadAhead:
    """Files fetched before they are opened: a few beyond those that were, until `close`.

    Args:
        files: The files in the order in which they will be opened, and what fetches each.
    """

    def __init__(self, files: Iterator[tuple[Fetcher, RemoteFile]]) -> None:
        self._files = files
        self._next: deque[tuple[Fetcher, RemoteFile]] = deque()
        self._lock = threading.Lock()
        self._ahead: OrderedDict[str, tuple[int, Future[str] | None]] = OrderedDict()
        self._seen: set[str] = set()
        self._bytes = 0
        self._closed = False

    def start(self) -> None:
        """Begin."""
        with self._lock:
            self._fill()

    def reached(self, file: RemoteFile) -> None:
        """Told when a file is about to be opened."""
        with self._lock:
            self._seen.add(file.key)
            found = self._ahead.pop(file.key, None)
            if found is not None:
                self._bytes -= found[0]
            self._fill()

    def _fill(self) -> None:
        while not self._closed and len(self._ahead) < _FILES_AHEAD:
            if not self._next and not self._look():
                return
            fetcher, file = self._next[0]
            if fetcher.ahead_bytes is not None and self._bytes >= fetcher.ahead_bytes:
                return
            self._next.popleft()
            if file.key in self._seen or file.key in self._ahead:
                continue
            future = None if fetcher.cached(file) else fetcher.submit(file)
            self._ahead[file.key] = (file.size, future)
            self._bytes += file.size

    def _look(self) -> bool:
        """Look at the next files; False: there are no more."""
        self._next.extend(islice(self._files, _FILES_WANTED))
        wanted: dict[Fetcher, list[RemoteFile]] = {}
        for fetcher, file in self._next:
            if not fetcher.cached(file):
                wanted.setdefault(fetcher, []).append(file)
        for fetcher, files in wanted.items():
            fetcher.want(files)
        for fetcher in {fetcher for fetcher, _ in self._next}:
            fetcher.tell(self)
        return bool(self._next)

    def close(self) -> None:
        """Fetch no more than what is under way."""
        with self._lock:
            self._closed = True
            for _, future in self._ahead.values():
                if future is not None:
                    future.cancel()
            self._ahead.clear()


def read_ahead(files: Iterator[tuple[Fetcher, RemoteFile]]) -> ReadAhead:
    """Begin to fetch files where that can be done; whoever opens one gets its error.

    Args:
        files: As of `ReadAhead`.
    """
    ahead = ReadAhead(files)
    with suppress(Exception):
        ahead.start()
    return ahead
