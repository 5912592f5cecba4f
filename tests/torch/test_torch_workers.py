"""DataLoader workers: the same batches through any number of them, started in any way; forks that do not hang."""

import contextlib
import multiprocessing
import os
import signal
import threading
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch

from fileset_integrations import FileSet, FileSetReader
from fileset_integrations.errors import FileSetCorruptError
from fileset_integrations.storage.lru import LruFiles
from fileset_integrations.torch import FileSetIterableDataset
from tests.support import count
from tests.support.data import ids, numbered
from tests.support.torch_loading import BATCH, FILE_ROWS, ORDER, ROWS, WORKER_IDS, WORKERS, failure_of, loader

# Three workers are more than a small machine has cores for.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


# --- workers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", WORKERS, ids=WORKER_IDS)
@pytest.mark.parametrize("drop_last_batch", [False, True])
def test_any_number_of_workers_yields_the_readers_sequence_of_each_epoch(options, drop_last_batch, fs):
    order = ORDER | {"drop_last_batch": drop_last_batch}
    reader = FileSetReader(fs, **order)
    batches = loader(fs.to_torch_datapipe(**order), **options)

    epochs = [ids(batches) for _ in range(3)]

    assert epochs == [ids(reader.iter_batches(epoch)) for epoch in range(3)]
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]


@pytest.mark.parametrize("num_workers", [0, 2, 5, 12])
def test_every_row_comes_once_though_workers_outnumber_batches(num_workers, fs):
    dataset = fs.to_torch_dataset(batch_size=10, shuffle=True, drop_last_batch=False)

    seen = [row for batch in ids(loader(dataset, num_workers=num_workers)) for row in batch]

    assert sorted(seen) == list(range(ROWS))


def test_without_shuffle_every_epoch_is_in_the_files_order(fs):
    dataset = fs.to_torch_dataset(batch_size=BATCH, drop_last_batch=False)

    epochs = [ids(loader(dataset, num_workers=workers)) for workers in (0, 2)]

    natural = list(range(ROWS))
    assert epochs == [[natural[at : at + BATCH] for at in range(0, ROWS, BATCH)]] * 2


@pytest.mark.slow
@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_may_be_started_in_any_way(context, fs, expected, tmp_path):
    dataset = fs.to_torch_dataset(**ORDER, transform=negate_y, cache_dir=tmp_path / "cache")
    batches = loader(dataset, num_workers=2, persistent_workers=True, multiprocessing_context=context)

    epochs = [list(batches) for _ in range(2)]

    assert [ids(epoch) for epoch in epochs] == [expected(0), expected(1)]
    assert torch.equal(epochs[0][0]["y"], epochs[0][0]["id"].float())
    assert blocks_on_disk(tmp_path) == [0, 2, 3, 4]


def negate_y(batch, generator):
    del generator
    return batch | {"y": -batch["y"]}


def add_noise(batch, generator):
    assert isinstance(batch["x"], np.ndarray)
    return {"id": batch["id"], "noise": generator.standard_normal(len(batch["id"]))}


def test_a_transform_draws_the_same_numbers_in_any_worker(fs):
    def noise(num_workers):
        dataset = fs.to_torch_dataset(**ORDER, transform=add_noise)
        return [[batch["noise"].tolist() for batch in loader(dataset, num_workers=num_workers)] for _ in range(2)]

    by_main, by_workers = noise(0), noise(2)

    assert by_main == by_workers
    assert by_main[0] != by_main[1]
    assert len({number for epoch in by_main for batch in epoch for number in batch}) == 2 * ROWS


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_missing_file_ends_the_iteration_with_its_name(num_workers, tmp_path):
    fs = numbered(tmp_path, FILE_ROWS)
    batches = loader(fs.to_torch_dataset(**ORDER, cache_dir=tmp_path / "cache"), num_workers=num_workers)
    Path(fs.files()[3]).unlink()

    assert "data_3.parquet" in failure_of(batches, FileSetCorruptError)


# --- who decodes -----------------------------------------------------------------------------------------------------


def _lose_files(fs):
    for path in fs.files():
        Path(path).unlink()


def blocks_on_disk(tmp_path) -> list[int]:
    entries = LruFiles(tmp_path / "cache" / "files").entries()
    assert all(entry.complete for entry in entries)
    return sorted(int(entry.name.split("-")[1]) for entry in entries)


