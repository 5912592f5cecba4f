"""The state of a Keras training: taken at batches and epochs' ends, kept in a folder, put back."""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from fileset_integrations.checkpoints import CheckpointFolder
from fileset_integrations.errors import CheckpointError, SpecError, StateMismatchError
from fileset_integrations.keras.dataset import FileSetPyDataset

_MIN_SECONDS = 60.0  # between two saves within an epoch, where nobody says how many batches
_SHARE = 20  # and so many times what the last one took, so that saving takes 5 % of the time at most

_RANK_0_SECONDS = 600.0  # for the largest state on the slowest disk: what is too long for either ends in an error
_POLL_SECONDS = 0.05

# What Keras's callbacks count, and forget when a training begins (Keras 3.15; ModelCheckpoint forgets nothing then, but
# begins anew in a new process).
_COUNTS: tuple[tuple[type[keras.callbacks.Callback], tuple[str, ...]], ...] = (
    (keras.callbacks.EarlyStopping, ("wait", "stopped_epoch", "best", "best_epoch", "best_weights")),
    (keras.callbacks.ReduceLROnPlateau, ("wait", "cooldown_counter", "best")),
    (keras.callbacks.ModelCheckpoint, ("best",)),
)


class TrainingState(keras.callbacks.Callback):  # type: ignore[misc]
    """Saves the training in a folder, and puts back what it finds there when the training begins.

    Args:
        dataset: The training dataset.
        path: The folder.
        save_every: Batches between two saves within an epoch; None: by the clock.
        callbacks: The others, whose counts are part of the state. They come before this one.
    """

    def __init__(
        self,
        dataset: FileSetPyDataset,
        path: str | os.PathLike[str],
        save_every: int | None,
        callbacks: Sequence[keras.callbacks.Callback],
    ) -> None:
        super().__init__()
        self.folder = CheckpointFolder(path)
        self.stopped = False  # a callback has ended the training
        self.done = 0  # batches of the first epoch that were trained on before
        self._dataset, self._save_every, self._callbacks = dataset, save_every, list(callbacks)
        self._facts: dict[str, Any] | None = None  # what was loaded, until it is put back
        self._arrays: dict[str, NDArray[Any]] = {}
        self._saved = 0  # batches of this call's epoch at the last save
        self._next = time.monotonic() + _MIN_SECONDS
        self._reached: tuple[int, int] | None = None  # pass and batches at the last epoch's end, where rank 0 saves
        self._seen = False  # a state of rank 0's was waited for

    def load(self, initial_epoch: int) -> int:
        """Read the folder; the dataset goes on where the state was taken.

        Returns:
            The epoch to go on with; `initial_epoch` where nothing was saved yet.

        Raises:
            CheckpointError: The folder is damaged.
            StateMismatchError: The state is of another dataset or order.
        """
        found = self.folder.load()
        if found is None:
            return initial_epoch
        facts, self._arrays = found
        try:
            steps, reader = facts["steps_per_epoch"], facts["reader"]
            self.stopped = bool(facts["stopped"])
            self._facts = facts
            for name in ("callbacks", "history", "epochs"):
                facts[name]
        except KeyError as error:
            raise CheckpointError(
                f"{self.folder.path} holds no state of a Keras training: it lacks {error}. Name another folder."
            ) from error
        if steps != self._dataset.steps_per_epoch:
            raise StateMismatchError(
                f"{self.folder.path}: the training had epochs of {steps} batches, and this one has "
                f"{self._dataset.steps_per_epoch}. Pass steps_per_epoch={steps}, or name another folder to train anew."
            )
        try:
            self._dataset.load_state_dict(reader)
        except StateMismatchError as error:
            error.add_note(f"The state lies in {self.folder.path}; name another folder to train anew.")
            raise
        self.done = steps - len(self._dataset)
        return self._dataset.epoch

    # --- what Keras calls --------------------------------------------------------------------------------------------

    def on_train_begin(self, logs: Any = None) -> None:
        if self._facts is None:
            return
        if keras.backend.backend() == "tensorflow" and self._stored() != _sizes(_variables(self.model)):
            _build(self.model, self._dataset)
        self.assign()
        for callback, found in _paired(self._callbacks, self._facts["callbacks"]):
            _set_counts(callback, found, self._arrays)
        history = self._history()
        history.epoch[:] = self._facts["epochs"]
        history.history.update({name: list(values) for name, values in self._facts["history"].items()})
        self._facts = None

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._saved = 0
        if len(self._dataset) < self._dataset.steps_per_epoch:
            # Again, and metrics too: Keras has reset those, and a schedule of learning rates has gone on by an epoch
            # that had begun before.
            self.assign()

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        if batch == 0 and len(self._dataset) < self._dataset.steps_per_epoch:
            _set_generators(self._arrays)  # on torch, Keras has made a DataLoader by now, which draws a number

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        trained = batch + 1
        # The last batch of an epoch is saved with the epoch's end, after validation: that happens once.
        if trained < len(self._dataset) and self._due(trained):
            self._save(trained)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self.stopped = bool(self.model.stop_training)
        self._save(len(self._dataset))
        if self._dataset.reader.shard.rank:
            self._reached = _place(self._dataset.state_dict(len(self._dataset)))
            if not self._seen:  # a folder that is this rank's own is noticed now, not when a resumed training hangs
                self.await_rank_0()

    def await_rank_0(self) -> None:
        """On other ranks, return once rank 0 has saved the last epoch's end.

        Whoever trains on in the same processes reads the folder again: a rank that came too early would go on from
        another place than the others, which would wait for it for ever in their next step. The folder says it on every
        backend, where a barrier would be another one for each. In the midst of a training nothing needs to wait: rank 0
        saves on its way to the next step, which the ranks make together.

        Raises:
            CheckpointError: Nothing of the kind is to be seen.
        """
        if self._reached is None:
            return
        deadline = time.monotonic() + _RANK_0_SECONDS
        problem: CheckpointError | None = None
        while True:
            try:
                facts = self.folder.facts()
                if facts is not None and _place(facts["reader"]) >= self._reached:
                    self._seen = True
                    return
            except CheckpointError as error:  # rank 0 has just replaced what was being read
                problem = error
            if time.monotonic() > deadline:
                raise CheckpointError(
                    f"{self.folder.path}: rank {self._dataset.reader.shard.rank} has seen no state of rank 0's at the "
                    f"end of its epoch for {_RANK_0_SECONDS:g} s. Name a folder that all ranks see."
                ) from problem
            time.sleep(_POLL_SECONDS)

    # --- taking and putting back -------------------------------------------------------------------------------------

    def _due(self, trained: int) -> bool:
        if self._save_every is None:
            return time.monotonic() >= self._next
        return trained - self._saved >= self._save_every

    def _save(self, trained: int) -> None:
        writes = self._dataset.reader.shard.rank == 0
        if not (writes or self.done):
            return
        start = time.monotonic()
        arrays = _taken(self.model)
        if self.done:
            self._arrays = arrays  # `assign` puts them back between two calls of Keras's fit
        if writes:
            history = self._history()
            facts = {
                "keras": keras.__version__,
                "backend": keras.backend.backend(),
                "steps_per_epoch": self._dataset.steps_per_epoch,
                "reader": self._dataset.state_dict(trained),
                "stopped": self.stopped,
                "epochs": list(history.epoch),
                "history": {name: [_plain(value) for value in values] for name, values in history.history.items()},
                "callbacks": [_counts(callback, number, arrays) for number, callback in enumerate(self._callbacks)],
            }
            self.folder.save(facts, arrays)
        self._saved, now = trained, time.monotonic()
        self._next = now + max(_MIN_SECONDS, _SHARE * (now - start))

    def assign(self) -> None:
        """Give the model's and optimizers' variables, metrics included, the values that were saved last.

        Raises:
            StateMismatchError: The model has others.
        """
        stored = self._stored()
        for group, variables in _variables(self.model).items():
            if stored.get(group, 0) != len(variables):
                raise StateMismatchError(
                    f"{self.folder.path} holds {stored.get(group, 0)} variables of {_MEANING.get(group, group)}, and "
                    f"this training has {len(variables)}. Make the model as it was, or name another folder to train "
                    "anew."
                )
            for number, variable in enumerate(variables):
                value = self._arrays[f"{group}/{number}"]
                if value.shape != tuple(variable.shape):
                    raise StateMismatchError(
                        f"{self.folder.path}: {variable.path} has shape {tuple(variable.shape)}, saved was "
                        f"{value.shape}. Make the model as it was, or name another folder to train anew."
                    )
                variable.assign(value)
        _set_generators(self._arrays)

    def _stored(self) -> dict[str, int]:
        """Number of the variables that were saved, by group."""
        return Counter(name.partition("/")[0] for name in self._arrays if not name.startswith(("callback-", "torch-")))

    def _history(self) -> keras.callbacks.History:
        return next(one for one in self._callbacks if isinstance(one, keras.callbacks.History))


