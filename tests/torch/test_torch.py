"""Plain PyTorch: what a batch is, how many there are, and whose rows they hold."""

import pickle
import warnings

import pyarrow as pa
import pytest
import torch

from fileset_integrations import Columns, FileSetReader, Shard
from fileset_integrations.columns import Category
from fileset_integrations.errors import SpecError
from fileset_integrations.torch import FileSetIterableDataset, current_shard
from tests.support.data import fileset_of, ids, numbered, table
from tests.support.torch_loading import BATCH, ORDER, ROWS, WORKER_IDS, WORKERS, loader

# Three workers are more than a small machine has cores for.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


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


@pytest.mark.slow
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


@pytest.mark.parametrize(
    ("environment", "shard"),
    [
        ({}, Shard(0, 1)),
        ({"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1", "NODE_RANK": "1"}, Shard(3, 4)),
        ({"WORLD_SIZE": "2", "LOCAL_RANK": "1", "NODE_RANK": "0"}, Shard(1, 2)),  # of Lightning's own launcher
        ({"LOCAL_RANK": "1"}, Shard(0, 1)),  # says nothing of a world
    ],
    ids=str,
)
def test_launchers_say_in_the_environment_who_is_who(environment, shard, monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)

    assert current_shard() == shard


def test_a_world_without_ranks_is_refused(fs, monkeypatch):
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("NODE_RANK", "1")
    monkeypatch.setenv("LOCAL_RANK", "1")
    monkeypatch.delenv("RANK", raising=False)

    with pytest.raises(SpecError, match=r"WORLD_SIZE=4 in the environment, and no RANK.*shard="):
        fs.to_torch_dataset(batch_size=2)


@pytest.mark.parametrize("made", ["too early", "with a shard"])
def test_a_dataset_that_was_made_before_the_ranks_were_known_is_refused(made, fs, tmp_path):
    shard = None if made == "too early" else Shard(1, 3)
    dataset = fs.to_torch_dataset(batch_size=2, shard=shard)
    dataset.reader.shard = Shard(1, 3)  # as if this process had been taken for another
    store = torch.distributed.FileStore(str(tmp_path / "store"), 1)
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        if made == "with a shard":
            assert len(list(dataset)) == len(dataset) and pickle.dumps(dataset)
        else:
            for use in (list, pickle.dumps):  # spawned workers get it pickled
                with pytest.raises(SpecError, match=r"rank 1 of 3; .* rank 0 of 1: .*Make it after"):
                    use(dataset)
    finally:
        torch.distributed.destroy_process_group()


@pytest.mark.parametrize(("rank", "world_size"), [("one", "2"), ("2", "2")])
def test_an_environment_that_is_no_rank_is_refused(rank, world_size, fs, monkeypatch):
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setenv("WORLD_SIZE", world_size)

    with pytest.raises(SpecError):
        fs.to_torch_dataset(batch_size=2)


# --- views -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [WORKERS[0], WORKERS[3]], ids=[WORKER_IDS[0], WORKER_IDS[3]])
def test_views_are_read_as_filesets_are(workers, fs):
    parts = fs.split(train=0.7, val=0.3, seed=1)

    for view in (parts["train"], [parts["val"], fs]):
        batches = loader(FileSetIterableDataset(view, **ORDER), **workers)
        reader = FileSetReader(view, **ORDER)
        assert [ids(batches), ids(batches)] == [ids(reader.iter_batches(epoch)) for epoch in (0, 1)]
    assert ids(parts["val"].to_torch_datapipe(**ORDER)) == ids(FileSetReader(parts["val"], **ORDER))
