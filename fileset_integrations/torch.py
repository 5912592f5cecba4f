"""PyTorch: an `IterableDataset` of whole batches, for `DataLoader(dataset, batch_size=None)`."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fileset_integrations.columns import Columns, FittedColumns
from fileset_integrations.epochs import Begin, EpochCounter
from fileset_integrations.errors import MissingDependencyError, SpecError, how_to_install
from fileset_integrations.reader import BatchIterator, BlockMode, FileSetReader, Transform
from fileset_integrations.spec import Shard, as_epoch
from fileset_integrations.views import FileSetLike

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError as error:  # pragma: no cover - seen only where torch is not installed
    raise MissingDependencyError(f"{error}. PyTorch is optional. {how_to_install('lightning')}") from error


def current_shard() -> Shard:
    """This process's rank and world size: of torch.distributed where it is set up, else of RANK and WORLD_SIZE.

    Lightning's own launcher sets LOCAL_RANK and NODE_RANK in place of RANK: on node 0 that is the rank too.

    Raises:
        SpecError: The environment names a world size, but no rank, or what is no number.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Shard(torch.distributed.get_rank(), torch.distributed.get_world_size())
    found = os.environ
    try:
        world_size = int(found.get("WORLD_SIZE", "1"))
        local = found.get("LOCAL_RANK") if int(found.get("NODE_RANK", "0")) == 0 else None
        rank = found.get("RANK", local if world_size > 1 else "0")
        if rank is None:
            raise SpecError(
                f"WORLD_SIZE={world_size} in the environment, and no RANK: every process would read the same rows. Set "
                "torch.distributed up first, or pass shard=Shard(rank, world_size)."
            )
        return Shard(int(rank), world_size)
    except ValueError as error:
        raise SpecError(f"RANK and WORLD_SIZE in the environment: {error}. Unset them, or pass shard=.") from error


def check_shard(shard: Shard, what: str, remedy: str) -> None:
    """Refuse a rank and world size that were taken before torch.distributed knew better.

    Args:
        shard: What was taken.
        what: Beginning of the sentence about it.
        remedy: How to mend it.

    Raises:
        SpecError: They are others now: ranks would read the same rows.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized() and (now := current_shard()) != shard:
        raise SpecError(
            f"{what} rank {shard.rank} of {shard.world_size}; torch.distributed, set up since, says rank {now.rank} of "
            f"{now.world_size}: ranks would read the same rows. {remedy}."
        )


def to_tensors(batch: dict[str, Any]) -> dict[str, Any]:
    """A reader's batch with torch tensors for arrays; what is no array, such as a list of strings, stays."""
    return {
        name: torch.from_numpy(np.require(value, requirements="W")) if isinstance(value, np.ndarray) else value
        for name, value in batch.items()
    }


def pinned(batch: dict[str, Any]) -> dict[str, Any]:
    """A batch with its tensors in page-locked memory; what is no tensor stays."""
    return {name: value.pin_memory() if isinstance(value, torch.Tensor) else value for name, value in batch.items()}


def gpu_available() -> bool:
    """Whether there is a device that copies from page-locked memory."""
    return torch.cuda.is_available()


def check_pinning(pin_memory: bool | None) -> None:
    """Refuse to pin where nothing could make use of it: torch itself fails at the first batch, deep inside.

    Raises:
        SpecError: `pin_memory` is True and there is no CUDA device, or is neither True, False nor None.
    """
    if pin_memory not in (None, False, True):
        raise SpecError(f"pin_memory={pin_memory!r}: pass True, False, or None for where a GPU makes use of it.")
    if pin_memory and not gpu_available():
        raise SpecError(
            "pin_memory=True: there is no CUDA device here to copy from page-locked memory. Pass False, or None, which "
            "pins where there is one."
        )