def _place(reader: Mapping[str, Any]) -> tuple[int, int]:
    """How far a reader's state is: pass, and batches of it."""
    return reader["epoch"], reader["batches"]


_MEANING = {"model": "the model", "metrics": "metrics", "optimizer": "the optimizer"}


def _variables(model: Any) -> dict[str, list[Any]]:
    """Everything that training changes. A model that trains by steps of its own may have several optimizers."""
    groups = {"model": list(model.variables), "metrics": list(model.metrics_variables)}
    optimizers = {
        id(one): (name, one) for name, one in vars(model).items() if isinstance(one, keras.optimizers.Optimizer)
    }
    return groups | {name.lstrip("_"): list(one.variables) for name, one in optimizers.values()}


def _sizes(groups: Mapping[str, Sequence[Any]]) -> dict[str, int]:
    return {group: len(variables) for group, variables in groups.items() if variables}


def _build(model: Any, dataset: FileSetPyDataset) -> None:
    """Make the variables: on TensorFlow, Keras makes them no earlier than in the first step (3.15)."""
    model.test_on_batch(*keras.utils.unpack_x_y_sample_weight(dataset[0]))
    if not model.optimizer.built:
        with model.distribute_strategy.scope():
            model.optimizer.build(model.trainable_variables)


def _taken(model: Any) -> dict[str, NDArray[Any]]:
    """Values of all that training changes."""
    arrays = {
        f"{group}/{number}": _to_numpy(variable)
        for group, variables in _variables(model).items()
        for number, variable in enumerate(variables)
    }
    if keras.backend.backend() == "torch":
        # Keras's Dropout without a seed draws from torch's own generators there, and from the layer's elsewhere.
        import torch

        arrays["torch-cpu/0"] = torch.get_rng_state().numpy()
        if torch.cuda.is_available():
            arrays["torch-cuda/0"] = torch.cuda.get_rng_state().numpy()
    return arrays


