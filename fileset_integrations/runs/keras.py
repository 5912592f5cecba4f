"""A training run by Keras's Model.fit, on any backend. Import this module after KERAS_BACKEND is set."""

from __future__ import annotations

import contextlib
import cProfile
import inspect
import pstats
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from omegaconf import OmegaConf

from fileset_integrations.errors import SpecError
from fileset_integrations.keras import DataWait, FileSetPyDataset, fit
from fileset_integrations.runs import Job, Trained
from fileset_integrations.runs.building import target_of
from fileset_integrations.summary import Batch


class KerasTrainer:
    """How `Model.fit` is called, in the words of Lightning's Trainer, so that `debug` serves both frameworks.

    Args:
        max_epochs: Epochs to train.
        limit_train_batches: Batches of a training epoch, or a share of them in (0, 1]; None for all. The next epoch
            goes on where the last one ended.
        limit_val_batches: The same of validation, which begins anew each time.
        overfit_batches: Train on as many batches, the same in every epoch, and validate with as many; 0 for all.
        fast_dev_run: Batches of one epoch of training and of one validation, without the config's callbacks; True for
            one, False for a whole run.
        profiler: "simple" writes where the time of the main thread went into the run's folder, by function (cProfile);
            None for no profile.
        verbose: As in `Model.fit`: 0 silent, 1 a progress bar, 2 a line per epoch.

    Raises:
        SpecError: A number is out of range, or there is no such profiler.
    """

    def __init__(
        self,
        max_epochs: int = 1,
        limit_train_batches: float | None = None,
        limit_val_batches: float | None = None,
        overfit_batches: float = 0,
        fast_dev_run: int = False,
        profiler: str | None = None,
        verbose: int = 2,
    ) -> None:
        if max_epochs < 1 or verbose not in (0, 1, 2):
            raise SpecError(
                f"trainer.max_epochs is {max_epochs}, verbose {verbose}: at least 1 epoch; verbose 0, 1 or 2."
            )
        _check_limit("limit_train_batches", limit_train_batches)
        _check_limit("limit_val_batches", limit_val_batches)
        _check_limit("overfit_batches", overfit_batches or None)
        _check_limit("fast_dev_run", fast_dev_run or None, shares=False)
        if profiler not in (None, "simple"):
            raise SpecError(f"trainer.profiler is {profiler!r}; with framework=keras choose simple or null.")
        if fast_dev_run:
            max_epochs, limit_train_batches, limit_val_batches = 1, int(fast_dev_run), int(fast_dev_run)
        elif overfit_batches:
            limit_train_batches = limit_val_batches = overfit_batches
        self.fast_dev_run, self.overfits = bool(fast_dev_run), bool(overfit_batches)
        self.profiler = profiler
        self._limits = limit_train_batches, limit_val_batches
        self._arguments: dict[str, Any] = {"epochs": max_epochs, "verbose": verbose}

    def fit(
        self, model: Any, train: Any, val: Any, callbacks: Sequence[Any], resume: str | None = None
    ) -> dict[str, list[float]]:
        """Train, and return the values of each epoch by name.

        Args:
            model: A compiled model.
            train: The training dataset.
            val: The validation dataset.
            callbacks: As in `Model.fit`.
            resume: Folder of the training's state, to go on from and to keep it in; None: nothing is kept.
        """
        steps, val_steps = (_limited(len(ds), limit) for ds, limit in zip((train, val), self._limits, strict=True))
        history = fit(
            model,
            train,
            validation_data=val,
            callbacks=callbacks,
            resume=resume,
            steps_per_epoch=steps,
            validation_steps=val_steps,
            **self._arguments,
        )
        return {name: [float(value) for value in values] for name, values in history.history.items()}


def _check_limit(name: str, limit: Any, shares: bool = True) -> None:
    whole = isinstance(limit, int) and limit >= 1
    if limit is not None and not whole and not (shares and isinstance(limit, float) and 0 < limit <= 1):
        raise SpecError(
            f"trainer.{name} is {limit!r}; it must be a whole number of batches{', or a share in (0, 1]' * shares}."
        )


def _limited(num_batches: int, limit: float | None) -> int | None:
    """Batches of an epoch where a limit cuts it short; None for all of them."""
    if limit is None:
        return None
    steps = min(limit, num_batches) if isinstance(limit, int) else max(1, int(num_batches * limit))
    return None if steps == num_batches else steps


