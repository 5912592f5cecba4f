"""Which rows a model is given, in every way of asking: the model itself notes them, wherever Keras compiles it to."""

from __future__ import annotations

import contextlib
import tempfile
import warnings
from collections.abc import Iterator
from itertools import product
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fileset_integrations import Columns, FileSet
from fileset_integrations.keras import FileSetPyDataset, fit
from tests.support import SOAK

BATCH_SIZE, SEED, EPOCHS = 4, 3, 2
COLUMNS = Columns({"x": ["id", "y"]}, label="y")
CAPACITY = 1024
WORKERS = {"0": {"workers": 0}, "1": {"workers": 1}, "3": {"workers": 3, "max_queue_size": 2}}
PROCESSES = {
    "2 processes": {"workers": 2, "use_multiprocessing": True},
    "1 process": {"workers": 1, "use_multiprocessing": True},
}
WHO = (*WORKERS, *PROCESSES) if SOAK else (*WORKERS, "2 processes")


def case_name(way: str, who: str, shuffle: bool, partial: bool, permuted: bool = False) -> str:
    """A case of `cases`."""
    return f"{way}, {who}, shuffle={shuffle}, partial={partial}, permuted={permuted}"


@contextlib.contextmanager
def no_warnings() -> Iterator[None]:
    """Warnings are errors, but for what Keras itself causes."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warnings.filterwarnings("ignore", "__array__ implementation", DeprecationWarning)  # Keras 3.15 under NumPy 2
        # Keras forks for use_multiprocessing, as it was told; jax, and Python from 3.12 on, say that this is not safe.
        warnings.filterwarnings("ignore", ".*fork", RuntimeWarning)
        warnings.filterwarnings("ignore", ".*fork", DeprecationWarning)
        yield


class Notebook(keras.layers.Layer):
    """Passes its input on, and notes the first column of each row."""

    def build(self, shape):
        self.ids = self.add_weight(shape=(CAPACITY,), dtype="int32", trainable=False, initializer="zeros")
        self.count = self.add_weight(shape=(), dtype="int32", trainable=False, initializer="zeros")

    def call(self, x):
        ids = keras.ops.cast(x[:, 0], "int32")
        places = keras.ops.cumsum(keras.ops.ones_like(ids)) - 1 + self.count
        self.ids.assign(keras.ops.scatter_update(self.ids, places[:, None], ids))
        self.count.assign(self.count + keras.ops.cast(keras.ops.shape(ids)[0], "int32"))
        return x

    def take(self) -> list[int]:
        """What was noted since the last time."""
        to_numpy = keras.ops.convert_to_numpy
        found = to_numpy(self.ids.value)[: int(to_numpy(self.count.value))].tolist()
        self.count.assign(0)
        return found


def model_with_notebook() -> tuple[Any, Notebook]:
    """A model that returns its first input column, and learns nothing: predictions are the ids of rows."""
    inputs, notebook = keras.Input((2,)), Notebook()
    dense = keras.layers.Dense(1, use_bias=False)
    model = keras.Model(inputs, dense(notebook(inputs)))
    dense.set_weights([np.array([[1.0], [0.0]])])
    model.compile(keras.optimizers.SGD(0.0), loss="mse")
    return model, notebook


def cases(fileset: FileSet) -> dict[str, Any]:
    """Rows by case: who asks, whether the dataset shuffles, whether the last batch is partial, and fit permutes.

    Keys are `case_name`s of the whole product, and, under "unbuilt", who asks where Keras builds the model.
    """
    model, notebook = model_with_notebook()
    found: dict[str, Any] = {}

    def dataset(who: str, shuffle: bool, partial: bool) -> FileSetPyDataset:
        return FileSetPyDataset(
            fileset,
            columns=COLUMNS,
            batch_size=BATCH_SIZE,
            shuffle=shuffle,
            seed=SEED,
            drop_last_batch=not partial,
            **(WORKERS | PROCESSES)[who],
        )

    for who, shuffle, partial in product(WHO, (False, True), (False, True)):
        for permuted in (False, True) if shuffle else (False,):
            ds = dataset(who, shuffle, partial)
            notebook.take()  # what building the model left
            model.fit(ds, epochs=EPOCHS, shuffle=permuted, callbacks=[ds.callback()], verbose=0)
            found[case_name("fit", who, shuffle, partial, permuted)] = notebook.take()
        model.evaluate(dataset(who, shuffle, partial), verbose=0)
        found[case_name("evaluate", who, shuffle, partial)] = notebook.take()
        predicted = model.predict(dataset(who, shuffle, partial), verbose=0)[:, 0]
        found[case_name("predict", who, shuffle, partial)] = predicted.astype(int).tolist()
    found["unbuilt"] = {}
    for who in ("3", WHO[-1]):  # a model that Keras builds from the first batch
        unbuilt = keras.Sequential([fresh := Notebook(), keras.layers.Dense(1)])
        unbuilt.compile("sgd", loss="mse", metrics=["mae"])
        ds = dataset(who, shuffle=True, partial=True)
        unbuilt.fit(ds, epochs=EPOCHS, shuffle=False, callbacks=[ds.callback()], verbose=0)
        found["unbuilt"][who] = fresh.take()
    return found


def steps_per_epoch(fileset: FileSet, steps: int) -> dict[str, Any]:
    """Rows of epochs of so many batches, in the three ways to say so; and how fit answers where Keras cannot do it."""
    model, notebook = model_with_notebook()
    options = {"columns": COLUMNS, "batch_size": BATCH_SIZE, "shuffle": True, "seed": SEED}
    found: dict[str, Any] = {}
    for who in ("1", "3"):
        ds = FileSetPyDataset(fileset, **options, **WORKERS[who], steps_per_epoch=steps)
        model.fit(ds, initial_epoch=1, epochs=4, shuffle=False, callbacks=[ds.callback()], verbose=0)
        found[f"dataset, {who}"] = notebook.take()
        ds = FileSetPyDataset(fileset, **options, **WORKERS[who])
        history = fit(model, ds, initial_epoch=1, epochs=4, steps_per_epoch=steps, verbose=0)
        found[f"our fit, {who}"] = notebook.take()
        found[f"our fit, {who}, after it"] = [history.epoch, len(ds)]
    for who in ("0", "1"):
        ds = FileSetPyDataset(fileset, **options, **WORKERS[who])
        # Keras ends the last of these epochs early, and says so.
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*ran out of data")
            model.fit(ds, epochs=3, steps_per_epoch=steps, shuffle=False, callbacks=[ds.callback()], verbose=0)
        found[f"model.fit, {who}"] = notebook.take()
    ds = FileSetPyDataset(fileset, **options, **WORKERS["3"])
    try:
        model.fit(ds, epochs=3, steps_per_epoch=steps, callbacks=[ds.callback()], verbose=0)
    except ValueError as error:
        found["model.fit, 3"] = f"{type(error).__name__}: {error}"
    return found


class Interrupted(Exception):
    """What ends a training in its middle."""


class Interrupt(keras.callbacks.Callback):
    """Raises after so many batches."""

    def __init__(self, after: int) -> None:
        super().__init__()
        self.left = after

    def on_train_batch_end(self, batch, logs=None):
        self.left -= 1
        if self.left == 0:
            raise Interrupted


def learning_model() -> Any:
    """A small model with everything that has a state: random layers, moving averages, moments, metrics."""
    keras.utils.set_random_seed(1)
    layers = [
        keras.layers.Rescaling(1 / 30),
        keras.layers.Dense(8, activation="relu"),
        keras.layers.Dropout(0.5),
        keras.layers.BatchNormalization(),
        keras.layers.Dense(1),
    ]
    model = keras.Sequential(layers)  # not built: that is left to fit
    model.compile(keras.optimizers.Adam(0.01), loss="mse", metrics=["mae"])
    return model


def resumed(train: FileSet, val: FileSet) -> dict[str, Any]:
    """A training that breaks off in an epoch's middle and goes on, beside one that does not."""

    def training(folder: str | None, *callbacks: keras.callbacks.Callback) -> tuple[Any, Any]:
        ds = FileSetPyDataset(train, columns=COLUMNS, batch_size=BATCH_SIZE, shuffle=True, seed=SEED)
        held_out = FileSetPyDataset(val, columns=ds.columns, batch_size=BATCH_SIZE, drop_last_batch=False)
        model = learning_model()
        plateau = keras.callbacks.ReduceLROnPlateau(monitor="val_loss", patience=1, factor=0.5, min_delta=100)
        options = {"epochs": 4, "validation_data": held_out, "verbose": 0, "resume": folder, "save_every": 1}
        history = fit(model, ds, callbacks=[plateau, *callbacks], **options)
        return model.get_weights(), [history.epoch, history.history]

    weights, history = training(None)
    with tempfile.TemporaryDirectory() as folder:
        with contextlib.suppress(Interrupted):
            training(folder, Interrupt(after=2 * 7 + 3))
        again, resumed_history = training(folder)
        complete, complete_history = training(folder)
        kept = sorted(path.name for path in Path(folder).iterdir())
    return {
        "weights are equal": [
            all(map(np.array_equal, weights, others)) and len(weights) == len(others) for others in (again, complete)
        ],
        "histories": [history, resumed_history, complete_history],
        "kept": kept,
    }
