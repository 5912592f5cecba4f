"""A training run by Lightning's Trainer."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.profilers import AdvancedProfiler, SimpleProfiler
from numpy.typing import NDArray

from fileset_integrations.errors import SpecError
from fileset_integrations.outcome import Predict
from fileset_integrations.runs import Job, Trained
from fileset_integrations.runs.building import target_of
from fileset_integrations.summary import Batch
from fileset_integrations.waiting import WaitMeter, Watched

_SAYS = logging.getLogger("lightning.pytorch.utilities.rank_zero")
_PROFILERS = {"simple": SimpleProfiler, "advanced": AdvancedProfiler}
_PROFILE = "profile"
_FOUND = ("seconds", "waiting_s", "num_rows", "ranks", "history")  # of a Stopwatch


class Stopwatch(lightning.Callback):
    """Times the training epochs, validation left out, and within them the waiting for data.

    Args:
        path: File to write what was found into, where the training runs in spawned processes: the callback that the
            process before them holds has then seen nothing.
    """

    def __init__(self, path: Path) -> None:
        self._path, self._pid = path, os.getpid()
        self.ranks = 1
        self.seconds = 0.0
        self.waiting_s = 0.0
        self.num_rows = 0
        self.history: dict[str, list[float]] = {}
        self._meter = WaitMeter()

    def on_train_epoch_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts the clock."""
        self.ranks = trainer.world_size
        loader = trainer.train_dataloader
        self._meter = WaitMeter([loader] if isinstance(loader, Watched) else [])

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Ends a gap."""
        self._meter.ready()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Starts a gap. What follows the last batch of an epoch, validation first of all, belongs to no gap."""
        self._meter.done(_rows(batch))

    def on_validation_start(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Stops the clock."""
        self._meter.pause()

    def on_validation_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Starts it again."""
        self._meter.resume()

    def on_train_epoch_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Keeps the epoch's sums and metrics; validation has run by now."""
        wait = self._meter.total()
        self.seconds += wait.seconds
        self.waiting_s += wait.waited_s or 0.0
        self.num_rows += wait.rows or 0
        metrics = trainer.callback_metrics
        for name, key in (("loss", "loss_epoch"), ("val_loss", "val_loss")):
            if key in metrics:
                self.history.setdefault(name, []).append(float(metrics[key]))

    def on_fit_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        """Leaves what was found for the process that spawned this one."""
        if os.getpid() != self._pid and trainer.is_global_zero:
            self._path.write_text(json.dumps({name: getattr(self, name) for name in _FOUND}), encoding="utf-8")

    def recover(self) -> None:
        """Take over what a spawned process left."""
        if self._path.exists():
            found = json.loads(self._path.read_text(encoding="utf-8"))
            self._path.unlink()
            for name in _FOUND:
                setattr(self, name, found[name])


@dataclass(frozen=True)
class Fitted:
    """A model that was fitted, by what, and what was measured.

    Attributes:
        model: The model.
        trainer: Its trainer, with callbacks and loggers.
        stopwatch: Times, rows and the losses of each epoch.
    """

    model: lightning.LightningModule
    trainer: lightning.Trainer
    stopwatch: Stopwatch


def train(job: Job) -> Trained | None:
    """Fit the model of the config with its Trainer, here or, with `trainer=ray`, on the workers of a Ray cluster.

    Returns:
        What came of it; None in a process that is not the first of the training.

    Raises:
        SpecError: The config's model or trainer is not Lightning's, or no batch was trained on.
    """
    if job.config.ray is not None:
        from fileset_integrations.runs import ray

        return ray.train(job)
    fitted = fit(job)
    if not fitted.trainer.is_global_zero:
        return None
    fitted.stopwatch.recover()
    here = trained(fitted, job)
    return replace(here, num_rows=here.num_rows * fitted.stopwatch.ranks)


def fit(
    job: Job,
    callbacks: Sequence[lightning.Callback] = (),
    ckpt_path: str | None = None,
    bar: bool = True,
    **options: Any,
) -> Fitted:
    """Fit the model of the config with its Trainer.

    Args:
        job: The run.
        callbacks: Some beside those of the config.
        ckpt_path: Checkpoint to go on from; None for the config's.
        bar: Leave the config its progress bar.
        **options: Arguments of the Trainer in place of the config's.

    Raises:
        SpecError: As of `train`.
    """
    config = job.config
    _say_once()
    if config.torch_threads is not None:
        torch.set_num_threads(config.torch_threads)
    trainer_class = target_of(config, "trainer")
    if isinstance(trainer_class, type) and not issubclass(trainer_class, lightning.Trainer):
        raise SpecError(
            f"framework=lightning, but the trainer is {config.trainer._target_}. Choose Lightning's (trainer=cpu)."
        )
    # The loaders draw from streams of their own; this is for the model's initial weights.
    lightning.seed_everything(config.seed, verbose=False)
    model = job.build_model()
    if not isinstance(model, lightning.LightningModule):
        raise SpecError(
            f"framework=lightning, but the model is {config.model._target_}, which makes no LightningModule. "
            "Choose a model of Lightning (model=flights_mlp), or experiment=flights_keras."
        )
    ckpt_path = ckpt_path or config.ckpt_path
    if ckpt_path is not None and not Path(ckpt_path).is_file():
        raise SpecError(
            f"ckpt_path={ckpt_path}: there is no such file. Name one that ModelCheckpoint wrote, such as "
            "logs/flights/runs/.../checkpoints/last.ckpt, or null to begin anew."
        )
    job.output_dir.mkdir(parents=True, exist_ok=True)
    stopwatch = Stopwatch(job.output_dir / ".training.json")
    chosen = job.build("callbacks")
    for name, one in chosen.items():
        if not isinstance(one, lightning.Callback):
            raise SpecError(
                f"framework=lightning, but callbacks.{name} is {config.callbacks[name]._target_}, which makes no "
                "Callback of Lightning's. Choose callbacks=default, or framework=keras."
            )
    # Lightning writes last.ckpt even under fast_dev_run.
    unwanted = (() if bar else (ProgressBar,)) + ((ModelCheckpoint,) if config.trainer.get("fast_dev_run") else ())
    everything = [*(one for one in chosen.values() if not isinstance(one, unwanted)), stopwatch, *callbacks]
    loggers = list(job.build("logger").values())
    profiler = config.trainer.get("profiler")
    if profiler in _PROFILERS:  # otherwise Lightning would print what it found
        options["profiler"] = _PROFILERS[profiler](dirpath=job.output_dir, filename=_PROFILE)
    try:
        trainer = job.build(
            "trainer",
            callbacks=everything,
            logger=loggers or False,
            # Lightning warns where an epoch is shorter.
            log_every_n_steps=every if (every := config.trainer.get("log_every_n_steps") or 50) <= _batches(job) else 1,
            # What callbacks there are is the group's choice: Lightning would add a checkpoint and a progress bar.
            enable_checkpointing=any(isinstance(callback, ModelCheckpoint) for callback in everything),
            enable_progress_bar=any(isinstance(callback, ProgressBar) for callback in everything),
            **options,
        )
    except SpecError:
        raise
    except (MisconfigurationException, TypeError, ValueError) as error:
        raise SpecError(f"Lightning's Trainer refuses the keys under `trainer`: {error}") from error
    data = job.build("data", columns=job.columns)
    try:
        trainer.fit(model, data, ckpt_path=ckpt_path)
    except MisconfigurationException as error:
        raise SpecError(f"Lightning refuses what the config combines: {error}") from error
    return Fitted(model, trainer, stopwatch)


def trained(fitted: Fitted, job: Job) -> Trained:
    """What a run returns."""
    trainer, stopwatch = fitted.trainer, fitted.stopwatch
    files = {
        logger.__class__.__name__: Path(folder)
        for logger in trainer.loggers
        if (folder := getattr(logger, "log_dir", None))
    }
    files.update(
        (type(callback).__name__, Path(callback.best_model_path or callback.last_model_path))
        for callback in trainer.checkpoint_callbacks
        if isinstance(callback, ModelCheckpoint) and (callback.best_model_path or callback.last_model_path)
    )
    files.update(("profile", path) for path in job.output_dir.glob(f"*{_PROFILE}.txt"))
    return Trained(
        predict=predictor(fitted.model, job.features),
        history=stopwatch.history,
        num_rows=stopwatch.num_rows,
        seconds=stopwatch.seconds,
        waiting_s=stopwatch.waiting_s,
        files=files,
    )


def predictor(model: lightning.LightningModule, features: Sequence[str]) -> Predict:
    """From a reader's batch to the model's predictions, on the device where it is."""
    device = model.device
    model.eval()

    def predict(batch: Batch) -> NDArray[Any]:
        x = {name: torch.from_numpy(np.ascontiguousarray(batch[name])).to(device) for name in features}
        with torch.inference_mode():
            return np.asarray(model.predict_step(x, 0).cpu())

    return predict


def _say_once() -> None:
    # Importing lightning adds a handler to its logger, which passes every message on as well: where the application
    # (Hydra) has a handler of its own, each message would appear twice.
    if logging.getLogger().handlers:
        logger = logging.getLogger("lightning")
        for handler in list(logger.handlers):
            logger.removeHandler(handler)
    _SAYS.addFilter(_is_no_advertisement)  # once, however often it is added


def _is_no_advertisement(record: logging.LogRecord) -> bool:
    # Lightning recommends a product of its maker at the start of every run.
    return "try installing [litlogger]" not in record.getMessage()


def _batches(job: Job) -> int:
    """Training batches of an epoch and a rank, as far as the config says."""
    trainer = job.config.trainer
    ranks = trainer.get("devices") if job.config.ray is None else job.config.ray.num_workers
    whole = int(
        job.train.num_rows // max(1, job.config.data.batch_size) // max(1, ranks if isinstance(ranks, int) else 1)
    )
    for name in ("fast_dev_run", "overfit_batches", "limit_train_batches"):
        limit = trainer.get(name)
        if isinstance(limit, int | float) and limit:
            whole = int(min(whole, limit) if isinstance(limit, int) else whole * limit)
    return whole


def _rows(batch: Any) -> int:
    while not isinstance(batch, torch.Tensor):
        batch = next(iter(batch.values())) if isinstance(batch, dict) else batch[0]
    return len(batch)
