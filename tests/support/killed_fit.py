"""Runs that are killed and gone on with: `python -m tests.support.killed_fit FOLDER`.

FOLDER/trials.json lists them. For each, a forked child trains and is killed by SIGKILL once it has begun as many steps
as the trial says; another goes on from the newest checkpoint to the end. NAME-killed and NAME-resumed hold what they
saw, a line of JSON for each step; NAME-taken, after how many steps the checkpoint was taken.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.callbacks import ModelCheckpoint

from fileset_integrations import FileSet
from fileset_integrations.lightning import FileSetDataModule
from tests.support.fitting import ID_COLUMNS, SEED, Recorder, ids_of, quiet_trainer

BATCH_SIZE = 2


class Telling(Recorder):
    """A recorder that writes what it sees where a SIGKILL cannot undo it, and tells of it in a pipe."""

    def __init__(self, path: Path, pipe: int | None) -> None:
        super().__init__()
        self._log, self._pipe = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND), pipe

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        os.write(self._log, (json.dumps([self.current_epoch, ids_of(batch)]) + "\n").encode())
        if self._pipe is not None:
            os.write(self._pipe, b".")
        return super().training_step(batch, batch_idx)


def fit(folder: Path, trial: dict[str, Any], run: str, pipe: int | None = None, ckpt_path: Path | None = None) -> None:
    name = trial["name"]
    keep = ModelCheckpoint(folder / f"{name}-checkpoints", "{step}", save_top_k=-1, **trial["checkpoint"])
    dm = FileSetDataModule(
        train=FileSet.from_parquet(folder / "train"),
        val=FileSet.from_parquet(folder / "val"),
        columns=ID_COLUMNS,
        batch_size=BATCH_SIZE,
        seed=SEED,
        num_workers=trial["num_workers"],
    )
    trainer = quiet_trainer(callbacks=[keep], enable_checkpointing=True, **trial["trainer"])
    trainer.fit(Telling(folder / f"{name}-{run}", pipe), dm, ckpt_path=ckpt_path, weights_only=True)


def forked(work: Any, *arguments: Any) -> int:
    child = os.fork()
    if not child:
        try:
            work(*arguments)
            os._exit(0)
        finally:
            os._exit(1)  # whatever came, the child must not go on as its parent
    return child


def run(folder: Path, trial: dict[str, Any]) -> None:
    reading, writing = os.pipe()
    child = forked(fit, folder, trial, "killed", writing)
    os.close(writing)
    begun = 0
    while begun < trial["kill_at"] and (told := os.read(reading, trial["kill_at"] - begun)):
        begun += len(told)
    time.sleep(trial["wait_s"])  # somewhere in the step, the checkpoint after it, or the steps that follow
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    os.close(reading)
    checkpoints = list((folder / f"{trial['name']}-checkpoints").glob("*.ckpt"))
    taken, newest = max(((int(path.stem.removeprefix("step=")), path) for path in checkpoints), default=(0, None))
    (folder / f"{trial['name']}-taken").write_text(str(taken))
    _, status = os.waitpid(forked(fit, folder, trial, "resumed", None, newest), 0)
    assert os.waitstatus_to_exitcode(status) == 0, trial


def main() -> None:
    torch.set_num_threads(1)
    folder = Path(sys.argv[1])
    for trial in json.loads((folder / "trials.json").read_text()):
        run(folder, trial)


if __name__ == "__main__":
    main()
