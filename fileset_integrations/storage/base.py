"""What every home of FileSets can do, and what a FileSet may be called there."""

from __future__ import annotations

import os
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import pyarrow as pa

from fileset_integrations.counters import ReaderStats
from fileset_integrations.errors import FileSetExistsError, FileSetLocationError, FileSetNotFoundError
from fileset_integrations.manifest import MANIFEST_NAME, Manifest

if TYPE_CHECKING:  # they load when a place is opened whose files are fetched
    from fileset_integrations.storage.fetching import Fetcher, ReadAhead, RemoteFile

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._=-]*")


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

    def fetch_of(self, root: str, manifest: Manifest, file: int) -> tuple[Fetcher, RemoteFile] | None:
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
