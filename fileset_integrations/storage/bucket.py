"""Buckets as homes of FileSets, through fsspec: s3://, gs://, az://, memory://, ...

A bucket has no rename: a snapshot's data goes under a name of its own first, and the manifest, without which nothing
opens, last.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from fileset_integrations.errors import (
    FileSetCannotDeleteError,
    FileSetError,
    FileSetLocationError,
    FileSetNotFoundError,
)
from fileset_integrations.manifest import MANIFEST_NAME, Manifest
from fileset_integrations.storage.drivers import Driver, DriverFiles
from fileset_integrations.storage.fetching import Verify
from fileset_integrations.storage.ranges import RangeFile
from fileset_integrations.storage.remote import RUN, RemoteStorage

# Stores without directories: for some of them, drivers take a request to make one as one to make the bucket.
_FLAT = frozenset(("s3", "s3a", "gs", "gcs", "az", "abfs", "abfss", "oss", "oci"))


class BucketStorage(RemoteStorage):
    """A location that fsspec knows by its URL.

    Args:
        location: The URL.
        storage_options: What fsspec's driver is told.
        cache_dir: See `RemoteStorage`.
        cache_bytes: See `RemoteStorage`.
        verify: See `RemoteStorage`.

    Raises:
        FileSetLocationError: fsspec knows no such URL, or lacks the driver.
        SpecError: Another argument is out of range.
    """

    def __init__(
        self,
        location: str,
        storage_options: Mapping[str, Any] | None = None,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        verify: Verify = "auto",
    ) -> None:
        self._driver = Driver(location, storage_options or {})
        self.location = self._driver.location
        super().__init__(DriverFiles(self._driver), cache_dir, cache_bytes, verify)

    def url(self, *parts: str) -> str:
        return "/".join((self.location, *parts))

    def open(self, path: str) -> IO[bytes] | pa.NativeFile:
        def read(first: int, last: int) -> bytes:
            with self._driver.explained(path, "read"):
                data: bytes = self._driver.fs.cat_file(path, start=first, end=last)
                return data

        return RangeFile(read, self.size(path))

    def read(self, path: str) -> bytes:
        with self._driver.explained(path, "read"):
            data: bytes = self._driver.fs.cat_file(path)
            return data

    def size(self, path: str) -> int:
        with self._driver.explained(path, "read"):
            return int(self._driver.fs.size(path))

    def find(self, path: str) -> list[str]:
        fs = self._driver.fs
        root = fs._strip_protocol(path).rstrip("/") + "/"
        try:
            with self._driver.explained(path, "listed"):
                fs.invalidate_cache()  # others write there too
                found = [str(file).removeprefix(root) for file in fs.find(path)]
        except FileNotFoundError as error:
            raise FileSetNotFoundError(
                f"{path}: there is nothing to list ({self._driver.said(error)}). Pass a bucket that is there."
            ) from error
        return [file for file in found if not any(part.startswith(("_", ".")) for part in file.split("/")[:-1])]

    def exists(self, name: str) -> bool:
        path = self.url(name, MANIFEST_NAME)
        with self._driver.explained(path, "read"):
            self._driver.fs.invalidate_cache()
            return bool(self._driver.fs.exists(path))

    def names(self) -> list[str]:
        return sorted(path.split("/")[0] for path in self.find(self.location) if path.endswith(f"/{MANIFEST_NAME}"))

    def publish(
        self,
        staged: Path,
        name: str,
        files: Iterable[str],
        manifest: bytes,
        done: Callable[[int], object] = lambda size: None,
    ) -> None:
        paths = {file: self.url(name, self.data_prefix(staged) + file) for file in files}
        last = self.url(name, MANIFEST_NAME)
        fs = self._driver.fs
        try:
            with self._driver.explained(last, "written"):
                if not _FLAT.intersection((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol):
                    for folder in {fs._parent(path): None for path in (*paths.values(), last)}:
                        fs.makedirs(folder, exist_ok=True)
                for file, path in paths.items():
                    fs.put_file(str(staged / file), path)
                    done((staged / file).stat().st_size)
                if self.exists(name):
                    raise self.taken(name)
                fs.pipe_file(last, manifest, mode="create")
        except BaseException as error:
            self._remove_run(name, set(paths.values()))
            if isinstance(error, FileSetError) or not isinstance(error, OSError):
                raise
            if isinstance(error, FileExistsError):
                raise self.taken(name) from error
            raise FileSetLocationError(
                f"{last}: cannot be written, there is no such bucket. Make it first, or pass another location."
            ) from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _remove_run(self, name: str, paths: set[str]) -> None:
        """Remove the files of a run that did not come to its end; what cannot be removed stays for `rm --orphans`.

        Whoever is interrupted while the manifest is on its way does not know: where it came through, all of it stays.
        """
        try:
            theirs = {self.url(name, path) for path in Manifest.from_bytes(self.read_manifest(name), name).paths}
        except FileSetNotFoundError:
            theirs = set()
        except FileSetError:
            return
        for path in paths - theirs:
            with suppress(Exception):
                self._driver.fs.rm_file(path)

    def remove_orphans(self) -> list[str]:
        complete = {name: set(Manifest.from_bytes(self.read_manifest(name), name).paths) for name in self.names()}
        removed: list[str] = []
        for path in self.find(self.location):
            name, _, file = path.partition("/")
            if file.startswith(RUN) and file not in complete.get(name, ()):
                self._remove(self.url(path))
                removed.append(self.url(path))
        return removed

    def remove(self, name: str, files: Iterable[str]) -> None:
        try:
            for file in (MANIFEST_NAME, *files):
                self._remove(self.url(name, file))
        except FileSetLocationError as error:
            raise FileSetCannotDeleteError(f"Not everything could be removed. {error} Remove the rest then.") from error

    def _remove(self, path: str) -> None:
        with suppress(FileNotFoundError), self._driver.explained(path, "removed"):
            self._driver.fs.rm_file(path)
