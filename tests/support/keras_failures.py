"""Keras trainings that end badly: `python -m tests.support.keras_failures FOLDER fit|model.fit JSON`.

FOLDER holds Parquet files in data/. The JSON lists cases: what fails ("model", "reader" or "interrupt"), and options of
the dataset. How each ended, and what it left, is written to FOLDER/ended.json; the last one ends the process too.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Any

import keras

from fileset_integrations import Columns, FileSet
from fileset_integrations.keras import FileSetPyDataset, fit


def fail_in_the_reader(batch, generator):
    if 40 in batch["id"]:
        raise RuntimeError("a row that cannot be read")
    return batch


class FailInTheModel(keras.callbacks.Callback):
    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            raise RuntimeError("a model that diverges")


class Interrupt(keras.callbacks.Callback):
    """Ctrl-C: the signal goes to every process of the terminal's group."""

    def on_train_batch_end(self, batch, logs=None):
        if batch == 4:
            os.killpg(os.getpgid(0), signal.SIGINT)
            time.sleep(60)  # the signal ends it


def train(folder: Path, which: str, fails: str, options: dict[str, Any]) -> None:
    reader = {"transform": fail_in_the_reader} if fails == "reader" else {}
    columns = Columns({"id": "id", "x": ["x"]}, label="y")
    fileset = FileSet.from_parquet(folder / "data")
    ds = FileSetPyDataset(fileset, columns=columns, batch_size=2, shuffle=True, **reader, **options)
    inputs = {"id": keras.Input((), name="id", dtype="int32"), "x": keras.Input((1,), name="x")}
    model = keras.Model(inputs, keras.layers.Dense(1)(inputs["x"]))
    model.compile("sgd", loss="mse")
    callbacks: list[Any] = {"model": [FailInTheModel()], "interrupt": [Interrupt()]}.get(fails, [])
    if which == "fit":
        fit(model, ds, epochs=50, verbose=0, callbacks=callbacks, resume=folder / "state")
    else:
        model.fit(ds, epochs=50, verbose=0, shuffle=False, callbacks=[*callbacks, ds.callback()])


def left(before: set[threading.Thread]) -> list[str]:
    """Threads and processes that do not end by themselves."""
    deadline = time.monotonic() + 20  # those that were told to end take a moment
    while True:
        # A thread that Python did not start, as one of TensorFlow's, stays on its list for ever, ended or not.
        started = [one for one in threading.enumerate() if not isinstance(one, threading._DummyThread)]
        found = [one.name for one in set(started) - before if one.is_alive()]
        found += [one.name for one in multiprocessing.active_children()]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.02)


def main() -> None:
    folder, which, cases = Path(sys.argv[1]), sys.argv[2], json.loads(sys.argv[3])
    signal.signal(signal.SIGINT, signal.default_int_handler)  # whoever started this may ignore it
    before = set(threading.enumerate())
    ended = []
    for number, (fails, options) in enumerate(cases):
        try:
            train(folder, which, fails, options)
        except BaseException as error:
            last = number == len(cases) - 1
            ended.append([type(error).__name__, str(error).splitlines()[-1:]])
            if last:
                if which == "fit":
                    ended[-1].append(left(before))
                (folder / "ended.json").write_text(json.dumps(ended))
                raise
        ended[-1].append(left(before))


if __name__ == "__main__":
    main()