class TimedDataset(FileSetPyDataset):
    """A FileSetPyDataset that adds up the time spent in `__getitem__`, and the rows it gave.

    Args:
        repeats: Every epoch is the beginning of the first one.
        *args: As of FileSetPyDataset.
        **kwargs: As of FileSetPyDataset.
    """

    def __init__(self, *args: Any, repeats: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._repeats = repeats
        self._lock = threading.Lock()
        self.reading_s = 0.0
        self.num_rows = 0

    def __getitem__(self, index: int) -> Any:
        """Batch `index` of the epoch."""
        start = time.perf_counter()
        batch = super().__getitem__(index)
        elapsed = time.perf_counter() - start
        rows = batch
        while not hasattr(rows, "shape"):
            rows = next(iter(rows.values())) if isinstance(rows, dict) else rows[0]
        with self._lock:
            self.reading_s += elapsed
            self.num_rows += len(rows)
        return batch

    def _place(self, number: int) -> tuple[int, int]:
        return (number, 0) if self._repeats else super()._place(number)

    def reset(self) -> None:
        """Forget what was counted: Keras reads a batch or two before it trains, to learn their form."""
        with self._lock:
            self.reading_s, self.num_rows = 0.0, 0


class Stopwatch(keras.callbacks.Callback):  # type: ignore[misc]
    """Times the training epochs, without validation, and counts their steps."""

    def __init__(self, dataset: TimedDataset) -> None:
        super().__init__()
        self._dataset = dataset
        self._start: float | None = None
        self.seconds = 0.0

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Starts the clock."""
        if self._start is None:
            self._dataset.reset()
        self._start = time.perf_counter()

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Stops it for now: validation comes after the last batch and before the epoch's end."""
        assert self._start is not None, "a batch comes after its epoch's beginning"
        now = time.perf_counter()
        self.seconds += now - self._start
        self._start = now


def train(job: Job) -> Trained:
    """Fit the model of the config with Model.fit.

    Raises:
        SpecError: The config's model or trainer is not Keras's.
    """
    config = job.config
    trainer_class = target_of(config, "trainer")
    if isinstance(trainer_class, type) and not issubclass(trainer_class, KerasTrainer):
        raise SpecError(f"framework=keras, but the trainer is {config.trainer._target_}. Choose trainer=keras.")
    if keras.backend.backend() == "torch" and config.torch_threads is not None:
        import torch

        torch.set_num_threads(config.torch_threads)
    keras.utils.set_random_seed(config.seed)
    model = job.build_model()
    if not isinstance(model, keras.Model):
        raise SpecError(
            f"framework=keras, but the model is {config.model._target_}, which makes no keras.Model. "
            "Choose a model of Keras (model=flights_keras), or leave it to framework=keras."
        )
    if config.logger:
        raise SpecError(
            f"framework=keras, but logger.{next(iter(config.logger))} is Lightning's. Choose logger=none: with Keras, "
            "callbacks=keras writes metrics.csv, and keras.callbacks.TensorBoard may be one more callback."
        )
    trainer = job.build("trainer")
    arguments = _dataset_arguments(config)
    train_set = TimedDataset(job.train, columns=job.columns, repeats=trainer.overfits, **arguments)
    arguments.update(shuffle=False, drop_last_batch=False, transform=None)
    val_set = FileSetPyDataset(job.val, columns=job.columns, **arguments)
    stopwatch = Stopwatch(train_set)
    chosen = {} if trainer.fast_dev_run else job.build("callbacks")
    for name, callback in chosen.items():
        if not isinstance(callback, keras.callbacks.Callback):
            raise SpecError(
                f"framework=keras, but callbacks.{name} is {config.callbacks[name]._target_}, which makes no Callback "
                "of Keras's. Choose callbacks=keras."
            )
    callbacks = [*chosen.values(), stopwatch]
    for callback in callbacks:
        if isinstance(callback, DataWait) and callback.dataset is None:  # no config can name it
            callback.dataset = train_set
    (job.output_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    profile = job.output_dir / "profile.txt"
    with _profiled(profile) if trainer.profiler else contextlib.nullcontext():
        history = trainer.fit(model, train_set, val_set, callbacks, resume=config.ckpt_path)

    names = job.features

    def predict(batch: Batch) -> NDArray[Any]:
        x: Any = {name: batch[name] for name in names} if len(names) > 1 else batch[names[0]]
        answers = np.asarray(keras.ops.convert_to_numpy(model.predict_on_batch(x)))
        # One number a row is the answer; several are scores of classes.
        return answers.squeeze(1) if answers.shape[1] == 1 else answers.argmax(axis=1)

    files = {
        type(callback).__name__: Path(path)
        for callback in callbacks
        if (path := getattr(callback, "filepath", None) or getattr(callback, "filename", None))
    }
    if profile.exists():
        files["profile"] = profile
    return Trained(
        predict=predict,
        history=history,
        num_rows=train_set.num_rows,
        seconds=stopwatch.seconds,
        # tensorflow reads in a thread of tf.data, beside the training: how long that waits is not to be seen from here.
        waiting_s=None if keras.backend.backend() == "tensorflow" else train_set.reading_s,
        files=files,
    )


@contextlib.contextmanager
def _profiled(path: Path) -> Iterator[None]:
    """Write where the time went meanwhile, by function, what took longest first."""
    with cProfile.Profile() as profile:
        yield
    with path.open("w", encoding="utf-8") as file:
        pstats.Stats(profile, stream=file).strip_dirs().sort_stats(pstats.SortKey.CUMULATIVE).print_stats(100)


def _dataset_arguments(config: Any) -> dict[str, Any]:
    """Those of the data module's arguments that FileSetPyDataset has too."""
    taken = set(inspect.signature(FileSetPyDataset).parameters) - {"fs", "columns"}
    data = OmegaConf.to_container(config.data, resolve=True)
    assert isinstance(data, dict)
    return {str(name): value for name, value in data.items() if name in taken}
