"""Directories as homes of FileSets: local ones, and buckets through fsspec.

A snapshot appears in one step or not at all. Locally its directory is written under a hidden name and renamed; in a
bucket, which has no rename, the data goes under a name of its own first and the manifest, without which nothing opens,
last.
"""

from __future__ import annotations

import errno
import os
import re
import shutil
import tempfile
import uuid
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import filelock
import fsspec
import pyarrow as pa

from fileset_integrations.counters import ReaderStats
from fileset_integrations.errors import (
    FileSetCannotDeleteError,
    FileSetError,
    FileSetExistsError,
    FileSetLocationError,
    FileSetNotFoundError,
    MissingDependencyError,
    how_to_install,
)
from fileset_integrations.manifest import MANIFEST_NAME, Manifest
from fileset_integrations.storage.driver import Driver

if TYPE_CHECKING:  # they are parts of stages, which load when one is opened
    from fileset_integrations.storage.connecting import SnowflakeSession
    from fileset_integrations.storage.fetching import Fetcher, ReadAhead, StageFile, Verify

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*")
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
_PARTIAL = ".partial"
_UUID_LENGTH = 36


def check_name(name: str) -> str:
    """Return `name` where it can be a FileSet's: a letter or digit, then letters, digits, '.', '_', '=' or '-'."""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise FileSetLocationError(
            f"name={name!r} cannot name a FileSet. Use a letter or digit, then letters, digits, '.', '_', '=', '-'."
        )
    return name


class Storage(ABC):
    """One location that holds FileSets, each under its name.

    Attributes:
        location: The location as it may be shown: without credentials.
    """

    location: str
    fetches = False  # whether files are fetched into the cache before they are read

    @abstractmethod
    def url(self, *parts: str) -> str:
        """Absolute path or URL of something below the location."""

    @abstractmethod
    def open(self, path: str) -> IO[bytes] | pa.NativeFile:
        """The file at `path`, a path or URL that `url` gave, open for reading and seeking."""

    @abstractmethod
    def read(self, path: str) -> bytes:
        """All bytes of one file; FileNotFoundError where there is none."""

    @abstractmethod
    def size(self, path: str) -> int:
        """Bytes of one file; FileNotFoundError where there is none."""

    @abstractmethod
    def find(self, path: str) -> list[str]:
        """Paths, relative to `path`, of all files below it."""

    @abstractmethod
    def exists(self, name: str) -> bool:
        """Whether anything is in the way of a FileSet of that name."""

    @abstractmethod
    def stage(self, name: str) -> Path:
        """A new local directory in which a FileSet's files can be written."""

    @abstractmethod
    def data_prefix(self, staged: Path) -> str:
        """Prefix, "" or ending in "/", that `publish` gives the files of `staged` below the FileSet's directory."""

    @abstractmethod
    def publish(
        self,
        staged: Path,
        name: str,
        files: Iterable[str],
        manifest: bytes,
        done: Callable[[int], object] = lambda size: None,
    ) -> None:
        """Make the staged files and the manifest the FileSet `name`, in one step that others see whole or not at all.

        Args:
            staged: Where the files are.
            name: The FileSet's name.
            files: Paths relative to `staged`.
            manifest: Its manifest.
            done: Is told how many bytes more are there.

        Raises:
            FileSetExistsError: Somebody else took the name meanwhile; the staged files are gone.
        """

    @abstractmethod
    def remove(self, name: str, files: Iterable[str]) -> None:
        """Remove the manifest of `name`, then exactly `files` (relative paths), then what is empty."""

    @abstractmethod
    def names(self) -> list[str]:
        """Names of the complete FileSets at the location, sorted."""

    @abstractmethod
    def remove_orphans(self) -> list[str]:
        """Remove what crashed makes have left at the location; returns the paths removed."""

    def reopening(self) -> dict[str, Any]:
        """Arguments of `open_storage` that open it again, in another process; without credentials."""
        return {"location": self.location}

    def with_cache(self, cache_dir: str | os.PathLike[str] | None, cache_bytes: int | None) -> Storage:
        """The same storage with another cache of fetched files, where it has one; None keeps what it has."""
        del cache_dir, cache_bytes
        return self

    def open_file(self, root: str, manifest: Manifest, file: int) -> IO[bytes] | pa.NativeFile:
        """One file of a snapshot whose files lie below `root`, verified where it came from elsewhere."""
        return self.open(f"{root}/{manifest.files['path'][file]}")

    def read_ahead(self, root: str, manifest: Manifest, files: Iterator[int]) -> ReadAhead | None:
        """Begin to fetch files before they are opened, in order; None where nothing is fetched."""
        del root, manifest, files
        return None

    def fetch_of(self, root: str, manifest: Manifest, file: int) -> tuple[Fetcher, StageFile] | None:
        """What fetches a file, and what it is called there; None where nothing is fetched."""
        del root, manifest, file
        return None

    def want(self, root: str, manifest: Manifest, files: Iterable[int]) -> None:
        """Begin to fetch files that are about to be opened."""
        del root, manifest, files

    def pull(self, root: str, manifest: Manifest, done: Callable[[int], object]) -> None:
        """Fetch all files of a snapshot; `done` is told the bytes of each."""
        del root
        done(manifest.num_bytes)

    def fetched(self) -> ReaderStats:
        """What this process has fetched so far."""
        return ReaderStats()

    def files_without_manifest(self, name: str) -> list[str]:
        """Files of a FileSet that was made without a manifest, relative to its directory; none: there is no such."""
        del name
        return []

    @contextmanager
    def making(self, name: str) -> Iterator[None]:
        """Held while a FileSet is made, so that others who want the same one wait for it instead of making it too."""
        yield

    def read_manifest(self, name: str) -> bytes:
        """The bytes of the manifest of `name`.

        Raises:
            FileSetNotFoundError: There is no complete FileSet of that name.
        """
        path = self.url(name, MANIFEST_NAME)
        try:
            return self.read(path)
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as error:
            raise FileSetNotFoundError(
                f"{self.url(name)}: there is no complete FileSet (no manifest). Make one with "
                f"FileSet.make(target_stage_loc={self.location!r}, name={name!r}, query=...), or open Parquet files "
                "that others wrote with FileSet.from_parquet(location)."
            ) from error
        except OSError as error:
            raise FileSetLocationError(
                f"{self.url(name)}: cannot be read ({error.strerror or error}). Pass a target_stage_loc and a "
                "name that can."
            ) from error

    def taken(self, name: str) -> FileSetExistsError:
        """The error for a name that is in use."""
        return FileSetExistsError(
            f"{self.url(name)} already exists. Choose another name, open it with if_exists='open', or remove it first "
            f"with FileSet(...).delete() or `fileset rm {self.url(name)}`."
        )


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


