"""Ranks that train together: `python -m tests.support.ddp_fit FOLDER STRATEGY`, alone or under torchrun.

FOLDER/jobs.json says what to do, one job after another in the same processes; each rank writes FOLDER/NAME-RANK.json.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch.utils.data import DataLoader
from torchmetrics import MeanAbsoluteError, MeanSquaredError

from fileset_integrations import FileSet
from fileset_integrations.errors import SpecError
from fileset_integrations.lightning import FileSetDataModule
from tests.support.data import ids
from tests.support.fitting import ID_COLUMNS, Recorder, SaveEverywhere, quiet_trainer

GLOBAL_BATCH_SIZE = 6
SEED = 11


class Measured(Recorder):
    """A recorder that measures itself on the validation rows.

    Attributes:
        metrics: What torchmetrics says after each validation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.mse, self.mae = MeanSquaredError(), MeanAbsoluteError()
        self.metrics: list[list[float]] = []

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        super().validation_step(batch, batch_idx, dataloader_idx)
        x, y = batch
        predicted = self.linear(x["x"]).squeeze(1)
        self.mse.update(predicted, y)
        self.mae.update(predicted, y)

    def on_validation_epoch_end(self) -> None:
        self.metrics.append([float(metric.compute()) for metric in (self.mse, self.mae)])
        self.mse.reset()
        self.mae.reset()


class WriteSeen(Callback):
    """Writes what this rank saw, since the objects of a spawned rank die with it."""

    def __init__(self, job: dict[str, Any], path: Path, early: Any) -> None:
        self.job, self.path, self.early = job, path, early

    def on_fit_end(self, trainer, pl_module):
        fs = FileSet.from_parquet(self.job["train"])
        seen = {
            "train": pl_module.epochs(),
            "val": [[ids for at, _, ids in pl_module.val_seen if at == epoch] for epoch in range(trainer.max_epochs)],
            "metrics": pl_module.metrics,
            "length": len(trainer.train_dataloader),
            "plain": {context: plain(fs, context) for context in self.job.get("contexts", ())},
            "early": outcome(self.early),
        }
        Path(f"{self.path}-{trainer.global_rank}.json").write_text(json.dumps(seen))


def plain(fs: FileSet, context: str) -> list[list[int]]:
    """What a DataLoader yields whose worker is started in some way."""
    dataset = fs.to_torch_dataset(batch_size=4, shuffle=True, drop_last_batch=False)
    return ids(DataLoader(dataset, batch_size=None, num_workers=1, multiprocessing_context=context))


def outcome(dataset: Any) -> dict[str, Any]:
    """What comes of iterating over a dataset that was made before the ranks were known."""
    try:
        return {"rows": ids(dataset)}
    except SpecError as error:
        return {"error": str(error)}


def data(job: dict[str, Any], world_size: int, **options: Any) -> FileSetDataModule:
    """The data module of a job, whose global batches are the same on any number of ranks."""
    return FileSetDataModule(
        train=FileSet.from_parquet(job["train"]),
        val=FileSet.from_parquet(job["val"]),
        columns=ID_COLUMNS,
        batch_size=GLOBAL_BATCH_SIZE // world_size,
        seed=SEED,
        **{name: job[name] for name in ("shuffle", "num_workers") if name in job} | options,
    )


def main() -> None:
    folder, strategy = Path(sys.argv[1]), sys.argv[2]
    torch.set_num_threads(1)
    for job in json.loads((folder / "jobs.json").read_text()):
        early = FileSet.from_parquet(job["train"]).to_torch_dataset(batch_size=4)
        dm = data(job, world_size=2)
        str(dm)  # whatever is asked before the ranks are known must not settle them
        dm.setup("fit")
        dm.train_dataloader()
        path = folder / job["name"]
        callbacks = [WriteSeen(job, path, early), *([SaveEverywhere(path)] if job.get("saves") else [])]
        options = {"max_epochs": job["epochs"], "callbacks": callbacks, "precision": "64-true"}
        trainer = quiet_trainer(accelerator="cpu", strategy=strategy, devices=2, **options)
        trainer.fit(Measured(), dm, ckpt_path=job.get("ckpt_path"), weights_only=True)


if __name__ == "__main__":
    main()
