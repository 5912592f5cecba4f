"""Blocks: decoded when asked for, kept in memory, or mapped from disk; and who decodes how often."""

import multiprocessing
import re
import shutil
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from itertools import chain

import numpy as np
import pyarrow as pa
import pytest

from fileset_integrations import Columns, FileSet, FileSetReader
from fileset_integrations.columns import Category
from fileset_integrations.errors import FileSetLocationError, SpecError
from tests.support.data import fileset_of, numbered

MODES = ["stream", "memory", "disk"]


@pytest.fixture
def reads(monkeypatch):
    """How often each file is read, by its index."""
    counter: Counter[int] = Counter()
    lock, iter_file = threading.Lock(), FileSet.iter_file

    def counted(self, file, *args, **kwargs):
        with lock:
            counter[file] += 1
        return iter_file(self, file, *args, **kwargs)

    monkeypatch.setattr(FileSet, "iter_file", counted)
    return counter


def a_reader(fs, tmp_path, **options) -> FileSetReader:
    return FileSetReader(fs, **{"batch_size": 5, "cache_dir": tmp_path / "cache", **options})


def ids(batches) -> list[int]:
    return [row for batch in batches for row in batch["id"].tolist()]


@pytest.mark.parametrize(("blocks", "epochs"), [("stream", 2), ("memory", 1), ("disk", 1)])
def test_a_file_is_decoded_once_an_epoch_or_once_at_all(tmp_path, reads, blocks, epochs):
    reader = a_reader(numbered(tmp_path / "data", [10] * 6), tmp_path, blocks=blocks, shuffle=True, streams=1)

    for epoch in range(2):
        assert sorted(ids(reader.iter_batches(epoch))) == list(range(60))

    assert reads == dict.fromkeys(range(6), epochs)


@pytest.mark.parametrize("blocks", MODES)
@pytest.mark.parametrize("run_rows", [1, 7, 40])
def test_a_block_that_is_decoded_in_runs_is_the_same(tmp_path, monkeypatch, blocks, run_rows):
    table = pa.table(
        {
            "id": pa.array(range(40)),
            "x": pa.array([None if row % 3 == 0 else row / 2 for row in range(40)]),
            "name": pa.array([None if row % 5 == 0 else f"name {row % 4}" for row in range(40)]),
            "text": pa.array([f"text {row}" for row in range(40)]),
        }
    )
    fs = fileset_of(tmp_path / "data", table, table.slice(0, 0), table.slice(0, 13))
    columns = Columns({"id": "id", "x": ["x", "id"], "name": Category("name")}, nulls={"x": "drop"})
    options = {"shuffle": True, "drop_last_batch": False, "streams": 2}
    wanted = list(a_reader(fs, tmp_path, columns=columns, blocks="memory", **options))
    texts = list(a_reader(fs, tmp_path, blocks="memory", **options))
    monkeypatch.setattr("fileset_integrations.blocks.RUN_ROWS", run_rows)

    found = list(a_reader(fs, tmp_path, columns=columns, blocks=blocks, **options))

    assert [batch.keys() for batch in found] == [batch.keys() for batch in wanted]
    for one, other in zip(found, wanted, strict=True):
        assert all(np.array_equal(one[name], other[name]) for name in other)
    without_columns = list(a_reader(fs, tmp_path, blocks=blocks, **options))
    assert [batch["text"] for batch in without_columns] == [batch["text"] for batch in texts]
    assert [batch["name"] for batch in without_columns] == [batch["name"] for batch in texts]


@pytest.mark.parametrize("blocks", MODES)
def test_threads_that_want_one_block_wait_for_one_decoding(tmp_path, reads, blocks):
    reader = a_reader(numbered(tmp_path / "data", [40]), tmp_path, blocks=blocks)
    barrier = threading.Barrier(8)

    def read(index):
        barrier.wait()
        return reader.batch(index)["id"].tolist()

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(read, range(8)))

    assert list(chain.from_iterable(found)) == list(range(40))
    assert reads == {0: 1}


def test_blocks_on_disk_are_decoded_once_for_all_readers(tmp_path, reads):
    fs = numbered(tmp_path / "data", [10, 0, 7])
    expected = ids(a_reader(fs, tmp_path, blocks="disk"))

    again = a_reader(fs, tmp_path, blocks="disk", shuffle=True, drop_last_batch=False)

    assert sorted(ids(again)) == list(range(17))
    assert expected == list(range(15))
    assert max(reads.values()) == 1


def _read_all(reader, results):
    results.put(ids(reader))


