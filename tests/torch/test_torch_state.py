"""Plain PyTorch goes on at any batch: by the dataset's own state, and by torchdata's StatefulDataLoader."""

import itertools
import json
import math

import pytest
import torch

from fileset_integrations import FileSetReader, Shard
from fileset_integrations.errors import SpecError, StateMismatchError
from fileset_integrations.plan import ORDER as ORDER_NAME
from tests.support import count
from tests.support.data import ids
from tests.support.torch_loading import BATCH, ORDER, ROWS, failure_of, loader

pytestmark = [
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),  # torchdata 0.11 under torch 2.13
]

BATCHES = math.ceil(ROWS / BATCH)  # 8


def through_json(state):
    return json.loads(json.dumps(state))


# --- the dataset's own state -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("wrapped", [False, True], ids=["dataset", "DataLoader"])
def test_a_dataset_goes_on_at_every_step_and_its_epochs_count_on(wrapped, fs, expected):
    dataset = fs.to_torch_dataset(**ORDER)
    list(dataset)
    batches = iter(loader(dataset) if wrapped else dataset)

    for step in range(BATCHES + 1):
        state = dataset.state_dict()
        resumed = fs.to_torch_dataset(**ORDER)
        resumed.load_state_dict(through_json(state))

        assert len(json.dumps(state)) < 1024
        assert resumed.state_dict() == state
        assert ids(resumed) == expected(1)[step:]
        assert resumed.state_dict()["batches"] == BATCHES
        assert ids(resumed) == expected(2)
        next(batches, None)


@pytest.mark.parametrize("options", [{"num_workers": n} for n in count((1, 3), (1, 2, 3, 4))], ids=str)
@pytest.mark.parametrize("step", count([3, BATCHES], range(BATCHES + 1)))
def test_a_dataset_goes_on_with_any_number_of_workers(options, step, fs, expected):
    dataset = fs.to_torch_dataset(**ORDER)
    dataset.load_state_dict(dataset.reader.state(5, step))

    epochs = [ids(loader(dataset, **options)) for _ in range(2)]

    assert epochs == [expected(5)[step:], expected(6)]


def test_workers_that_live_on_are_told_of_a_state_that_is_loaded_later(fs, expected):
    dataset = fs.to_torch_dataset(batch_size=9, shuffle=True)
    batches = loader(dataset, num_workers=2, persistent_workers=True)
    list(batches)
    nine = fs.to_torch_dataset(batch_size=3, shuffle=True, shard=Shard(0, 3)).reader.state(4, 1)

    dataset.load_state_dict(nine)  # 9 streams, where this dataset has 8 of its own

    order = {"global_batch_size": 9, "shuffle": True, "streams": 9}
    assert ids(batches) == ids(FileSetReader(fs, **order).iter_batches(4))[1:]
    assert ids(batches) == ids(FileSetReader(fs, **order).iter_batches(5))


def test_a_state_says_what_comes_next_before_and_between_iterations(fs):
    dataset = fs.to_torch_dataset(**ORDER)
    places = []

    def note():
        state = dataset.state_dict()
        places.append((state["epoch"], state["batches"]))

    note()
    batches = iter(dataset)
    note()
    next(batches)
    note()
    dataset.set_epoch(7)
    note()
    iter(dataset)
    note()
    next(batches)  # of an iteration that is not the last begun
    note()

    assert places == [(0, 0), (0, 0), (0, 1), (7, 0), (7, 0), (7, 0)]


def test_where_workers_read_ahead_the_dataset_says_that_it_does_not_know(fs, expected):
    dataset = fs.to_torch_dataset(**ORDER)
    taken = ids(itertools.islice(loader(dataset, num_workers=2), 3))

    with pytest.raises(SpecError, match=r"StatefulDataLoader.*reader\.state\(epoch, batches\)"):
        dataset.state_dict()

    dataset.load_state_dict(dataset.reader.state(0, len(taken)))
    assert taken + ids(loader(dataset, num_workers=2)) == expected(0)


def test_a_state_of_another_order_is_refused_with_both_values(fs):
    dataset = fs.to_torch_dataset(**ORDER)
    state = fs.to_torch_dataset(**{**ORDER, "seed": 4}).state_dict()

    with pytest.raises(StateMismatchError, match="seed=4, this reader has seed=3"):
        dataset.load_state_dict(state)
    assert dataset.state_dict() == dataset.reader.state(0, 0)  # and nothing has changed


# --- torchdata -------------------------------------------------------------------------------------------------------


@pytest.fixture
def stateful_loader():
    stateful = pytest.importorskip("torchdata.stateful_dataloader")
    return lambda dataset, **options: stateful.StatefulDataLoader(dataset, batch_size=None, **options)


STATEFUL = [
    *({"num_workers": n} for n in count((0, 2), (0, 1, 2, 3))),
    {"num_workers": 2, "persistent_workers": True},
    {"num_workers": 2, "snapshot_every_n_steps": 3},
]


@pytest.mark.slow
@pytest.mark.parametrize("options", STATEFUL, ids=str)
def test_a_stateful_dataloader_goes_on_at_every_step_and_its_epochs_count_on(
    options, stateful_loader, fs, expected, caplog
):
    interrupted = stateful_loader(fs.to_torch_dataset(**ORDER), **options)
    list(interrupted)
    states = [interrupted.state_dict() for _ in interrupted]

    for step in range(1, BATCHES + 1) if count(False, True) else (1, 2, BATCHES - 1, BATCHES):
        resumed = stateful_loader(fs.to_torch_dataset(**ORDER), **options)
        resumed.load_state_dict(through_json(states[step - 1]))

        assert ids(resumed) == expected(1)[step:]
        assert ids(resumed) == expected(2)
    assert "fast-forwarding" not in caplog.text


@pytest.mark.parametrize("num_workers", [0, 2])
def test_the_state_of_a_stateful_dataloader_holds_a_reader_state_for_each_worker(num_workers, stateful_loader, fs):
    batches = stateful_loader(fs.to_torch_dataset(**ORDER), num_workers=num_workers)
    iterator = iter(batches)
    for _ in range(3):
        next(iterator)

    text = json.dumps(batches.state_dict())

    assert text.count(f'"{ORDER_NAME}"') == 2 * max(num_workers, 1)  # the dataset's and its iterator's
    assert len(text) < 1024 * 2 * max(num_workers, 1)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_stateful_dataloader_of_another_order_is_refused_with_both_values(num_workers, stateful_loader, fs):
    batches = stateful_loader(fs.to_torch_dataset(**ORDER), num_workers=num_workers)
    next(iter(batches))
    other = stateful_loader(fs.to_torch_dataset(**{**ORDER, "seed": 4}), num_workers=num_workers)
    other.load_state_dict(batches.state_dict())

    assert "seed=3, this reader has seed=4" in failure_of(other, StateMismatchError)


def test_a_stateful_dataloader_can_go_back_in_the_epoch_that_it_is_at(stateful_loader, fs, expected):
    torch.manual_seed(1)
    batches = stateful_loader(fs.to_torch_dataset(**ORDER), num_workers=2)
    states = [batches.state_dict() for _ in batches]

    for step in (5, 2, 6):
        batches.load_state_dict(states[step - 1])
        assert ids(batches) == expected(0)[step:]
    assert ids(batches) == expected(1)
