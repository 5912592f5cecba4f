"""Lightning: a `LightningDataModule` over FileSets.

Lightning never tells an iterable dataset its epoch, and asks for a loader's iterator before the epoch is known; its
checkpoints keep the state of loaders that have `state_dict` themselves. So the loaders here are our own small class,
whose iteration begins at the first `next` and reads the trainer's epoch there (seen with Lightning 2.6).
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Literal

from fileset_integrations.assembly import Batch
from fileset_integrations.callbacks.lightning import DataWait as DataWait
from fileset_integrations.columns import Columns, FittedColumns
from fileset_integrations.errors import MissingDependencyError, SpecError
from fileset_integrations.fileset import FileSet
from fileset_integrations.fits import fit_once
from fileset_integrations.reader import BlockMode, FileSetReader, Transform
from fileset_integrations.spec import Shard
from fileset_integrations.torch import check_pinning, current_shard, gpu_available, pinned, to_tensors
from fileset_integrations.views import FileSetLike, as_fileset, is_fileset_like, shown
from fileset_integrations.waiting import NextClock, Watch

try:
    from lightning.pytorch import LightningDataModule
except ImportError as error:  # pragma: no cover - seen only where lightning is not installed
    raise MissingDependencyError(
        f"{error}. Lightning is optional: pip install 'fileset-integrations[lightning]'."
    ) from error

from torch.utils.data import DataLoader, Dataset

Stage = Literal["train", "val", "test", "predict"]


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
    """Batches of a reader for a Lightning trainer: exact length, epoch from the trainer, resumable at any batch.

    Args:
        reader: The reader.
        num_workers: Worker processes; 0 reads ahead with threads, which is faster.
        epoch: Asked for the epoch's number at the first batch of each iteration.
        pin_memory: Hand out tensors in page-locked memory, from which a GPU copies while the processor goes on.
    """

    def __init__(
        self, reader: FileSetReader, num_workers: int, epoch: Callable[[], int], pin_memory: bool = False
    ) -> None:
        self.reader, self._num_workers, self._epoch_now = reader, num_workers, epoch
        self.pin_memory = pin_memory
        self._clock = NextClock()
        self._epoch = self._batches = self._rows = 0
        self._resume: tuple[int, int] | None = None
        self._idle: list[tuple[_Indices, DataLoader[Batch]]] = []  # workers of iterations that have ended
        self._closed = False

    def __len__(self) -> int:
        """Batches of an epoch, the same on every rank."""
        return len(self.reader)

    def __iter__(self) -> Iterator[Any]:
        # A generator: this runs at the first next, when the trainer knows the epoch.
        epoch = self._epoch_now()
        resume, self._resume = self._resume, None
        start = resume[1] if resume is not None and resume[0] == epoch else 0
        self._epoch, self._batches = epoch, start
        for number, batch in enumerate(self._clock.over(self._load(epoch, start)), start + 1):
            self._epoch, self._batches = epoch, number  # counted when handed out, not when read ahead
            first, stop = self.reader.plan.batch_bounds(number - 1)
            self._rows += stop - first
            yield self.reader.model_input(batch)

    def _load(self, epoch: int, start: int) -> Iterator[Batch]:
        if not self._num_workers:
            batches = map(to_tensors, self.reader.iter_batches(epoch, start))
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
        )
        return indices, workers

    def watch(self) -> Watch:
        """How long was waited for batches, their rows, and what was read: by workers is not to be seen from here."""
        return Watch(self._clock.seconds, self._rows, None if self._num_workers else self.reader.stats)

    def close(self) -> None:
        """End the workers that wait for another iteration, and keep none from now on."""
        # Left to the garbage collector, each takes five seconds: it closes the queue that would tell a worker to end.
        self._closed = True
        self._idle.clear()

    def state_dict(self) -> dict[str, Any]:
        """Where the loader stands: flat JSON, the same on every rank."""
        return self.reader.state(self._epoch, self._batches)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Make the next iteration of the state's epoch go on where the state was taken.

        Raises:
            StateMismatchError: The state belongs to another snapshot, seed, batch size or order.
        """
        self._resume = self.reader.resume(state)


