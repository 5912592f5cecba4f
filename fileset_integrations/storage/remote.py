"""Homes whose files are fetched into the cache of this machine, verified there, and read from the disk.

What is looked at once, such as a footer, is read from its home itself.
"""

from __future__ import annotations

import copy
import os
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Self

import pyarrow as pa

from fileset_integrations.counters import ReaderStats
from fileset_integrations.errors import FileSetError, SpecError
from fileset_integrations.manifest import Manifest
from fileset_integrations.spec import as_int
from fileset_integrations.storage.base import Storage
from fileset_integrations.storage.fetched import FetchedFiles, file_key
from fileset_integrations.storage.fetching import Fetcher, ReadAhead, Remote, RemoteFile, Verify, read_ahead

# Such homes have no rename: a snapshot's data goes under a name of its own first, and the manifest last.
RUN = "run-"


class RemoteStorage(Storage):
    """A location whose files are fetched.

    Args:
        remote: Where they are fetched from.
        cache_dir: Where fetched files are cached; None: `FILESET_CACHE_DIR`, else the user's cache directory.
        cache_bytes: Most bytes that they may take there; None: what the disk has free.
        verify: "strict": a file whose sha256 nobody knows yet is fetched twice and compared.

    Raises:
        SpecError: An argument is out of range.
    """

    fetches = True

    def __init__(
        self,
        remote: Remote,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        verify: Verify = "auto",
    ) -> None:
        if verify not in ("auto", "strict"):
            raise SpecError(f"verify={verify!r}: pass 'auto' or 'strict'.")
        if cache_bytes is not None and as_int(cache_bytes, "cache_bytes") < 1:
            raise SpecError(f"cache_bytes={cache_bytes}: pass the most bytes that fetched files may take, or None.")
        self._remote = remote
        self._cache_dir, self._cache_bytes, self._verify = cache_dir, cache_bytes, verify
        self._lock = threading.Lock()
        self._fetcher: Fetcher | None = None

    def reopening(self) -> dict[str, Any]:
        return {
            "location": self.location,
            "cache_dir": self._cache_dir,
            "cache_bytes": self._cache_bytes,
            "verify": self._verify,
        }

    def with_cache(self, cache_dir: str | os.PathLike[str] | None, cache_bytes: int | None) -> Self:
        wanted = cache_dir or self._cache_dir, cache_bytes or self._cache_bytes
        if wanted == (self._cache_dir, self._cache_bytes):
            return self
        other = copy.copy(self)  # what is known of the place, and the connections to it, stay
        RemoteStorage.__init__(other, self._remote, *wanted, self._verify)
        return other

    def stage(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix="fileset-"))

    def data_prefix(self, staged: Path) -> str:
        return f"{RUN}{uuid.uuid5(uuid.NAMESPACE_URL, staged.name)}/"

    def open_file(self, root: str, manifest: Manifest, file: int) -> pa.NativeFile:
        return self._fetching().open(self._file(root, manifest, file))

    def read_ahead(self, root: str, manifest: Manifest, files: Iterator[int]) -> ReadAhead:
        fetcher = self._fetching()
        return read_ahead((fetcher, self._file(root, manifest, file)) for file in files)

    def fetch_of(self, root: str, manifest: Manifest, file: int) -> tuple[Fetcher, RemoteFile]:
        return self._fetching(), self._file(root, manifest, file)

    def want(self, root: str, manifest: Manifest, files: Iterable[int]) -> None:
        """Begin to fetch files that will be opened at once; whoever opens one gets its error."""
        fetcher = self._fetching()
        missing = [one for one in (self._file(root, manifest, file) for file in files) if not fetcher.cached(one)]
        if missing:
            with suppress(FileSetError):
                fetcher.want(missing)
                for one in missing:
                    fetcher.submit(one)

    def pull(self, root: str, manifest: Manifest, done: Callable[[int], object]) -> None:
        files = [self._file(root, manifest, file) for file in range(manifest.files.num_rows)]
        fetcher = self._fetching()
        fetcher.want(file for file in files if not fetcher.cached(file))
        fetcher.fetch_all(files, lambda file: done(file.size))

    def fetched(self) -> ReaderStats:
        return ReaderStats() if self._fetcher is None else self._fetcher.counters.stats()

    def digests(self, root: str, manifest: Manifest, done: Callable[[int], object] = lambda size: None) -> list[str]:
        """Sha256 of every file of a snapshot, hex, from its fetched and verified copy; `done` is told sizes."""
        self.pull(root, manifest, done)
        fetcher = self._fetching()
        return [fetcher.digest(self._file(root, manifest, file)) for file in range(manifest.files.num_rows)]

    def _fetching(self) -> Fetcher:
        with self._lock:
            if self._fetcher is None:
                self._fetcher = Fetcher(self._remote, FetchedFiles(self._cache_dir, self._cache_bytes), self._verify)
            return self._fetcher

    def _path(self, url: str) -> str:
        """What `remote` calls a file."""
        return url

    def _file(self, root: str, manifest: Manifest, file: int) -> RemoteFile:
        table = manifest.files
        path, rows, size, sha256 = (table[name][file].as_py() for name in ("path", "rows", "bytes", "sha256"))
        return RemoteFile(self._path(f"{root}/{path}"), size, rows, sha256, file_key(manifest.snapshot_id, path))
