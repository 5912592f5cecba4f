"""`fileset_integrations.keras.fit(..., resume=folder)`: killed at any step, it goes on as if nothing had happened."""

import json
import os
import random
import subprocess
import sys
import threading

import numpy as np
import pytest

pytest.importorskip("keras", reason="keras is optional")

import keras

from fileset_integrations import Columns, Shard
from fileset_integrations.errors import CheckpointError, SpecError, StateMismatchError
from fileset_integrations.keras import FileSetPyDataset, fit, state
from tests.support import ROOT, SOAK, count
from tests.support.data import numbered

COLUMNS = Columns({"x": ["id", "y"]}, label="y")
BATCHES = 7  # of 4 rows; 1 is dropped
SAVE_EVERY = {"plain": 1, "validation, seldom saved": 3, "epochs' ends only": 1000, "steps_per_epoch": 2, "threads": 2}
WAYS = [*SAVE_EVERY]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keras-resume")


@pytest.fixture(scope="module")
def fs(folder):
    return numbered(folder / "train", (7, 0, 1, 12, 9))


def dataset(fs, **options):
    return FileSetPyDataset(fs, columns=COLUMNS, **{"batch_size": 4, "shuffle": True, "seed": 3} | options)


def model(units=3, optimizer="adam"):
    made = keras.Sequential([keras.Input((2,)), keras.layers.Dense(units), keras.layers.Dense(1)])
    made.compile(optimizer, loss="mse")
    return made


# --- killed ----------------------------------------------------------------------------------------------------------


BACKENDS = ("torch", "jax", "tensorflow")
FEW = {
    "torch": ("validation, seldom saved", [12, 9]),
    "jax": ("plain", [11]),
    "tensorflow": ("steps_per_epoch", [9]),
}


def kills(backend):
    """Ways to train, and the steps at which each of its processes is killed, by SIGKILL."""
    if not SOAK:
        return [FEW[backend]]
    draw = random.Random(5)
    everywhere = [(way, [draw.randint(1, 19)] + [draw.randint(1, 4)] * (n % 2)) for n, way in enumerate(WAYS * 4)]
    return everywhere[BACKENDS.index(backend) :: len(BACKENDS)]  # five ways and three backends: each has all of them


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.parametrize("backend", BACKENDS)
def test_a_training_killed_at_any_step_goes_on_with_exactly_the_rows_that_are_left_to_the_same_weights(
    backend, fs, folder
):
    pytest.importorskip(backend)
    numbered(folder / "val", (4, 5, 1))
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.keras_kill", str(folder), json.dumps(kills(backend))],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=count(200, 3000),
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["backend"] == backend

    for (way, steps), run in zip(kills(backend), found["runs"], strict=True):
        assert run["ends"] == [-9] * len(steps) + [0]
        place = reached = 0
        for notes in run["notes"]:
            place = next(n for n in range(place, len(run["whole"])) if run["whole"][n : n + len(notes)] == notes)
            assert 0 <= reached - place <= SAVE_EVERY[way], f"{way}: batches before the last save were trained on again"
            reached = place + len(notes)
        assert reached == len(run["whole"])
        assert run["weights are equal"], way
        assert run["histories"][0] == run["histories"][1], way


# --- where the state lies --------------------------------------------------------------------------------------------


def weights_after(fs, epochs, resume=None, made=None, **options):
    keras.utils.set_random_seed(2)
    made = made or model()
    history = fit(made, dataset(fs), resume=resume, epochs=epochs, verbose=0, **options)
    return made.get_weights(), history


def same(left, right):
    return all(map(np.array_equal, left, right))


def test_a_complete_training_returns_at_once_and_more_epochs_lengthen_it(fs, tmp_path):
    whole, history = weights_after(fs, 3)
    part, _ = weights_after(fs, 2, tmp_path / "state")

    again, again_history = weights_after(fs, 2, tmp_path / "state")
    longer, longer_history = weights_after(fs, 3, tmp_path / "state")

    assert same(again, part)
    assert same(longer, whole)
    assert again_history.epoch == [0, 1]
    assert (longer_history.epoch, longer_history.history) == (history.epoch, history.history)


