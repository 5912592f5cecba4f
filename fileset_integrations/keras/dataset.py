"""A `PyDataset` over a FileSet, and the callback that tells it its epoch."""

from __future__ import annotations

import multiprocessing
import multiprocessing.util
import os
import signal
import threading
import warnings
from collections.abc import Mapping
from typing import Any

from fileset_integrations.callbacks import keras_missing
from fileset_integrations.columns import Columns, FittedColumns
from fileset_integrations.errors import SpecError
from fileset_integrations.keras import ahead
from fileset_integrations.reader import BlockMode, FileSetReader, Transform
from fileset_integrations.spec import Shard, as_epoch, as_int
from fileset_integrations.views import FileSetLike
from fileset_integrations.waiting import ThreadClock

try:
    import keras
except ImportError as error:  # pragma: no cover - seen only where keras is not installed
    raise keras_missing(error) from error

_REPEATS_BEFORE_WARNING = 3  # Keras asks for the first batch once to build a model, and once an epoch


class FileSetPyDataset(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of a FileSet for `model.fit`, `evaluate` and `predict`: `(x, y)`, `(x, y, weight)`, or x alone.

    x is the dict of features, or the array itself where there is one feature; without `columns`, a batch is a dict of
    one array a column. Batch `i` of an epoch is the same whichever thread or process asks for it, and in whatever
    order, so `fit`'s own `shuffle=True`, which permutes the indices, does no harm. Pass `callbacks=[ds.callback()]` to
    `fit`: Keras tells a dataset its epoch in no other way, and without it the order of rows repeats.

    Args:
        fs: The FileSet, or what else `FileSetReader` takes.
        columns: Which columns become which arrays; unfitted ones are fitted on `fs`. For validation pass the training
            dataset's `columns`.
        batch_size: Rows per batch of this rank.
        global_batch_size: Rows per batch of all ranks together; exactly one of the two is given.
        shuffle: Draw a new order of rows in every epoch.
        drop_last_batch: Leave out the last batch where it is not full. False for evaluation and prediction.
        seed: Base seed of the order.
        streams: See `FileSetReader`.
        shard: This rank's share.
        blocks: "memory", "disk" or "stream" as for `FileSetReader`. "auto" keeps decoded blocks in memory, or on disk
            where they take more than half of `memory_bytes`. "stream" serves batches in order only, as
            `fit(shuffle=False)` asks for them.
        memory_bytes: See `FileSetReader`.
        cache_dir: See `FileSetReader`.
        cache_bytes: See `FileSetReader`.
        transform: See `FileSetReader`.
        steps_per_epoch: Batches that Keras takes for an epoch; None: all. Epochs then go on where the last one ended,
            from one pass over the rows into the next, whatever the number. Give it here, not to `model.fit`.
        workers: Keras's own: threads or processes that ask for batches.
        use_multiprocessing: Keras's own.
        max_queue_size: Keras's own: batches asked for ahead.

    Raises:
        SpecError: The rows make no full batch (Keras fails at its first, and says nothing of that); or steps_per_epoch
            is less than 1.
        FileSetError: As `FileSetReader` does.
    """

    def __init__(
        self,
        fs: FileSetLike,
        *,
        columns: Columns | FittedColumns | None = None,
        batch_size: int | None = None,
        global_batch_size: int | None = None,
        shuffle: bool = False,
        drop_last_batch: bool = True,
        seed: int = 0,
        streams: int | None = None,
        shard: Shard = Shard(0, 1),  # noqa: B008 - frozen
        blocks: BlockMode = "auto",
        memory_bytes: int = 2 * 2**30,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        transform: Transform | None = None,
        steps_per_epoch: int | None = None,
        workers: int = 1,
        use_multiprocessing: bool = False,
        max_queue_size: int = 10,
    ) -> None:
        super().__init__(workers=workers, use_multiprocessing=use_multiprocessing, max_queue_size=max_queue_size)
        self.reader = FileSetReader(
            fs,
            columns=columns,
            batch_size=batch_size,
            global_batch_size=global_batch_size,
            shuffle=shuffle,
            drop_last_batch=drop_last_batch,
            seed=seed,
            streams=streams,
            shard=shard,
            blocks=blocks,
            memory_bytes=memory_bytes,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
            transform=transform,
            random_access=True,
        )
        if not len(self.reader) and (rows := self.reader.plan.num_rows):
            raise SpecError(
                f"{rows} rows make no full batch of {self.reader.plan.global_batch_size}. Pass a smaller batch_size, "
                "or drop_last_batch=False, as for evaluation."
            )
        if ahead.reads_ahead(self) and (lacking := ahead.lacking()):
            warnings.warn(_NOTHING_AHEAD.format(version=keras.__version__, lacking=lacking), UserWarning, stacklevel=2)
            self.workers, self.use_multiprocessing = 1, False
        if self.use_multiprocessing:
            self.reader = self.reader.shared()
            multiprocessing.util.register_after_fork(self, _leave_interrupts_to_the_parent)
        self.clock = ThreadClock()  # of what threads spend on making batches
        self._steps: int | None = None  # batches of an epoch, where that is not all
        self.set_steps(steps_per_epoch)
        self._epoch = 0
        self._resume: tuple[int, int] | None = None  # epoch and batches of it that were trained on before
        self._counted: _Counted | None = None
        self._told = False  # the epoch was set from outside
        self._firsts = 0  # requests for the first batch
        self._last = self._jumps = 0

    @property
    def columns(self) -> FittedColumns | None:
        """The fitted columns; pass them to the dataset of `validation_data`."""
        return self.reader.columns

    @property
    def epoch(self) -> int:
        """The epoch that batches are of, as Keras counts: of `steps_per_epoch` batches where that is given."""
        return self._epoch

    @property
    def steps_per_epoch(self) -> int:
        """Batches of a whole epoch."""
        return len(self.reader) if self._steps is None else self._steps

    @property
    def num_batches(self) -> int:
        """Batches of the epoch."""
        return len(self)

    def __len__(self) -> int:
        return self.steps_per_epoch - self._done()

    def _done(self) -> int:
        """Batches of this epoch that were trained on before the state was taken that it goes on from."""
        return self._resume[1] if self._resume is not None and self._resume[0] == self._epoch else 0

    def set_steps(self, steps_per_epoch: int | None) -> None:
        """Make epochs so many batches long, from the next `fit` on; None: one pass over the rows.

        Raises:
            SpecError: It is less than 1, or there is no batch.
        """
        if steps_per_epoch is not None:
            steps_per_epoch = as_int(steps_per_epoch, "steps_per_epoch")
            if steps_per_epoch < 1 or not len(self.reader):
                raise SpecError(
                    f"steps_per_epoch={steps_per_epoch}: an epoch needs at least 1 batch, and the rows "
                    f"({self.reader.plan.num_rows}) make {len(self.reader)}. Pass None for all of them."
                )
        self._steps = steps_per_epoch

    def set_epoch(self, epoch: int) -> None:
        """Make the batches those of epoch `epoch`, from the next request on."""
        self._epoch, self._told, self._counted = as_epoch(epoch), True, None

    def state_dict(self, batches: int = 0) -> dict[str, Any]:
        """Where training stands: flat JSON under 1 KB, the same on every rank. It counts in passes over the rows.

        Args:
            batches: Batches of the dataset's epoch that were trained on. Keras asks for batches ahead, so that only the
                training knows: the `batch` of a callback's `on_train_batch_end`, plus one.

        Raises:
            SpecError: The epoch has no so many batches left, or `fit` was given another number of steps.
        """
        count = as_int(batches, "batches")
        if self._counted is not None:
            raise SpecError(_OWN_STEPS.format(steps=self._counted.steps, whole=self.steps_per_epoch))
        if not 0 <= count <= len(self):
            raise SpecError(f"batches={count}: this epoch has {len(self)} batches.")
        if self._steps is None:
            return self.reader.state(self._epoch, self._done() + count)
        return self.reader.state(*divmod(self._epoch * self._steps + self._done() + count, len(self.reader)))

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken: its epoch lacks the batches before, in its length too; others are whole.

        `fileset_integrations.keras.fit` does the rest. Keras's own counts epochs for itself, and gives all of them the
        length of its first one (seen with Keras 3.15): run the epoch that is resumed alone,
        `model.fit(ds, initial_epoch=ds.epoch, epochs=ds.epoch + 1)`, and then the others.

        Raises:
            StateMismatchError: The state belongs to another snapshot, seed, batch size or order.
        """
        number, batches = self.reader.resume(state)
        whole = self.steps_per_epoch
        # Keras has no use for an epoch without batches: the end of one is the start of the next.
        epoch, done = divmod(number * len(self.reader) + batches, whole) if whole else (number, 0)
        self._last = self._jumps = 0
        self.set_epoch(epoch)
        self._resume = (epoch, done)

    def on_epoch_end(self) -> None:
        """Keras's own: an epoch, a validation, or the building of a model has ended.

        What workers have read ahead by then is thrown away. Keras (3.15) would keep it for the next epoch: after a
        model was built from the first batch, each epoch would begin with batches of the one before.
        """
        ahead.forget(self)

    def callback(self) -> keras.callbacks.Callback:
        """The callback through which `fit` tells this dataset its epoch."""
        return EpochCallback(self)

    def __getitem__(self, index: int) -> Any:
        if index == 0 and self.reader.plan.shuffle.shuffle and not self._told:
            self._warn_of_repeats()
        if self.reader.blocks == "stream":
            self._refuse_jumps(index)
        number = as_int(index, "index")
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}: this epoch's batches are 0 to {len(self) - 1}.")
        with self.clock:
            return self.reader.model_input(self.reader.batch(*self._place(number)))

    def rows_of(self, index: int) -> int:
        """Rows of batch `index` of the epoch."""
        if self._counted is not None:
            place = index % len(self.reader)
        else:
            place, _ = self._place(index)
        first, stop = self.reader.plan.batch_bounds(place)
        return stop - first

    def _place(self, number: int) -> tuple[int, int]:
        """Index in its pass over the rows, and that pass, of what is asked for as batch `number`."""
        if self._counted is None and self._steps is None:
            return self._done() + number, self._epoch
        if (counted := self._counted) is not None:
            position = counted.position(number)
        else:
            position = self._epoch * self.steps_per_epoch + self._done() + number
        epoch, index = divmod(position, len(self.reader))
        return index, epoch

    def _warn_of_repeats(self) -> None:
        self._firsts += 1
        if self._firsts == _REPEATS_BEFORE_WARNING:
            warnings.warn(
                "Every epoch visits the rows in the order of epoch 0, since nothing tells this dataset its epoch. "
                "Pass callbacks=[ds.callback()] to fit.",
                UserWarning,
                stacklevel=3,
            )

    def _refuse_jumps(self, index: int) -> None:
        # Threads ask nearly in order: no further apart than what is asked for ahead. An epoch may begin at any moment.
        skew = self.workers + self.max_queue_size if self.workers > 1 else 0
        if index > skew and not self._last - skew <= index <= self._last + 1 + skew:
            self._jumps += 1
            if self._jumps > 1:
                raise SpecError(
                    f"batch {index} was asked for after batch {self._last}, and blocks='stream' serves them in order. "
                    "Pass shuffle=False to fit (the dataset shuffles rows itself), or blocks='auto'."
                )
        self._last = index


