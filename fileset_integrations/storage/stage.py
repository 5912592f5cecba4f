"""A Snowflake stage as a home of FileSets: data under a run's own directory, the manifest last.

What a reader opens is fetched into the cache of this machine and verified there; what is looked at once, such as a
footer, is read from the stage itself.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import uuid
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import IO, Any

import pyarrow as pa

from fileset_integrations.counters import ReaderStats
from fileset_integrations.errors import (
    FileSetCannotDeleteError,
    FileSetCorruptError,
    FileSetError,
    FileSetExistsError,
    FileSetLocationError,
    FileSetNotFoundError,
    MoreThanOneQuerySourceError,
    SnowflakeError,
    SpecError,
    StageFileNotFoundError,
)
from fileset_integrations.manifest import MANIFEST_NAME, Manifest
from fileset_integrations.spec import as_int
from fileset_integrations.storage.connecting import SnowflakeSession
from fileset_integrations.storage.directory import Storage
from fileset_integrations.storage.fetched import FetchedFiles, file_key
from fileset_integrations.storage.fetching import Fetcher, ReadAhead, StageFile, Verify, read_ahead
from fileset_integrations.storage.listing import (
    NO_SUCH_OBJECT,
    Listed,
    StageKind,
    list_files,
    no_such_stage,
    require_server_side,
    stage_kind,
)
from fileset_integrations.storage.locations import StageLocation
from fileset_integrations.storage.presigned import Download, PresignedFiles, PresignedUrls
from fileset_integrations.storage.transfers import ConnectorFiles

RUN = "run-"
_UPLOADS = 4  # at once; each holds its file in memory
# What Snowpark ML's FileSet has Snowflake write: the query's id in every name, files directly in the directory.
_ANCESTORS_FILE = re.compile(r"data_([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_[^/]*\.parquet")


class StageStorage(Storage):
    """A directory of a Snowflake stage.

    Args:
        location: "@database.schema.stage/directory".
        session: The connection.
        cache_dir: Where fetched files are cached; None: `FILESET_CACHE_DIR`, else the user's cache directory.
        cache_bytes: Most bytes that they may take there; None: what the disk has free.
        verify: "strict": a file whose sha256 nobody knows yet is fetched twice and compared.

    Raises:
        FileSetLocationError: The location is not of that form.
        SpecError: Another argument is out of range.
    """

    fetches = True

    def __init__(
        self,
        location: str,
        session: SnowflakeSession,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        verify: Verify = "auto",
    ) -> None:
        if verify not in ("auto", "strict"):
            raise SpecError(f"verify={verify!r}: pass 'auto' or 'strict'.")
        if cache_bytes is not None and as_int(cache_bytes, "cache_bytes") < 1:
            raise SpecError(f"cache_bytes={cache_bytes}: pass the most bytes that fetched files may take, or None.")
        self._place = StageLocation.parse(location)
        self.location = str(self._place)
        self._root = str(StageLocation(self._place.database, self._place.schema, self._place.stage))
        self._session = session
        self._cache_dir, self._cache_bytes, self._verify = cache_dir, cache_bytes, verify
        self._lock = threading.Lock()
        self._listings: dict[str, dict[str, Listed]] = {}
        self._fetcher: Fetcher | None = None
        self._remote = _Remote(session, self._place, self._root)

    @property
    def session(self) -> SnowflakeSession:
        """The connection."""
        return self._session

    @property
    def place(self) -> StageLocation:
        """The location, parsed."""
        return self._place

    def reopening(self) -> dict[str, Any]:
        return {
            "location": self.location,
            "session": self._session,
            "cache_dir": self._cache_dir,
            "cache_bytes": self._cache_bytes,
            "verify": self._verify,
        }

    def with_cache(self, cache_dir: str | os.PathLike[str] | None, cache_bytes: int | None) -> StageStorage:
        if (cache_dir or self._cache_dir, cache_bytes or self._cache_bytes) == (self._cache_dir, self._cache_bytes):
            return self
        other = StageStorage(
            self.location,
            self._session,
            cache_dir or self._cache_dir,
            cache_bytes or self._cache_bytes,
            self._verify,
        )
        other._remote = self._remote  # what is known of the stage, and the connections to it
        return other

    # --- names ---

    def url(self, *parts: str) -> str:
        return "/".join((self.location, *parts))

    def shown(self, path: str) -> str:
        """The path of a file, counted from the stage's root, as errors name it."""
        return self._remote.shown(path)

    def _path(self, url: str) -> str:
        return url.removeprefix(self._root + "/")

    # --- reading what the stage holds ---

    def kind(self) -> StageKind:
        """What kind the stage is; asked for once.

        Raises:
            StageNotFoundError: There is no such stage.
        """
        return self._remote.kind()

    def listed(self, path: str) -> list[Listed]:
        """The files whose paths, from the stage's root, begin with `path`."""
        return list_files(self._session, self._place, path)

    def open(self, path: str) -> IO[bytes] | pa.NativeFile:
        file = self._path(path)
        size = self.size(path)
        if self.kind().server_side:
            return self._remote.presigned.open(file, size)
        with tempfile.TemporaryDirectory(prefix="fileset-") as folder:
            target = Path(folder) / "data"
            self._remote.by_connector.download(file, target, size, with_md5=False)
            return pa.BufferReader(target.read_bytes())

    def read_manifest(self, name: str) -> bytes:
        try:
            return super().read_manifest(name)
        except FileSetLocationError as error:
            cause = error.__cause__.__cause__ if error.__cause__ is not None else None
            if isinstance(cause, SnowflakeError) and cause.errno == NO_SUCH_OBJECT:
                raise no_such_stage(self._place, str(cause)) from cause
            raise

    def read(self, path: str) -> bytes:
        with tempfile.TemporaryDirectory(prefix="fileset-") as folder:
            target = Path(folder) / "data"
            self._remote.by_connector.download(self._path(path), target, 0, with_md5=False)
            return target.read_bytes()

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
        self._remote.presigned.urls.want(listing)
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

    # --- fetching ---

    def open_file(self, root: str, manifest: Manifest, file: int) -> pa.NativeFile:
        return self._fetching().open(self._stage_file(root, manifest, file))

    def read_ahead(self, root: str, manifest: Manifest, files: Iterator[int]) -> ReadAhead:
        fetcher = self._fetching()
        return read_ahead((fetcher, self._stage_file(root, manifest, file)) for file in files)

    def fetch_of(self, root: str, manifest: Manifest, file: int) -> tuple[Fetcher, StageFile]:
        return self._fetching(), self._stage_file(root, manifest, file)

    def want(self, root: str, manifest: Manifest, files: Iterable[int]) -> None:
        """Begin to fetch files that will be opened at once; whoever opens one gets its error."""
        fetcher = self._fetching()
        missing = [one for one in (self._stage_file(root, manifest, file) for file in files) if not fetcher.cached(one)]
        if missing:
            with suppress(FileSetError):
                fetcher.want(missing)
                for one in missing:
                    fetcher.submit(one)

    def pull(self, root: str, manifest: Manifest, done: Callable[[int], object]) -> None:
        files = [self._stage_file(root, manifest, file) for file in range(manifest.files.num_rows)]
        fetcher = self._fetching()
        fetcher.want(file for file in files if not fetcher.cached(file))
        fetcher.fetch_all(files, lambda file: done(file.size))

    def fetched(self) -> ReaderStats:
        return ReaderStats() if self._fetcher is None else self._fetcher.counters.stats()

    def digests(self, root: str, manifest: Manifest, done: Callable[[int], object] = lambda size: None) -> list[str]:
        """Sha256 of every file of a snapshot, hex, from its fetched and verified copy; `done` is told sizes."""
        self.pull(root, manifest, done)
        fetcher = self._fetching()
        return [fetcher.digest(self._stage_file(root, manifest, file)) for file in range(manifest.files.num_rows)]

    def _fetching(self) -> Fetcher:
        with self._lock:
            if self._fetcher is None:
                self._fetcher = Fetcher(self._remote, FetchedFiles(self._cache_dir, self._cache_bytes), self._verify)
            return self._fetcher

    def _stage_file(self, root: str, manifest: Manifest, file: int) -> StageFile:
        table = manifest.files
        path, rows, size, sha256 = (table[name][file].as_py() for name in ("path", "rows", "bytes", "sha256"))
        return StageFile(self._path(f"{root}/{path}"), size, rows, sha256, file_key(manifest.snapshot_id, path))

    # --- writing ---

    def stage(self, name: str) -> Path:
        return Path(tempfile.mkdtemp(prefix="fileset-"))

    def data_prefix(self, staged: Path) -> str:
        return f"{RUN}{uuid.uuid5(uuid.NAMESPACE_URL, staged.name)}/"

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
                uploads = [pool.submit(self._put_file, staged / file, path) for file, path in paths.items()]
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
        self._put(manifest, self._place.path(name, MANIFEST_NAME))

    def _put_file(self, source: Path, path: str) -> int:
        data = source.read_bytes()
        self._put(data, path)
        return len(data)

    def _put(self, data: bytes, path: str) -> None:
        """Upload a file where none is; whether it is there, and ours, is seen from what is there.

        A lost answer says nothing of the upload, and a second one after it is skipped where the first came through.
        """
        failure: SnowflakeError | None = None
        for _ in range(2):
            try:
                self._remote.by_connector.upload(data, path)
                failure = None
                break
            except SnowflakeError as error:
                if error.refused:
                    raise
                failure = error
        try:
            there = self.read(self.shown(path))
        except StageFileNotFoundError:
            raise failure or SnowflakeError(
                f"{self.shown(path)}: PUT reported success, and nothing is there."
            ) from None
        if there != data:
            name = path.removesuffix(f"/{MANIFEST_NAME}")
            if name != path:
                raise FileSetExistsError(f"{self.shown(name)} already exists: somebody made it at the same time.")
            raise FileSetCorruptError(f"{self.shown(path)}: what was uploaded came back otherwise. Try again.")

    def remove_run(self, name: str, run: str) -> None:
        """Remove the files of a run that did not come to its end; what cannot be removed stays for `rm --orphans`.

        Whoever is interrupted while the manifest is on its way does not know: where it came through, all of it stays.
        """
        with suppress(FileSetError):
            if not self._is_whole(name, run):
                self._remove(self._place.path(name, run))

    def _is_whole(self, name: str, run: str) -> bool:
        try:
            manifest = Manifest.from_bytes(self.read_manifest(name), name)
        except FileSetNotFoundError:
            return False
        return any(path.startswith(run) for path in manifest.paths)

    def _remove(self, path: str) -> None:
        self._session.execute(f"REMOVE {self._place.reference(path)}", again=True)

    def remove(self, name: str, files: Iterable[str]) -> None:
        try:
            self._remove_file(self._place.path(name, MANIFEST_NAME))
            listed = {found.path for found in self.listed(self._place.path(name) + "/")}
            wanted = {self._place.path(name, file) for file in files} & listed
            runs = {file.rsplit("/", 1)[0] + "/" for file in wanted if file.rsplit("/", 2)[-2].startswith(RUN)}
            for run in sorted(runs):
                # One statement where the directory holds nothing else.
                if all(file in wanted for file in listed if file.startswith(run)):
                    self._remove(run)
                    wanted = {file for file in wanted if not file.startswith(run)}
            for file in sorted(wanted):
                self._remove_file(file)
        except SnowflakeError as error:
            raise FileSetCannotDeleteError(
                f"{self.url(name)}: not everything could be removed ({error}). Remove the rest by hand."
            ) from error
        self._listings.clear()

    def _remove_file(self, path: str) -> None:
        # REMOVE takes a prefix: files whose names go on after this one's must stay.
        others = [found.path for found in self.listed(path) if found.path != path]
        if others:
            name = re.escape(path)
            self._session.execute(
                f"REMOVE {self._place.reference(path)} PATTERN='.*/{name.replace(chr(92), chr(92) * 2)}'", again=True
            )
        else:
            self._remove(path)

    def remove_orphans(self) -> list[str]:
        root = self._place.path()
        prefix = f"{root}/" if root else ""
        relative = [found.path.removeprefix(prefix) for found in self.listed(prefix)]
        complete = {name: set(Manifest.from_bytes(self.read_manifest(name), name).paths) for name in self.names()}
        orphans = []
        for path in relative:
            name, _, file = path.partition("/")
            if file.startswith(RUN) and file not in complete.get(name, ()):
                self._remove_file(f"{prefix}{path}")
                orphans.append(self.url(path))
        return orphans