class BucketStorage(Storage):
    """A location that fsspec knows by its URL: s3://, gs://, az://, memory://, ..."""

    def __init__(self, location: str, storage_options: Mapping[str, Any] | None = None) -> None:
        self._options = dict(storage_options or {})
        self._pid = os.getpid()
        try:
            self._driver, root = fsspec.core.url_to_fs(location, **self._options)
        except ImportError as error:
            scheme, said = location.split("://", 1)[0], str(error).rstrip(".")
            if scheme in ("s3", "s3a"):
                raise MissingDependencyError(f"{location}: {said}. {how_to_install('s3')}") from error
            raise FileSetLocationError(
                f"{location}: {said}. To read and write there, install fsspec's driver for {scheme}://."
            ) from error
        except ValueError as error:
            raise FileSetLocationError(f"{location}: {error}. Pass a directory, or a URL that fsspec knows.") from error
        self._root = root.rstrip("/")
        self.location = self._driver.unstrip_protocol(self._root)

    @property
    def _fs(self) -> Any:
        """The driver; made anew in a forked process, where one with an event loop (s3fs) refuses to work."""
        if self._pid != os.getpid():
            self._driver, _ = fsspec.core.url_to_fs(self.location, **self._options)
            self._pid = os.getpid()
        return Driver(self._driver, self.location)

    def url(self, *parts: str) -> str:
        return "/".join((self.location, *parts))

    def open(self, path: str) -> IO[bytes]:
        opened: IO[bytes] = self._fs.open(path, "rb")
        return opened

    def read(self, path: str) -> bytes:
        data: bytes = self._fs.cat_file(path)
        return data

    def size(self, path: str) -> int:
        return int(self._fs.size(path))

    def find(self, path: str) -> list[str]:
        root = self._fs._strip_protocol(path).rstrip("/") + "/"
        found = (file.removeprefix(root) for file in self._fs.find(path))
        return [file for file in found if not any(part.startswith(("_", ".")) for part in file.split("/")[:-1])]

    def exists(self, name: str) -> bool:
        return bool(self._fs.exists(self.url(name, MANIFEST_NAME)))

    def stage(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix="fileset-", suffix=_PARTIAL))

    def data_prefix(self, staged: Path) -> str:
        return f"run-{uuid.uuid5(uuid.NAMESPACE_URL, staged.name)}/"

    def publish(
        self,
        staged: Path,
        name: str,
        files: Iterable[str],
        manifest: bytes,
        done: Callable[[int], object] = lambda size: None,
    ) -> None:
        files = list(files)
        prefix = self.data_prefix(staged)
        try:
            for file in files:
                self._fs.makedirs(self._fs._parent(self.url(name, prefix + file)), exist_ok=True)
                self._fs.put_file(str(staged / file), self.url(name, prefix + file))
                done((staged / file).stat().st_size)
            if self.exists(name):
                raise FileExistsError(name)
            self._fs.pipe_file(self.url(name, MANIFEST_NAME), manifest, mode="create")
        except BaseException as error:
            self._remove_run(name, [prefix + file for file in files])
            if not isinstance(error, OSError):
                raise
            if isinstance(error, FileExistsError):
                raise self.taken(name) from error
            raise FileSetLocationError(
                f"{self.location}: cannot write there ({error}). Pass a target_stage_loc that you may write to."
            ) from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def _remove_run(self, name: str, files: list[str]) -> None:
        """Remove the files of a run that did not come to its end; what cannot be removed stays for `rm --orphans`.

        Whoever is interrupted while the manifest is on its way does not know: where it came through, all of it stays.
        """
        try:
            theirs = Manifest.from_bytes(self.read_manifest(name), name).paths
        except FileSetNotFoundError:
            theirs = []
        except FileSetError:
            return
        for file in set(files) - set(theirs):
            with suppress(OSError):
                self._fs.rm_file(self.url(name, file))

    def names(self) -> list[str]:
        return sorted(path.split("/")[0] for path in self.find(self.location) if path.endswith(f"/{MANIFEST_NAME}"))

    def remove_orphans(self) -> list[str]:
        complete = {name: set(Manifest.from_bytes(self.read_manifest(name), name).paths) for name in self.names()}
        removed: list[str] = []
        for path in self.find(self.location):
            name, _, file = path.partition("/")
            if file.startswith("run-") and file not in complete.get(name, ()):
                self._fs.rm_file(self.url(path))
                removed.append(self.url(path))
        return removed

    def remove(self, name: str, files: Iterable[str]) -> None:
        try:
            for file in (MANIFEST_NAME, *files):
                with suppress(FileNotFoundError):
                    self._fs.rm_file(self.url(name, file))
        except OSError as error:
            raise FileSetCannotDeleteError(
                f"{self.url(name)}: not everything could be removed ({error}). Remove the rest by hand."
            ) from error


