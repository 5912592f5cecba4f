"""What a reader counts of what it reads."""

import copy
import multiprocessing
import pickle
import threading

import pyarrow.parquet as pq
import pytest

from fileset_integrations import Columns, FileSet, FileSetReader
from fileset_integrations.counters import Counters, ReaderStats
from tests.support.data import fileset_of, numbered, table
from tests.support.staged import staged_numbers

ROWS = (40, 0, 25, 60)
COLUMNS = Columns({"x": ["x", "y"]}, label="id")


def reader_of(fs, tmp_path, blocks: str, **options) -> FileSetReader:
    options = {"batch_size": 5, "shuffle": True, "drop_last_batch": False, "cache_dir": tmp_path / "cache", **options}
    return FileSetReader(fs, columns=COLUMNS, blocks=blocks, **options)


def epoch(reader: FileSetReader, number: int) -> ReaderStats:
    before = reader.stats
    assert sum(len(batch["label"]) for batch in reader.iter_batches(number)) == sum(ROWS)
    return reader.stats - before


def compressed(fs: FileSet, *columns: str) -> int:
    groups = (
        metadata.row_group(group)
        for metadata in map(pq.read_metadata, fs.files())
        for group in range(metadata.num_row_groups if metadata.num_rows else 0)
    )
    chunks = (group.column(place) for group in groups for place in range(group.num_columns))
    return sum(chunk.total_compressed_size for chunk in chunks if chunk.path_in_schema.split(".")[0] in columns)


@pytest.mark.parametrize(
    ("blocks", "later"),
    [("stream", {"decoded": 3}), ("memory", {"memory_hits": 3}), ("disk", {"disk_hits": 3})],
)
def test_an_epoch_decodes_each_block_or_finds_it(blocks, later, tmp_path):
    fs = numbered(tmp_path / "data", ROWS, row_group_size=16)
    reader = reader_of(fs, tmp_path, blocks)
    file_bytes = compressed(fs, "x", "y", "id")  # not of "name", which is no tensor, nor of the file without rows
    decoding = ReaderStats(file_bytes=file_bytes, files_opened=3, blocks_decoded=3)

    first, second = epoch(reader, 0), epoch(reader, 1)

    assert first == decoding
    assert second == (decoding if "decoded" in later else ReaderStats(**later))
    assert second.cache_hits == later.get("memory_hits", 0) + later.get("disk_hits", 0)


def test_batches_by_index_count_each_block_that_they_have_rows_of(tmp_path):
    reader = reader_of(numbered(tmp_path / "data", ROWS), tmp_path, "memory", shuffle=False)

    reader.batch(0)  # rows 0 to 4 of the first file
    reader.batch(1)
    reader.batch(8)  # the first rows of the third

    assert (reader.stats.blocks_decoded, reader.stats.memory_hits) == (2, 1)


def test_only_the_fields_that_are_read_count(tmp_path):
    rows = table({"id": ([1, 2], "int64"), "place": ([{"x": 1.5, "name": "a" * 99}] * 2, None)})
    fs = fileset_of(tmp_path / "data", rows)
    reader = FileSetReader(fs, columns=Columns({"x": ["place.x"]}), batch_size=2)

    reader.batch(0)

    metadata = pq.read_metadata(fs.files()[0]).row_group(0)
    sizes = {metadata.column(i).path_in_schema: metadata.column(i).total_compressed_size for i in range(3)}
    assert reader.stats.file_bytes == sizes["place.x"] < sizes["place.name"]


def test_files_that_are_fetched_count_once_and_lie_there_afterwards(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, ROWS[:1] + ROWS[2:])
    reader = FileSetReader(fs, columns=COLUMNS, batch_size=5, drop_last_batch=False, blocks="stream")

    first, second = epoch(reader, 0), epoch(reader, 1)

    assert (first.files_fetched, first.fetched_bytes) == (3, fs.manifest.num_bytes)
    assert (second.files_fetched, second.fetched_bytes, second.files_opened) == (0, 0, 3)


def test_counts_from_many_threads_add_up():
    counters = Counters()
    threads = [
        threading.Thread(target=lambda: [counters.add(files_opened=1, file_bytes=3) for _ in range(500)])
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert counters.stats() == ReaderStats(files_opened=2000, file_bytes=6000)


def test_other_processes_count_for_themselves(tmp_path):
    reader = reader_of(numbered(tmp_path / "data", ROWS), tmp_path, "memory")
    counters = Counters()
    counters.add(files_opened=5)
    epoch(reader, 0)

    assert pickle.loads(pickle.dumps(counters)).stats() == ReaderStats()
    assert pickle.loads(pickle.dumps(reader)).stats == ReaderStats()
    with counters._lock:  # as another thread may hold it while a child is forked
        process = multiprocessing.get_context("fork").Process(target=counters.add, kwargs={"files_opened": 1})
        process.start()
        process.join(20)
    assert process.exitcode == 0 and counters.stats().files_opened == 5


def test_a_misspelt_count_is_an_error():
    with pytest.raises(KeyError):
        Counters().add(file_byte=1)
    assert copy.copy(ReaderStats(1)) + ReaderStats(2) - ReaderStats(3) == ReaderStats()