class FileSetIterableDataset(IterableDataset[dict[str, Any]]):
    """Whole batches of a FileSet as dicts of tensors, one a column, or one a feature where `columns` are given.

    Use it as `DataLoader(dataset, batch_size=None, num_workers=n)`. Any number of workers yields the same batches in
    the same order; no workers is the fast path, since threads of our own read ahead. Each new iteration is the next
    epoch, counted from 0; `set_epoch` chooses the next one's number. `state_dict` and `load_state_dict` resume at any
    batch, torchdata's `StatefulDataLoader` does so by itself. For a GPU, `DataLoader(..., pin_memory=True)` pins.

    Workers touch no connection to Snowflake: call `fs.pull()` before they start where the FileSet lies in a stage.

    Args:
        fs: The FileSet, or what else `FileSetReader` takes.
        batch_size: Rows per batch of this rank.
        global_batch_size: Rows per batch of all ranks together; exactly one of the two is given.
        shuffle: Draw a new order of rows for every epoch.
        drop_last_batch: Leave out the last batch where it is not full.
        seed: Base seed of the order.
        columns: Which columns become which tensors; None: all, each as a tensor of its own, strings as lists.
        streams: See `FileSetReader`.
        shard: This rank's share; None: of torch.distributed or the environment, as they stand now. It travels with the
            dataset to spawned workers, which could not find it out. A dataset that was made before torch.distributed
            was set up refuses to be iterated over, lest all ranks read the same rows.
        blocks: See `FileSetReader`; "auto" in DataLoader workers has them decode each block once, to disk.
        memory_bytes: See `FileSetReader`.
        cache_dir: See `FileSetReader`.
        cache_bytes: See `FileSetReader`.
        transform: See `FileSetReader`; sees NumPy arrays.

    Raises:
        FileSetError: As `FileSetReader` does.
    """

    def __init__(
        self,
        fs: FileSetLike,
        *,
        batch_size: int | None = None,
        global_batch_size: int | None = None,
        shuffle: bool = False,
        drop_last_batch: bool = True,
        seed: int = 0,
        columns: Columns | FittedColumns | None = None,
        streams: int | None = None,
        shard: Shard | None = None,
        blocks: BlockMode = "auto",
        memory_bytes: int = 2 * 2**30,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        transform: Transform | None = None,
    ) -> None:
        self.reader = FileSetReader(
            fs,
            columns=columns,
            batch_size=batch_size,
            global_batch_size=global_batch_size,
            shuffle=shuffle,
            drop_last_batch=drop_last_batch,
            seed=seed,
            streams=streams,
            shard=current_shard() if shard is None else shard,
            blocks=blocks,
            memory_bytes=memory_bytes,
            cache_dir=cache_dir,
            cache_bytes=cache_bytes,
            transform=transform,
        )
        self._shard_is_given = shard is not None
        self._epochs = EpochCounter()
        self._last: _Position | None = None  # where the iteration begun last in this process stands

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the number of the next iteration; those after it count on from there."""
        self._epochs.set_next(Begin(as_epoch(epoch)))

    def __len__(self) -> int:
        """Batches of an epoch on this rank, over all workers."""
        return len(self.reader)

    def __iter__(self) -> Batches:
        # Not a generator: the epoch is that of the moment at which the iteration begins.
        self._check_shard()
        info = get_worker_info()
        if info is None:
            number, begin = self._epochs.claim()
        else:
            # info.seed is drawn in the main process for each set of workers: workers that share it belong together.
            number, begin = self._epochs.claim_together(info.seed - info.id, info.id)
            self.reader = self.reader.shared()  # in this worker's own copy of the dataset
        batches = Batches(self.reader, self._epochs, number, begin)
        self._last = batches.position
        return batches

    def _check_shard(self) -> None:
        if not self._shard_is_given:
            check_shard(
                self.reader.shard,
                "The dataset was made for",
                "Make it after torch.distributed is set up, or pass shard=Shard(rank, world_size)",
            )

    def __getstate__(self) -> dict[str, Any]:
        self._check_shard()  # spawned workers get the dataset so, and could not find out
        return self.__dict__

    def state_dict(self) -> dict[str, Any]:
        """Where the iteration that was begun last stands: flat JSON under 1 KB, the same on every rank.

        It counts the batches that were handed out here. What a DataLoader's workers took ahead of the training is not
        known here: keep the state of a torchdata `StatefulDataLoader` then, or `dataset.reader.state(epoch, batches)`
        with the batches that you counted.

        Raises:
            SpecError: That iteration was of DataLoader workers.
        """
        if get_worker_info() is not None and self._last is not None:
            return self._last.state(self.reader)
        begun, coming = self._epochs.coming()
        if coming is not None or not begun:
            return self.reader.state(*(coming or Begin(0)).place(self.reader))
        if self._last is None or self._last.number != begun - 1:
            raise SpecError(
                "The workers of a DataLoader took the last batches of this dataset, more than were trained on. Save "
                "the state of a torchdata StatefulDataLoader instead of this one's, or "
                "dataset.reader.state(epoch, batches) with the batches that you counted."
            )
        return self._last.state(self.reader)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration go on where the state was taken, on any number of workers; the next epochs follow.

        Raises:
            StateMismatchError: The state belongs to another snapshot, seed, batch size or order.
        """
        epoch, _ = self.reader.resume(state)
        if get_worker_info() is None:  # a StatefulDataLoader tells the iterators of its workers themselves
            self._epochs.set_next(Begin(epoch, dict(state)))


@dataclass(slots=True)
class _Position:
    """Where an iteration stands: the `number`-th of its dataset, `batches` of the epoch done."""

    number: int
    epoch: int
    batches: int

    def state(self, reader: FileSetReader) -> dict[str, Any]:
        # The next batch of a worker lies past the end of the epoch once it is done with its last.
        return reader.state(self.epoch, min(self.batches, len(reader)))


class Batches(Iterator[dict[str, Any]]):
    """One iteration over a dataset, or a DataLoader worker's part of it: every so many-th batch.

    It has the state that torchdata's `StatefulDataLoader` keeps; that of a worker counts up to its own next batch.

    Attributes:
        position: Where it stands.
    """

    def __init__(self, reader: FileSetReader, epochs: EpochCounter, number: int, begin: Begin) -> None:
        self._reader, self._epochs = reader, epochs
        info = get_worker_info()
        self._step = None if info is None else info.num_workers
        epoch, batches = begin.place(reader)
        self.position = _Position(number, epoch, batches + (0 if info is None else info.id))
        self._read_ahead: BatchIterator | None = None

    def __next__(self) -> dict[str, Any]:
        position = self.position
        if self._step is None:
            if self._read_ahead is None:
                self._read_ahead = self._reader.iter_batches(position.epoch, position.batches)
            batch = next(self._read_ahead)
            position.batches += 1
        else:
            if position.batches >= len(self._reader):
                raise StopIteration
            batch = self._reader.batch(position.batches, position.epoch)
            position.batches += self._step
        return to_tensors(batch)

    def state_dict(self) -> dict[str, Any]:
        """Where it stands: flat JSON under 1 KB."""
        return self.position.state(self._reader)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where the state was taken, and let the dataset's epochs count on from there.

        Raises:
            StateMismatchError: The state belongs to another snapshot, seed, batch size or order.
        """
        epoch, batches = self._reader.resume(state)
        self._read_ahead = None
        self.position.epoch, self.position.batches = epoch, batches
        self._epochs.settle(self.position.number, Begin(epoch))
