"""Batches of a reader for a trainer: a loader of exact length that asks for its epoch late, and resumes at any batch.

It is no `DataLoader`: a trainer may ask for an iterator before the epoch is known, and keeps the state of loaders that
have `state_dict` themselves (seen with Lightning 2.6).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from fileset_integrations.gathering import Batch
from fileset_integrations.reader import BatchIterator, FileSetReader
from fileset_integrations.torch import check_shard, pinned, to_tensors
from fileset_integrations.waiting import NextClock, Watch


class _IndexedBatches(Dataset[Batch]):
    """Batches under (epoch, index), for workers: the index carries all that a worker must be told."""

    def __init__(self, reader: FileSetReader) -> None:
        self._reader = reader

    def __getitem__(self, key: tuple[int, int]) -> Batch:
        epoch, index = key
        return to_tensors(self._reader.batch(index, epoch))


class _Indices:
    """The (epoch, index) that workers are to load next; read anew at each iteration of their DataLoader."""

    def __init__(self) -> None:
        self.epoch = self.start = self.stop = 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter([(self.epoch, index) for index in range(self.start, self.stop)])

    def __len__(self) -> int:
        return self.stop - self.start


class FileSetLoader:
    """Batches of a reader for a trainer: exact length, epoch from the trainer, resumable at any batch.

    Args:
        reader: The reader.
        num_workers: Worker processes; 0 reads ahead with threads, which is faster.
        epoch: Asked for the epoch's number at the first batch of each iteration; None where no trainer is there to
            know it: it is the one that `tell_epoch` said last, or else the next.
        pin_memory: Hand out tensors in page-locked memory, from which a GPU copies while the processor goes on.
        trained: Asked for how many batches of the trainer's epoch were trained on, when a state is saved: a batch that
            was handed out may not have been. None: all were.
    """

    def __init__(
        self,
        reader: FileSetReader,
        num_workers: int,
        epoch: Callable[[], int | None],
        pin_memory: bool = False,
        trained: Callable[[], int | None] | None = None,
    ) -> None:
        self.reader, self._num_workers, self._epoch_now = reader, num_workers, epoch
        self.pin_memory, self._trained = pin_memory, trained
        self._clock = NextClock()
        self._epoch = self._batches = self._rows = 0
        self._next_epoch = 0  # where no trainer knows it
        self._trainers = False  # the epoch came from the trainer that `trained` asks
        self._resume: tuple[int, int] | None = None
        self._idle: list[tuple[_Indices, DataLoader[Batch]]] = []  # workers of iterations that have ended
        self._under_way: weakref.WeakSet[BatchIterator | DataLoader[Batch]] = weakref.WeakSet()
        self._closed = False

    def __len__(self) -> int:
        """Batches of an epoch, the same on every rank."""
        return len(self.reader)

    def __iter__(self) -> Iterator[Any]:
        # A generator: this runs at the first next, when the trainer knows the epoch.
        epoch = self._epoch_now()
        resume, self._resume = self._resume, None
        self._trainers = epoch is not None
        if epoch is None:
            check_shard(self.reader.shard, "The loader was made for", "Pass the data module itself to the trainer")
            epoch = self._next_epoch
            self._next_epoch += 1
        start = resume[1] if resume is not None and resume[0] == epoch else 0
        self._epoch, self._batches = epoch, start
        for number, batch in enumerate(self._clock.over(self._load(epoch, start)), start + 1):
            self._epoch, self._batches = epoch, number  # counted when handed out, not when read ahead
            first, stop = self.reader.plan.batch_bounds(number - 1)
            self._rows += stop - first
            yield self.reader.model_input(batch)

    def tell_epoch(self, epoch: int) -> None:
        """Say which epoch the next iteration is of, where no trainer is there that could be asked."""
        self._next_epoch = epoch

    def _load(self, epoch: int, start: int) -> Iterator[Batch]:
        if not self._num_workers:
            read_ahead = self.reader.iter_batches(epoch, start)
            self._under_way.add(read_ahead)
            batches = map(to_tensors, read_ahead)
            yield from map(pinned, batches) if self.pin_memory else batches
            return
        indices, workers = self._idle.pop() if self._idle else self._start_workers()
        indices.epoch, indices.start, indices.stop = epoch, start, len(self)
        try:
            yield from workers
        finally:
            if not self._closed:
                self._idle.append((indices, workers))

    def _start_workers(self) -> tuple[_Indices, DataLoader[Batch]]:
        # Workers touch no connection: what they read is fetched before they start.
        self.reader.fileset.pull()
        indices = _Indices()
        workers: DataLoader[Batch] = DataLoader(
            _IndexedBatches(self.reader.shared()),
            batch_size=None,
            sampler=indices,
            num_workers=self._num_workers,
            persistent_workers=True,
            pin_memory=self.pin_memory,
            # Torch seeds workers by a draw from its global generator, and what the model draws then would depend on
            # the number of workers.
            generator=torch.Generator().manual_seed(self.reader.plan.shuffle.seed + self.reader.shard.rank),
        )
        self._under_way.add(workers)
        return indices, workers

    def watch(self) -> Watch:
        """How long was waited for batches, their rows, and what was read: by workers is not to be seen from here."""
        return Watch(self._clock.seconds, self._rows, None if self._num_workers else self.reader.stats)

    def retire(self) -> None:
        """End the workers that wait for another iteration, and keep none from now on."""
        # Left to the garbage collector, each takes five seconds: it closes the queue that would tell a worker to end.
        self._closed = True
        self._idle.clear()

    def close(self) -> None:
        """End all iterations, their threads and workers, whoever holds them still: an exception's traceback may."""
        self.retire()
        for source in list(self._under_way):
            if isinstance(source, BatchIterator):
                source.close()
            elif (iterator := source._iterator) is not None:  # as Lightning ends those of loaders of its own
                iterator._shutdown_workers()  # type: ignore[attr-defined]
                source._iterator = None

    def state_dict(self) -> dict[str, Any]:
        """Where the training stands: flat JSON, the same on every rank."""
        batches = self._batches
        if self._trainers and self._trained is not None and self._epoch_now() == self._epoch:
            trained = self._trained()
            batches = batches if trained is None else min(batches, trained)
        return self.reader.state(self._epoch, batches)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration of the state's epoch go on where the state was taken.

        Raises:
            StateMismatchError: The state belongs to another snapshot, seed, batch size or order.
        """
        epoch, batches = self._resume = self.reader.resume(state)
        self._next_epoch = epoch + (batches == len(self))
