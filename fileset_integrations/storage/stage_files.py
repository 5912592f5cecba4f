"""The files of a Snowflake stage: fetched, put and removed, each as itself."""

from __future__ import annotations

import os
import re
import tempfile
import threading
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import IO

import pyarrow as pa

from fileset_integrations.errors import (
    FileSetCorruptError,
    FileSetExistsError,
    SnowflakeError,
    StageFileNotFoundError,
)
from fileset_integrations.manifest import MANIFEST_NAME
from fileset_integrations.storage.connecting import SnowflakeSession, refuse_in_children
from fileset_integrations.storage.downloads import Download
from fileset_integrations.storage.fetching import RemoteFile
from fileset_integrations.storage.listing import Listed, StageKind, list_files, stage_kind
from fileset_integrations.storage.locations import StageLocation
from fileset_integrations.storage.presigned import PresignedFiles, PresignedUrls
from fileset_integrations.storage.transfers import ConnectorFiles


class StageFiles:
    """A stage's files, by their paths from its root.

    It does not hold the storage, so that who lets go of that closes what is open.

    Args:
        session: The connection.
        place: The stage.
        root: How its root is written in errors.
    """

    def __init__(self, session: SnowflakeSession, place: StageLocation, root: str) -> None:
        self._session, self._place = session, place
        shown = partial(_shown, root)
        self.shown: Callable[[str], str] = shown
        self.by_connector = ConnectorFiles(session, place, shown)
        self.presigned = PresignedFiles(PresignedUrls(session, place), shown)
        self._pid = os.getpid()
        self._kind: StageKind | None = None
        self._lock = threading.Lock()
        self._listings: dict[str, dict[str, Listed]] = {}

    def kind(self) -> StageKind:
        """What kind the stage is; asked for once.

        Raises:
            StageNotFoundError: There is no such stage.
        """
        if self._kind is None:
            self._kind = stage_kind(self._session, self._place)
        return self._kind

    # --- what a `Fetcher` asks ---

    def check_process(self) -> None:
        """The connector hangs in a forked child."""
        refuse_in_children(self._pid)

    def download(self, path: str, target: Path, size: int, with_md5: bool) -> Download:
        """Fetch a whole file; see `PresignedFiles.download`."""
        files = self.presigned if self.kind().server_side else self.by_connector
        return files.download(path, target, size, with_md5)

    def listed_md5(self, file: RemoteFile) -> str | None:
        """Md5 that LIST states, one LIST for all files of a run; None where it states none of the content.

        Raises:
            StageFileNotFoundError: There is no such file.
        """
        folder = file.path.rpartition("/")[0] + "/"
        with self._lock:
            listing = self._listings.get(folder)
            if listing is None:
                listing = {found.path: found for found in self.listed(folder)}
                self._listings[folder] = listing
        found = listing.get(file.path)
        if found is None:
            raise StageFileNotFoundError(
                f"{self.shown(file.path)}: the stage has no such file. Make or copy the FileSet again."
            )
        return self.kind().usable_md5(found)

    def unverified(self, file: RemoteFile) -> str:
        """What to warn of where neither the manifest nor the stage states a digest."""
        return (
            f"{self.shown(file.path)}: the stage states no digest of its files, so that size and footer decide whether "
            "a fetch went well. FileSet(..., verify='strict') fetches each twice and compares."
        )

    def want(self, paths: Iterable[str]) -> None:
        """Say which files will be fetched, so that one statement signs the URLs of many."""
        if self.kind().server_side:
            self.presigned.urls.want(paths)

    # --- one file ---

    def read(self, path: str) -> bytes:
        """All bytes of a file.

        Raises:
            StageFileNotFoundError: It is not there.
            FileSetFetchError: It cannot be fetched.
        """
        with tempfile.TemporaryDirectory(prefix="fileset-") as folder:
            target = Path(folder) / "data"
            self.by_connector.download(path, target, 0, with_md5=False)
            return target.read_bytes()

    def open(self, path: str, size: int) -> IO[bytes] | pa.NativeFile:
        """A file of `size` bytes, to read and seek in."""
        return self.presigned.open(path, size) if self.kind().server_side else pa.BufferReader(self.read(path))

    def listed(self, path: str) -> list[Listed]:
        """The files whose paths begin with `path`."""
        return list_files(self._session, self._place, path)

    def put_file(self, source: Path, path: str) -> int:
        """Upload a local file; see `put`. Returns its size."""
        data = source.read_bytes()
        self.put(data, path)
        return len(data)

    def put(self, data: bytes, path: str) -> None:
        """Upload a file where none is; whether it is there, and ours, is seen from what is there.

        A lost answer says nothing of the upload, and a second one after it is skipped where the first came through.

        Raises:
            FileSetExistsError: It is a manifest, and another one is there.
            FileSetCorruptError: It came back otherwise.
            SnowflakeError: It cannot be uploaded.
        """
        failure: SnowflakeError | None = None
        for _ in range(2):
            try:
                self.by_connector.upload(data, path)
                failure = None
                break
            except SnowflakeError as error:
                if error.refused:
                    raise
                failure = error
        try:
            there = self.read(path)
        except StageFileNotFoundError:
            raise failure or SnowflakeError(
                f"{self.shown(path)}: PUT reported success, and nothing is there."
            ) from None
        if there != data:
            name = path.removesuffix(f"/{MANIFEST_NAME}")
            if name != path:
                raise FileSetExistsError(f"{self.shown(name)} already exists: somebody made it at the same time.")
            raise FileSetCorruptError(f"{self.shown(path)}: what was uploaded came back otherwise. Try again.")

    def remove(self, path: str) -> None:
        """Remove all files whose paths begin with `path`."""
        self._session.execute(f"REMOVE {self._place.reference(path)}", again=True)

    def remove_file(self, path: str) -> None:
        """Remove one file."""
        # REMOVE takes a prefix: files whose names go on after this one's must stay.
        others = [found.path for found in self.listed(path) if found.path != path]
        if others:
            name = re.escape(path)
            self._session.execute(
                f"REMOVE {self._place.reference(path)} PATTERN='.*/{name.replace(chr(92), chr(92) * 2)}'", again=True
            )
        else:
            self.remove(path)


def _shown(root: str, path: str) -> str:
    return f"{root}/{path}"
