"""Directories of this machine's file systems as homes of FileSets.

A snapshot appears in one step or not at all: its directory is written under a hidden name and renamed.
"""

from __future__ import annotations

import errno
import os
import shutil
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import filelock
import pyarrow as pa

from fileset_integrations.errors import FileSetCannotDeleteError, FileSetLocationError
from fileset_integrations.manifest import MANIFEST_NAME
from fileset_integrations.storage.base import Storage

_PARTIAL = ".partial"
_UUID_LENGTH = 36


class LocalStorage(Storage):
    """A directory of this machine's file systems."""

    def __init__(self, location: str | os.PathLike[str]) -> None:
        self._root = Path(location).expanduser().absolute()
        self.location = str(self._root)

    def url(self, *parts: str) -> str:
        return str(self._root.joinpath(*parts))

    def open(self, path: str) -> pa.NativeFile:
        return pa.OSFile(path)  # not a memory map, under which a file that others truncate kills the process

    def read(self, path: str) -> bytes:
        return Path(path).read_bytes()

    def size(self, path: str) -> int:
        return Path(path).stat().st_size

    def find(self, path: str) -> list[str]:
        root = Path(path)
        found: list[str] = []
        for folder, folders, names in os.walk(root):
            folders[:] = [name for name in folders if not name.startswith(("_", "."))]
            found.extend((Path(folder) / name).relative_to(root).as_posix() for name in names)
        return found

    def exists(self, name: str) -> bool:
        path = self._root / name
        # rename(2) replaces an empty directory, so that one is not in the way.
        return os.path.lexists(path) and not (path.is_dir() and not any(path.iterdir()))

    def stage(self, name: str) -> Path:
        staged = self._root / f".{name}.{uuid.uuid4()}{_PARTIAL}"
        with self._writing():
            staged.mkdir(parents=True)
        return staged

    def data_prefix(self, staged: Path) -> str:
        return ""

    def publish(
        self,
        staged: Path,
        name: str,
        files: Iterable[str],
        manifest: bytes,
        done: Callable[[int], object] = lambda size: None,
    ) -> None:
        (staged / MANIFEST_NAME).write_bytes(manifest)
        for file in (*files, MANIFEST_NAME):
            to_disk(staged / file)
            done((staged / file).stat().st_size)
        to_disk(staged)
        try:
            staged.rename(self._root / name)
        except OSError as error:
            shutil.rmtree(staged, ignore_errors=True)
            if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
                raise self.taken(name) from error
            raise
        to_disk(self._root)

    def remove(self, name: str, files: Iterable[str]) -> None:
        folder = self._root / name
        try:
            (folder / MANIFEST_NAME).unlink(missing_ok=True)
            parents = {folder}
            for file in files:
                path = folder / file
                path.unlink(missing_ok=True)
                parents.update(parent for parent in path.parents if folder in parent.parents)
        except OSError as error:
            raise FileSetCannotDeleteError(
                f"{folder}: not everything could be removed ({error.strerror}: {error.filename}). "
                "It no longer opens; remove the rest by hand."
            ) from error
        for parent in sorted(parents, key=lambda path: len(path.parts), reverse=True):
            with suppress(OSError):  # what others put there stays, and so does its directory
                parent.rmdir()

    def names(self) -> list[str]:
        return sorted(path.parent.name for path in self._root.glob(f"*/{MANIFEST_NAME}") if path.is_file())

    def remove_orphans(self) -> list[str]:
        removed: list[str] = []
        for staged in sorted(self._root.glob(f".*{_PARTIAL}")):
            name = staged.name.removeprefix(".").removesuffix(_PARTIAL)[:-_UUID_LENGTH].removesuffix(".")
            # Whoever makes a FileSet holds its lock, which the system lets go of when the process dies.
            lock = filelock.FileLock(self._root / f".{name}.lock", timeout=0)
            with suppress(filelock.Timeout), lock:
                shutil.rmtree(staged, ignore_errors=True)
                removed.append(str(staged))
        return removed

    @contextmanager
    def making(self, name: str) -> Iterator[None]:
        with self._writing():
            self._root.mkdir(parents=True, exist_ok=True)
            lock = filelock.FileLock(self._root / f".{name}.lock")
            lock.acquire()
        try:
            yield
        finally:
            lock.release()

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise FileSetLocationError(
                f"{self.location}: cannot write there ({error.strerror or error}). "
                "Pass a target_stage_loc in which you may create directories."
            ) from error


def to_disk(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk and survive the machine's end."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
