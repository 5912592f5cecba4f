"""`RayCheckpoint`: Lightning checkpoints for Ray Train, in the middle of an epoch too."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from fileset_integrations.callbacks import RAY_CHECKPOINT
from fileset_integrations.errors import MissingDependencyError, SpecError, how_to_install

try:
    import ray.train
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:  # pragma: no cover - seen only where one of them is not installed
    raise MissingDependencyError(f"{error}. Both are optional. {how_to_install('lightning', 'ray')}") from error


class RayCheckpoint(Callback):
    """Reports a checkpoint of the trainer to Ray Train at the end of each epoch, and every so many steps.

    Workers that Ray starts again after a failure (`FailureConfig(max_failures=...)`) go on at the very batch:
    `with last_checkpoint() as path: trainer.fit(model, datamodule, ckpt_path=path)`. Ray takes up reports at each of
    its health checks, every two seconds (`RAY_TRAIN_HEALTH_CHECK_INTERVAL_S`): a second one in that time waits.

    Name it last among the callbacks, since it keeps the state of the others.

    Args:
        every_n_steps: Steps of the optimizer between checkpoints within an epoch; None: none.
    """

    def __init__(self, every_n_steps: int | None = None) -> None:
        if every_n_steps is not None and (type(every_n_steps) is not int or every_n_steps < 1):
            raise SpecError(f"every_n_steps={every_n_steps!r}: pass a number of steps, at least 1, or None.")
        self.every_n_steps = every_n_steps
        self._last = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to count where the run begins, or goes on."""
        self._last = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Report, if so many steps were taken."""
        if self.every_n_steps is not None and trainer.global_step >= self._last + self.every_n_steps:
            self._report(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Report."""
        self._report(trainer)

    def _report(self, trainer: Trainer) -> None:
        self._last = trainer.global_step
        metrics = {name: value.item() for name, value in trainer.callback_metrics.items()}
        metrics |= {"epoch": trainer.current_epoch, "step": trainer.global_step}
        with tempfile.TemporaryDirectory(prefix="fileset-ray-") as folder:
            trainer.save_checkpoint(
                Path(folder) / RAY_CHECKPOINT, weights_only=False
            )  # on all ranks, as strategies demand; rank 0 writes
            checkpoint = ray.train.Checkpoint.from_directory(folder) if trainer.global_rank == 0 else None
            ray.train.report(metrics, checkpoint=checkpoint)  # has uploaded it when it returns
