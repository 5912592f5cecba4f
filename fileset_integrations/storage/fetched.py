"""The cache of fetched files: what came from elsewhere, verified, under its own sha256, within a hard limit.

```
files/                  `LruFiles`: each under its sha256; decoded blocks lie there too: one limit for both
digests/12/1234...      sha256 that file f of snapshot s was found to have
```
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pyarrow as pa

from fileset_integrations.errors import FileSetLocationError, SpecError
from fileset_integrations.storage.cache import cache_root, cached_files, write_atomically
from fileset_integrations.storage.lru import Room

_SHA256 = re.compile(r"[0-9a-f]{64}")


class FetchedFiles:
    """Files by content, and by which file of which snapshot they are.

    Args:
        cache_dir: The cache directory; None: `FILESET_CACHE_DIR`, else the user's.
        limit: Most bytes that fetched files and decoded blocks may take, those on their way included; None: what the
            disk has free.
    """

    def __init__(self, cache_dir: str | os.PathLike[str] | None, limit: int | None) -> None:
        self.limit = limit
        self._files, self._digests = cached_files(cache_dir, limit), cache_root(cache_dir) / "digests"

    def known(self, key: str) -> str | None:
        """Sha256 that a file of a snapshot was found to have, hex; None where it was never fetched."""
        try:
            digest = json.loads(self._digest(key).read_bytes())["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return digest if isinstance(digest, str) and _SHA256.fullmatch(digest) else None

    def remember(self, key: str, sha256: str) -> None:
        """Note the sha256 of a file of a snapshot."""
        try:
            write_atomically(self._digest(key), json.dumps({"sha256": sha256}).encode())
        except OSError as error:
            raise FileSetLocationError(
                f"{self._digests}: cannot be written to ({error.strerror}). Free some room, or pass another cache_dir= "
                "(or set FILESET_CACHE_DIR); what is fetched already stays."
            ) from error

    def open(self, sha256: str, size: int) -> pa.NativeFile | None:
        """A cached file, open for reading; None where it is not there. It stays readable if it is evicted meanwhile."""
        file = self._files.open(sha256)
        if file is None:
            return None
        with file:
            if os.fstat(file.fileno()).st_size != size:  # the machine crashed before its content reached the disk
                self._files.discard(sha256)
                return None
            try:
                return pa.OSFile(file.name)
            except FileNotFoundError:  # it had to make room just now
                return None

    def holds(self, sha256: str, size: int) -> bool:
        """Whether a file is there; does not count as a use."""
        return self._files.size(sha256) == size

    def locked(self, key: str) -> AbstractContextManager[bool]:
        """The lock under which a file of a snapshot is fetched; the system lets go of it when its process dies."""
        return self._files.lock(key)

    @contextmanager
    def room(self, key: str, size: int) -> Iterator[Room]:
        """Room for `size` bytes of a file on its way, for which older files are removed; the caller holds its lock.

        Raises:
            SpecError: The limit is less than this one file.
            FileSetLocationError: The disk is full, now or while the file is written.
        """
        if self.limit is not None and size > self.limit:
            raise SpecError(
                f"cache_bytes={self.limit}: one file alone takes {size} bytes. Pass at least a few times that, or make "
                "the FileSet with a smaller max_file_bytes."
            )
        with self._files.room(key, size) as room:
            yield room

    def keep(self, room: Room, fetched: Path, sha256: str) -> None:
        """Make a verified file, fetched into that room, part of the cache."""
        room.keep(fetched, sha256).close()

    def _digest(self, key: str) -> Path:
        return self._digests / key[:2] / key


def file_key(snapshot_id: str, path: str) -> str:
    """Name of one file of one snapshot in the cache."""
    return hashlib.sha256(f"{snapshot_id}\0{path}".encode()).hexdigest()
