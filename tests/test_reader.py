"""The reader: what the plan says, carried out; batch by index or in order, from anywhere, by anyone."""

import gc
import itertools
import os
import pickle
import random
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fileset_integrations import Columns, FileSetReader, Shard
from fileset_integrations import plan as plan_module
from fileset_integrations.errors import SpecError
from tests.support import count
from tests.support.data import add_noise, fileset_of, flat, ids, numbered, plain
from tests.support.golden import GOLDEN_ARGUMENTS, GOLDEN_BATCHES, GOLDEN_FULL_BATCHES, golden_fileset

FILE_ROWS = [7, 0, 1, 12, 30, 5]
MODES = ["stream", "memory", "disk", "auto"]


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("numbered"), FILE_ROWS)


# --- what a batch is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("blocks", MODES)
def test_the_golden_order_is_what_a_reader_yields(tmp_path, blocks):
    golden = golden_fileset(tmp_path)
    whole = FileSetReader(golden, **GOLDEN_ARGUMENTS, drop_last_batch=False, blocks=blocks)
    full = FileSetReader(golden, **GOLDEN_ARGUMENTS, blocks=blocks)

    for epoch in (0, 1):
        assert ids(whole.iter_batches(epoch)) == GOLDEN_BATCHES[epoch]
        assert ids(full.iter_batches(epoch)) == GOLDEN_FULL_BATCHES[epoch]
        assert ids(full.batch(index, epoch) for index in range(len(full))) == GOLDEN_FULL_BATCHES[epoch]


@pytest.mark.parametrize("blocks", ["stream", "memory", "disk"])
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("columns", [None, Columns({"x": ["x", "y"], "id": "id"}, label="y")])
def test_every_way_to_keep_blocks_gives_the_same_batches(fs, blocks, shuffle, columns):
    options = {"columns": columns, "batch_size": 4, "shuffle": shuffle, "drop_last_batch": False, "seed": 3}
    expected = [plain(batch) for batch in FileSetReader(fs, **options, blocks="stream").iter_batches(2)]

    reader = FileSetReader(fs, **options, blocks=blocks)

    for _ in range(2):  # decoded, then kept
        assert [plain(batch) for batch in reader.iter_batches(2)] == expected
    backwards = [plain(reader.batch(index, 2)) for index in reversed(range(len(reader)))]
    assert backwards[::-1] == expected
    assert len(expected) == len(reader) == 14


@settings(max_examples=count(25, 500))
@given(
    file_rows=st.lists(st.integers(0, 12), min_size=1, max_size=5),
    batch_size=st.integers(1, 7),
    world_size=st.integers(1, 4),
    shuffle=st.booleans(),
    drop_last_batch=st.booleans(),
    epoch=st.integers(0, 2),
)
def test_rows_says_what_batch_reads_and_iteration_yields(
    tmp_path_factory, file_rows, batch_size, world_size, shuffle, drop_last_batch, epoch
):
    fs = numbered(tmp_path_factory.mktemp("drawn"), file_rows)
    starts = np.cumsum([0, *file_rows])
    seen = []
    for rank in range(world_size):
        try:
            reader = FileSetReader(
                fs,
                batch_size=batch_size,
                shuffle=shuffle,
                drop_last_batch=drop_last_batch,
                shard=Shard(rank, world_size),
            )
        except SpecError:
            assert not drop_last_batch
            return
        by_rows = [reader.rows(index, epoch) for index in range(len(reader))]
        located = [(starts[pairs[:, 0]] + pairs[:, 1]).tolist() for pairs in by_rows]
        assert ids(reader.iter_batches(epoch)) == located
        assert ids(reader.batch(index, epoch) for index in range(len(reader))) == located
        seen += flat(located)

    assert len(set(seen)) == len(seen)
    if not drop_last_batch:
        assert sorted(seen) == list(range(sum(file_rows)))


def test_large_files_are_read_by_row_groups(tmp_path, monkeypatch):
    monkeypatch.setattr(plan_module.cut_blocks, "__defaults__", (10,))
    monkeypatch.setattr("fileset_integrations.manifest.Manifest.blocks.__defaults__", (10,))
    fs = numbered(tmp_path, [25, 3, 40], row_group_size=4)
    reader = FileSetReader(fs, batch_size=5, shuffle=True, drop_last_batch=False, streams=3)
    starts = np.array([0, 25, 28])

    assert len(fs.manifest.blocks()) == 3 + 1 + 5
    batches = ids(reader)
    located = [starts[pairs[:, 0]] + pairs[:, 1] for pairs in map(reader.rows, range(len(reader)))]
    assert batches == [rows.tolist() for rows in located]
    assert sorted(flat(batches)) == list(range(68))


