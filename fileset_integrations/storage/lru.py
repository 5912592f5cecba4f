"""Files that can be made again, within a limit of bytes: the least recently used are removed to make room for others.

All processes of a machine share a folder of them:

```
root/.lock                 held while room is made and while the total changes
root/.total                bytes of all files, those being written included: never less than there are
root/locks/b7f             held by whoever makes a file of such a name
root/ab/ab03...-4          a file; its time of access is when it was last used
root/parts/ab03...-4.100/  what is being written for a name, and the bytes that are held for it
```

The folder itself says what there is, so that no index can be lost or be at odds with it. Only files that lie where this
module puts them, under names that it gives, are ever removed. What a process left that was killed is removed when room
is made, and when another process first uses the folder: nobody holds its lock any more.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import time
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import filelock

from fileset_integrations.errors import FileSetLocationError, SpecError

_NAME = re.compile(r"[0-9a-f]{32,64}(-[0-9]+)?")
_PART = re.compile(rf"({_NAME.pattern})\.([0-9]+)")
_LOCKS = 256  # lock files: one for each name would never be removed, since that is not safe
_POLL_S = 0.005
_FULL = (errno.ENOSPC, errno.EDQUOT)
_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS)
# Room is made in steps of at least this share of the limit: each looks at every file.
_STEP = 32
_SPARE_BYTES = 64 * 2**10  # left free on the disk, for what lies beside these files and for what blocks round up
_BLOCK = 512  # bytes that `st_blocks` counts, whatever the file system
_cleared: set[tuple[Path, int]] = set()  # folders and the processes that have used them


@dataclass(frozen=True, slots=True)
class Entry:
    """A file of the folder.

    Attributes:
        path: Where it lies.
        name: Its name; the one that room was taken under while it is being written.
        num_bytes: Its size; the bytes that are held for it while it is being written.
        used_ns: When it was last used.
        complete: Whether it is whole: others are being written, or were when their process ended.
    """

    path: Path
    name: str
    num_bytes: int
    used_ns: int
    complete: bool


class Room:
    """Room that is held for a file on its way, and a folder to write it in.

    Attributes:
        folder: The folder. It is removed with all that is in it when the room is let go of.
    """

    def __init__(self, files: LruFiles, folder: Path, num_bytes: int) -> None:
        self.folder, self._files, self._num_bytes = folder, files, num_bytes

    def keep(self, part: Path, name: str) -> BinaryIO:
        """Make what was written one of the files, in place of one of that name, and open it.

        Args:
            part: What was written, in the folder; the rest there goes.
            name: As of `LruFiles.add`; not necessarily the one that room was taken under.
        """
        return self._files._keep(part, name, self.folder, self._num_bytes)


class LruFiles:
    """A folder of files that can be made again, within a limit. Safe between threads and processes, forked ones too.

    ```python
    with files.lock(name):                                        # others wait for one maker
        file = files.open(name) or files.add(name, len(data), lambda file: file.write(data))
    ```

    Args:
        root: The folder; made with mode 0700 where it is missing.
        max_bytes: Most bytes that all files take together, those being written included; None: what is free on the
            disk. It is the limit of whoever adds a file: processes may have different ones.

    Raises:
        FileSetLocationError: The folder cannot be made.
    """

    def __init__(self, root: Path, max_bytes: int | None = None) -> None:
        self.root, self.max_bytes = root, max_bytes
        try:
            for folder in (root, root / "locks", root / "parts"):
                folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise FileSetLocationError(
                f"{root}: cannot make the folder ({error.strerror}). Pass another cache_dir=."
            ) from error
        if (root, os.getpid()) not in _cleared:
            _cleared.add((root, os.getpid()))
            with suppress(OSError):  # a folder that may only be read
                self._clear()

    def _clear(self) -> None:
        """Remove what processes that ended were writing."""
        if self._parts():
            with self._total_lock():
                left = [part for part in self._parts() if self._is_abandoned(part, None)]
                self._set_total(self._total() - sum(self._unlink(part.path) for part in left))

    @contextmanager
    def lock(self, name: str, wait: bool = True) -> Iterator[bool]:
        """Hold the lock under which a file is made, if need be after others. A thread holds no more than one at a time.

        Args:
            name: The file's name.
            wait: Wait for others; otherwise the lock is not held where they hold it.

        Yields:
            Whether it is held.
        """
        lock = filelock.FileLock(self._lock_path(name))
        try:
            lock.acquire(timeout=-1 if wait else 0, poll_interval=_POLL_S)
        except filelock.Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def __contains__(self, name: str) -> bool:
        return self._path(name).exists()

    def size(self, name: str) -> int | None:
        """Bytes of a file, None where it is missing. Does not count as a use."""
        try:
            return self._path(name).stat().st_size
        except FileNotFoundError:
            return None

    def open(self, name: str) -> BinaryIO | None:
        """A file, opened for reading and marked as used now; None where it is missing.

        An open or mapped file stays as it is though it is removed to make room.
        """
        try:
            file = self._path(name).open("rb")
        except FileNotFoundError:
            return None
        try:
            # The time of change stays: it tells whether it is the file that it was.
            os.utime(file.fileno(), ns=(time.time_ns(), os.fstat(file.fileno()).st_mtime_ns))
        except BaseException:
            file.close()
            raise
        return file

    def add(self, name: str, num_bytes: int, write: Callable[[BinaryIO], object]) -> BinaryIO:
        """Make a file, all of it or nothing, in place of one of that name, and open it. The caller holds `lock(name)`.

        Waits where all that could be removed to make room is still being written by others.

        Args:
            name: 32 to 64 hexadecimal digits, which may be followed by "-" and a number.
            num_bytes: Its size.
            write: Writes it front to back; what goes wrong there goes to the caller. It is not synced: a file that must
                outlive a crash of the machine is synced by `write`, or verified when it is read.

        Raises:
            SpecError: It is larger than the limit.
            FileSetLocationError: The disk is full, or refuses to be written to.
        """
        with self.room(name, num_bytes) as room:
            part = room.folder / "data"
            with part.open("xb") as file:
                write(file)
                if (written := file.tell()) != num_bytes:
                    raise ValueError(f"{self._path(name)}: {written} bytes were written, not {num_bytes}.")
            return room.keep(part, name)

    @contextmanager
    def room(self, name: str, num_bytes: int) -> Iterator[Room]:
        """Room for a file whose name may come with its content. The caller holds `lock(name)`.

        Waits where all that could be removed to make room is still being written by others.

        Args:
            name: As of `add`. A file of that name is removed.
            num_bytes: Most bytes that all that is written there will take.

        Raises:
            SpecError: They are more than the limit.
            FileSetLocationError: The disk is full, or refuses to be written to, when room is taken or later in the
                `with` block.
        """
        with self._explained(num_bytes):
            room = Room(self, self._reserve(name, num_bytes), num_bytes)
            try:
                yield room
            finally:
                with self._total_lock():
                    if room.folder.exists():  # it was not kept
                        shutil.rmtree(room.folder, ignore_errors=True)
                        self._set_total(self._total() - num_bytes)

    def _keep(self, part: Path, name: str, folder: Path, held: int) -> BinaryIO:
        path = self._path(name)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        num_bytes = part.stat().st_size
        if num_bytes > held:
            raise ValueError(f"{path}: {num_bytes} bytes were written, room was taken for {held}.")
        # Nobody looks while it has two names or none, nor removes it before it is open.
        with self._total_lock():
            replaced = self._unlink(path)
            part.replace(path)
            shutil.rmtree(folder)
            self._set_total(self._total() - replaced - held + num_bytes)
            return path.open("rb")

    def discard(self, name: str) -> None:
        """Remove a file, if it is there."""
        with self._total_lock():
            if num_bytes := self._unlink(self._path(name)):
                self._set_total(self._total() - num_bytes)

    @contextmanager
    def _explained(self, num_bytes: int) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            if error.errno in _FULL:
                raise FileSetLocationError(
                    f"{self.root}: the disk is full; {num_bytes} bytes more were to be written. Free some, or pass "
                    "another cache_dir= (or set FILESET_CACHE_DIR)."
                ) from error
            if error.errno in _REFUSED:
                raise FileSetLocationError(
                    f"{self.root}: cannot be written to ({error.strerror}). Pass another cache_dir=."
                ) from error
            raise

    def trim(self) -> None:
        """Remove the least recently used files until the limit holds."""
        if self.max_bytes is not None:
            with self._total_lock():
                if self._total() > self.max_bytes:
                    self._make_room(0, 0, None)

    def entries(self) -> list[Entry]:
        """All files, complete or not, by last use."""
        with self._total_lock():
            return self._look()

    def _look(self) -> list[Entry]:
        return sorted(self._found(), key=lambda entry: entry.used_ns)

    def _found(self) -> Iterator[Entry]:
        yield from self._parts()
        for folder in sorted(self.root.iterdir()):
            if re.fullmatch("[0-9a-f]{2}", folder.name) and folder.is_dir() and not folder.is_symlink():
                with os.scandir(folder) as found:
                    for one in found:
                        if not (_NAME.fullmatch(one.name) and one.name.startswith(folder.name)):
                            continue
                        with suppress(FileNotFoundError):
                            if one.is_file(follow_symlinks=False):
                                stat = one.stat(follow_symlinks=False)
                                yield Entry(Path(one.path), one.name, stat.st_size, stat.st_atime_ns, True)

    def _parts(self) -> list[Entry]:
        """What is being written, or was when its process ended."""
        parts = []
        with suppress(FileNotFoundError), os.scandir(self.root / "parts") as found:
            for one in found:
                match = _PART.fullmatch(one.name)
                if match is not None and one.is_dir(follow_symlinks=False):
                    used_ns = one.stat(follow_symlinks=False).st_atime_ns
                    parts.append(Entry(Path(one.path), match[1], int(match[3]), used_ns, False))
        return parts

    def _path(self, name: str) -> Path:
        if not _NAME.fullmatch(name):
            raise ValueError(f"{name!r} is no name of a file here: pass 32 to 64 hexadecimal digits, as of a digest.")
        return self.root / name[:2] / name

    def _lock_path(self, name: str) -> Path:
        # Blocks ("...-4") have locks of their own: whoever makes one waits for a fetched file, and so for its lock.
        kind = "b" if "-" in name else "f"
        return self.root / "locks" / f"{kind}{zlib.crc32(name.encode()) % _LOCKS:02x}"

    @contextmanager
    def _total_lock(self) -> Iterator[None]:
        # Not a `FileLock`: held for microseconds, many times a second, by threads that would wait in steps of its poll.
        descriptor = os.open(self.root / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            try:
                yield
            finally:
                # Said, since a process that was forked meanwhile keeps the descriptor open, and the lock with it.
                fcntl.flock(descriptor, fcntl.LOCK_UN)
        finally:
            os.close(descriptor)

    def _reserve(self, name: str, num_bytes: int) -> Path:
        """Make room for a file, and hold it by a folder whose name says how much."""
        path = self._path(name)
        folder = self.root / "parts" / f"{name}.{num_bytes}"
        if self.max_bytes is not None and num_bytes > self.max_bytes:
            raise SpecError(f"cache_bytes={self.max_bytes}: one file of {num_bytes} bytes is more. Pass at least that.")
        while True:
            with self._total_lock():
                parts = self._parts()
                left = [part for part in parts if part.name == name]  # by one who was killed
                total = self._total() - self._unlink(path) - sum(self._unlink(part.path) for part in left)
                parts = [part for part in parts if part.name != name]
                limit = total + num_bytes if self.max_bytes is None else self.max_bytes
                free = self._free(parts, num_bytes)
                if max(total + num_bytes - limit, num_bytes - free) > 0:
                    held, total = total, self._make_room(num_bytes, free, name)
                    free += max(held - total, 0)  # what others have mapped is not free at once; it is counted as such
                if total + num_bytes <= limit and num_bytes <= free:
                    # The total comes first: a crash between leaves it too high, which the next look at all files mends.
                    self._set_total(total + num_bytes)
                    folder.mkdir(mode=0o700)
                    return folder
                self._set_total(total)
                if not self._parts():
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            time.sleep(10 * _POLL_S)  # until others are done with what they write

    def _free(self, parts: list[Entry], enough: int) -> int:
        """Bytes of the disk that are neither used nor held for what is being written; at least, if that is enough."""
        free = shutil.disk_usage(self.root).free - _SPARE_BYTES
        if free - sum(part.num_bytes for part in parts) >= enough:
            return free - sum(part.num_bytes for part in parts)
        unwritten = 0
        for part in parts:
            written = 0
            for folder, _, names in os.walk(part.path):
                for file in names:
                    with suppress(FileNotFoundError):
                        written += Path(folder, file).stat(follow_symlinks=False).st_blocks * _BLOCK
            unwritten += max(part.num_bytes - written, 0)
        return free - unwritten

    def _make_room(self, num_bytes: int, free: int, holding: str | None) -> int:
        """Remove what was used least recently, so that `num_bytes` more find room; returns the bytes that remain."""
        entries = self._look()
        total = sum(entry.num_bytes for entry in entries)
        for entry in entries:
            if not entry.complete and self._is_abandoned(entry, holding):
                total -= self._unlink(entry.path)
        excess = 0
        if self.max_bytes is not None and total + num_bytes > self.max_bytes:
            excess = max(total + num_bytes - self.max_bytes, self.max_bytes // _STEP)
        excess = max(excess, num_bytes - free)
        for entry in entries:
            if excess <= 0:
                break
            if entry.complete:
                removed = self._unlink(entry.path)
                total, excess = total - removed, excess - removed
        self._set_total(total)
        return total

    def _is_abandoned(self, entry: Entry, holding: str | None) -> bool:
        """Whether whoever wrote a file is gone: then nobody holds its lock."""
        if holding is not None and self._lock_path(entry.name) == self._lock_path(holding):
            return entry.name != holding  # we hold that lock ourselves
        with self.lock(entry.name, wait=False) as gone:
            return gone

    def _unlink(self, path: Path) -> int:
        """Remove a file, or what was being written; returns the bytes that it took."""
        try:
            if (part := _PART.fullmatch(path.name)) is not None:
                shutil.rmtree(path)
                return int(part[3])
            num_bytes = path.stat(follow_symlinks=False).st_size
            path.unlink()
        except FileNotFoundError:
            return 0
        return num_bytes

    def _total(self) -> int:
        try:
            return int((self.root / ".total").read_bytes())
        except (FileNotFoundError, ValueError):
            return sum(entry.num_bytes for entry in self._found())

    def _set_total(self, total: int) -> None:
        # Overwritten in place, in one length: that needs no room on a disk that is full.
        with os.fdopen(os.open(self.root / ".total", os.O_WRONLY | os.O_CREAT, 0o600), "wb") as file:
            file.write(b"%20d" % max(total, 0))
