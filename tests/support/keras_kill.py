"""Keras trainings that are killed: `KERAS_BACKEND=... python -m tests.support.keras_kill FOLDER KILLS` prints JSON.

FOLDER holds Parquet files in train/ and val/. KILLS is JSON: lists of (name of a way to train, steps after which its
process is killed, one after the other). Each training is a forked process, so that frameworks are imported once.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import sys
import traceback
from pathlib import Path
from typing import Any

import keras
import numpy as np

from fileset_integrations import FileSet
from fileset_integrations.keras import FileSetPyDataset, fit
from tests.support.keras_matrix import BATCH_SIZE, COLUMNS, SEED, learning_model

EPOCHS = 3
WAYS: dict[str, dict[str, Any]] = {
    "plain": {"save_every": 1},
    "validation, seldom saved": {"validation": True, "save_every": 3},
    "epochs' ends only": {"validation": True, "save_every": 1000},
    "steps_per_epoch": {"validation": True, "steps_per_epoch": 5, "save_every": 2},
    "threads": {"workers": 3, "save_every": 2},
}


class Notes(keras.callbacks.Callback):
    """Appends the rows of each batch that was trained on to a file, and kills its process after so many."""

    def __init__(self, file: Path, dataset: FileSetPyDataset, kill_after: int | None) -> None:
        super().__init__()
        self.file, self.dataset, self.left = file, dataset, kill_after

    def on_train_batch_end(self, batch, logs=None):
        index, epoch = self.dataset._place(batch)
        rows = self.dataset.reader.batch(index, epoch)["x"][:, 0].astype(int).tolist()
        with self.file.open("a") as file:
            file.write(json.dumps(rows) + "\n")
        if self.left is not None:
            self.left -= 1
            if self.left == 0:
                os.kill(os.getpid(), signal.SIGKILL)


def train(folder: Path, state: Path, notes: Path, way: str, kill_after: int | None, result: Path) -> None:
    options = dict(WAYS[way])
    ds = FileSetPyDataset(
        FileSet.from_parquet(folder / "train"),
        columns=COLUMNS,
        batch_size=BATCH_SIZE,
        shuffle=True,
        seed=SEED,
        workers=options.pop("workers", 1),
    )
    if options.pop("validation", False):
        val = FileSet.from_parquet(folder / "val")
        options["validation_data"] = FileSetPyDataset(
            val, columns=ds.columns, batch_size=BATCH_SIZE, drop_last_batch=False
        )
    schedule = keras.callbacks.LearningRateScheduler(lambda epoch, rate: rate * 0.9)
    model = learning_model()
    history = fit(
        model,
        ds,
        resume=state,
        epochs=EPOCHS,
        callbacks=[schedule, Notes(notes, ds, kill_after)],
        verbose=0,
        **options,
    )
    weights = {str(number): value for number, value in enumerate(model.get_weights())}
    np.savez(result.with_suffix(".npz"), **weights)
    result.write_text(json.dumps([history.epoch, history.history]))


def in_a_process(*arguments: Any) -> int:
    """How it ended: 0, or minus the signal's number."""
    pid = os.fork()
    if pid == 0:
        try:
            train(*arguments)
        except BaseException:
            traceback.print_exc()
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def told(file: Path) -> list[list[int]]:
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def main() -> None:
    folder, kills = Path(sys.argv[1]), json.loads(sys.argv[2])
    with contextlib.suppress(ImportError):
        import tensorflow  # noqa: F401 - Keras would do it in each process, to ask what data it is given
    work = folder / f"work-{keras.backend.backend()}"
    found, references = [], {}
    for way, steps in kills:
        if way not in references:
            name = work / f"whole-{len(references)}"
            name.mkdir(parents=True)
            ended = in_a_process(folder, name / "state", name / "notes", way, None, name / "result")
            assert ended == 0, way
            references[way] = name
        whole, run = references[way], work / "run"
        shutil.rmtree(run, ignore_errors=True)
        run.mkdir()
        notes, ends = [], []
        for number, kill_after in enumerate([*steps, None]):
            file = run / f"notes-{number}"
            ends.append(in_a_process(folder, run / "state", file, way, kill_after, run / "result"))
            notes.append(told(file))
        expected = np.load(whole / "result.npz")
        weights = np.load(run / "result.npz")
        found.append(
            {
                "ends": ends,
                "notes": notes,
                "whole": told(whole / "notes"),
                "weights are equal": all(np.array_equal(weights[name], expected[name]) for name in expected.files),
                "histories": [json.loads((place / "result").read_text()) for place in (whole, run)],
            }
        )
    print(json.dumps({"backend": keras.backend.backend(), "runs": found}))


if __name__ == "__main__":
    main()
