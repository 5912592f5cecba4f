"""Plain PyTorch: the same batches through any number of workers, a new order in each epoch, iterations apart."""

import contextlib
import copy
import gc
import itertools
import os
import pickle
import signal
import tempfile
import threading
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
import torch
from torch.utils.data import DataLoader

from fileset_integrations import Columns, FileSetReader, Shard
from fileset_integrations.columns import Category
from fileset_integrations.errors import FileSetCorruptError, SpecError
from fileset_integrations.torch import FileSetIterableDataset, current_shard
from tests.support import count
from tests.support.data import fileset_of, numbered, table

# Three workers are more than a small machine has cores for.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

FILE_ROWS = (7, 0, 1, 12, 9)
ROWS = sum(FILE_ROWS)  # 29
BATCH = 4
ORDER = {"batch_size": BATCH, "shuffle": True, "seed": 3, "drop_last_batch": False}
WORKERS = [
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 3},
    {"num_workers": 2, "persistent_workers": True},
]
WORKER_IDS = ["0", "2", "3", "2-persistent"]


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("numbered"), FILE_ROWS)


@pytest.fixture(scope="module")
def expected(fs):
    """What the reader yields: expected(epoch) is a list of lists of ids."""
    reader = FileSetReader(fs, **ORDER)
    return lambda epoch: [batch["id"].tolist() for batch in reader.iter_batches(epoch)]


def ids(batches):
    return [batch["id"].tolist() for batch in batches]


def loader(dataset, **options):
    return DataLoader(dataset, batch_size=None, **options)


# --- what a batch is -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arrow", "dtype"),
    [
        (pa.int8(), torch.int8),
        (pa.int16(), torch.int16),
        (pa.int32(), torch.int32),
        (pa.int64(), torch.int64),
        (pa.uint8(), torch.uint8),
        (pa.float32(), torch.float32),
        (pa.float64(), torch.float64),
        (pa.bool_(), torch.bool),
    ],
    ids=str,
)
def test_a_column_is_a_tensor_of_rank_one_of_its_own_dtype(arrow, dtype, tmp_path):
    fs = fileset_of(tmp_path, pa.table({"value": pa.array([0, 1, 1, 0, 1], pa.int64()).cast(arrow)}))

    batches = list(fs.to_torch_datapipe(batch_size=2, drop_last_batch=False))

    assert [list(batch) for batch in batches] == [["value"]] * 3
    assert [batch["value"].dtype for batch in batches] == [dtype] * 3
    assert [batch["value"].shape for batch in batches] == [(2,), (2,), (1,)]
    assert torch.cat([batch["value"] for batch in batches]).tolist() == [0, 1, 1, 0, 1]


def test_null_floats_are_nan_and_strings_are_lists(tmp_path):
    fs = fileset_of(
        tmp_path,
        table({"x": ([1.5, None, 2.5], pa.float64()), "name": (["a", None, "ç"], pa.string())}),
    )

    (batch,) = loader(fs.to_torch_dataset(batch_size=3))

    assert batch["x"].dtype == torch.float64
    assert batch["x"].isnan().tolist() == [False, True, False]
    assert batch["name"] == ["a", None, "ç"]


def test_lists_of_one_length_are_tensors_of_rank_two(tmp_path):
    fs = fileset_of(tmp_path, table({"v": ([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], pa.list_(pa.float32(), 2))}))

    (batch,) = fs.to_torch_dataset(batch_size=3)

    assert batch["v"].tolist() == [[1, 2], [3, 4], [5, 6]]
    assert batch["v"].dtype == torch.float32


def test_columns_make_the_features_the_label_and_the_weight(fs):
    columns = Columns({"x": ["x", "y"], "name": Category("name")}, label="y", weight="x")

    batch = next(iter(fs.to_torch_dataset(batch_size=5, columns=columns)))

    assert {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in batch.items()} == {
        "x": (torch.float32, (5, 2)),
        "name": (torch.int64, (5,)),
        "label": (torch.float32, (5,)),
        "weight": (torch.float64, (5,)),
    }


