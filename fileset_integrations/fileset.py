"""FileSet: an immutable snapshot of a SQL query's result, as Parquet files and a manifest under one name."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fileset_integrations.counters import Counters, ReaderStats
from fileset_integrations.data_files import first_rows, iter_columns, open_data_file, read_columns, scan
from fileset_integrations.decoder import check_columns
from fileset_integrations.errors import (
    FileSetAlreadyDeletedError,
    FileSetCannotDeleteError,
    FileSetCorruptError,
    FileSetLocationError,
    FileSetNotFoundError,
)
from fileset_integrations.making import Digest, IfExists, Recipe, make_snapshot
from fileset_integrations.manifest import Manifest
from fileset_integrations.progress import progress_bar
from fileset_integrations.spec import as_int
from fileset_integrations.splits import Selection, Share, Split
from fileset_integrations.storage.base import Storage, check_name
from fileset_integrations.storage.connecting import session_of
from fileset_integrations.storage.copying import copy_snapshot, pull
from fileset_integrations.storage.foreign import describe_directory, read_snapshot
from fileset_integrations.storage.opening import open_storage, refuse_credentials, split_connection
from fileset_integrations.storage.verification import find_problems

if TYPE_CHECKING:
    import duckdb
    import ray.data
    import tensorflow as tf

    from fileset_integrations.columns import Columns, FittedColumns
    from fileset_integrations.storage.fetching import Fetcher, ReadAhead, RemoteFile, Verify
    from fileset_integrations.torch import FileSetIterableDataset


class FileSet:
    """An immutable snapshot of a query's result. The constructor opens one; `FileSet.make` makes one.

    Args:
        target_stage_loc: The directory or URL that holds the FileSet.
        name: Its name there.
        sf_connection: A Snowflake connection, for a location that is a stage. It does not travel to other processes.
        snowpark_session: A Snowpark session, whose connection is taken.
        connection_name: Name of a profile in connections.toml; for a stage, with none of the three, the default one.
        storage_options: Options for fsspec, for a location that is a URL. Never shown or stored.
        verify: "strict": files that are fetched and whose sha256 nobody knows yet come twice and are compared.

    Raises:
        FileSetNotFoundError: There is no complete FileSet of that name.
        FileSetCorruptError: Its manifest is damaged.
        FileSetLocationError: The location or the name is not one that can be read.
        SnowflakeError: Snowflake refuses, or does not answer.
    """

    def __init__(
        self,
        *,
        target_stage_loc: str | os.PathLike[str],
        name: str,
        sf_connection: object | None = None,
        snowpark_session: object | None = None,
        connection_name: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        verify: Verify = "auto",
    ) -> None:
        session = session_of(sf_connection, snowpark_session, connection_name)
        storage = open_storage(target_stage_loc, storage_options, session=session, verify=verify)
        manifest = read_snapshot(storage, check_name(name))
        self._set(storage, name, storage.url(name), manifest, managed=True)

    def _set(self, storage: Storage, name: str, root: str, manifest: Manifest, *, managed: bool) -> None:
        self._storage, self._name, self._root, self._manifest = storage, name, root, manifest
        self._managed, self._deleted = managed, False

    @classmethod
    def make(
        cls,
        *,
        target_stage_loc: str | os.PathLike[str],
        name: str,
        query: str,
        sf_connection: object | None = None,
        snowpark_session: object | None = None,
        connection_name: str | None = None,
        duckdb_connection: duckdb.DuckDBPyConnection | None = None,
        shuffle: bool = False,
        seed: int = 0,
        shuffle_key: str | Sequence[str] | None = None,
        max_file_bytes: int = 32 * 2**20,
        if_exists: IfExists = "error",
        store_query: bool = True,
        digest: Digest | None = None,
        storage_options: Mapping[str, Any] | None = None,
        progress: bool = False,
    ) -> FileSet:
        """Run a query and keep its result under a name. Nothing opens under that name until all of it is written.

        Args:
            target_stage_loc: The directory or URL to make it in; a missing directory is made.
            name: A letter or digit, then letters, digits, ".", "_", "=" and "-".
            query: Exactly one SELECT.
            sf_connection: A Snowflake connection that runs the query; the location is a stage then.
            snowpark_session: A Snowpark session, whose connection does.
            connection_name: Name of a profile in connections.toml, by which to connect; for a stage, with no connection
                at all, the default one.
            duckdb_connection: The embedded engine's connection, for queries over its own tables and views. None: an
                empty in-memory database, for queries over files. With a stage, the files are made here and uploaded.
            shuffle: Shuffle the rows globally before they are written.
            seed: Seed of that shuffle.
            shuffle_key: Columns that together are unique, by whose hash rows are ordered: the same rows give the same
                files whatever order the query returns them in. None: by their number in the query's order.
            max_file_bytes: Size that files should have; a target, not a bound.
            if_exists: "error", or "open": open what stands under that name if it was made from the same query, shuffle,
                seed, key and engine.
            store_query: Keep the query's text (secrets masked) in the manifest; its sha256 is kept in any case.
            digest: "readback" fetches the files that Snowflake wrote, once, and keeps their sha256 in the manifest;
                without it, each machine finds it at its first fetch. Files that are written here have it in any case.
            storage_options: Options for fsspec, for a location that is a URL. Never shown or stored.
            progress: Show how many rows are written, how fast, and the time left, where standard error is a terminal.

        Raises:
            QueryError: The query is not exactly one SELECT, or it failed.
            FileSetExistsError: The name is taken, or, with if_exists="open", by another FileSet.
            FileSetLocationError: The location cannot be written, or the name is not one.
            ColumnError: `shuffle_key` is not unique.
            SpecError: Another argument is out of range.
        """
        session = session_of(sf_connection, snowpark_session, connection_name)
        storage = open_storage(target_stage_loc, storage_options, session=session)
        recipe = Recipe.of(query, shuffle, seed, shuffle_key, max_file_bytes, store_query, digest)
        manifest = make_snapshot(storage, check_name(name), recipe, duckdb_connection, if_exists, progress)
        made = cls.__new__(cls)
        made._set(storage, name, storage.url(name), manifest, managed=True)
        return made

    @classmethod
    def from_parquet(
        cls,
        location: str | os.PathLike[str],
        *,
        sf_connection: object | None = None,
        connection_name: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> FileSet:
        """Open a directory of Parquet files that others wrote, with all below it; footers are read in parallel.

        The order of files is that of their relative paths, data_2 before data_10. Files and directories whose names
        start with "_" or "." are skipped. Such a FileSet has no manifest of its own and cannot be deleted.

        Args:
            location: The directory or URL, or "@database.schema.stage/directory".
            sf_connection: A Snowflake connection, for a stage.
            connection_name: Name of a Snowflake connection profile, likewise.
            storage_options: Options for fsspec, for a URL.

        Raises:
            FileSetNotFoundError: There is no Parquet file.
            SchemaMismatchError: The files differ in their schema.
            FileSetCorruptError: A file is not a whole Parquet file.
        """
        session = session_of(sf_connection, None, connection_name)
        storage = open_storage(location, storage_options, session=session)
        root = storage.location
        manifest = describe_directory(storage)
        opened = cls.__new__(cls)
        opened._set(storage, root.rstrip("/").rsplit("/", 1)[-1], root, manifest, managed=False)
        return opened

    @classmethod
    def open(
        cls, where: str, storage_options: Mapping[str, Any] | None = None, connection_name: str | None = None
    ) -> FileSet:
        """Open a FileSet by one text, "LOCATION/NAME", as configs, data modules and the command line write it.

        Args:
            where: The text; "@db.schema.stage/dir/NAME?connection_name=PROFILE" names the connection as well, so that
                whoever is given the text alone, such as another process or a checkpoint, opens it in the same way.
            storage_options: See `FileSet`.
            connection_name: See `FileSet`; for texts that name none.

        Raises:
            FileSetError: As `FileSet` does, which names them.
        """
        refuse_credentials(where)
        where, named = split_connection(where)
        connection_name = named or connection_name
        location, _, name = where.rstrip("/").rpartition("/")
        if not name:
            raise FileSetLocationError(f"{where!r} is not of the form LOCATION/NAME, such as 'data/filesets/flights'.")
        root = "/" if where.startswith("/") else "."
        return cls(
            target_stage_loc=location or root,
            name=name,
            connection_name=connection_name,
            storage_options=storage_options,
        )

    @property
    def name(self) -> str:
        """Name under which it stands at its location."""
        return self._name

    @property
    def manifest(self) -> Manifest:
        """What the snapshot consists of and where it comes from."""
        return self._checked()

    @property
    def snapshot_id(self) -> str:
        """Identity of the snapshot: a UUID, or a digest of the files where others wrote them."""
        return self._checked().snapshot_id

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema of the files."""
        return self._checked().schema

    @property
    def num_rows(self) -> int:
        """Rows of all files together."""
        return self._checked().num_rows if self.selection is None else int(self.selection.rows.sum())

    @property
    def null_counts(self) -> Mapping[str, int]:
        """Column name -> nulls in it; absent where they have not been counted."""
        return self._checked().null_counts

    @property
    def selection(self) -> Selection | None:
        """Which rows of its files it holds; None: all, as of any FileSet that is not a view."""
        return None

    def files(self) -> list[str]:
        """Absolute path or URL of every file, in the snapshot's order."""
        return [f"{self._root}/{path}" for path in self._checked().paths]

    def __len__(self) -> int:
        return self.num_rows

    def __bool__(self) -> bool:
        return True  # a FileSet of zero rows is a FileSet

    def __repr__(self) -> str:
        if self._managed:
            return f"FileSet(target_stage_loc={self._storage.location!r}, name={self._name!r})"
        return f"FileSet.from_parquet({self._root!r})"

    def __getstate__(self) -> dict[str, Any]:
        # Without the storage, whose fsspec options may hold credentials, and whose connections do not travel.
        kept = {name: value for name, value in self.__dict__.items() if name != "_storage"}
        return {**kept, "reopening": self._storage.reopening()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _storage=open_storage(**state.pop("reopening")))

    def _checked(self) -> Manifest:
        if self._deleted:
            raise FileSetAlreadyDeletedError(f"{self._root} was deleted. Make it again with FileSet.make(...).")
        return self._manifest

    def to_arrow(self, columns: Sequence[str] | None = None, limit: int | None = None) -> pa.Table:
        """The rows in the snapshot's order, as written: nothing is converted.

        Args:
            columns: Names of columns, in the order wanted; None: all.
            limit: At most so many rows; no further file is read.

        Raises:
            ColumnError: There is no such column.
        """
        schema = self._checked().schema
        names = schema.names if columns is None else list(columns)
        check_columns(names, schema)
        wanted_schema = pa.schema([schema.field(name) for name in names])
        wanted = self.num_rows if limit is None else max(as_int(limit, "limit"), 0)
        return first_rows(lambda file: self._read_selected(file, names), self._files_to_read(), wanted_schema, wanted)

    def read_file(
        self,
        file: int,
        columns: Sequence[str],
        row_groups: Sequence[int] | None = None,
        dictionaries: Sequence[str] = (),
    ) -> pa.Table:
        """Columns of one file, on one thread; only these columns are read. All rows, of a view too.

        Args:
            file: Index of the file.
            columns: Names of columns, or paths of fields of structs ("address.city"): a struct comes with these only.
            row_groups: Row groups to read; None: all.
            dictionaries: Those of the columns to read as dictionaries, strings only.

        Raises:
            FileSetCorruptError: The file is missing or cannot be decoded; names it.
        """
        with self._opened(file, columns, dictionaries) as parquet:
            return read_columns(parquet, columns, row_groups)

    def iter_file(
        self,
        file: int,
        columns: Sequence[str],
        row_groups: Sequence[int] | None = None,
        dictionaries: Sequence[str] = (),
        max_rows: int = 65_536,
        counters: Counters | None = None,
    ) -> Iterator[pa.RecordBatch]:
        """As `read_file`, in batches of at most `max_rows` rows: of the file, no more than these is in memory.

        `counters` are told what is read.
        """
        with self._opened(file, columns, dictionaries) as parquet:
            yield from iter_columns(parquet, columns, row_groups, max_rows, counters)

    @contextmanager
    def _opened(self, file: int, columns: Sequence[str], dictionaries: Sequence[str]) -> Iterator[pq.ParquetFile]:
        with open_data_file(self._storage, self._root, self._checked(), file, columns, dictionaries) as parquet:
            yield parquet

    def scan(self, columns: Sequence[str], dictionaries: Sequence[str] = ()) -> Iterator[pa.Table]:
        """Columns of every file, in order, a few files read ahead by threads."""
        with self._fetching():
            yield from scan(lambda file: self._read_selected(file, columns, dictionaries), self._files_to_read())

    def _files_to_read(self) -> Sequence[int]:
        files = range(self._checked().files.num_rows)
        return files if self.selection is None else np.flatnonzero(self.selection.rows).tolist()

    def _read_selected(self, file: int, columns: Sequence[str], dictionaries: Sequence[str] = ()) -> pa.Table:
        table = self.read_file(file, columns, None, dictionaries)
        mask = None if self.selection is None else self.selection.mask(file)
        return table if mask is None else table.filter(pa.array(mask))

    def split(self, *, seed: int = 0, **shares: Share) -> dict[str, FileSet]:
        """Share the rows out among parts, at random and evenly over the files; nothing is read or written.

        A part is a view: it is taken wherever a FileSet is, and has its rows in the order of the files. The same
        snapshot, shares and seed give the same parts on every machine. Parts by time or by group belong in the SQL: one
        FileSet each.

        Args:
            seed: Seed of the draw.
            **shares: Name of each part and its share of the rows, such as train=0.8, val=0.2. Shares are exact
                (decimals as they are written; or a `Fraction`, or a string such as "1/3") and sum to 1. A file of n
                rows with c rows before it gives floor(q * (c + n)) - floor(q * c) rows to the parts before the cut at
                q, the sum of their shares (see `splits` for files of a row or two).

        Returns:
            The parts by name.

        Raises:
            SpecError: The shares are not positive numbers that sum to 1, or the seed is out of range.
        """
        from fileset_integrations.views import Part

        self._checked()
        split = Split.of(shares, seed)
        return {name: Part(self, split, name) for name, _ in split.shares}

    def verify(self) -> None:
        """Compare every file with the manifest: size, sha256 where known, footer.

        Raises:
            FileSetCorruptError: Names each file that is missing or differs, and how.
        """
        manifest = self._checked()
        problems = self.find_problems()
        if problems:
            count = f"{len(problems)} of {manifest.files.num_rows}"
            raise FileSetCorruptError(
                f"{self._root}: {count} files are not what was written. Make or copy the FileSet again.\n  "
                + "\n  ".join(problems)
            )

    def find_problems(self, *, progress: bool = False) -> list[str]:
        """What `verify` finds: a line for each file that is missing or differs, its path first.

        Args:
            progress: Show a progress bar, where standard error is a terminal.
        """
        manifest = self._checked()
        shown = None if progress else False
        with progress_bar(f"Verifying {self._name}", manifest.num_bytes, shown, "bytes") as done:
            return find_problems(self._storage, self._root, manifest, done)

    def delete(self) -> None:
        """Remove the manifest, then exactly the files that it lists. This object then refuses every use.

        Raises:
            FileSetCannotDeleteError: The files were written by others, or could not all be removed.
        """
        manifest = self._checked()
        if not self._managed:
            raise FileSetCannotDeleteError(
                f"{self._root} was opened with from_parquet: its files were written by others. Remove them by hand."
            )
        try:
            there = read_snapshot(self._storage, self._name).snapshot_id
        except FileSetNotFoundError:  # deleted elsewhere, or by a delete() that came to half: remove what is left
            there = manifest.snapshot_id
        if there != manifest.snapshot_id:
            raise FileSetCannotDeleteError(
                f"{self._root} is another snapshot by now: this one was deleted, and the name taken anew. Open it "
                "again to delete what stands there."
            )
        self._storage.remove(self._name, manifest.paths)
        self._deleted = True

    @property
    def fetches(self) -> bool:
        """Whether its files are fetched into this machine's cache before they are read: those of a stage or bucket."""
        storage: Storage | None = vars(self).get("_storage")  # what stands for several FileSets has none of its own
        return storage is not None and storage.fetches

    def fetched(self) -> ReaderStats:
        """Files that this process has fetched of its location so far, and their bytes."""
        return self._storage.fetched() if self.fetches else ReaderStats()

    def with_cache(self, cache_dir: str | os.PathLike[str] | None, cache_bytes: int | None) -> FileSet:
        """The same FileSet, its files fetched into another cache; None keeps directory or limit as they are."""
        if not self.fetches:
            return self
        storage = self._storage.with_cache(cache_dir, cache_bytes)
        if storage is self._storage:
            return self
        other = object.__new__(type(self))
        vars(other).update(vars(self), _storage=storage)
        return other

    def read_ahead(self, files: Iterator[int]) -> ReadAhead | None:
        """Begin to fetch files in the order in which they will be read; None where nothing is fetched."""
        return self._storage.read_ahead(self._root, self._checked(), files) if self.fetches else None

    def _fetch_of(self, file: int) -> tuple[Fetcher, RemoteFile] | None:
        return self._storage.fetch_of(self._root, self._checked(), file)

    @contextmanager
    def _fetching(self) -> Iterator[None]:
        ahead = self.read_ahead(iter(self._files_to_read()))
        try:
            yield
        finally:
            if ahead is not None:
                ahead.close()

    def want(self, files: Iterable[int]) -> None:
        """Begin to fetch files that are about to be read."""
        if self.fetches:
            self._storage.want(self._root, self._checked(), files)

    def pull(self, *, progress: bool = True) -> None:
        """Fetch all files into the cache of this machine, where they are not there yet; nothing to do for directories.

        Args:
            progress: Show a progress bar, where standard error is a terminal.

        Raises:
            FileSetFetchError: A file cannot be fetched; names it. Those fetched so far stay.
            FileSetCorruptError: A file is not what was written.
        """
        if self.fetches:
            pull(self._storage, self._root, self._checked(), progress)

    def copy_to(
        self,
        location: str | os.PathLike[str],
        *,
        name: str | None = None,
        sf_connection: object | None = None,
        connection_name: str | None = None,
        storage_options: Mapping[str, Any] | None = None,
        progress: bool = False,
    ) -> FileSet:
        """Copy the snapshot to another directory, bucket or stage; every file is verified, the snapshot's id stays.

        Args:
            location: Where to.
            name: The copy's name there; None: this one's.
            sf_connection: A Snowflake connection, for a stage.
            connection_name: Name of a Snowflake connection profile, likewise.
            storage_options: Options for fsspec, for a URL.
            progress: Show a progress bar, where standard error is a terminal.

        Returns:
            The copy.

        Raises:
            FileSetExistsError: The name is taken there.
            FileSetCorruptError: A file is not what was written.
            FileSetLocationError: The location cannot be written.
        """
        session = session_of(sf_connection, None, connection_name)
        target = open_storage(location, storage_options, session=session)
        name = check_name(self._name if name is None else name)
        manifest = copy_snapshot(self._storage, self._root, self._checked(), target, name, progress)
        made = type(self).__new__(type(self))
        made._set(target, name, target.url(name), manifest, managed=True)
        return made

    def to_torch_datapipe(
        self, *, batch_size: int, shuffle: bool = False, drop_last_batch: bool = True, **options: Any
    ) -> FileSetIterableDataset:
        """Batches for `torch.utils.data.DataLoader(pipe, batch_size=None)`: dicts of tensors, one a column.

        Args:
            batch_size: Rows per batch.
            shuffle: Draw a new order of rows for every iteration.
            drop_last_batch: Leave out the last batch where it is not full.
            **options: The other arguments of `fileset_integrations.torch.FileSetIterableDataset`.
        """
        return self.to_torch_dataset(batch_size=batch_size, shuffle=shuffle, drop_last_batch=drop_last_batch, **options)

    def to_torch_dataset(
        self, *, batch_size: int, shuffle: bool = False, drop_last_batch: bool = True, **options: Any
    ) -> FileSetIterableDataset:
        """The same as `to_torch_datapipe`: an `IterableDataset` that yields whole batches."""
        from fileset_integrations.torch import FileSetIterableDataset

        return FileSetIterableDataset(
            self, batch_size=batch_size, shuffle=shuffle, drop_last_batch=drop_last_batch, **options
        )

    def to_tf_dataset(
        self, *, batch_size: int, shuffle: bool = False, drop_last_batch: bool = True, **options: Any
    ) -> tf.data.Dataset:
        """A `tf.data.Dataset` of batches: dicts of tensors, one a column.

        Args:
            batch_size: Rows per batch.
            shuffle: Draw a new order of rows for every iteration.
            drop_last_batch: Leave out the last batch where it is not full.
            **options: The other arguments of `fileset_integrations.tensorflow.to_tf_dataset`.
        """
        from fileset_integrations.tensorflow import to_tf_dataset

        return to_tf_dataset(self, batch_size=batch_size, shuffle=shuffle, drop_last_batch=drop_last_batch, **options)

    def to_ray_dataset(self, *, columns: Sequence[str] | Columns | FittedColumns | None = None) -> ray.data.Dataset:
        """A `ray.data.Dataset` of the rows, read by Ray's tasks; their order is Ray's affair.

        Args:
            columns: Names of columns; or `Columns`, for tensors; None: all columns as they are.
        """
        from fileset_integrations.ray import to_ray_dataset

        return to_ray_dataset(self, columns=columns)