class FileSetDataModule(LightningDataModule):
    """FileSets for training, validation, test and prediction, as batches of one set of columns.

    Batches are `(x, y)`, `(x, y, weight)`, or `x` alone without a label; x is the dict of features, or the tensor
    itself where there is one. Without `columns` a batch is a dict of one tensor a column. Columns are fitted on `train`
    and used everywhere. Rank, world size and epoch come from the trainer. Training drops the last batch where asked to;
    the other loaders cover every row exactly once, in natural order.

    Args:
        train: A FileSet, a view of one, or "LOCATION/NAME", opened in `setup`; or a list of these, which is their
            concatenation.
        val: Likewise, but each of a list has a loader of its own.
        test: As `val`.
        predict: As `val`.
        columns: Which columns become which tensors; unfitted ones are fitted on `train`.
        batch_size: Rows per batch and rank.
        shuffle: Draw a new order of the training rows in every epoch.
        drop_last_batch: Only full batches when training.
        seed: Base seed of the order.
        num_workers: Worker processes per rank; 0, where threads read ahead, is the fast path.
        pin_memory: Hand out tensors in page-locked memory, from which a GPU copies while the processor goes on; None:
            where the trainer's device is one of CUDA's.
        streams: See `FileSetReader`.
        blocks: See `FileSetReader`.
        memory_bytes: See `FileSetReader`.
        cache_dir: See `FileSetReader`.
        cache_bytes: See `FileSetReader`.
        transform: See `FileSetReader`; for training batches only.
        storage_options: Options for fsspec, for strings that are URLs. Never kept in hyperparameters.

    Raises:
        SpecError: An argument is out of range, or training would have no batch (when it is set up).
        ColumnError: A column is missing or has no tensor form as asked (when it is set up).
    """

    def __init__(
        self,
        train: FileSetLike | None = None,
        val: FileSetLike | None = None,
        test: FileSetLike | None = None,
        predict: FileSetLike | None = None,
        columns: Columns | FittedColumns | None = None,
        batch_size: int = 1024,
        shuffle: bool = True,
        drop_last_batch: bool = True,
        seed: int = 0,
        num_workers: int = 0,
        pin_memory: bool | None = None,
        streams: int | None = None,
        blocks: BlockMode = "auto",
        memory_bytes: int = 2 * 2**30,
        cache_dir: str | None = None,
        cache_bytes: int | None = None,
        transform: Transform | None = None,
        storage_options: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self._sources: dict[Stage, FileSetLike | None] = {"train": train, "val": val, "test": test, "predict": predict}
        for stage, source in self._sources.items():
            if source is not None and not is_fileset_like(source):
                meaning = "their concatenation" if stage == "train" else "each with a loader of its own"
                raise SpecError(
                    f"{stage}={source!r}: pass a FileSet, a part of fs.split(...), 'LOCATION/NAME', or a list of them, "
                    f"{meaning}."
                )
        self.save_hyperparameters(
            {
                **{stage: None if source is None else shown(source) for stage, source in self._sources.items()},
                "batch_size": batch_size,
                "shuffle": shuffle,
                "drop_last_batch": drop_last_batch,
                "seed": seed,
                "num_workers": num_workers,
                "pin_memory": pin_memory,
                "streams": streams,
                "blocks": blocks,
            }
        )
        if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 0:
            raise SpecError(f"num_workers={num_workers!r}: pass the number of worker processes, 0 for none.")
        check_pinning(pin_memory)
        self.pin_memory = pin_memory
        self.columns = columns
        self.batch_size, self.shuffle, self.drop_last_batch = batch_size, shuffle, drop_last_batch
        self.seed, self.num_workers, self.streams = seed, num_workers, streams
        self.blocks, self.memory_bytes = blocks, memory_bytes
        self.cache_dir, self.cache_bytes, self.transform = cache_dir, cache_bytes, transform
        self._storage_options = storage_options
        self._filesets: dict[Stage, list[FileSet]] = {}
        self._readers: dict[tuple[Stage, int], FileSetReader] = {}
        # The last loaders of each stage. Weakly: a loader that nobody uses any more must not wait for the collector.
        self._made: dict[Stage, weakref.WeakSet[FileSetLoader]] = {}

    def setup(self, stage: str | None = None) -> None:
        """Open the FileSets, fit the columns on `train`, and make the readers of this stage."""
        del stage  # opening costs one manifest each, and fits need `train` in every stage
        for name, source in self._sources.items():
            if source is not None and name not in self._filesets:
                several = [source] if name == "train" or isinstance(source, FileSet | str) else source
                self._filesets[name] = [as_fileset(one, self._storage_options) for one in several]
        if isinstance(self.columns, Columns):
            if "train" not in self._filesets:
                raise SpecError(
                    "columns are not fitted and there is no train= to fit them on. Pass train=, or fitted columns: "
                    "columns=FittedColumns.load(path)."
                )
            self.columns = fit_once(self.columns, self._filesets["train"][0], self.cache_dir)

    def train_dataloader(self) -> FileSetLoader:
        """The training loader."""
        if self._sources["train"] is None:
            raise SpecError("There is no train= to fit on. Pass a FileSet or 'LOCATION/NAME'.")
        loader = self._loaders("train")[0]
        if not len(loader):
            raise SpecError(
                f"train has {loader.reader.plan.num_rows} rows, which make no full batch of "
                f"{loader.reader.plan.global_batch_size}. Pass a smaller batch_size, or drop_last_batch=False."
            )
        return loader

    def val_dataloader(self) -> FileSetLoader | list[FileSetLoader]:
        """The validation loader, or loaders where `val` is a list."""
        return self._evaluation("val")

    def test_dataloader(self) -> FileSetLoader | list[FileSetLoader]:
        """The test loader, or loaders where `test` is a list."""
        return self._evaluation("test")

    def predict_dataloader(self) -> FileSetLoader | list[FileSetLoader]:
        """The prediction loader, or loaders where `predict` is a list."""
        return self._evaluation("predict")

    def _evaluation(self, stage: Stage) -> FileSetLoader | list[FileSetLoader]:
        loaders = self._loaders(stage)
        return loaders[0] if isinstance(self._sources[stage], FileSet | str) else loaders

    def _loaders(self, stage: Stage) -> list[FileSetLoader]:
        self.setup()
        for loader in self._made.get(stage, ()):
            loader.close()
        loaders = [
            FileSetLoader(self._reader(stage, place), self.num_workers, _weakly(self._epoch), self._pins())
            for place in range(len(self._filesets.get(stage, ())))
        ]
        self._made[stage] = weakref.WeakSet(loaders)
        return loaders

    def _reader(self, stage: Stage, place: int) -> FileSetReader:
        shard = self._shard()
        found = self._readers.get((stage, place))
        if found is None or found.shard != shard:  # loaders may be asked for before a trainer knows the ranks
            training = stage == "train"
            self._readers[stage, place] = FileSetReader(
                self._filesets[stage][place],
                columns=self.columns,
                batch_size=self.batch_size,
                shuffle=self.shuffle and training,
                drop_last_batch=self.drop_last_batch and training,
                seed=self.seed,
                streams=self.streams,
                shard=shard,
                blocks=self.blocks,
                memory_bytes=self.memory_bytes,
                cache_dir=self.cache_dir,
                cache_bytes=self.cache_bytes,
                transform=self.transform if training else None,
            )
        return self._readers[stage, place]

    def _shard(self) -> Shard:
        if self.trainer is None:
            return current_shard()
        return Shard(self.trainer.global_rank, self.trainer.world_size)

    def _pins(self) -> bool:
        if self.pin_memory is not None:
            return self.pin_memory
        # A machine may have a GPU and the trainer not use it.
        return gpu_available() and (self.trainer is None or self.trainer.strategy.root_device.type == "cuda")

    def _epoch(self) -> int:
        return 0 if self.trainer is None else self.trainer.current_epoch

    def __str__(self) -> str:
        # Lightning's own text iterates over every loader.
        given = ", ".join(f"{name}={value!r}" for name, value in self.hparams.items() if value is not None)
        return f"{type(self).__name__}({given})"

    def teardown(self, stage: str | None = None) -> None:
        """Let go of readers, their blocks and workers."""
        del stage
        self._let_go()

    def on_exception(self, exception: BaseException) -> None:
        """Let go of readers and workers: Lightning calls no `teardown` after an exception."""
        del exception
        self._let_go()

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_made": {}}  # workers do not travel

    def _let_go(self) -> None:
        for loaders in self._made.values():
            for loader in loaders:
                loader.close()
        self._made.clear()
        self._readers.clear()


def _weakly(method: Callable[[], int]) -> Callable[[], int]:
    """The method without a hold on its object, lest loaders outlive their last use; 0 where the object is gone."""
    reference = weakref.WeakMethod(method)

    def call() -> int:
        bound = reference()
        return 0 if bound is None else bound()

    return call