@pytest.mark.parametrize("blocks", ["stream", "memory", "disk"])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_writing_into_a_batch_disturbs_nothing_and_warns_of_nothing(blocks, num_workers, fs, expected):
    dataset = FileSetIterableDataset(fs, blocks=blocks, **ORDER)
    dataset.set_epoch(0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        seen = []
        for batch in loader(dataset, num_workers=num_workers):
            seen.append(batch["id"].tolist())
            batch["id"].fill_(-1)
            batch["x"].mul_(0)
        dataset.set_epoch(0)
        again = ids(loader(dataset, num_workers=num_workers))

    assert seen == expected(0)
    assert again == expected(0)


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


@pytest.mark.parametrize("context", ["spawn", "forkserver"])
def test_workers_may_be_started_in_any_way(context, fs, expected):
    dataset = fs.to_torch_dataset(**ORDER, transform=negate_y)
    batches = loader(dataset, num_workers=2, persistent_workers=True, multiprocessing_context=context)

    epochs = [list(batches) for _ in range(2)]

    assert [ids(epoch) for epoch in epochs] == [expected(0), expected(1)]
    assert torch.equal(epochs[0][0]["y"], epochs[0][0]["id"].float())


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

    with pytest.raises(FileSetCorruptError, match=r"data_3\.parquet"):
        list(batches)


# --- epochs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("options", WORKERS, ids=WORKER_IDS)
def test_each_new_iteration_is_the_next_epoch_though_the_one_before_was_broken_off(options, fs, expected):
    batches = loader(fs.to_torch_dataset(**ORDER), **options)

    broken_off = ids(itertools.islice(batches, 2))
    whole = ids(batches)
    again_broken_off = ids(itertools.islice(batches, 1))
    last = ids(batches)

    assert broken_off == expected(0)[:2]
    assert whole == expected(1)
    assert again_broken_off == expected(2)[:1]
    assert last == expected(3)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_iterators_at_once_are_two_whole_epochs(num_workers, fs, expected):
    batches = loader(fs.to_torch_dataset(**ORDER), num_workers=num_workers)

    left, right = zip(*zip(batches, batches, strict=True), strict=True)

    assert sorted([ids(left), ids(right)]) == sorted([expected(0), expected(1)])


def test_two_threads_at_once_read_two_whole_epochs(fs, expected):
    dataset = fs.to_torch_dataset(**ORDER)
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(ids(dataset))) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(seen) == sorted(expected(epoch) for epoch in range(4))


def test_loaders_of_one_dataset_count_its_epochs_together(fs, expected):
    dataset = fs.to_torch_dataset(**ORDER)

    epochs = [ids(loader(dataset, num_workers=workers)) for workers in (2, 0, 3)]

    assert epochs == [expected(0), expected(1), expected(2)]


@pytest.mark.parametrize("options", WORKERS, ids=WORKER_IDS)
def test_set_epoch_fixes_the_next_and_counts_on_from_there(options, fs, expected):
    dataset = fs.to_torch_dataset(**ORDER)
    batches = loader(dataset, **options)

    first = ids(batches)
    dataset.set_epoch(7)
    dataset.set_epoch(5)
    following = [ids(batches) for _ in range(2)]
    dataset.set_epoch(0)
    back = ids(batches)

    assert [first, *following, back] == [expected(0), expected(5), expected(6), expected(0)]


@pytest.mark.parametrize("epoch", [-1, 1.5, "1", True])
def test_an_epoch_that_is_no_number_from_0_on_is_refused(epoch, fs):
    with pytest.raises(SpecError, match="epoch"):
        fs.to_torch_dataset(**ORDER).set_epoch(epoch)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reseeding_torch_before_each_epoch_does_not_repeat_one(num_workers, fs, expected):
    # What names a set of workers is drawn from torch's global generator, so each set gets the same name here.
    batches = loader(fs.to_torch_dataset(**ORDER), num_workers=num_workers)

    epochs = []
    for _ in range(3):
        torch.manual_seed(0)
        epochs.append(ids(batches))

    assert epochs == [expected(0), expected(1), expected(2)]


