"""A training run by Keras's Model.fit, on any backend. Import this module after KERAS_BACKEND is set."""

from __future__ import annotations

import inspect
import threading
import time
from collections.abc import Sequence
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
    """How `Model.fit` is called.

    Args:
        max_epochs: Epochs to train.
        steps_per_epoch: Batches of an epoch; None for all.
        verbose: As in `Model.fit`: 0 silent, 1 a progress bar, 2 a line per epoch.
    """

    def __init__(self, max_epochs: int = 1, steps_per_epoch: int | None = None, verbose: int = 2) -> None:
        if max_epochs < 1 or (steps_per_epoch is not None and steps_per_epoch < 1) or verbose not in (0, 1, 2):
            raise SpecError(
                f"KerasTrainer(max_epochs={max_epochs}, steps_per_epoch={steps_per_epoch}, verbose={verbose}): epochs "
                "and steps must be at least 1, verbose 0, 1 or 2."
            )
        self._arguments: dict[str, Any] = {"epochs": max_epochs, "steps_per_epoch": steps_per_epoch, "verbose": verbose}

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
        history = fit(model, train, validation_data=val, callbacks=callbacks, resume=resume, **self._arguments)
        return {name: [float(value) for value in values] for name, values in history.history.items()}


class TimedDataset(FileSetPyDataset):
    """A FileSetPyDataset that adds up the time spent in `__getitem__`, and the rows it gave."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
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
    arguments = _dataset_arguments(config)
    train_set = TimedDataset(job.train, columns=job.columns, **arguments)
    arguments.update(shuffle=False, drop_last_batch=False, transform=None)
    val_set = FileSetPyDataset(job.val, columns=job.columns, **arguments)
    stopwatch = Stopwatch(train_set)
    callbacks = [*job.build("callbacks").values(), stopwatch]
    for callback in callbacks:
        if isinstance(callback, DataWait) and callback.dataset is None:  # no config can name it
            callback.dataset = train_set
    (job.output_dir / "checkpoints").mkdir(parents=True, exist_ok=True)
    history = job.build("trainer").fit(model, train_set, val_set, callbacks, resume=config.ckpt_path)

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
    return Trained(
        predict=predict,
        history=history,
        num_rows=train_set.num_rows,
        seconds=stopwatch.seconds,
        # tensorflow reads in a thread of tf.data, beside the training: how long that waits is not to be seen from here.
        waiting_s=None if keras.backend.backend() == "tensorflow" else train_set.reading_s,
        files=files,
    )


def _dataset_arguments(config: Any) -> dict[str, Any]:
    """Those of the data module's arguments that FileSetPyDataset has too."""
    taken = set(inspect.signature(FileSetPyDataset).parameters) - {"fs", "columns"}
    data = OmegaConf.to_container(config.data, resolve=True)
    assert isinstance(data, dict)
    return {str(name): value for name, value in data.items() if name in taken}
