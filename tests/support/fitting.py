"""Lightning models and trainers that tell which rows they saw."""

from __future__ import annotations

from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from fileset_integrations import Columns

ID_COLUMNS = Columns({"id": "id", "x": ["x"]}, label="y")  # of the FileSets of tests.support.data.numbered


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
