"""Keras's DataWait: `KERAS_BACKEND=... python -m tests.support.keras_wait FOLDER` prints words, and JSON at last.

FOLDER holds the Parquet files in train/ and val/.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any

import keras

from fileset_integrations import FileSet
from fileset_integrations.keras import DataWait, FileSetPyDataset
from tests.support.keras_fit import COLUMNS, identity_model

DELAY_S = 0.02


class Noted(keras.callbacks.Callback):
    """Counts in how many steps' logs each number was."""

    def __init__(self) -> None:
        super().__init__()
        self.names: Counter[str] = Counter()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        self.names.update(name for name in logs or {} if name.startswith("data_"))


class Slow(FileSetPyDataset):
    """Every batch takes a while."""

    def __getitem__(self, index: int) -> Any:
        with self.clock:
            time.sleep(DELAY_S)
        return super().__getitem__(index)


def dataset(folder: Path, kind: type[FileSetPyDataset] = FileSetPyDataset, **options: Any) -> FileSetPyDataset:
    fs = FileSet.from_parquet(folder / "train")
    return kind(fs, columns=COLUMNS, batch_size=4, shuffle=True, drop_last_batch=False, **options)


def main() -> None:
    folder = Path(sys.argv[1])
    found: dict[str, Any] = {}
    for workers in (1, 2):
        ds = dataset(folder, workers=workers)
        wait, noted, log = DataWait(ds), Noted(), folder / f"{keras.backend.backend()}-{workers}.csv"
        validation = FileSetPyDataset(FileSet.from_parquet(folder / "val"), columns=ds.columns, batch_size=4)
        callbacks = [wait, ds.callback(), noted, keras.callbacks.CSVLogger(str(log))]
        history = identity_model().fit(ds, epochs=2, callbacks=callbacks, validation_data=validation, verbose=0)
        with log.open() as file:
            header = csv.DictReader(file).fieldnames or []
        found[str(workers)] = {
            "keys": sorted(name for name in history.history if name.startswith("data_")),
            "csv": sorted(name for name in header if name.startswith("data_")),
            "history": [{"steps": one.steps, "rows": one.rows, "waited_s": one.waited_s} for one in wait.history],
            "steps": dict(sorted(noted.names.items())),
        }
    slow = dataset(folder, Slow)
    wait = DataWait(slow, say=False)
    identity_model().fit(slow, epochs=1, callbacks=[slow.callback(), wait], verbose=0)
    found["slow"] = {"waited_s": wait.history[0].waited_s}

    ds, model = dataset(folder), identity_model()
    wait = DataWait(ds, say=False)
    model.compile("sgd", loss="mse", steps_per_execution=1 if keras.backend.backend() == "torch" else 5)
    model.fit(ds, epochs=1, callbacks=[ds.callback(), wait], verbose=0)
    found["several steps at once"] = {"steps": wait.history[0].steps, "rows": wait.history[0].rows}
    history = identity_model().fit(ds, epochs=1, callbacks=[ds.callback(), DataWait(say=False)], verbose=0)
    found["alone"] = sorted(name for name in history.history if name.startswith("data_"))
    print(json.dumps(found))


if __name__ == "__main__":
    main()