def test_processes_that_want_the_same_blocks_decode_each_once(tmp_path, monkeypatch):
    reader = a_reader(numbered(tmp_path / "data", [50] * 8), tmp_path, blocks="disk")
    context = multiprocessing.get_context("fork")
    decoded, iter_file = context.Value("i", 0), FileSet.iter_file

    def counted(self, file, *args, **kwargs):
        with decoded:
            decoded.value += 1
        return iter_file(self, file, *args, **kwargs)

    monkeypatch.setattr(FileSet, "iter_file", counted)
    results = context.SimpleQueue()
    processes = [context.Process(target=_read_all, args=(reader, results)) for _ in range(4)]
    for process in processes:
        process.start()

    found = [results.get() for _ in processes]

    for process in processes:
        process.join()
    assert found == [list(range(400))] * 4
    assert decoded.value == 8


def test_mapped_blocks_cannot_be_written_through_a_batch(tmp_path):
    reader = a_reader(numbered(tmp_path / "data", [10]), tmp_path, blocks="disk")

    reader.batch(0)["id"][:] = -1

    assert ids(a_reader(reader.fileset, tmp_path, blocks="disk")) == list(range(10))


def test_every_type_without_columns_survives_the_disk(tmp_path):
    table = pa.table(
        {
            "id": pa.array(range(6)),
            "float": pa.array([1.5, None, 2, 3, 4, 5], pa.float32()),
            "text": pa.array(["a", None, "", "ä", "a", "b"]).dictionary_encode(),
            "bytes": pa.array([b"\x00", None, b"", b"a", b"b", b"c"]),
            "list": pa.array([[row, row] for row in range(6)], pa.list_(pa.int16(), 2)),
            "flag": pa.array([True, False] * 3),
        }
    )
    fs = fileset_of(tmp_path / "data", table, table[:0], table[:1])
    streamed, mapped = (
        list(a_reader(fs, tmp_path, batch_size=7, shuffle=True, blocks=blocks)) for blocks in ("stream", "disk")
    )

    for name in table.column_names:
        np.testing.assert_equal(mapped[0][name], streamed[0][name])
    assert len(mapped[0]["text"]) == 7


def test_auto_keeps_blocks_in_memory_where_they_are_small_and_else_streams_or_maps(tmp_path):
    fs = fileset_of(
        tmp_path / "data", *[pa.table({"id": range(file * 1000, file * 1000 + 1000)}) for file in range(40)]
    )
    whole = 40 * 8000

    assert a_reader(fs, tmp_path).blocks == "memory"
    assert a_reader(fs, tmp_path, memory_bytes=2 * whole).blocks == "memory"
    assert a_reader(fs, tmp_path, memory_bytes=2 * whole - 1).blocks == "stream"
    assert a_reader(fs, tmp_path, memory_bytes=2 * whole - 1, random_access=True).blocks == "disk"
    with pytest.raises(SpecError, match=f"keeps {whole} bytes, memory_bytes={whole - 1}"):
        a_reader(fs, tmp_path, memory_bytes=whole - 1, blocks="memory")


def test_a_disk_limit_that_is_too_small_is_refused_with_the_bytes_needed(tmp_path):
    fs = fileset_of(tmp_path / "data", pa.table({"id": range(1000)}))

    with pytest.raises(SpecError, match=r"cache_bytes=8000: .* take \d+ bytes") as raised:
        a_reader(fs, tmp_path, blocks="disk", cache_bytes=8000)  # the numbers alone
    least = int(re.search(r"take (\d+) bytes", str(raised.value))[1])
    with pytest.raises(SpecError, match=f"cache_bytes={least - 1}"):
        a_reader(fs, tmp_path, blocks="disk", cache_bytes=least - 1)

    assert ids(a_reader(fs, tmp_path, blocks="disk", cache_bytes=least)) == list(range(1000))


def test_a_disk_that_is_full_is_refused_before_anything_is_written(tmp_path, monkeypatch):
    fs = fileset_of(tmp_path / "data", pa.table({"id": range(1000)}))
    usage = shutil.disk_usage(tmp_path)._replace(free=100)
    monkeypatch.setattr("shutil.disk_usage", lambda path: usage)

    with pytest.raises(FileSetLocationError, match=r"take \d+ bytes, 100 are free"):
        a_reader(fs, tmp_path, blocks="disk")


def test_streaming_holds_few_blocks_at_once(tmp_path, monkeypatch):
    """The shuffle window, and what is read ahead: not the whole epoch."""
    alive: list[int] = []
    most = 0
    lock = threading.Lock()
    from fileset_integrations.blocks import StreamedBlocks

    decode = StreamedBlocks.decode

    class Tracked(dict):
        def __del__(self):
            with lock:
                alive.pop()

    def tracked(self, block, *out):
        nonlocal most
        found = Tracked(decode(self, block, *out))
        with lock:
            alive.append(block)
            most = max(most, len(alive))
        return found

    monkeypatch.setattr(StreamedBlocks, "decode", tracked)
    reader = a_reader(numbered(tmp_path / "data", [10] * 60), tmp_path, blocks="stream", shuffle=True, streams=3)

    assert sorted(ids(reader)) == list(range(600))
    assert 3 <= most <= 3 + 2 + 4  # streams, blocks read ahead, and those in the hands of a decoding thread
