"""A Keras dataset goes on at any batch of an epoch, and says where training stands."""

import functools
import json

import pytest

pytest.importorskip("keras", reason="keras is optional")

import keras

from fileset_integrations import Columns, FileSetReader
from fileset_integrations.errors import SpecError, StateMismatchError
from fileset_integrations.keras import FileSetPyDataset
from tests.support.data import numbered

ORDER = {"batch_size": 4, "shuffle": True, "seed": 3, "drop_last_batch": False}
COLUMNS = Columns({"id": "id", "x": ["x"]}, label="y")
BATCHES = 8


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("numbered"), (7, 0, 1, 12, 9))


@pytest.fixture(scope="module")
def expected(fs):
    reader = FileSetReader(fs, **ORDER)
    return lambda epoch: [batch["id"].tolist() for batch in reader.iter_batches(epoch)]


def a_dataset(fs, **options):
    return FileSetPyDataset(fs, columns=COLUMNS, **{**ORDER, **options})


def ids(dataset):
    return [dataset[index][0]["id"].tolist() for index in range(len(dataset))]


@pytest.mark.parametrize("blocks", ["memory", "disk", "stream"])
def test_a_dataset_goes_on_at_every_step(blocks, fs, expected):
    dataset = a_dataset(fs)
    dataset.set_epoch(2)

    for step in range(BATCHES + 1):
        state = dataset.state_dict(step)
        resumed = a_dataset(fs, blocks=blocks)
        resumed.load_state_dict(json.loads(json.dumps(state)))

        assert len(json.dumps(state)) < 1024
        if step < BATCHES:
            assert (resumed.epoch, len(resumed)) == (2, BATCHES - step)
            assert ids(resumed) == expected(2)[step:]
            assert resumed.state_dict(1) == dataset.reader.state(2, step + 1)
            with pytest.raises(IndexError, match=f"batch {BATCHES - step} of {BATCHES - step}"):
                resumed[BATCHES - step]
            resumed.set_epoch(3)
        assert (resumed.epoch, len(resumed)) == (3, BATCHES)
        assert ids(resumed) == expected(3)


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("shuffle", [False, True])
def test_fit_goes_on_with_the_rest_of_the_epoch_and_then_whole_epochs(workers, shuffle, fs, expected):
    seen = {}

    class Noted(FileSetPyDataset):
        def __getitem__(self, index):
            x, y = super().__getitem__(index)
            seen.setdefault(clock.epoch, []).append(x["id"].tolist())
            return x["x"], y

    class Clock(keras.callbacks.Callback):
        epoch = None  # Keras asks for a batch to build the model before the first epoch

        def on_epoch_begin(self, epoch, logs=None):
            self.epoch = epoch

    clock, ds = Clock(), Noted(fs, columns=COLUMNS, **ORDER, workers=workers)
    ds.load_state_dict(ds.reader.state(1, 5))
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")

    fit = functools.partial(model.fit, ds, shuffle=shuffle, callbacks=[ds.callback(), clock], verbose=0)
    fit(initial_epoch=1, epochs=2)
    fit(initial_epoch=2, epochs=4)

    seen.pop(None, None)
    wanted = {1: expected(1)[5:], 2: expected(2), 3: expected(3)}
    if shuffle or workers > 1:
        seen, wanted = ({epoch: sorted(found) for epoch, found in run.items()} for run in (seen, wanted))
    assert seen == wanted


def test_a_fit_that_would_cut_off_later_epochs_is_refused(fs):
    ds = FileSetPyDataset(fs, columns=Columns({"x": ["x"]}, label="y"), **ORDER)
    ds.load_state_dict(ds.reader.state(1, 5))
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")

    with pytest.raises(SpecError, match=r"epoch 2 the 3 batches that remained of epoch 1, not 8.*epochs=2\)"):
        model.fit(ds, initial_epoch=1, epochs=3, callbacks=[ds.callback()], verbose=0)


def test_a_state_of_another_order_is_refused_with_both_values(fs):
    state = a_dataset(fs, seed=4).state_dict()

    with pytest.raises(StateMismatchError, match="seed=4, this reader has seed=3"):
        a_dataset(fs).load_state_dict(state)


@pytest.mark.parametrize("batches", [-1, BATCHES + 1, 1.5])
def test_more_batches_than_there_are_is_refused(batches, fs):
    with pytest.raises(SpecError, match="batches="):
        a_dataset(fs).state_dict(batches)