def test_rows_counts_rows_of_the_file_where_nulls_are_dropped(tmp_path):
    fs = fileset_of(tmp_path, pa.table({"a": [0, None, 2]}), pa.table({"a": [None, 4, None, 6]}))
    reader = FileSetReader(fs, columns=Columns({"a": "a"}, nulls="drop"), batch_size=4, shuffle=True, streams=1)

    assert sorted(map(tuple, reader.rows(0).tolist())) == [(0, 0), (0, 2), (1, 1), (1, 3)]
    assert [2 * file + row + (file > 0) for file, row in reader.rows(0)] == reader.batch(0)["a"].tolist()


def test_batches_are_contiguous_writable_and_own_no_more_than_their_group(tmp_path):
    fs = numbered(tmp_path, [100_000])

    for shuffle, blocks in itertools.product((False, True), ("stream", "memory", "disk")):
        reader = FileSetReader(fs, batch_size=8, shuffle=shuffle, blocks=blocks)
        iterator = iter(reader)
        for batch in (reader.batch(3), next(iterator), next(iterator)):
            for value in (batch["id"], batch["x"]):
                base = value if value.base is None else value.base
                assert value.flags.c_contiguous
                assert base.nbytes <= 64 * value.nbytes
                value[:] = -1
        assert reader.batch(3)["id"].min() >= 0  # what a caller writes stays his
        assert next(reader.iter_batches(start=1))["id"].min() >= 0


def test_without_columns_a_batch_is_a_dict_of_all_columns(fs):
    batch = FileSetReader(fs, batch_size=2).batch(3)

    assert list(batch) == ["id", "x", "y", "name"]
    assert (batch["id"].dtype, batch["x"].dtype, batch["y"].dtype) == (np.int64, np.float64, np.float32)
    assert (batch["id"].tolist(), batch["name"]) == ([6, 7], ["row 6", "row 7"])


@pytest.mark.parametrize("drop_last_batch", [False, True])
def test_no_rows_give_no_batches(tmp_path, drop_last_batch):
    reader = FileSetReader(numbered(tmp_path, [0, 0]), batch_size=2, shuffle=True, drop_last_batch=drop_last_batch)

    assert (len(reader), list(reader)) == (0, [])
    assert reader  # and no false value


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, "exactly one of the two"),
        ({"batch_size": 0}, "batch_size=0"),
        ({"global_batch_size": 3, "shard": Shard(0, 2)}, "global_batch_size=3"),
        ({"batch_size": 2, "seed": -1}, "seed=-1"),
        ({"batch_size": 2, "blocks": "ram"}, "blocks='ram'"),
        ({"batch_size": 2, "shuffle": True, "streams": 3, "shard": Shard(0, 2)}, "streams=3"),
        ({"batch_size": 2, "memory_bytes": "1GB"}, "memory_bytes='1GB'"),
        ({"batch_size": 2, "blocks": "disk", "cache_bytes": 10}, "cache_bytes=10"),
        ({"batch_size": 1, "drop_last_batch": False, "shard": Shard(0, 2)}, "batch_size >= 2"),
    ],
)
def test_wrong_arguments_are_refused(fs, options, said):
    with pytest.raises(SpecError, match=said):
        FileSetReader(fs, **options)


def test_batches_and_epochs_that_do_not_exist_are_refused(fs):
    reader = FileSetReader(fs, batch_size=5)

    for index in (-1, 11):
        with pytest.raises(IndexError, match=f"batch {index} of 11"):
            reader.batch(index)
    for use in (reader.batch, reader.rows):
        with pytest.raises(SpecError, match="epoch=-1"):
            use(0, -1)
    with pytest.raises(SpecError, match="epoch=-1"):
        reader.iter_batches(-1)
    with pytest.raises(SpecError, match="start=12"):
        reader.iter_batches(start=12)
    assert list(reader.iter_batches(start=11)) == []


@pytest.mark.parametrize("shuffle", [False, True])
def test_too_little_memory_is_refused_with_the_number_that_would_do(fs, shuffle):
    options = {"columns": Columns({"id": "id"}), "batch_size": 4, "shuffle": shuffle, "blocks": "stream"}
    expected = ids(FileSetReader(fs, **options))

    with pytest.raises(SpecError, match="memory_bytes=100 is too small") as raised:
        FileSetReader(fs, **options, memory_bytes=100)
    enough = int(re.search(r"memory_bytes=(\d+) or more", str(raised.value))[1])

    assert ids(FileSetReader(fs, **options, memory_bytes=enough)) == expected  # and the order is the same
    with pytest.raises(SpecError, match="too small"):
        FileSetReader(fs, **options, memory_bytes=enough - 1)