def _set_generators(arrays: Mapping[str, NDArray[Any]]) -> None:
    if keras.backend.backend() == "torch" and "torch-cpu/0" in arrays:
        import torch

        torch.set_rng_state(torch.from_numpy(arrays["torch-cpu/0"]))
        if torch.cuda.is_available() and "torch-cuda/0" in arrays:
            torch.cuda.set_rng_state(torch.from_numpy(arrays["torch-cuda/0"]))


def _to_numpy(variable: Any) -> NDArray[Any]:
    array = np.asarray(keras.ops.convert_to_numpy(variable.value))
    # NumPy's files know nothing of bfloat16 and the like, which float32 holds exactly.
    return array if array.dtype.kind in "biufc" else array.astype(np.float32)


def _plain(value: Any) -> Any:
    """A metric's value as JSON can say it."""
    return np.asarray(value).tolist()


def _counts(callback: Any, number: int, arrays: dict[str, NDArray[Any]]) -> dict[str, Any]:
    """What a callback has to remember; lists of weights go to `arrays`."""
    found: dict[str, Any] = {"type": type(callback).__name__}
    if hasattr(callback, "state_dict") and hasattr(callback, "load_state_dict"):
        found["state"] = callback.state_dict()
        try:
            json.dumps(found["state"])
        except (TypeError, ValueError) as error:
            raise SpecError(
                f"{found['type']}.state_dict() returns what JSON cannot say ({error}). Return strings, numbers, lists "
                "and dicts of them."
            ) from error
        return found
    counts = found["counts"] = {}
    for kind, names in _COUNTS:
        if isinstance(callback, kind):
            for name in names:
                value = getattr(callback, name)
                if isinstance(value, list):
                    key = f"callback-{number}/{name}"
                    arrays.update((f"{key}/{place}", np.asarray(one)) for place, one in enumerate(value))
                    counts[name] = {"arrays": key, "count": len(value)}
                else:
                    counts[name] = _plain(value)
    return found


def _set_counts(callback: Any, found: dict[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
    if "state" in found:
        callback.load_state_dict(found["state"])
    for name, value in found.get("counts", {}).items():
        if isinstance(value, dict):
            value = [arrays[f"{value['arrays']}/{place}"] for place in range(value["count"])]
        setattr(callback, name, value)


def _paired(callbacks: Sequence[Any], found: Sequence[dict[str, Any]]) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Callbacks and what was saved of them: the first of a type with the first of that type, and so on."""
    rest = list(found)
    for callback in callbacks:
        for one in rest:
            if one["type"] == type(callback).__name__:
                yield callback, one
                rest.remove(one)
                break
