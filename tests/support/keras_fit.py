"""What Keras asks of a FileSetPyDataset: `KERAS_BACKEND=... python -m tests.support.keras_fit FOLDER` prints JSON.

FOLDER holds the Parquet files in train/ and val/. The JSON says, for one way of fitting after another, which batches
were asked for, and what models gave back.
"""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fileset_integrations import Columns, FileSet
from fileset_integrations.keras import FileSetPyDataset
from tests.support.keras_matrix import BATCH_SIZE, COLUMNS, SEED, cases, no_warnings, resumed, steps_per_epoch


def identity_model(weighted: bool = False) -> Any:
    """A model that returns its first input column, and learns nothing: predictions are the ids of rows."""
    inputs, dense = keras.Input((2,)), keras.layers.Dense(1, use_bias=False)
    model = keras.Model(inputs, dense(inputs))
    dense.set_weights([np.array([[1.0], [0.0]])])
    model.compile(keras.optimizers.SGD(0.0), loss="mse", weighted_metrics=["mae"] if weighted else None)
    return model


class Noted(FileSetPyDataset):
    """Notes the index and the ids of each batch that it is asked for, by the epoch that `Phases` says it is."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.asked: dict[str, list[tuple[int, list[int]]]] = {}
        self.phase = "before"

    def __getitem__(self, index: int) -> Any:
        batch = super().__getitem__(index)
        x = batch[0] if isinstance(batch, tuple) else batch
        x = x["x"] if isinstance(x, dict) else x
        self.asked.setdefault(self.phase, []).append((int(index), np.asarray(x)[:, 0].astype(int).tolist()))
        return batch


class Phases(keras.callbacks.Callback):
    """Tells datasets which epoch their requests belong to."""

    def __init__(self, *datasets: Noted) -> None:
        super().__init__()
        self.datasets = datasets

    def on_epoch_begin(self, epoch, logs=None):
        for dataset in self.datasets:
            dataset.phase = str(epoch)


def fit(
    train: FileSet, *, told: bool = True, epochs: int = 2, dataset: dict[str, Any] | None = None, **options: Any
) -> Any:
    """What one fit asks for, and how many warnings speak of the epoch."""
    ds = Noted(train, columns=COLUMNS, batch_size=BATCH_SIZE, shuffle=True, seed=SEED, **(dataset or {}))
    callbacks = ([ds.callback()] if told else []) + [Phases(ds)]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        identity_model().fit(ds, epochs=epochs, callbacks=callbacks, verbose=0, **options)
    return {
        "asked": {
            phase: sorted(batches) if ds.workers > 1 else batches  # threads finish in any order
            for phase, batches in ds.asked.items()
            if phase != "before"
        },
        "warnings": sum("epoch" in str(one.message) and "callback" in str(one.message) for one in caught),
    }


def validation(train: FileSet, val: FileSet) -> Any:
    """Validation, evaluation and prediction on rows that do not fill the last batch."""
    ds = FileSetPyDataset(train, columns=COLUMNS, batch_size=BATCH_SIZE, shuffle=True, seed=SEED)
    held_out = Noted(val, columns=ds.columns, batch_size=BATCH_SIZE, drop_last_batch=False)
    model = identity_model()
    history = model.fit(ds, validation_data=held_out, epochs=2, callbacks=[ds.callback(), Phases(held_out)], verbose=0)
    rows = [row for _, ids in held_out.asked["1"][-len(held_out) :] for row in ids]
    return {
        "rows": rows,
        "val_loss": history.history["val_loss"],
        "evaluate": float(model.evaluate(held_out, verbose=0)),
    }


def streamed(train: FileSet, shuffle: bool, workers: int = 1) -> str:
    """How fit ends on a dataset that streams."""
    ds = FileSetPyDataset(
        train, columns=COLUMNS, batch_size=BATCH_SIZE, shuffle=True, seed=SEED, blocks="stream", workers=workers
    )
    try:
        identity_model().fit(ds, epochs=2, shuffle=shuffle, callbacks=[ds.callback()], verbose=0)
    except Exception as error:  # TensorFlow wraps it in one of its own
        return f"{type(error).__name__}: {error}"
    return "done"


def inputs(train: FileSet) -> Any:
    """Models with dict inputs, with weights, with both, and without labels."""
    a, b = keras.Input((2,), name="x"), keras.Input((), name="id", dtype="int64")
    joined = keras.layers.Concatenate()([a, keras.ops.expand_dims(keras.ops.cast(b, "float32"), -1)])
    model = keras.Model({"x": a, "id": b}, keras.layers.Dense(1)(joined))
    model.compile("sgd", loss="mse", weighted_metrics=["mae"])
    found = {}
    for name, label, weight in (("dict", "y", None), ("dict and weights", "y", "x")):
        columns = Columns({"x": ["x", "y"], "id": "id"}, label=label, weight=weight)
        ds = FileSetPyDataset(train, columns=columns, batch_size=BATCH_SIZE, drop_last_batch=False)
        found[name] = bool(np.isfinite(model.evaluate(ds, verbose=0)[0]))
        found[f"{name}: predictions"] = len(model.predict(ds, verbose=0))
    # The weight of a row is its id: the loss of the identity is then a mean weighted by it.
    columns = Columns({"x": ["id", "y"]}, label="y", weight="id")
    ds = FileSetPyDataset(train, columns=columns, batch_size=BATCH_SIZE, drop_last_batch=False)
    found["weighted mae"] = float(identity_model(weighted=True).evaluate(ds, verbose=0)[1])
    # The same weights, given by class: the label is the id, the model gives -id.
    columns = Columns({"x": ["y", "id"]}, label="id")
    ds = FileSetPyDataset(train, columns=columns, batch_size=BATCH_SIZE, drop_last_batch=False)
    weights = {row: float(row) for row in range(train.num_rows)}
    history = identity_model(weighted=True).fit(ds, class_weight=weights, shuffle=False, verbose=0)
    found["mae weighted by class"] = history.history["mae"][0]
    only = FileSetPyDataset(train, columns=Columns({"x": ["id", "y"]}), batch_size=BATCH_SIZE, drop_last_batch=False)
    found["no label"] = identity_model().predict(only, verbose=0)[:, 0].tolist()
    return found


def main() -> None:
    folder = Path(sys.argv[1])
    train, val = FileSet.from_parquet(folder / "train"), FileSet.from_parquet(folder / "val")
    with no_warnings():
        matrix, steps, rest = cases(train), steps_per_epoch(train, 3), resumed(train, val)
    found = {
        "backend": keras.backend.backend(),
        "cases": matrix,
        "steps": steps,
        "resumed": rest,
        "blocks on disk": fit(train, shuffle=False, dataset={"blocks": "disk"}),
        "initial_epoch": fit(train, shuffle=False, epochs=4, initial_epoch=2),
        "not told": fit(train, told=False, epochs=4, shuffle=False),
        "validation": validation(train, val),
        "streamed": {
            "in order": streamed(train, shuffle=False),
            "by threads": streamed(train, shuffle=False, workers=3),
            "permuted": streamed(train, shuffle=True),
        },
        "inputs": inputs(train),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
