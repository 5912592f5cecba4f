"""The Parquet files of a snapshot as Arrow tables: compared with the manifest when they are opened, read by columns."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pyarrow as pa
import pyarrow.parquet as pq

from fileset_integrations.counters import Counters
from fileset_integrations.decoder import root_column
from fileset_integrations.errors import FileSetCorruptError, FileSetError
from fileset_integrations.manifest import Manifest
from fileset_integrations.storage.base import Storage
from fileset_integrations.storage.footers import column_bytes, readable_groups

_MAX_THREADS = 8


@contextmanager
def open_data_file(
    storage: Storage, root: str, manifest: Manifest, file: int, columns: Sequence[str], dictionaries: Sequence[str]
) -> Iterator[pq.ParquetFile]:
    """One file of a snapshot, open while the context lasts.

    Args:
        storage: Where it lives.
        root: Path or URL that the manifest's paths are relative to.
        manifest: What the snapshot consists of.
        file: Index of the file.
        columns: What will be read of it; their types are compared with the manifest's.
        dictionaries: Those of the columns to read as dictionaries.

    Raises:
        FileSetCorruptError: The file is missing, is another than was written, or cannot be decoded; names it.
    """
    path = f"{root}/{manifest.files['path'][file]}"
    try:
        with storage.open_file(root, manifest, file) as opened:
            parquet = pq.ParquetFile(opened, read_dictionary=list(dictionaries))
            found = parquet.schema_arrow
            rows = manifest.files["rows"][file].as_py()
            if parquet.metadata.num_rows != rows:
                raise OSError(f"it has {parquet.metadata.num_rows} rows, {rows} were written")
            if found.names != manifest.schema.names or any(
                found.field(name).type != manifest.schema.field(name).type
                for name in (root_column(column, manifest.schema.names) for column in columns)
                if name not in dictionaries
            ):
                raise OSError("it has another schema than was written")
            yield parquet
    except FileSetError:
        raise  # fetching went wrong, and says so itself
    except (pa.ArrowException, OSError) as error:
        raise FileSetCorruptError(
            f"{path}: cannot be read ({error}). verify() says what is wrong with which file; make or copy the "
            "FileSet again."
        ) from error


def read_columns(parquet: pq.ParquetFile, columns: Sequence[str], row_groups: Sequence[int] | None) -> pa.Table:
    """Columns of an open file, on one thread; `row_groups` None: all of them."""
    tables = [
        parquet.read_row_groups(groups, columns=list(columns), use_threads=False)
        for groups in readable_groups(parquet.schema_arrow, _groups_of(parquet, row_groups))
    ]
    return tables[0] if len(tables) == 1 else pa.concat_tables(tables)


def iter_columns(
    parquet: pq.ParquetFile,
    columns: Sequence[str],
    row_groups: Sequence[int] | None,
    max_rows: int,
    counters: Counters | None,
) -> Iterator[pa.RecordBatch]:
    """The same in batches of at most `max_rows` rows; `counters` are told what is read."""
    wanted = _groups_of(parquet, row_groups)
    if counters is not None:
        counters.add(files_opened=1, file_bytes=column_bytes(parquet, wanted, columns))
    for groups in readable_groups(parquet.schema_arrow, wanted):
        yield from parquet.iter_batches(max_rows, groups, list(columns), use_threads=False)


def _groups_of(parquet: pq.ParquetFile, row_groups: Sequence[int] | None) -> Sequence[int]:
    return range(parquet.num_row_groups) if row_groups is None else row_groups


def scan(read: Callable[[int], pa.Table], files: Sequence[int]) -> Iterator[pa.Table]:
    """What `read` makes of each file, in order, a few files read ahead by threads."""
    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    with ThreadPoolExecutor(threads, thread_name_prefix="fileset-scan") as pool:
        ahead = deque(pool.submit(read, file) for file in files[: threads + 1])
        for following in range(threads + 1, threads + 1 + len(files)):
            yield ahead.popleft().result()
            if following < len(files):
                ahead.append(pool.submit(read, files[following]))


def first_rows(read: Callable[[int], pa.Table], files: Iterable[int], schema: pa.Schema, limit: int) -> pa.Table:
    """The first rows of what `read` makes of each file, one after another; no file beyond the last one is read.

    Args:
        read: From a file's index to its rows.
        files: The files, in order.
        schema: The columns of the table, in its order.
        limit: At most so many rows.
    """
    tables: list[pa.Table] = []
    for file in files:
        if limit <= 0:
            break
        columns = read(file).slice(0, limit).select(schema.names).columns
        tables.append(pa.Table.from_arrays(columns, schema=schema))
        limit -= tables[-1].num_rows
    return pa.concat_tables(tables) if tables else schema.empty_table()
