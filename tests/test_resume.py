"""Saved states: an epoch goes on exactly where it was left, on as many ranks as there are then, or not at all."""

import json

import pytest

from fileset_integrations import Columns, FileSetReader, Shard
from fileset_integrations.errors import StateMismatchError
from tests.support.data import add_noise, flat, ids, numbered, plain

FILE_ROWS = [7, 0, 1, 12, 30, 5]


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("numbered"), FILE_ROWS)


STATEFUL = [
    {"shuffle": False, "batch_size": 4},
    {"shuffle": True, "batch_size": 4, "seed": 2**63 - 1, "streams": 2},
    {"shuffle": True, "batch_size": 4, "drop_last_batch": False, "transform": add_noise},
]


@pytest.mark.parametrize("options", STATEFUL)
def test_resuming_at_every_step_yields_the_exact_rest(fs, options):
    reader = FileSetReader(fs, **options)
    iterator = reader.iter_batches(3)
    states, batches = [iterator.state_dict()], []
    for batch in iterator:
        batches.append(plain(batch))
        states.append(iterator.state_dict())

    for step, state in enumerate(states):
        text = json.dumps(state)
        assert len(text) < 1024
        assert not [value for value in state.values() if isinstance(value, dict | list)]
        resumed = FileSetReader(fs, **options).iter_batches()
        resumed.load_state_dict(json.loads(text))
        assert resumed.state_dict() == state
        assert [plain(batch) for batch in resumed] == batches[step:]
        assert resumed.state_dict() == states[-1]
    assert len(states) == len(reader) + 1


def test_an_iterator_under_way_can_be_moved(fs):
    reader = FileSetReader(fs, batch_size=4, shuffle=True)
    expected = ids(reader.iter_batches(1))
    iterator = reader.iter_batches(1)
    states = [iterator.state_dict() for _ in iterator]

    for step in (9, 2, 0):
        iterator.load_state_dict(states[step])
        assert ids([next(iterator)]) == expected[step + 1 : step + 2]


def test_resuming_reads_no_file_of_what_came_before(tmp_path):
    fs = numbered(tmp_path, [20] * 6)
    reader = FileSetReader(fs, batch_size=4, shuffle=True, streams=1)
    expected = ids(reader)
    for file in {int(file) for index in range(10) for file in reader.rows(index)[:, 0]}:
        (tmp_path / f"data_{file}.parquet").unlink()

    resumed = reader.iter_batches()
    resumed.load_state_dict(reader.state(0, 10))

    assert ids(resumed) == expected[10:]


@pytest.mark.parametrize(("world_size", "streams"), [(1, 8), (2, 8), (4, 8), (8, 8), (1, None), (2, None), (4, None)])
def test_a_shuffled_epoch_goes_on_with_another_number_of_ranks(fs, world_size, streams):
    saved = FileSetReader(fs, global_batch_size=16, shuffle=True, streams=streams, shard=Shard(1, 2)).state(1, 1)
    expected = ids(FileSetReader(fs, global_batch_size=16, shuffle=True, streams=8).iter_batches(1))[1:]

    ranks = []
    for rank in range(world_size):
        shard = Shard(rank, world_size)
        iterator = FileSetReader(fs, global_batch_size=16, shuffle=True, streams=streams, shard=shard).iter_batches()
        iterator.load_state_dict(saved)
        ranks.append(ids(iterator))

    together = [flat(zip(*rows, strict=True)) for rows in zip(*ranks, strict=True)]
    assert together == expected


def test_streams_that_nobody_named_are_taken_from_the_state(fs):
    three = FileSetReader(fs, global_batch_size=12, shuffle=True, shard=Shard(0, 3))  # 9 streams
    one = FileSetReader(fs, global_batch_size=12, shuffle=True)  # 8 of its own
    expected = ids(FileSetReader(fs, global_batch_size=12, shuffle=True, streams=9).iter_batches(2))

    iterator = one.iter_batches()
    iterator.load_state_dict(three.state(2, 1))

    assert ids(iterator) == expected[1:]
    assert iterator.state_dict()["streams"] == 9
    with pytest.raises(StateMismatchError, match=r"streams=9.*streams=8"):
        FileSetReader(fs, global_batch_size=12, shuffle=True, shard=Shard(0, 2)).resume(three.state(2, 1))


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"seed": 1}, "seed=0, this reader has seed=1"),
        ({"batch_size": 5}, "global_batch_size=4, this reader has global_batch_size=5"),
        ({"streams": 4}, "streams=2, this reader has streams=4"),
        ({"shuffle": False}, "streams=2, this reader has streams=1|shuffle=True, this reader has shuffle=False"),
        ({"drop_last_batch": False}, "drop_last_batch=True, this reader has drop_last_batch=False"),
        ({"columns": Columns({"id": "id"}, nulls="drop")}, "order='spans-2', this reader has order="),
    ],
)
def test_a_state_of_another_order_is_refused_with_both_values(fs, change, named):
    options = {"batch_size": 4, "shuffle": True, "seed": 0, "streams": 2}
    state = FileSetReader(fs, **options).iter_batches().state_dict()

    with pytest.raises(StateMismatchError, match=named):
        FileSetReader(fs, **{**options, **change}).iter_batches().load_state_dict(state)


def test_a_state_of_another_snapshot_is_refused(fs, tmp_path):
    other = numbered(tmp_path, [55])
    state = FileSetReader(other, batch_size=4).iter_batches().state_dict()

    with pytest.raises(StateMismatchError, match=f"{other.snapshot_id}.*{fs.snapshot_id}"):
        FileSetReader(fs, batch_size=4).iter_batches().load_state_dict(state)


@pytest.mark.parametrize(
    "change", [{"batches": 14}, {"batches": -1}, {"epoch": -1}, {"epoch": "x"}, {"batches": None}, {"format": 99}]
)
def test_a_state_that_makes_no_sense_is_refused(fs, change):
    reader = FileSetReader(fs, batch_size=4)

    with pytest.raises(StateMismatchError):
        reader.iter_batches().load_state_dict({**reader.state(0, 0), **change})
    with pytest.raises(StateMismatchError, match="lacks 'seed'"):
        reader.iter_batches().load_state_dict(
            {key: value for key, value in reader.state(0, 0).items() if key != "seed"}
        )
