"""Lightning models and trainers that tell which rows they saw."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fileset_integrations import Columns

ID_COLUMNS = Columns({"id": "id", "x": ["x"]}, label="y")  # of the FileSets of tests.support.data.numbered

# What the fixtures of tests/lightning are.
FILE_ROWS = (7, 0, 1, 12, 9)
ROWS = sum(FILE_ROWS)  # 29
VAL_FILE_ROWS = (4, 7)
VAL_ROWS = sum(VAL_FILE_ROWS)  # 11
BATCH = 7  # 4 full batches of training rows, and one row
SEED = 5
EPOCHS = 3


def ids_of(batch: Any) -> list[int]:
    """Column "id" of a batch made with ID_COLUMNS, or without columns."""
    x = batch[0] if isinstance(batch, tuple | list) else batch
    return x["id"].tolist()


class Recorder(LightningModule):
    """A linear model that keeps the ids of all rows it is given.

    Attributes:
        train: (epoch, ids) of every training batch.
        val: Epoch -> dataloader -> ids of each of its batches; -1 for the sanity check.
        test: Dataloader -> ids of each of its batches.
        predict: Likewise.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)  # every run starts alike, so that equal rows make equal weights
        self.linear = torch.nn.Linear(1, 1)
        self.train_seen: list[tuple[int, list[int]]] = []
        self.val_seen: list[tuple[int, int, list[int]]] = []
        self.test_seen: list[tuple[int, list[int]]] = []
        self.predict_seen: list[tuple[int, list[int]]] = []

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.Adam(self.parameters(), lr=0.01)

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        self.train_seen.append((self.current_epoch, ids_of(batch)))
        x, y = batch
        return torch.nn.functional.mse_loss(self.linear(x["x"]).squeeze(1), y)

    def validation_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        epoch = -1 if self.trainer.sanity_checking else self.current_epoch
        self.val_seen.append((epoch, dataloader_idx, ids_of(batch)))

    def test_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> None:
        self.test_seen.append((dataloader_idx, ids_of(batch)))

    def predict_step(self, batch: Any, batch_idx: int, dataloader_idx: int = 0) -> torch.Tensor:
        self.predict_seen.append((dataloader_idx, ids_of(batch)))
        return batch[0]["id"]

    def epochs(self) -> list[list[list[int]]]:
        """The ids of each training batch, epoch by epoch."""
        return [
            [ids for at, ids in self.train_seen if at == epoch] for epoch in sorted({at for at, _ in self.train_seen})
        ]


def quiet_trainer(**options: Any) -> Trainer:
    """A trainer on the CPU that writes and prints nothing."""
    callbacks: list[Callback] = options.pop("callbacks", [])
    return Trainer(
        **{
            "accelerator": "cpu",
            "devices": 1,
            "max_epochs": 1,
            "logger": False,
            "enable_checkpointing": False,
            "enable_progress_bar": False,
            "enable_model_summary": False,
            "num_sanity_val_steps": 0,
            "callbacks": callbacks,
        }
        | options
    )


class Scheduled(Recorder):
    """A `Recorder` whose learning rate is planned over all steps, as those of the recipes are: it asks for their number
    before Lightning restores what a checkpoint holds."""

    def configure_optimizers(self) -> Any:
        optimizer = super().configure_optimizers()
        steps = int(self.trainer.estimated_stepping_batches)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=0.01, total_steps=steps)
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def fit(data: Any, ckpt_path: Any = None, model: Recorder | None = None, **options: Any) -> Recorder:
    """Train a model, a new `Recorder` unless given, for three epochs, unless told otherwise, and return it."""
    model = model or Recorder()
    quiet_trainer(**{"max_epochs": EPOCHS} | options).fit(model, data, ckpt_path=ckpt_path)
    return model


def natural(rows: int, batch_size: int = BATCH) -> list[list[int]]:
    """The ids of each batch in natural order."""
    return [list(range(rows))[at : at + batch_size] for at in range(0, rows, batch_size)]


class SaveEverywhere(Callback):
    """Checkpoints whenever Lightning's own callback may take one; `taken` says after how many batches each was."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.taken: dict[str, int] = {}

    def _save(self, trainer: Trainer, model: Any, moment: str) -> None:
        name = f"{moment}-{len(model.train_seen)}"
        trainer.save_checkpoint(self.folder / name)
        self.taken[name] = len(model.train_seen)

    def on_train_batch_end(self, trainer, pl_module, *_):
        self._save(trainer, pl_module, "batch")

    def on_validation_end(self, trainer, pl_module):
        if not trainer.sanity_checking:
            self._save(trainer, pl_module, "validation")

    def on_train_epoch_end(self, trainer, pl_module):
        self._save(trainer, pl_module, "epoch")
