"""`fit`, which keeps a training's state in a folder and goes on from there at the very batch.

Keras's `BackupAndRestore` restores epochs only, without the reader's place, the state of random layers, metrics or the
counts of callbacks.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import keras

from fileset_integrations.errors import SpecError
from fileset_integrations.keras import ahead
from fileset_integrations.keras.dataset import EpochCallback, FileSetPyDataset
from fileset_integrations.keras.state import TrainingState
from fileset_integrations.spec import as_int


def fit(
    model: Any,
    ds: FileSetPyDataset,
    *,
    resume: str | os.PathLike[str] | None = None,
    save_every: int | None = None,
    epochs: int = 1,
    initial_epoch: int = 0,
    steps_per_epoch: int | None = None,
    validation_data: Any = None,
    validation_steps: int | None = None,
    validation_batch_size: int | None = None,
    validation_freq: int | Sequence[int] = 1,
    class_weight: Mapping[int, float] | None = None,
    callbacks: Sequence[keras.callbacks.Callback] | None = None,
    verbose: Literal["auto", 0, 1, 2] = "auto",
    shuffle: Literal[False] = False,
) -> keras.callbacks.History:
    """`model.fit(ds, ...)`, which can be killed at any moment and goes on when it is called again.

    The training's state lies in `resume`: weights, optimizers, states of random layers, metrics, epoch, place in the
    epoch, history, and the counts of EarlyStopping, ReduceLROnPlateau and ModelCheckpoint; for other callbacks, what
    their `state_dict()` returns, if they have that and `load_state_dict(state)`. Called again, in a new process, with
    the model, the dataset and the callbacks made as before, it trains on exactly the batches that were not trained on
    yet, to the same weights. A training that is complete returns its history at once; more `epochs` lengthen it.

    Not kept: what a model draws from global generators (`random`, NumPy, torch), as Keras's own layers do not.

    Args:
        model: A compiled model; need not be built.
        ds: The training dataset. It is told its epoch; `ds.callback()` is not needed.
        resume: Folder of the state, made if it is missing; None: nothing is kept. Ranks need one that all of them see:
            rank 0 writes, and the others wait for its state at the end of this call and of its first epoch.
        save_every: Batches between two saves within an epoch. None: a minute, or 20 times what a save takes if that is
            more. The end of an epoch, after its validation, is always saved.
        epochs: Epochs in all, those before a resume included.
        initial_epoch: Where a new training begins; counts from 0.
        steps_per_epoch: See `FileSetPyDataset`; None: as the dataset has it.
        validation_data: As in `Model.fit`, and so the following ones.
        validation_steps: As in `Model.fit`.
        validation_batch_size: As in `Model.fit`.
        validation_freq: As in `Model.fit`.
        class_weight: As in `Model.fit`.
        callbacks: As in `Model.fit`. They see one training, even where an epoch is taken up in its middle: the numbers
            of its batches begin at 0 again, its metrics are those of the whole epoch.
        verbose: As in `Model.fit`.
        shuffle: False. The dataset shuffles rows; Keras would permute whole batches, by a global generator.

    Returns:
        Values of each epoch, those before a resume included.

    Raises:
        SpecError: An argument is out of range.
        CheckpointError: The folder is damaged, in use, or holds something else; or what rank 0 saves is not to be seen
            in it.
        StateMismatchError: The state is of another dataset, order or model.
    """
    _check(ds, resume, save_every, epochs, initial_epoch, shuffle, callbacks)
    with contextlib.ExitStack() as stack:
        stack.enter_context(_steps(ds, steps_per_epoch))
        everybody = [*(callbacks or ())]
        if not any(isinstance(one, EpochCallback) and one.dataset is ds for one in everybody):
            everybody.insert(0, ds.callback())
        if not any(isinstance(one, keras.callbacks.History) for one in everybody):
            everybody.append(keras.callbacks.History())
        state = None
        if resume is not None:
            state = TrainingState(ds, resume, save_every, everybody)
            if ds.reader.shard.rank == 0:
                state.folder.acquire()
                stack.callback(state.folder.release)
            initial_epoch = state.load(initial_epoch)
            everybody.append(state)  # last, so that it sees what the others made of an epoch's end
        through = _Through(everybody, add_history=True, add_progbar=verbose != 0, model=model)
        try:
            for begin, end in _stretches(ds, state, initial_epoch, epochs):
                through.set_params({"verbose": verbose, "epochs": epochs, "steps": len(ds)})
                model.fit(
                    ds,
                    initial_epoch=begin,
                    epochs=end,
                    validation_data=validation_data,
                    validation_steps=validation_steps,
                    validation_batch_size=validation_batch_size,
                    validation_freq=validation_freq,
                    class_weight=class_weight,
                    callbacks=through,
                    verbose=verbose,
                    shuffle=False,
                )
        except BaseException:
            ahead.stop(ds, validation_data)
            raise
        through.end()
        if state is not None:
            state.await_rank_0()
    return model.history


def _check(
    ds: Any, resume: Any, save_every: Any, epochs: Any, initial_epoch: Any, shuffle: Any, callbacks: Any
) -> None:
    if not isinstance(ds, FileSetPyDataset):
        raise SpecError(f"ds is a {type(ds).__name__}; pass a FileSetPyDataset. For other data there is model.fit.")
    if as_int(initial_epoch, "initial_epoch") < 0 or as_int(epochs, "epochs") < 0:
        raise SpecError(f"initial_epoch={initial_epoch}, epochs={epochs}: both must be at least 0.")
    if save_every is not None and as_int(save_every, "save_every") < 1:
        raise SpecError(f"save_every={save_every}: pass the number of batches between two saves, at least 1, or None.")
    if shuffle:
        raise SpecError(
            "shuffle=True permutes whole batches in an order that nobody can take up again. Leave it out, and pass "
            "shuffle=True to the FileSetPyDataset, which shuffles rows."
        )
    if resume is not None and any(isinstance(one, keras.callbacks.BackupAndRestore) for one in callbacks or ()):
        raise SpecError(
            "resume= does what BackupAndRestore does, and each would undo the other. Leave out the callback."
        )


@contextlib.contextmanager
def _steps(ds: FileSetPyDataset, steps_per_epoch: int | None) -> Iterator[None]:
    """Epochs of so many batches while a training runs; and no rest of an epoch after it."""
    before = ds._steps
    if steps_per_epoch is not None:
        ds.set_steps(steps_per_epoch)
    try:
        yield
    finally:
        ds._steps, ds._resume = before, None


def _stretches(ds: FileSetPyDataset, state: TrainingState | None, first: int, epochs: int) -> Iterator[tuple[int, int]]:
    """First epoch and end of each `model.fit`: it gives all its epochs the length of the first one."""
    if state is not None and (state.stopped or first >= epochs):
        yield first, first  # no epoch; but the model is built, and the training's end comes again
        return
    if state is not None and state.done:
        yield first, first + 1
        if state.stopped or first + 1 >= epochs:
            return
        state.assign()  # the end of `fit` puts averages of weights in their places, where an optimizer keeps them
        first += 1
    yield first, epochs


class _Through(keras.callbacks.CallbackList):  # type: ignore[misc]
    """Callbacks that see several calls of `model.fit` as one training."""

    def __init__(self, *args: Any, **options: Any) -> None:
        self._begun, self._logs = False, None
        super().__init__(*args, **options)

    def on_train_begin(self, logs: Any = None) -> None:
        if not self._begun:
            self._begun = True
            super().on_train_begin(logs)

    def on_train_end(self, logs: Any = None) -> None:
        self._logs = logs

    def end(self) -> None:
        """The training is over."""
        super().on_train_end(self._logs)