def to_disk(path: Path) -> None:
    """Wait until a file's bytes, or a folder's entries, are on the disk and survive the machine's end."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_stage(location: str) -> bool:
    """Whether a location is a place in a Snowflake stage; "sfc://@..." is Snowpark ML's way to write one."""
    return location.startswith(("@", "sfc://@"))


def split_connection(where: str) -> tuple[str, str | None]:
    """A FileSet's "LOCATION/NAME", and the connection that "?connection_name=PROFILE" after it names; None: none does.

    Raises:
        FileSetLocationError: Something else follows the name of a FileSet in a stage.
    """
    location, slash, name = where.rpartition("/")
    name, mark, option = name.partition("?")
    if not (mark and is_stage(where)):
        return where, None
    key, _, profile = option.partition("=")
    if key != "connection_name" or not profile.strip() or "&" in profile:
        # What follows is not shown: it may be a credential.
        raise FileSetLocationError(
            f"{location}{slash}{name}?...: only ?connection_name=PROFILE may follow the name, with a profile in "
            "connections.toml, which alone holds user and credentials."
        )
    return location + slash + name, profile


def open_storage(
    location: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    *,
    session: SnowflakeSession | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
    verify: Verify = "auto",
) -> Storage:
    """The storage at a path, a URL or a place in a Snowflake stage.

    Args:
        location: The path, the URL, or "@database.schema.stage/directory".
        storage_options: Options for fsspec, for a URL.
        session: The connection, for a stage; None: that of the default profile.
        cache_dir: Cache directory for files that are fetched from a stage.
        cache_bytes: Most bytes that they may take there.
        verify: How they are verified: see `StageStorage`.

    Raises:
        FileSetLocationError: The location is not one that this version reads and writes.
    """
    text = os.fspath(location)
    if not isinstance(text, str) or not text.strip():
        raise FileSetLocationError(
            f"target_stage_loc={location!r} names no place. Pass a directory, a URL, or '@database.schema.stage/dir'."
        )
    if is_stage(text):
        if storage_options:
            raise FileSetLocationError(f"{text} is a Snowflake stage, which takes no storage_options. Leave them out.")
        from fileset_integrations.storage.connecting import session as default_session
        from fileset_integrations.storage.stage import StageStorage

        return StageStorage(text, session or default_session(), cache_dir, cache_bytes, verify)
    if session is not None:
        raise FileSetLocationError(
            f"{text} is no place in a Snowflake stage, and a Snowflake connection is for one. Pass "
            "'@database.schema.stage/directory' (copy_to brings the FileSet here then), or leave the connection out."
        )
    if text.startswith("file://"):
        return LocalStorage(text.removeprefix("file://"))
    if _URL.match(text):
        return BucketStorage(text, storage_options)
    if storage_options:
        raise FileSetLocationError(
            f"{text} is a local directory, which takes no storage_options. Leave them out, or pass a URL."
        )
    return LocalStorage(text)
