"""A stream of rows becomes Parquet files of equally many rows, in order, a few of them written at once."""

from __future__ import annotations

import hashlib
import io
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fileset_integrations.manifest import DataFile
from fileset_integrations.plan import BLOCK_ROWS
from fileset_integrations.tensors import is_text

ROW_GROUPS_PER_FILE = 8
ROW_GROUP_ROWS = BLOCK_ROWS // ROW_GROUPS_PER_FILE  # so that a full file is one block
_MIN_ROWS = 1_024  # below this, per-file costs outweigh what small files are good for
_SAMPLE_ROWS = 8_192
_STEP_ROWS = 1_024  # files are closed early at multiples of this
_SURPRISE = 4  # a file is closed early at this multiple of the memory that its rows were expected to take
_WRITERS = 2


def write_files(
    stream: pa.RecordBatchReader, folder: Path, max_file_bytes: int, done: Callable[[int], object] = lambda rows: None
) -> tuple[pa.Schema, list[DataFile]]:
    """Write a stream of rows as Parquet files.

    All files but the last have equally many rows: as many as make `max_file_bytes`, judged by the first rows, in row
    groups of equal size. Where rows later turn out far larger, files have fewer rows. The cuts depend on the rows and
    their order alone. Zero rows make one file without rows, which keeps the schema.

    Args:
        stream: The rows.
        folder: Directory to write data_0.parquet, data_1.parquet, ... into.
        max_file_bytes: Target for the size of a file.
        done: Is told how many rows more have come.

    Returns:
        The schema as a reader of the files will see it, and the files in order.
    """
    files: list[DataFile] = []
    pending: deque[Future[DataFile]] = deque()
    with ThreadPoolExecutor(_WRITERS, thread_name_prefix="fileset-write") as pool:
        for number, (rows, group_rows) in enumerate(_cut(stream, max_file_bytes, done)):
            if len(pending) > _WRITERS:  # bounds the rows in memory
                files.append(pending.popleft().result())
            pending.append(pool.submit(_write_file, rows, folder / f"data_{number}.parquet", group_rows))
        files.extend(future.result() for future in pending)
    return pq.read_schema(folder / files[0].path).remove_metadata(), files


def _cut(
    stream: pa.RecordBatchReader, max_file_bytes: int, done: Callable[[int], object]
) -> Iterator[tuple[pa.Table, int]]:
    """The rows of each file, and its row groups' size."""
    batches: list[pa.RecordBatch] = []
    rows = num_bytes = 0
    limits: _Limits | None = None
    for batch in stream:
        done(batch.num_rows)
        while batch.num_rows:
            # In steps of a file's rows, so that how the stream is cut into batches changes nothing.
            room = min((limits.file_rows if limits else _SAMPLE_ROWS) - rows, _STEP_ROWS - rows % _STEP_ROWS)
            part, batch = batch.slice(0, room), batch.slice(room)
            batches.append(part)
            rows, num_bytes = rows + part.num_rows, num_bytes + part.nbytes
            if limits is None:
                if rows < _SAMPLE_ROWS:
                    continue
                limits = _Limits(pa.Table.from_batches(batches), max_file_bytes)
            table = None
            while rows >= limits.file_rows or (num_bytes >= limits.memory and rows % _STEP_ROWS == 0):
                table = pa.Table.from_batches(batches)
                head, rest = table.slice(0, limits.file_rows), table.slice(limits.file_rows)
                yield head, limits.group_rows
                batches, rows, num_bytes = rest.to_batches(), rest.num_rows, rest.nbytes
    if limits is None:
        table = pa.Table.from_batches(batches, stream.schema)
        yield from _small(table, _Limits(table, max_file_bytes))
    elif rows:
        yield pa.Table.from_batches(batches), limits.group_rows


def _small(table: pa.Table, limits: _Limits) -> Iterator[tuple[pa.Table, int]]:
    for start in range(0, max(table.num_rows, 1), limits.file_rows):
        yield table.slice(start, limits.file_rows), limits.group_rows


class _Limits:
    """Rows of a file and of a row group, and the memory at which a file is closed early, judged by a sample."""

    def __init__(self, sample: pa.Table, max_file_bytes: int) -> None:
        rows = max(sample.num_rows, 1)
        sink = io.BytesIO()
        pq.write_table(sample, sink, **_write_options(sample.schema))
        wanted = int(max_file_bytes * rows / max(sink.tell(), 1))
        self.file_rows = min(max(wanted, _MIN_ROWS), BLOCK_ROWS)
        self.group_rows = min(self.file_rows, ROW_GROUP_ROWS)
        self.file_rows -= self.file_rows % self.group_rows
        self.memory = max(_SURPRISE * self.file_rows * sample.nbytes // rows, 1)


def _write_file(table: pa.Table, path: Path, group_rows: int) -> DataFile:
    pq.write_table(table, path, row_group_size=group_rows, **_write_options(table.schema))
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    footer = pq.read_metadata(path)
    groups = tuple(footer.row_group(group).num_rows for group in range(footer.num_row_groups))
    return DataFile(path.name, table.num_rows, path.stat().st_size, digest, groups)


def _write_options(schema: pa.Schema) -> dict[str, object]:
    # Dictionaries pay for strings only: on 14 float and 5 integer columns they made writing 5 times and reading 4 times
    # slower, and the file larger.
    texts = [field.name for field in schema if is_text(field.type)]
    return {"compression": "snappy", "use_dictionary": texts or False, "write_page_checksum": True}
