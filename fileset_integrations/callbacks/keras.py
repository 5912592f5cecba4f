"""`DataWait` for Keras: is the training waiting for data?"""

from __future__ import annotations

from typing import Any, Protocol

from fileset_integrations.callbacks import keras_missing
from fileset_integrations.errors import SpecError
from fileset_integrations.reader import FileSetReader
from fileset_integrations.waiting import ThreadClock, Wait, WaitMeter, Watch, in_words

try:
    import keras
except ImportError as error:  # pragma: no cover - seen only where keras is not installed
    raise keras_missing(error) from error

_BUSY = 0.8  # of the time that threads could make batches in; below it they waited for the training


class WatchedDataset(Protocol):
    """A `FileSetPyDataset`, as far as `DataWait` needs it.

    Attributes:
        reader: Gives the batches, and counts what it reads.
        clock: Times what threads spend on making them.
        workers: Keras's own.
        use_multiprocessing: Keras's own.
    """

    reader: FileSetReader
    clock: ThreadClock
    workers: int
    use_multiprocessing: bool

    def rows_of(self, index: int) -> int:
        """Rows of batch `index` of the epoch."""


class DataWait(keras.callbacks.Callback):  # type: ignore[misc]
    """Measures how long training waits for data, and says at the end of each epoch whether that is the bottleneck.

    `fit(ds, callbacks=[ds.callback(), DataWait(ds)])`. Each epoch's `logs`, and so the history, have `data_wait_s`
    (seconds waited), `data_wait_share` (their part of the step time, 0 to 1), `data_rows_per_s`, `data_bytes_read`,
    `data_bytes_fetched`, `data_cache_hits` and `data_cache_misses` (blocks of rows that were there, or had to be
    decoded); the logs of a step have them of that step, and Keras's progress bar shows their means. Callbacks that come
    before it in the list do not see them. Every process measures for itself.

    What is waited depends on where Keras fetches a batch (seen in 3.15). On torch, between two steps: the gap is the
    time waited, with whatever other callbacks do in it. On jax, inside the step, where the dataset times itself, if it
    has no `workers` beside the training. On TensorFlow, inside the step and from another thread, so that the time
    waited is not to be seen; there the words say how busy that thread was. Validation counts as neither.

    Args:
        dataset: The dataset that is trained on, for all but the time waited; None: that alone is measured.
        say: Print it in words at the end of each epoch, on rank 0.

    Attributes:
        history: What was measured in each epoch of the last `fit`.
    """

    def __init__(self, dataset: WatchedDataset | None = None, say: bool = True) -> None:
        super().__init__()
        if not isinstance(say, bool):
            raise SpecError(f"say={say!r}: pass True, or False for numbers without words.")
        if dataset is not None and not hasattr(dataset, "rows_of"):
            raise SpecError(f"dataset={dataset!r}: pass the FileSetPyDataset that is trained on, or None.")
        self.dataset, self.say = dataset, say
        self.history: list[Wait] = []
        self._meter: WaitMeter | None = None
        self._steps = 0
        self._made = 0.0
        self._words = ""

    def on_train_begin(self, logs: dict[str, Any] | None = None) -> None:
        """Forget an earlier `fit`."""
        self.history = []

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Begin to measure."""
        self._speak()
        self._steps = 0
        self._made = 0.0 if self.dataset is None else self.dataset.clock.everywhere()
        sources = [] if self.dataset is None else [_Source(self.dataset)]
        self._meter = WaitMeter(sources, gaps=keras.backend.backend() == "torch")

    def on_train_batch_begin(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """On torch, the batch is there."""
        if self._meter is not None:
            self._meter.ready()

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """A step has ended, of as many batches as `steps_per_execution` says."""
        if self._meter is None:
            return
        # With several batches a step, the last one's number is beyond the end where there are fewer left.
        stop = min(batch + 1, self.params.get("steps") or batch + 1)
        rows = None
        if self.dataset is not None:
            rows = sum(map(self.dataset.rows_of, range(self._steps, stop)))
        self._meter.done(rows, stop - self._steps)
        self._steps = stop
        if logs is not None:
            logs.update(self._meter.lap().numbers("data_"))

    def on_epoch_end(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Put the epoch into the logs, and say how it was."""
        if self._meter is None:
            return
        wait, self._meter = self._meter.total(), None
        first = not self.history
        self.history.append(wait)
        if logs is not None:
            logs.update(wait.numbers("data_"))
        if self.say and (self.dataset is None or self.dataset.reader.shard.rank == 0):
            self._words = in_words(epoch, [wait], first, self._unseen(wait))

    def on_train_end(self, logs: dict[str, Any] | None = None) -> None:
        """Say how the last epoch was."""
        self._speak()

    def _speak(self) -> None:
        # Not at the end of an epoch itself: Keras has not ended the line of its progress bar by then.
        if self._words:
            print(self._words, flush=True)
        self._words = ""

    def _unseen(self, wait: Wait) -> str:
        """What can be said where the time waited is not known."""
        if self.dataset is None or self.dataset.use_multiprocessing or not wait.seconds:
            return f"how long was waited for data is not to be seen on {keras.backend.backend()}"
        made = self.dataset.clock.everywhere() - self._made
        busy = made / (wait.seconds * max(self.dataset.workers, 1))
        verdict = "data is not the bottleneck" if busy < _BUSY else "data may be the bottleneck"
        return f"batches were made in {made:.2f} s beside the training ({min(busy, 1.0):.0%} busy): {verdict}"


class _Source:
    """A FileSetPyDataset, as far as it can be watched from the training thread."""

    def __init__(self, dataset: WatchedDataset) -> None:
        self._dataset = dataset
        alone = dataset.workers <= 1 and not dataset.use_multiprocessing
        self._in_step = alone and keras.backend.backend() == "jax"

    def watch(self) -> Watch:
        dataset = self._dataset
        stats = None if dataset.use_multiprocessing else dataset.reader.stats
        return Watch(dataset.clock.here() if self._in_step else None, None, stats)