def test_averaged_weights_take_their_place_at_the_end_only(fs, tmp_path):
    class Stop(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            if self.params["epochs"] and self.model.optimizer.iterations == 10:
                raise KeyboardInterrupt

    def averaging():
        keras.utils.set_random_seed(2)
        return model(optimizer=keras.optimizers.Adam(0.1, use_ema=True, ema_momentum=0.9))

    whole, _ = weights_after(fs, 4, made=averaging())
    with pytest.raises(KeyboardInterrupt):
        weights_after(fs, 4, tmp_path / "state", averaging(), save_every=1, callbacks=[Stop()])
    resumed, _ = weights_after(fs, 4, tmp_path / "state", averaging(), save_every=1)

    assert same(resumed, whole)


def test_a_training_that_was_stopped_early_stays_stopped_with_its_best_weights(fs, tmp_path):
    def stopping():
        return [keras.callbacks.EarlyStopping("loss", patience=1, mode="max", restore_best_weights=True)]

    stopped, history = weights_after(fs, 9, tmp_path / "state", callbacks=stopping())
    again, again_history = weights_after(fs, 9, tmp_path / "state", callbacks=stopping())

    assert len(history.epoch) < 9
    assert again_history.history == history.history
    assert same(again, stopped)


def test_a_callback_with_a_state_of_its_own_gets_it_back(fs, tmp_path):
    class Counts(keras.callbacks.Callback):
        count = begun = ended = 0

        def on_train_begin(self, logs=None):
            self.begun += 1

        def on_train_end(self, logs=None):
            self.ended += 1

        def on_train_batch_end(self, batch, logs=None):
            self.count += 1
            if self.count == 10 and self.begun == 1 and stop:
                raise KeyboardInterrupt

        def state_dict(self):
            return {"count": self.count}

        def load_state_dict(self, state):
            self.count = state["count"]

    stop = True
    with pytest.raises(KeyboardInterrupt):
        weights_after(fs, 3, tmp_path / "state", save_every=1, callbacks=[Counts()])
    stop, resumed = False, Counts()
    weights_after(fs, 3, tmp_path / "state", callbacks=[resumed])

    assert (resumed.count, resumed.begun, resumed.ended) == (3 * BATCHES, 1, 1)


def test_several_optimizers_of_a_model_are_all_kept(fs, tmp_path):
    whole, _ = weights_after(fs, 2)

    def with_another():
        keras.utils.set_random_seed(2)
        made = model()
        made.other_optimizer = keras.optimizers.Adam()
        made.other_optimizer.build(made.trainable_variables)
        return made

    first = with_another()
    first.other_optimizer.iterations.assign(41)
    weights_after(fs, 1, tmp_path / "state", first)
    second = with_another()
    resumed, _ = weights_after(fs, 2, tmp_path / "state", second)

    assert int(second.other_optimizer.iterations) == 41
    assert same(resumed, whole)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"made": lambda: model(units=4)}, r"has shape \(2, 4\), saved was \(2, 3\)"),
        ({"made": lambda: model(optimizer="sgd")}, "variables of the optimizer"),
        ({"ds": {"seed": 4}}, "seed=3, this reader has seed=4"),
        ({"ds": {"batch_size": 5}}, "global_batch_size=4, this reader has global_batch_size=5|epochs of 7 batches"),
        ({"fit": {"steps_per_epoch": 5}}, "epochs of 7 batches, and this one has 5"),
    ],
    ids=["layer", "optimizer", "seed", "batch size", "steps"],
)
def test_the_state_of_another_training_is_refused(changed, message, fs, tmp_path):
    weights_after(fs, 1, tmp_path / "state")
    made = changed.get("made", model)()

    with pytest.raises(StateMismatchError, match=message) as caught:
        fit(
            made,
            dataset(fs, **changed.get("ds", {})),
            resume=tmp_path / "state",
            epochs=2,
            verbose=0,
            **changed.get("fit", {}),
        )

    assert "folder" in str(caught.value) + "".join(getattr(caught.value, "__notes__", []))


def test_a_damaged_or_foreign_folder_is_refused(fs, tmp_path):
    weights_after(fs, 1, tmp_path / "state")
    arrays = tmp_path / "state" / "save-00000000" / "arrays.npz"
    arrays.write_bytes(arrays.read_bytes()[:-30])
    (tmp_path / "notes.txt").touch()

    with pytest.raises(CheckpointError, match=r"arrays.npz is damaged.*to train anew"):
        weights_after(fs, 2, tmp_path / "state")
    with pytest.raises(CheckpointError, match=r"holds 'notes\.txt'"):
        weights_after(fs, 2, tmp_path)


def test_a_second_rank_writes_no_state_and_ends_once_it_sees_that_of_rank_0(fs, tmp_path):
    def rank(number):
        return dataset(fs, global_batch_size=8, batch_size=None, shard=Shard(number, 2))

    for folder, epochs in (("state", 1), ("later", 2)):
        fit(model(), rank(0), resume=tmp_path / folder, epochs=epochs, verbose=0)
    later = tmp_path / "later" / "save-00000001"
    rank_0 = threading.Timer(0.5, later.rename, [tmp_path / "state" / later.name])
    rank_0.start()
    history = fit(model(), rank(1), resume=tmp_path / "state", epochs=2, verbose=0)
    found = sorted(path.name for path in (tmp_path / "state").glob("save-*"))
    rank_0.join()

    assert history.epoch == [0, 1]
    assert found == ["save-00000000", "save-00000001"]


def test_a_rank_that_does_not_see_what_rank_0_saves_says_so_after_its_first_epoch(fs, tmp_path, monkeypatch):
    monkeypatch.setattr(state, "_RANK_0_SECONDS", 0.2)
    ds = dataset(fs, shard=Shard(1, 2))

    with pytest.raises(CheckpointError, match=r"rank 1 has seen no state of rank 0's.* a folder that all ranks see"):
        fit(model(), ds, resume=tmp_path / "state", epochs=9, verbose=0)

    assert ds.epoch == 0
    assert not (tmp_path / "state").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"save_every": 0}, "save_every=0"),
        ({"epochs": -1}, "epochs=-1"),
        ({"initial_epoch": -1}, "initial_epoch=-1"),
        ({"shuffle": True}, "shuffle=True permutes whole batches"),
        ({"steps_per_epoch": 0}, "steps_per_epoch=0"),
        ({"callbacks": [keras.callbacks.BackupAndRestore("x")], "resume": "y"}, "BackupAndRestore"),
    ],
)
def test_arguments_out_of_range_are_refused(arguments, message, fs, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    with pytest.raises(SpecError, match=message):
        fit(model(), dataset(fs), **arguments)


def test_other_data_is_sent_to_keras_own_fit():
    with pytest.raises(SpecError, match="pass a FileSetPyDataset"):
        fit(model(), np.zeros((3, 2)))
