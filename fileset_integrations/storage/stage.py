"""A Snowflake stage as a home of FileSets: data under a run's own directory, the manifest last.

What a reader opens is fetched into the cache of this machine and verified there; what is looked at once, such as a
footer, is read from the stage itself.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from fileset_integrations.errors import (
    FileSetCannotDeleteError,
    FileSetError,
    FileSetLocationError,
    FileSetNotFoundError,
    MoreThanOneQuerySourceError,
    SnowflakeError,
    StageFileNotFoundError,
)
from fileset_integrations.manifest import MANIFEST_NAME, Manifest
from fileset_integrations.storage.connecting import SnowflakeSession
from fileset_integrations.storage.fetching import Verify
from fileset_integrations.storage.listing import (
    NO_SUCH_OBJECT,
    Listed,
    StageKind,
    no_such_stage,
    require_server_side,
)
from fileset_integrations.storage.locations import StageLocation
from fileset_integrations.storage.remote import RUN, RemoteStorage
from fileset_integrations.storage.stage_files import StageFiles

_UPLOADS = 4  # at once; each holds its file in memory
# What Snowpark ML's FileSet has Snowflake write: the query's id in every name, files directly in the directory.
_ANCESTORS_FILE = re.compile(r"data_([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_[^/]*\.parquet")


class StageStorage(RemoteStorage):
    """A directory of a Snowflake stage.

    Args:
        location: "@database.schema.stage/directory".
        session: The connection.
        cache_dir: See `RemoteStorage`.
        cache_bytes: See `RemoteStorage`.
        verify: See `RemoteStorage`.

    Raises:
        FileSetLocationError: The location is not of that form.
        SpecError: Another argument is out of range.
    """

    def __init__(
        self,
        location: str,
        session: SnowflakeSession,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        verify: Verify = "auto",
    ) -> None:
        self._place = StageLocation.parse(location)
        self.location = str(self._place)
        self._root = str(StageLocation(self._place.database, self._place.schema, self._place.stage))
        self._session = session
        self._listings: dict[str, dict[str, Listed]] = {}
        self._files = StageFiles(session, self._place, self._root)
        super().__init__(self._files, cache_dir, cache_bytes, verify)

    @property
    def session(self) -> SnowflakeSession:
        """The connection."""
        return self._session

    @property
    def place(self) -> StageLocation:
        """The location, parsed."""
        return self._place

    def reopening(self) -> dict[str, Any]:
        return {**super().reopening(), "session": self._session}

    # --- names ---

    def url(self, *parts: str) -> str:
        return "/".join((self.location, *parts))

    def shown(self, path: str) -> str:
        """The path of a file, counted from the stage's root, as errors name it."""
        return self._files.shown(path)

    def _path(self, url: str) -> str:
        return url.removeprefix(self._root + "/")

    # --- reading what the stage holds ---

    def kind(self) -> StageKind:
        """What kind the stage is; asked for once.

        Raises:
            StageNotFoundError: There is no such stage.
        """
        return self._files.kind()

    def listed(self, path: str) -> list[Listed]:
        """The files whose paths, from the stage's root, begin with `path`."""
        return self._files.listed(path)

    def open(self, path: str) -> IO[bytes] | pa.NativeFile:
        return self._files.open(self._path(path), self.size(path))

    def read_manifest(self, name: str) -> bytes:
        try:
            return super().read_manifest(name)
        except FileSetLocationError as error:
            cause = error.__cause__.__cause__ if error.__cause__ is not None else None
            if isinstance(cause, SnowflakeError) and cause.errno == NO_SUCH_OBJECT:
                raise no_such_stage(self._place, str(cause)) from cause
            raise

    def read(self, path: str) -> bytes:
        return self._files.read(self._path(path))

    def size(self, path: str) -> int:
        file = self._path(path)
        for listing in list(self._listings.values()):
            if file in listing:
                return listing[file].size
        for found in self.listed(file):
            if found.path == file:
                return found.size
        raise StageFileNotFoundError(f"{path}: there is no such file in the stage.")

    def find(self, path: str) -> list[str]:
        root = self._path(path).rstrip("/") + "/" if path.startswith(self._root + "/") else ""
        listing = {found.path: found for found in self.listed(root)}
        self._listings[root] = listing
        self._files.presigned.urls.want(listing)
        files = (found.removeprefix(root) for found in listing)
        return [file for file in files if not any(part.startswith(("_", ".")) for part in file.split("/")[:-1])]

    def exists(self, name: str) -> bool:
        root = self._place.path(name) + "/"
        return any(not found.path.removeprefix(root).startswith(RUN) for found in self.listed(root))

    def names(self) -> list[str]:
        root = self._place.path()
        prefix = f"{root}/" if root else ""
        relative = (found.path.removeprefix(prefix).split("/") for found in self.listed(prefix))
        return sorted(parts[0] for parts in relative if len(parts) == 2 and parts[1] == MANIFEST_NAME)

    def files_without_manifest(self, name: str) -> list[str]:
        """The files that Snowpark ML's FileSet wrote under a name, relative to its directory; none: there is nothing.

        Raises:
            MoreThanOneQuerySourceError: They come from several queries.
            FileSetLocationError: There are files of another kind.
        """
        found = self.find(self.url(name))
        if not found or any(file.startswith(RUN) for file in found):
            return []
        matches = [_ANCESTORS_FILE.fullmatch(file) for file in found]
        if None in matches:
            other = found[matches.index(None)]
            raise FileSetLocationError(
                f"{self.url(name)} holds {other!r}, which no FileSet wrote, and no manifest. Open such files with "
                f"FileSet.from_parquet({self.url(name)!r}), or remove what does not belong there."
            )
        queries = sorted({match[1] for match in matches if match is not None})
        if len(queries) > 1:
            raise MoreThanOneQuerySourceError(
                f"{self.url(name)} holds the files of {len(queries)} queries ({', '.join(queries[:3])}, ...) and no "
                "manifest: they are not one snapshot. Remove the files of all queries but one."
            )
        return found

    # --- writing ---

    def publish(
        self,
        staged: Path,
        name: str,
        files: Iterable[str],
        manifest: bytes,
        done: Callable[[int], object] = lambda size: None,
    ) -> None:
        require_server_side(self.kind(), self._place)
        prefix = self.data_prefix(staged)
        try:
            with ThreadPoolExecutor(_UPLOADS, thread_name_prefix="fileset-upload") as pool:
                paths = {file: self._place.path(name, prefix + file) for file in files}
                uploads = [pool.submit(self._files.put_file, staged / file, path) for file, path in paths.items()]
                try:
                    for upload in uploads:
                        done(upload.result())
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)  # what is under way is waited for, and no more
                    raise
            self.publish_manifest(name, prefix, manifest)
        except SnowflakeError as error:
            self.remove_run(name, prefix)
            raise FileSetLocationError(f"{self.url(name)}: cannot be written: {error}") from error
        except BaseException:
            self.remove_run(name, prefix)
            raise
        finally:
            shutil.rmtree(staged, ignore_errors=True)

    def publish_manifest(self, name: str, run: str, manifest: bytes) -> None:
        """Put the manifest of a run whose files are all there: from then on, the FileSet opens.

        Raises:
            FileSetExistsError: Somebody else took the name meanwhile. The run's files are still there.
            SnowflakeError: It cannot be written.
        """
        del run
        if self.exists(name):
            raise self.taken(name)
        self._files.put(manifest, self._place.path(name, MANIFEST_NAME))

    def remove_run(self, name: str, run: str) -> None:
        """Remove the files of a run that did not come to its end; what cannot be removed stays for `rm --orphans`.

        Whoever is interrupted while the manifest is on its way does not know: where it came through, all of it stays.
        """
        with suppress(FileSetError):
            if not self._is_whole(name, run):
                self._files.remove(self._place.path(name, run))

    def _is_whole(self, name: str, run: str) -> bool:
        try:
            manifest = Manifest.from_bytes(self.read_manifest(name), name)
        except FileSetNotFoundError:
            return False
        return any(path.startswith(run) for path in manifest.paths)

    def remove(self, name: str, files: Iterable[str]) -> None:
        try:
            self._files.remove_file(self._place.path(name, MANIFEST_NAME))
            listed = {found.path for found in self.listed(self._place.path(name) + "/")}
            wanted = {self._place.path(name, file) for file in files} & listed
            runs = {file.rsplit("/", 1)[0] + "/" for file in wanted if file.rsplit("/", 2)[-2].startswith(RUN)}
            for run in sorted(runs):
                # One statement where the directory holds nothing else.
                if all(file in wanted for file in listed if file.startswith(run)):
                    self._files.remove(run)
                    wanted = {file for file in wanted if not file.startswith(run)}
            for file in sorted(wanted):
                self._files.remove_file(file)
        except SnowflakeError as error:
            raise FileSetCannotDeleteError(
                f"{self.url(name)}: not everything could be removed ({error}). Remove the rest by hand."
            ) from error
        self._listings.clear()

    def remove_orphans(self) -> list[str]:
        root = self._place.path()
        prefix = f"{root}/" if root else ""
        relative = [found.path.removeprefix(prefix) for found in self.listed(prefix)]
        complete = {name: set(Manifest.from_bytes(self.read_manifest(name), name).paths) for name in self.names()}
        orphans = []
        for path in relative:
            name, _, file = path.partition("/")
            if file.startswith(RUN) and file not in complete.get(name, ()):
                self._files.remove_file(f"{prefix}{path}")
                orphans.append(self.url(path))
        return orphans
