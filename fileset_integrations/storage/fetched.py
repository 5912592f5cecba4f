"""The cache of fetched files: what came from a stage, verified, under its own sha256, within a hard limit.

```
files/objects/ab/abcd...        a verified file; the name is its sha256, the time of change that of its last use
files/index/12/1234...          sha256 that file f of snapshot s was found to have
files/locks/1234....lock        held by the process that fetches it
files/partial/UUID/             a file on its way, beside a lease that is locked while its process lives
```
Everything is shared by the processes of a machine. Room is taken before a byte is fetched, under one lock, so that
files on their way count. What a killed process left is found by its lease, which the system lets go of.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import shutil
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import pyarrow as pa

from fileset_integrations.errors import FileSetLocationError, SpecError
from fileset_integrations.storage.cache import cache_root, write_atomically

_SHA256 = re.compile(r"[0-9a-f]{64}")
_LEASE = "lease"
_TOUCH_S = 60.0  # a file's last use is noted at most so often
_WAIT_S = 0.05
_POLL_S = 0.005  # between attempts at a lock that another process holds
_THREADS = threading.Lock()  # threads take their turns without polling
_SPARE_BYTES = 64 * 2**10  # left free on the disk, for the index and for what blocks round up
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT)


class FetchedFiles:
    """Files by content, and by which file of which snapshot they are.

    Args:
        cache_dir: The cache directory; None: `FILESET_CACHE_DIR`, else the user's.
        limit: Most bytes that fetched files may take, those on their way included; None: what the disk has free.
    """

    def __init__(self, cache_dir: str | os.PathLike[str] | None, limit: int | None) -> None:
        self.root = cache_root(cache_dir) / "files"
        self.limit = limit
        try:
            for folder in (self.root, *(self.root / name for name in ("objects", "index", "locks", "partial"))):
                folder.mkdir(exist_ok=True, mode=0o700)
        except OSError as error:
            raise FileSetLocationError(
                f"{self.root}: cannot be made ({error.strerror}). Pass another cache_dir=, or set FILESET_CACHE_DIR."
            ) from error

    def known(self, key: str) -> str | None:
        """Sha256 that a file of a snapshot was found to have, hex; None where it was never fetched."""
        try:
            digest = json.loads(self._index(key).read_bytes())["sha256"]
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return digest if isinstance(digest, str) and _SHA256.fullmatch(digest) else None

    def remember(self, key: str, sha256: str) -> None:
        """Note the sha256 of a file of a snapshot."""
        write_atomically(self._index(key), json.dumps({"sha256": sha256}).encode())

    def open(self, sha256: str, size: int) -> pa.NativeFile | None:
        """A cached file, open for reading; None where it is not there. It stays readable if it is evicted meanwhile."""
        path = self._object(sha256)
        try:
            stat = path.stat()
            if stat.st_size != size:  # the machine crashed before its content reached the disk
                path.unlink(missing_ok=True)
                return None
            if time.time() - stat.st_mtime > _TOUCH_S:
                os.utime(path)
            return pa.OSFile(str(path))
        except FileNotFoundError:
            return None

    def holds(self, sha256: str, size: int) -> bool:
        """Whether a file is there; does not count as a use."""
        try:
            return self._object(sha256).stat().st_size == size
        except FileNotFoundError:
            return False

    def locked(self, key: str) -> filelock.FileLock:
        """The lock under which a file of a snapshot is fetched; the system lets go of it when its process dies."""
        return filelock.FileLock(self.root / "locks" / f"{key}.lock", poll_interval=_POLL_S)

    def keep(self, fetched: Path, sha256: str) -> None:
        """Make a verified file, fetched into a folder that `room` gave, part of the cache."""
        target = self._object(sha256)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        fetched.replace(target)

    @contextmanager
    def room(self, size: int) -> Iterator[Path]:
        """A folder for a file of `size` bytes on its way, for which older files make room; it is removed at the end.

        Raises:
            SpecError: The limit is less than this one file.
            FileSetLocationError: The disk is full, now or while the file is written.
        """
        if self.limit is not None and size > self.limit:
            raise SpecError(
                f"cache_bytes={self.limit}: one file alone takes {size} bytes. Pass at least a few times that, or make "
                "the FileSet with a smaller max_file_bytes."
            )
        folder, lease = self._take(size)
        try:
            yield folder
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            raise self._full(size, error) from error
        finally:
            shutil.rmtree(folder, ignore_errors=True)
            os.close(lease)

    def _take(self, size: int) -> tuple[Path, int]:
        while True:
            try:
                with _THREADS, filelock.FileLock(self.root / "room.lock", poll_interval=_POLL_S):
                    if self._evict(size):
                        folder = self.root / "partial" / str(uuid.uuid4())
                        folder.mkdir(mode=0o700)
                        lease = os.open(folder / _LEASE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                        fcntl.flock(lease, fcntl.LOCK_EX)
                        os.write(lease, str(size).encode())
                        return folder, lease
            except OSError as error:
                if error.errno not in _NO_ROOM:
                    raise
                raise self._full(size, error) from error
            time.sleep(_WAIT_S)  # until others have fetched theirs, which may then be evicted

    def _evict(self, size: int) -> bool:
        """Remove the files used longest ago until `size` more bytes have room; False where only waiting helps."""
        on_their_way = self._on_their_way()
        objects = sorted(self._objects(), key=lambda found: found[1].st_mtime)
        held = sum(stat.st_size for _, stat in objects)
        allowed = shutil.disk_usage(self.root).free + held - _SPARE_BYTES
        if self.limit is not None:
            allowed = min(allowed, self.limit)
        for path, stat in objects:
            if held + on_their_way + size <= allowed:
                break
            path.unlink(missing_ok=True)
            held -= stat.st_size
        if held + on_their_way + size <= allowed:
            return True
        if not on_their_way:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return False

    def _objects(self) -> Iterator[tuple[Path, os.stat_result]]:
        with os.scandir(self.root / "objects") as folders:
            for folder in folders:
                with os.scandir(folder) as files:
                    for file in files:
                        if _SHA256.fullmatch(file.name):  # never what others put there
                            with suppress(FileNotFoundError):
                                yield Path(file.path), file.stat(follow_symlinks=False)

    def _on_their_way(self) -> int:
        total = 0
        for folder in (self.root / "partial").iterdir():
            try:
                lease = os.open(folder / _LEASE, os.O_RDWR | os.O_CLOEXEC)
            except FileNotFoundError:  # done meanwhile; or killed between two steps of `_take`, which holds our lock
                shutil.rmtree(folder, ignore_errors=True)
                continue
            try:
                fcntl.flock(lease, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                total += int(os.pread(lease, 32, 0) or 0)
            else:
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lease)
        return total

    def _full(self, size: int, error: OSError) -> FileSetLocationError:
        return FileSetLocationError(
            f"{self.root}: no room for a file of {size} bytes ({error.strerror}). Free some, or pass another "
            "cache_dir= (or set FILESET_CACHE_DIR); what is fetched already stays."
        )

    def _object(self, sha256: str) -> Path:
        return self.root / "objects" / sha256[:2] / sha256

    def _index(self, key: str) -> Path:
        return self.root / "index" / key[:2] / key


def file_key(snapshot_id: str, path: str) -> str:
    """Name of one file of one snapshot in the cache."""
    return hashlib.sha256(f"{snapshot_id}\0{path}".encode()).hexdigest()