class _Remote:
    """The stage as the fetcher sees it. It does not hold the storage, so that who lets go of that closes what is open.

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
        self._kind: StageKind | None = None
        self._lock = threading.Lock()
        self._listings: dict[str, dict[str, Listed]] = {}

    def kind(self) -> StageKind:
        if self._kind is None:
            self._kind = stage_kind(self._session, self._place)
        return self._kind

    def download(self, path: str, target: Path, size: int, with_md5: bool) -> Download:
        files = self.presigned if self.kind().server_side else self.by_connector
        return files.download(path, target, size, with_md5)

    def listed_md5(self, file: StageFile) -> str | None:
        # One LIST for all files of a run.
        folder = file.path.rpartition("/")[0] + "/"
        with self._lock:
            listing = self._listings.get(folder)
            if listing is None:
                listing = {found.path: found for found in list_files(self._session, self._place, folder)}
                self._listings[folder] = listing
        found = listing.get(file.path)
        if found is None:
            raise StageFileNotFoundError(
                f"{self.shown(file.path)}: the stage has no such file. Make or copy the FileSet again."
            )
        return self.kind().usable_md5(found)

    def want(self, paths: Iterable[str]) -> None:
        if self.kind().server_side:
            self.presigned.urls.want(paths)


def _shown(root: str, path: str) -> str:
    return f"{root}/{path}"