def _leave_interrupts_to_the_parent(_: Any) -> None:
    # Ctrl-C goes to every process of a terminal. A worker of a pool that dies of it may hold the lock of the pool's
    # queue, and the parent, which ends its workers itself, then waits for that lock for ever (Python 3.11).
    process = multiprocessing.current_process()
    if process.daemon and "PoolWorker" in process.name:
        signal.signal(signal.SIGINT, signal.SIG_IGN)


_NOTHING_AHEAD = (
    "Keras {version} keeps what workers read ahead in another way than versions "
    f"{ahead.TRIED} ({{lacking}}), and this package cannot throw it away at an epoch's end. So batches are made in the "
    "training itself, one after the other, as with workers=1. Pass that, or install one of those versions."
)
_OWN_STEPS = (
    "fit was given steps_per_epoch={steps}, and an epoch of this dataset has {whole} batches. "
    "Give the steps to the dataset, FileSetPyDataset(..., steps_per_epoch={steps}), or to "
    "fileset_integrations.keras.fit, and leave them out of model.fit."
)


class _Counted:
    """Which batch of the endless sequence of passes a request means, where `model.fit` was given `steps_per_epoch`.

    Keras then goes through the indices of a finite dataset once, over its epochs, and begins anew after the last one.
    It says nothing of that: but each index is asked for once each time, and no request is early, without workers.
    """

    def __init__(self, steps: int, epoch: int, length: int) -> None:
        self.steps, self._first, self._length = steps, epoch * steps, length
        self._requests = 0
        self._lock = threading.Lock()

    def position(self, number: int) -> int:
        with self._lock:
            rounds = self._requests // self._length
            self._requests += 1
        return self._first + rounds * self._length + number


