"""Keras: on every backend, fit, evaluate and predict see the plan's rows, whoever asks for them in whatever order."""

import itertools
import json
import os
import subprocess
import sys
import threading
import warnings

import numpy as np
import pyarrow as pa
import pytest

from fileset_integrations import Columns, FileSetReader
from fileset_integrations.columns import Category, Numeric
from fileset_integrations.errors import SpecError
from tests.support import ROOT, SOAK
from tests.support.data import fileset_of, numbered

pytest.importorskip("keras", reason="keras is optional")

from fileset_integrations.keras import FileSetPyDataset

pytestmark = pytest.mark.slow

FILE_ROWS, VAL_ROWS = (7, 0, 1, 12, 9), 10
ROWS = sum(FILE_ROWS)  # 29
BATCH, SEED = 4, 3  # those of tests.support.keras_matrix


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("keras")


@pytest.fixture(scope="module")
def fs(folder):
    return numbered(folder / "train", FILE_ROWS)


@pytest.fixture(scope="module")
def val(folder):
    return numbered(folder / "val", (4, 5, 1))


@pytest.fixture(scope="module")
def plan(fs):
    """The reader's batches: plan(epoch) is a list of [index, ids]."""
    reader = FileSetReader(fs, batch_size=BATCH, shuffle=True, seed=SEED)
    return lambda epoch: [[index, batch["id"].tolist()] for index, batch in enumerate(reader.iter_batches(epoch))]


@pytest.fixture(scope="module")
def batches(fs):
    """Ids of the batches of an epoch, with a partial one at the end or without."""

    def of_epoch(epoch, partial=False, shuffle=True):
        reader = FileSetReader(fs, batch_size=BATCH, shuffle=shuffle, seed=SEED, drop_last_batch=not partial)
        return [batch["id"].tolist() for batch in reader.iter_batches(epoch)]

    return of_epoch


def joined(lists):
    return list(itertools.chain.from_iterable(lists))


def cut(rows, batches):
    """Rows as batches: each begins with a row that begins one of `batches`."""
    by_first, found = {batch[0]: batch for batch in batches}, []
    while rows and rows[0] in by_first:
        size = len(by_first[rows[0]])
        found.append(rows[:size])
        rows = rows[size:]
    return found + [rows] * bool(rows)


@pytest.fixture(scope="module", params=["torch", "tensorflow", "jax"])
def seen(request, folder, fs, val):
    """What tests.support.keras_fit found on a backend, which Keras takes once, at its import."""
    pytest.importorskip(request.param)
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.keras_fit", str(folder)],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": request.param, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=280,
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["backend"] == request.param
    return found


# --- on every backend ------------------------------------------------------------------------------------------------


WHO = ("0", "1", "3", "2 processes", *(["1 process"] if SOAK else []))  # workers
CASES = list(itertools.product(WHO, (False, True), (False, True)))  # who asks, whether rows are shuffled, partial batch


def test_fit_gives_the_model_the_plans_rows_whoever_asks_for_them(seen, batches):
    for who, shuffle, partial in CASES:
        expected = [batches(epoch, partial, shuffle) for epoch in (0, 1)]
        name = f"fit, {who}, shuffle={shuffle}, partial={partial}, permuted=False"
        assert seen["cases"][name] == joined(joined(expected)), name
    assert batches(0, True) != batches(1, True)


def test_fit_gives_a_model_that_it_builds_itself_the_same_rows(seen, batches):
    expected = joined(batches(0, partial=True) + batches(1, partial=True))

    assert seen["cases"]["unbuilt"] == {"3": expected, WHO[-1]: expected}


def test_fits_own_shuffle_permutes_batches_and_keeps_each_once(seen, batches):
    for who, partial in itertools.product(WHO, (False, True)):
        name = f"fit, {who}, shuffle=True, partial={partial}, permuted="
        permuted, plain = seen["cases"][f"{name}True"], seen["cases"][f"{name}False"]
        assert permuted != plain, name
        for epoch in (0, 1):
            expected = batches(epoch, partial)
            half = len(joined(expected))
            found = cut(permuted[half * epoch : half * (epoch + 1)], expected)
            assert sorted(found) == sorted(expected), name


@pytest.mark.parametrize("way", ["evaluate", "predict"])
def test_evaluation_and_prediction_go_through_the_plans_rows_in_order(way, seen, batches):
    for who, shuffle, partial in CASES:
        name = f"{way}, {who}, shuffle={shuffle}, partial={partial}, permuted=False"
        assert seen["cases"][name] == joined(batches(0, partial, shuffle)), name
    assert joined(batches(0, partial=True, shuffle=False)) == list(range(ROWS))


@pytest.mark.parametrize("way", ["dataset, 1", "dataset, 3", "our fit, 1", "our fit, 3"])
def test_epochs_of_some_batches_go_on_where_the_last_one_ended(way, seen, batches):
    passes = [*batches(0), *batches(1), *batches(2)]

    assert seen["steps"][way] == joined(passes[3:12])  # epochs 1, 2, 3 of 3 batches; a pass has 7