# --- iterators -------------------------------------------------------------------------------------------------------


def test_two_iterators_do_not_disturb_each_other(fs):
    reader = FileSetReader(fs, batch_size=3, shuffle=True)
    expected = [ids(reader.iter_batches(epoch)) for epoch in (0, 1)]

    pairs = list(zip(reader.iter_batches(0), reader.iter_batches(1), strict=True))

    assert [ids(batches) for batches in zip(*pairs, strict=True)] == expected


@pytest.mark.parametrize("blocks", ["stream", "memory", "disk"])
def test_iterators_and_batches_in_threads_do_not_disturb_each_other(fs, blocks):
    reader = FileSetReader(fs, batch_size=3, shuffle=True, blocks=blocks)
    expected = [ids(FileSetReader(fs, batch_size=3, shuffle=True).iter_batches(epoch)) for epoch in range(4)]

    def by_index(epoch):
        indices = random.Random(epoch).sample(range(len(reader)), len(reader))
        found = {index: reader.batch(index, epoch)["id"].tolist() for index in indices}
        return [found[index] for index in sorted(found)]

    with ThreadPoolExecutor(8) as pool:
        iterated = pool.map(lambda epoch: ids(reader.iter_batches(epoch)), range(4))
        indexed = pool.map(by_index, range(4))
        assert list(iterated) == list(indexed) == expected


def test_a_closed_iterator_goes_on_where_it_was(fs):
    reader = FileSetReader(fs, batch_size=3, shuffle=True)
    iterator = reader.iter_batches()
    found = []

    for _ in range(len(reader)):
        found += ids([next(iterator)])
        iterator.close()

    assert found == ids(reader)
    assert next(iterator, None) is None


def reading_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("fileset-")]


@pytest.mark.parametrize("taken", [0, 1, 5, None])
def test_an_iterator_that_is_let_go_of_leaves_no_thread_and_no_open_file(fs, taken):
    iterator = FileSetReader(fs, batch_size=3, shuffle=True, blocks="stream").iter_batches()
    for _ in itertools.islice(iterator, taken):
        pass
    begun = reading_threads()

    del iterator
    gc.collect()

    for thread in begun:
        thread.join(60)
    assert not [thread for thread in begun if thread.is_alive()]
    opened = [os.path.realpath(link) for link in Path("/proc/self/fd").iterdir()]
    assert not [path for path in opened if path.endswith(".parquet")]


def test_global_random_states_are_neither_read_nor_written(fs):
    def read():
        return ids(FileSetReader(fs, batch_size=3, shuffle=True, seed=1))

    np.random.seed(1)  # noqa: NPY002 - the very state that must not matter
    random.seed(1)
    before = (random.getstate(), pickle.dumps(np.random.get_state()))  # noqa: NPY002
    first = read()
    assert (random.getstate(), pickle.dumps(np.random.get_state())) == before  # noqa: NPY002
    np.random.seed(2)  # noqa: NPY002
    random.seed(2)

    assert read() == first


# --- transform -------------------------------------------------------------------------------------------------------


def test_a_transforms_randomness_follows_from_seed_epoch_and_batch(fs):
    def noise(seed=5, epoch=0, **options):
        reader = FileSetReader(fs, batch_size=5, shuffle=True, seed=seed, transform=add_noise, **options)
        by_index = [reader.batch(index, epoch)["noise"].tolist() for index in range(len(reader))]
        assert [batch["noise"].tolist() for batch in reader.iter_batches(epoch)] == by_index
        return by_index

    first = noise()

    assert noise(blocks="disk") == first
    assert not {tuple(row) for row in first} & {tuple(row) for row in noise(epoch=1) + noise(seed=6)}
    assert len({tuple(row) for row in first}) == len(first)


def test_a_transform_that_fails_once_loses_no_batch(fs):
    failures = [3]

    def sometimes(batch, generator):
        if batch["id"][0] == failures[-1] * 5:
            failures.append(-1)
            raise RuntimeError("once")
        return batch

    iterator = FileSetReader(fs, batch_size=5, transform=sometimes).iter_batches()
    found = ids(itertools.islice(iterator, 3))
    with pytest.raises(RuntimeError, match="once"):
        next(iterator)

    assert found + ids(iterator) == ids(FileSetReader(fs, batch_size=5))