class EpochCallback(keras.callbacks.Callback):  # type: ignore[misc]
    """Tells a dataset its epoch: `on_epoch_begin` runs before the epoch's first batch is asked for."""

    def __init__(self, dataset: FileSetPyDataset) -> None:
        super().__init__()
        self.dataset = dataset
        self._rest: tuple[int, int] | None = None  # an epoch of this fit that was resumed, and its length
        self._counts = False  # fit has an epoch of its own length, and goes on through the indices

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        dataset, steps = self.dataset, self.params.get("steps")
        self._rest = dataset._counted = None
        self._counts = steps is not None and steps != len(dataset)
        if self._counts and (ahead.reads_ahead(dataset) or dataset._done()):
            # With workers, Keras asks for batches ahead of an epoch's end, drops some, and begins anew in the next one.
            raise SpecError(_OWN_STEPS.format(steps=steps, whole=len(dataset)))

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        dataset, steps = self.dataset, self.params.get("steps")
        if self._counts:
            if dataset._counted is None:
                dataset.set_epoch(epoch)
                dataset._counted = _Counted(steps, epoch, len(dataset))
            return
        dataset.set_epoch(epoch)
        if dataset._done():
            self._rest = (epoch, len(dataset))
        elif steps is not None and steps != len(dataset):
            of = f"the {steps} batches that remained of epoch {self._rest[0]}" if self._rest else f"{steps} batches"
            resumed = self._rest[0] if self._rest else epoch
            raise SpecError(
                f"fit gives epoch {epoch} {of}, not {len(dataset)}. Call fileset_integrations.keras.fit(..., resume=), "
                f"or resume an epoch alone, with fit(..., initial_epoch={resumed}, epochs={resumed + 1}), and go on "
                f"with fit(..., initial_epoch={resumed + 1}, ...)."
            )

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        self.dataset._resume = None  # the next fit takes the length before it says its epoch

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        self.dataset._counted = None