def test_workers_decode_each_block_once_to_disk_and_all_later_ones_find_it_there(tmp_path):
    fs = numbered(tmp_path / "data", FILE_ROWS)
    reader = FileSetReader(fs, **ORDER)
    wanted = [ids(reader.iter_batches(epoch)) for epoch in range(2)]
    batches = loader(fs.to_torch_dataset(**ORDER, cache_dir=tmp_path / "cache"), num_workers=2)

    first = ids(batches)
    _lose_files(fs)
    second = ids(batches)

    assert [first, second] == wanted
    assert blocks_on_disk(tmp_path) == [0, 2, 3, 4]  # file 1 has no rows


def test_two_workers_at_once_decode_no_block_twice(tmp_path, monkeypatch):
    fs = numbered(tmp_path / "data", [200] * 12)
    decoded, iter_file = multiprocessing.get_context("fork").Value("i", 0), FileSet.iter_file

    def counted(self, file, *args, **kwargs):
        with decoded:
            decoded.value += 1
        return iter_file(self, file, *args, **kwargs)

    monkeypatch.setattr(FileSet, "iter_file", counted)
    dataset = fs.to_torch_dataset(batch_size=16, shuffle=True, cache_dir=tmp_path / "cache")

    seen = sorted(row for batch in ids(loader(dataset, num_workers=2)) for row in batch)

    assert seen == list(range(2400))
    assert decoded.value == 12


@pytest.mark.parametrize("blocks", ["stream", "memory"])
def test_workers_keep_blocks_as_they_are_told_to(blocks, tmp_path):
    fs = numbered(tmp_path / "data", FILE_ROWS)
    dataset = FileSetIterableDataset(fs, **ORDER, blocks=blocks, cache_dir=tmp_path / "cache")

    list(loader(dataset, num_workers=2))

    assert not (tmp_path / "cache" / "files").exists()
    _lose_files(fs)
    assert ".parquet" in failure_of(loader(dataset, num_workers=2), FileSetCorruptError)


def test_where_the_disk_has_no_room_workers_decode_for_themselves_and_say_so(tmp_path):
    fs = numbered(tmp_path / "data", FILE_ROWS)
    dataset = fs.to_torch_dataset(**ORDER, cache_dir=tmp_path / "cache", cache_bytes=100)

    with pytest.warns(UserWarning, match="decodes all blocks for itself: cache_bytes=100"):
        shared = dataset.reader.shared()

    assert shared is dataset.reader
    assert ids(loader(dataset, num_workers=2)) == ids(dataset.reader)


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.mark.timeout(count(120, 1200))
@pytest.mark.parametrize("blocks", ["stream", "memory", "disk"])
def test_forking_while_threads_read_does_not_hang(blocks, tmp_path):
    fs = numbered(tmp_path, (100,) * 8)
    dataset = FileSetIterableDataset(fs, batch_size=16, shuffle=True, drop_last_batch=False, blocks=blocks)
    stop = threading.Event()

    def read_all_the_time():
        while not stop.is_set():
            for index in range(len(dataset)):
                dataset.reader.batch(index)

    readers = [threading.Thread(target=read_all_the_time, daemon=True) for _ in range(2)]
    for reader in readers:
        reader.start()
    try:
        for _ in range(count(2, 100)):
            under_way = iter(dataset)
            next(under_way)  # its threads read ahead now
            seen = Counter(row for batch in loader(dataset, num_workers=2) for row in batch["id"].tolist())
            assert seen == Counter(range(800))
    finally:
        stop.set()
        for reader in readers:
            reader.join(60)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("blocks", ["stream", "memory", "disk"])
def test_a_forked_child_reads_on_though_another_thread_held_every_lock(blocks, fs):
    reader = FileSetReader(fs, blocks=blocks, **ORDER)
    expected = reader.batch(0)["id"].tolist()
    locks = [reader._store._lock, reader._orders._lock]
    locks += [slot._settled._cond for slot in reader._store._held.values()]
    held, release = threading.Event(), threading.Event()

    def hold():
        with contextlib.ExitStack() as stack:
            for lock in locks:
                stack.enter_context(lock)
            held.set()
            release.wait(60)

    holder = threading.Thread(target=hold)
    holder.start()
    held.wait(10)
    child = os.fork()
    if not child:
        os._exit(0 if reader.batch(0)["id"].tolist() == expected else 2)
    killer = threading.Timer(20, os.kill, [child, signal.SIGKILL])
    killer.start()
    try:
        _, status = os.waitpid(child, 0)
    finally:
        killer.cancel()
        release.set()
        holder.join()

    assert os.waitstatus_to_exitcode(status) == 0  # a child that hangs is killed: -9
