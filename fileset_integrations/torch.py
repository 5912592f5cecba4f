"""PyTorch: an `IterableDataset` of whole batches, for `DataLoader(dataset, batch_size=None)`."""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fileset_integrations.columns import Columns, FittedColumns
from fileset_integrations.errors import MissingDependencyError, SpecError
from fileset_integrations.forks import mend_after_fork
from fileset_integrations.reader import BlockMode, FileSetReader, Transform
from fileset_integrations.spec import Shard, as_int
from fileset_integrations.views import FileSetLike

try:
    import torch
    from torch.utils.data import IterableDataset, get_worker_info
except ImportError as error:  # pragma: no cover - seen only where torch is not installed
    raise MissingDependencyError(
        f"{error}. PyTorch is optional: pip install 'fileset-integrations[lightning]', or torch alone."
    ) from error


def current_shard() -> Shard:
    """This process's rank and world size: of torch.distributed where it is set up, else of RANK and WORLD_SIZE."""
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return Shard(torch.distributed.get_rank(), torch.distributed.get_world_size())
    try:
        return Shard(int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1")))
    except ValueError as error:
        raise SpecError(f"RANK and WORLD_SIZE in the environment: {error}. Unset them, or pass shard=.") from error


def to_tensors(batch: dict[str, Any]) -> dict[str, Any]:
    """A reader's batch with torch tensors for arrays; what is no array, such as a list of strings, stays."""
    return {
        name: torch.from_numpy(np.require(value, requirements="W")) if isinstance(value, np.ndarray) else value
        for name, value in batch.items()
    }


class FileSetIterableDataset(IterableDataset[dict[str, Any]]):
    """Whole batches of a FileSet as dicts of tensors, one a column, or one a feature where `columns` are given.

    Use it as `DataLoader(dataset, batch_size=None, num_workers=n)`. Any number of workers yields the same batches in
    the same order; no workers is the fast path, since threads of our own read ahead. Each new iteration is the next
    epoch, counted from 0; `set_epoch` chooses the next one's number.

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
            dataset to spawned workers, which could not find it out.
        blocks: See `FileSetReader`.
        memory_bytes: See `FileSetReader`.
        cache_dir: See `FileSetReader`.
        cache_bytes: See `FileSetReader`.
        transform: See `FileSetReader`; sees NumPy arrays.

    Raises:
        The errors of `FileSetReader`.
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
        self._epochs = _EpochCounter()

    def set_epoch(self, epoch: int) -> None:
        """Make `epoch` the number of the next iteration; those after it count on from there."""
        self._epochs.set_next(as_int(epoch, "epoch"))

    def __len__(self) -> int:
        """Batches of an epoch on this rank, over all workers."""
        return len(self.reader)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        # Not a generator: the epoch is that of the moment at which the iteration begins.
        info = get_worker_info()
        if info is None:
            return map(to_tensors, self.reader.iter_batches(self._epochs.claim()))
        # info.seed is drawn in the main process for each set of workers: workers that share it belong together.
        epoch = self._epochs.claim_together(info.seed - info.id, info.id)
        self.reader = self.reader.shared()  # this worker's own copy of the dataset
        reader, first, step = self.reader, info.id, info.num_workers
        return (to_tensors(reader.batch(index, epoch)) for index in range(first, len(reader), step))


class _EpochCounter:
    """Numbers the iterations of one dataset over all processes that hold a copy of it.

    DataLoader workers cannot be told the epoch: forked or spawned ones get the dataset as it was, and persistent ones
    keep it. So the workers of one iteration settle its number among themselves, by who first links a file of that
    number: it holds the name of their iteration, which the others then find there. Each takes its own place in it.
    """

    def __init__(self) -> None:
        self._folder = tempfile.mkdtemp(prefix="fileset-epochs-")
        self._lock = threading.Lock()
        self._rounds: dict[int, int] = {}  # set of workers -> iterations this worker has begun in it
        mend_after_fork(self)
        weakref.finalize(self, _remove, self._folder, os.getpid())

    def claim(self) -> int:
        """The number of an iteration that begins in this process."""
        with self._lock:
            return self._settle(f"main {os.getpid()} {os.urandom(8).hex()}")

    def claim_together(self, workers: int, worker: int) -> int:
        """The number of an iteration that the workers of one set begin together.

        Args:
            workers: What names the set.
            worker: Which of them this is.
        """
        with self._lock:
            self._rounds[workers] = self._rounds.get(workers, 0) + 1
            return self._settle(f"workers {workers} {self._rounds[workers]}", worker)

    def set_next(self, epoch: int) -> None:
        """Number the next iteration `epoch`, and those after it from there on."""
        if epoch < 0:
            raise SpecError(f"epoch={epoch}: epochs are counted from 0.")
        claimed = sum(1 for path in Path(self._folder).iterdir() if path.name.isdecimal())
        self._write(f"from-{claimed}", str(epoch))

    def _settle(self, iteration: str, worker: int = 0) -> int:
        # Sets of workers share a name where torch's generator was seeded alike before each: then the later set finds
        # its places in the earlier one's iteration taken, and goes on to the next.
        folder = Path(self._folder)
        mine = folder / f".{os.getpid()}-{threading.get_ident()}"
        mine.write_text(iteration)
        number = 0
        while not (self._joins(mine, str(number), iteration) and self._links(mine, f"{number}.{worker}")):
            number += 1
        mine.unlink()
        starts = [int(path.name.removeprefix("from-")) for path in folder.glob("from-*")]
        start = max((start for start in starts if start <= number), default=None)
        if start is None:
            return number
        return int((folder / f"from-{start}").read_text()) + number - start

    def _joins(self, mine: Path, name: str, iteration: str) -> bool:
        return self._links(mine, name) or (Path(self._folder) / name).read_text() == iteration

    def _links(self, mine: Path, name: str) -> bool:
        try:
            os.link(mine, Path(self._folder) / name)
        except FileExistsError:
            return False
        return True

    def _write(self, name: str, text: str) -> None:
        temporary = Path(self._folder) / f".{name}"
        temporary.write_text(text)
        temporary.replace(Path(self._folder) / name)

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy in another process shares the folder, which its maker removes.
        self.__dict__.update(state, _lock=threading.Lock(), _rounds={})
        mend_after_fork(self)

    def after_fork(self) -> None:
        """Renew the lock."""
        self._lock = threading.Lock()


def _remove(folder: str, maker: int) -> None:
    if os.getpid() == maker:  # not in a forked worker
        shutil.rmtree(folder, ignore_errors=True)