def test_iterating_leaves_global_random_states_alone(fs):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002

    list(fs.to_torch_dataset(**ORDER))

    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_the_counter_of_epochs_leaves_nothing_behind(fs, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dataset = fs.to_torch_dataset(**ORDER)
    copies = pickle.loads(pickle.dumps(dataset)), copy.deepcopy(dataset)

    list(loader(dataset, num_workers=2))  # forked workers end here
    del copies
    gc.collect()
    kept = list(tmp_path.glob("fileset-*"))
    list(dataset)
    del dataset
    gc.collect()

    assert len(kept) == 1
    assert list(tmp_path.iterdir()) == []


# --- length and shares -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("drop_last_batch", [True, False])
@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_length_is_the_number_of_batches_and_no_loader_doubts_it(drop_last_batch, num_workers, fs):
    dataset = fs.to_torch_dataset(batch_size=BATCH, drop_last_batch=drop_last_batch)
    batches = loader(dataset, num_workers=num_workers)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        lengths = [len(dataset), len(batches), sum(1 for _ in batches), sum(1 for _ in dataset)]

    assert lengths == [7 if drop_last_batch else 8] * 4


def test_a_fileset_without_rows_yields_nothing(tmp_path):
    fs = numbered(tmp_path, (0, 0))

    for drop_last_batch in (True, False):
        dataset = fs.to_torch_dataset(batch_size=2, shuffle=True, drop_last_batch=drop_last_batch)
        assert len(dataset) == 0
        assert list(loader(dataset)) == []
        assert list(loader(dataset, num_workers=2)) == []


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_rank_taken_from_the_environment_travels_to_workers(context, fs, monkeypatch):
    order = {"batch_size": 3, "shuffle": True, "drop_last_batch": False}
    shares = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        monkeypatch.setenv("WORLD_SIZE", "2")
        shares.append(fs.to_torch_dataset(**order))
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")

    seen = [ids(loader(share, num_workers=1, multiprocessing_context=context)) for share in shares]

    assert [share.reader.shard for share in shares] == [Shard(0, 2), Shard(1, 2)]
    assert [len(batches) for batches in seen] == [5, 5]
    assert sorted(row for batches in seen for batch in batches for row in batch) == list(range(ROWS))


def test_a_shard_that_is_passed_goes_before_the_environment(fs, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    monkeypatch.setenv("WORLD_SIZE", "2")

    assert fs.to_torch_dataset(batch_size=2, shard=Shard(2, 3)).reader.shard == Shard(2, 3)
    assert current_shard() == Shard(1, 2)


@pytest.mark.parametrize(("rank", "world_size"), [("one", "2"), ("2", "2")])
def test_an_environment_that_is_no_rank_is_refused(rank, world_size, fs, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world_size)

    with pytest.raises(SpecError):
        fs.to_torch_dataset(batch_size=2)


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


# --- views -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [WORKERS[0], WORKERS[3]], ids=[WORKER_IDS[0], WORKER_IDS[3]])
def test_views_are_read_as_filesets_are(workers, fs):
    parts = fs.split(train=0.7, val=0.3, seed=1)

    for view in (parts["train"], [parts["val"], fs]):
        batches = loader(FileSetIterableDataset(view, **ORDER), **workers)
        reader = FileSetReader(view, **ORDER)
        assert [ids(batches), ids(batches)] == [ids(reader.iter_batches(epoch)) for epoch in (0, 1)]
    assert ids(parts["val"].to_torch_datapipe(**ORDER)) == ids(FileSetReader(parts["val"], **ORDER))