def test_steps_that_fit_was_given_hold_for_it_alone(seen):
    assert seen["steps"]["our fit, 1, after it"] == [[1, 2, 3], ROWS // BATCH]


@pytest.mark.parametrize("way", ["model.fit, 0", "model.fit, 1"])
def test_steps_per_epoch_of_models_own_fit_goes_through_one_pass_after_the_other(way, seen, batches):
    # The third epoch gets what the pass has left; Keras says then that the data ran out.
    assert seen["steps"][way] == joined(batches(0))


def test_steps_per_epoch_of_models_own_fit_with_threads_is_refused_with_the_way_out(seen):
    # Keras would drop the batches that were read ahead at each epoch's end.
    assert seen["steps"]["model.fit, 3"].startswith("SpecError: fit was given steps_per_epoch=3")
    assert "FileSetPyDataset(..., steps_per_epoch=3)" in seen["steps"]["model.fit, 3"]


def test_a_training_goes_on_in_the_middle_of_an_epoch_to_the_same_weights(seen):
    uninterrupted, resumed, complete = seen["resumed"]["histories"]

    assert seen["resumed"]["weights are equal"] == [True, True]
    assert uninterrupted[0] == [0, 1, 2, 3]
    assert resumed == complete == uninterrupted
    assert len(set(uninterrupted[1]["learning_rate"])) > 1, "the callback has counted epochs across the interruption"
    assert [name for name in seen["resumed"]["kept"] if name != ".lock"] == [seen["resumed"]["kept"][-1]]


def test_blocks_on_disk_are_the_same_blocks(seen, plan):
    assert seen["blocks on disk"]["asked"] == {"0": plan(0), "1": plan(1)}


def test_initial_epoch_is_the_epoch_that_fit_begins_with(seen, plan):
    assert seen["initial_epoch"]["asked"] == {"2": plan(2), "3": plan(3)}


def test_without_the_callback_the_order_repeats_and_one_warning_says_so(seen, plan):
    assert seen["not told"] == {"asked": {str(epoch): plan(0) for epoch in range(4)}, "warnings": 1}


def test_validation_and_evaluation_cover_every_row_though_the_last_batch_is_partial(seen):
    # The model gives the id of a row, whose label is -id: the loss is the mean of (2 id)^2.
    loss = pytest.approx(np.mean([(2 * row) ** 2 for row in range(VAL_ROWS)]))

    assert seen["validation"]["rows"] == list(range(VAL_ROWS))
    assert seen["validation"]["val_loss"] == [loss, loss]
    assert seen["validation"]["evaluate"] == loss


def test_streamed_blocks_are_served_in_order_only(seen):
    assert seen["streamed"]["in order"] == "done"
    assert seen["streamed"]["by threads"] == "done"
    assert "SpecError" in seen["streamed"]["permuted"]
    assert "shuffle=False" in seen["streamed"]["permuted"]


def test_inputs_may_be_dicts_and_rows_may_have_weights_or_no_label(seen):
    ids = np.arange(ROWS)

    assert seen["inputs"] == {
        "dict": True,
        "dict: predictions": ROWS,
        "dict and weights": True,
        "dict and weights: predictions": ROWS,
        "weighted mae": pytest.approx((ids * 2 * ids).sum() / ids.sum()),
        "mae weighted by class": pytest.approx((ids * 2 * ids).sum() / ids.sum()),
        "no label": ids.tolist(),
    }


# --- the dataset itself ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("drop_last_batch", "batches"), [(True, 7), (False, 8)])
def test_the_number_of_batches_is_known_and_exact(drop_last_batch, batches, fs):
    ds = FileSetPyDataset(fs, batch_size=BATCH, drop_last_batch=drop_last_batch)

    assert ds.num_batches == len(ds) == len(ds.reader) == len(list(ds)) == batches
    with pytest.raises(IndexError):
        ds[batches]


@pytest.mark.parametrize(
    ("columns", "structure"),
    [
        (Columns({"x": ["x", "y"], "id": "id"}, label="y"), ({"x": (4, 2), "id": (4,)}, (4,))),
        (Columns({"x": ["x", "y"], "id": "id"}, label="y", weight="x"), ({"x": (4, 2), "id": (4,)}, (4,), (4,))),
        (Columns({"x": ["x", "y"]}, label="y"), ((4, 2), (4,))),
        (Columns({"x": ["x", "y"]}), (4, 2)),
        (Columns({"x": ["x", "y"], "id": "id"}), {"x": (4, 2), "id": (4,)}),
    ],
    ids=["dict,y", "dict,y,w", "one,y", "one", "dict"],
)
def test_a_batch_is_what_models_take(columns, structure, fs):
    def shapes(part):
        if isinstance(part, dict):
            return {name: shapes(value) for name, value in part.items()}
        return tuple(map(shapes, part)) if isinstance(part, tuple) else part.shape

    assert shapes(FileSetPyDataset(fs, columns=columns, batch_size=4)[0]) == structure


def test_a_batch_is_the_same_from_any_thread_in_any_order(fs, plan):
    ds = FileSetPyDataset(fs, batch_size=BATCH, shuffle=True, seed=SEED)
    ds.set_epoch(1)
    wrong = []

    def ask(seed):
        for index in np.random.default_rng(seed).permutation(len(ds)).tolist() * 5:
            if [index, ds[index]["id"].tolist()] != plan_of_epoch[index]:
                wrong.append(index)

    plan_of_epoch = plan(1)
    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert wrong == []


def test_auto_never_means_stream(fs):
    small = FileSetPyDataset(fs, columns=Columns({"x": "x"}), batch_size=BATCH, memory_bytes=2**20)
    large = FileSetPyDataset(fs, columns=Columns({"x": "x"}), batch_size=BATCH, memory_bytes=ROWS * 8 + 100)

    assert (small.reader.blocks, large.reader.blocks) == ("memory", "disk")


def test_streamed_blocks_refuse_the_second_jump(fs):
    ds = FileSetPyDataset(fs, batch_size=BATCH, blocks="stream")

    for index in (0, 1, 2, 0, 1, 1, 0):  # a symbolic build, epochs that are broken off, a batch asked for twice
        ds[index]
    ds[4]
    with pytest.raises(SpecError, match=r"fit.*blocks='auto'|shuffle=False"):
        ds[2]


def test_columns_of_the_training_dataset_serve_validation(fs, val):
    ds = FileSetPyDataset(fs, columns=Columns({"name": Category("name"), "id": "id"}), batch_size=BATCH)

    held_out = FileSetPyDataset(val, columns=ds.columns, batch_size=VAL_ROWS, drop_last_batch=False)

    assert held_out.columns is ds.columns
    assert held_out[0]["name"].tolist() == [
        2 + sorted(map(str, range(ROWS))).index(str(row)) for row in range(VAL_ROWS)
    ]


def test_validation_has_the_codes_of_train_for_values_that_train_never_saw_too(tmp_path):
    train = fileset_of(tmp_path / "train", pa.table({"c": ["b", "a", "b", None], "n": [1.0, 3.0, 1.0, 3.0]}))
    val = fileset_of(tmp_path / "val", pa.table({"c": ["z", "a", None, "b"], "n": [5.0, 1.0, 2.0, 3.0]}))
    ds = FileSetPyDataset(train, columns=Columns({"c": Category("c"), "n": Numeric("n")}), batch_size=4)

    held_out = FileSetPyDataset(val, columns=ds.columns, batch_size=4, drop_last_batch=False)[0]

    assert held_out["c"].tolist() == [1, 3, 0, 2]
    assert held_out["n"].tolist() == [3, -1, 0, 1]  # by the mean 2 and the spread 1 of train


@pytest.mark.parametrize("shuffle", [False, True])
def test_who_sets_the_epoch_or_does_not_shuffle_is_not_warned(shuffle, fs):
    ds = FileSetPyDataset(fs, batch_size=BATCH, shuffle=shuffle)
    if shuffle:
        ds.set_epoch(0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for _ in range(10):
            ds[0]


@pytest.mark.parametrize("epoch", [-1, 0.5, "1", True])
def test_an_epoch_that_is_no_number_from_0_on_is_refused(epoch, fs):
    with pytest.raises(SpecError, match="epoch"):
        FileSetPyDataset(fs, batch_size=BATCH).set_epoch(epoch)


def test_a_dataset_without_rows_has_no_batches(tmp_path):
    assert FileSetPyDataset(numbered(tmp_path, (0,)), batch_size=BATCH, drop_last_batch=False).num_batches == 0


def test_rows_that_make_no_full_batch_are_refused_with_the_way_out(fs):
    with pytest.raises(SpecError, match=rf"{ROWS} rows make no full batch of {ROWS + 1}\. .* drop_last_batch=False"):
        FileSetPyDataset(fs, batch_size=ROWS + 1)
    assert len(FileSetPyDataset(fs, batch_size=ROWS + 1, drop_last_batch=False)) == 1


def test_fit_reads_views_as_filesets(fs):
    import keras

    parts = fs.split(train=0.7, val=0.3, seed=1)
    columns = Columns({"x": ["id", "y"]}, label="y")
    ds = FileSetPyDataset(parts["train"], columns=columns, batch_size=BATCH, shuffle=True, seed=SEED)
    val = FileSetPyDataset([parts["val"], fs], columns=ds.columns, batch_size=BATCH, drop_last_batch=False)
    model = keras.Sequential([keras.layers.Dense(1)])
    model.compile("sgd", loss="mse")

    history = model.fit(ds, validation_data=val, epochs=2, callbacks=[ds.callback()], verbose=0)

    assert len(history.history["val_loss"]) == 2
    reader = FileSetReader(parts["train"], batch_size=BATCH, shuffle=True, seed=SEED)
    assert [ds[index][0][:, 0].tolist() for index in range(len(ds))] == [
        batch["id"].tolist() for batch in reader.iter_batches(epoch=1)
    ]
    seen = np.concatenate([val[index][0][:, 0] for index in range(len(val))]).tolist()
    assert seen == [*parts["val"].to_arrow(["id"])["id"].to_pylist(), *range(ROWS)]
