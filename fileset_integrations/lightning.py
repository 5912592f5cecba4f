"""Lightning: a `LightningDataModule` over FileSets.

Lightning never tells an iterable dataset its epoch, and asks for a loader's iterator before the epoch is known; its
checkpoints keep the state of loaders that have `state_dict` themselves. So the loaders are a class of our own, in
`loader`.
"""

from __future__ import annotations

import inspect
import weakref
from collections.abc import Mapping, Sequence
from types import MethodType
from typing import Any, Literal

from fileset_integrations.callbacks.lightning import DataWait as DataWait
from fileset_integrations.columns import Columns, FittedColumns
from fileset_integrations.errors import MissingDependencyError, SpecError, how_to_install
from fileset_integrations.fileset import FileSet
from fileset_integrations.fits import fit_once
from fileset_integrations.loader import FileSetLoader
from fileset_integrations.reader import BlockMode, FileSetReader, Transform
from fileset_integrations.spec import Shard
from fileset_integrations.torch import check_pinning, current_shard, gpu_available
from fileset_integrations.trainer_loaders import PredictLoader, Progress, TrainerLoader
from fileset_integrations.views import FileSetLike, as_fileset, is_fileset_like, shown

try:
    from lightning.pytorch import LightningDataModule
    from lightning.pytorch.strategies import ModelParallelStrategy
except ImportError as error:  # pragma: no cover - seen only where lightning is not installed
    raise MissingDependencyError(f"{error}. Lightning is optional. {how_to_install('lightning')}") from error

Stage = Literal["train", "val", "test", "predict"]

# What each of the trainer's methods reads: the values of its `state.fn`.
STAGES: Mapping[str, tuple[Stage, ...]] = {
    "fit": ("train", "val"),
    "validate": ("val",),
    "test": ("test",),
    "predict": ("predict",),
}


class FileSetDataModule(LightningDataModule):
    """FileSets for training, validation, test and prediction, as batches of one set of columns.

    Batches are `(x, y)`, `(x, y, weight)`, or `x` alone without a label; x is the dict of features, or the tensor
    itself where there is one. Without `columns` a batch is a dict of one tensor a column, strings are lists (there
    Lightning cannot tell how many rows a batch has: `self.log(..., batch_size=)`). Columns are fitted on `train`
    and used everywhere. Rank, world size and epoch come from the trainer. Training drops the last batch where asked to;
    the other loaders cover every row exactly once, in natural order. `Trainer(overfit_batches=...)` turns shuffling
    off, as Lightning does with loaders of its own: every epoch is of the same batches.

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
        pull: Fetch all files from a stage or a bucket before anything starts, once a node (or once at all, where
            `prepare_data_per_node` is set to False: for a cache directory that the nodes share). False: each file when
            it is needed.
        streams: See `FileSetReader`.
        blocks: See `FileSetReader`.
        memory_bytes: See `FileSetReader`.
        cache_dir: See `FileSetReader`.
        cache_bytes: See `FileSetReader`.
        transform: See `FileSetReader`; for training batches only.
        storage_options: Options for fsspec, for strings that are URLs. Never kept in hyperparameters.

    Raises:
        SpecError: An argument is out of range, or training would have no batch (when it is set up); or the trainer
            asks for a loader of which nothing was given.
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
        pull: bool = False,
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
                "pull": pull,
                "streams": streams,
                "blocks": blocks,
            },
            # Lightning would look for this frame from its own, and keep both, and their callers', in a cycle.
            frame=inspect.currentframe(),
        )
        if isinstance(num_workers, bool) or not isinstance(num_workers, int) or num_workers < 0:
            raise SpecError(f"num_workers={num_workers!r}: pass the number of worker processes, 0 for none.")
        check_pinning(pin_memory)
        if not isinstance(pull, bool):
            raise SpecError(f"pull={pull!r}: pass True to fetch all files before training, or False.")
        self.pin_memory, self.pull = pin_memory, pull
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
        self._resume: dict[str, Any] | None = None  # where a checkpoint says that training stands
        self._hide_validation()

    def prepare_data(self) -> None:
        """Fetch the files that this run reads, where `pull` asks for it: Lightning calls this once a node."""
        if not self.pull:
            return
        # Nothing is kept on self: the other ranks of the node make no such call.
        names = STAGES[self._function()]
        fits = isinstance(self.columns, Columns)
        for name, source in self._sources.items():
            if source is not None and (name in names or (name == "train" and fits)):
                as_fileset(source, self._storage_options).with_cache(self.cache_dir, self.cache_bytes).pull()

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
        self._need("train", "Trainer.fit trains on")
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
        self._need("test", "Trainer.test reads")
        return self._evaluation("test")

    def predict_dataloader(self) -> FileSetLoader | list[FileSetLoader]:
        """The prediction loader, or loaders where `predict` is a list."""
        self._need("predict", "Trainer.predict reads")
        return self._evaluation("predict")

    def _need(self, stage: Stage, use: str) -> None:
        if self._sources[stage] is None:
            raise SpecError(f"There is no {stage}=, which {use}. Pass a FileSet or 'LOCATION/NAME' to the data module.")

    def _evaluation(self, stage: Stage) -> FileSetLoader | list[FileSetLoader]:
        loaders = self._loaders(stage)
        return loaders[0] if isinstance(self._sources[stage], FileSet | str) else loaders

    def _loaders(self, stage: Stage) -> list[FileSetLoader]:
        self.setup()
        for loader in self._made.get(stage, ()):
            loader.retire()
        kind: type[FileSetLoader] = PredictLoader if stage == "predict" else TrainerLoader
        # Not that of the module, which may be another trainer's while this one is in the midst of an epoch.
        progress = Progress(self.trainer)
        loaders = [
            kind(
                self._reader(stage, place),
                self.num_workers,
                progress.epoch,
                self._pins(),
                progress.trained if stage == "train" else None,
            )
            for place in range(len(self._filesets.get(stage, ())))
        ]
        self._made[stage] = weakref.WeakSet(loaders)
        if stage == "train" and self._resume is not None:
            loaders[0].load_state_dict(self._resume)
            self._resume = None
        return loaders

    def state_dict(self) -> dict[str, Any]:
        """Where training stands, for checkpoints; nothing where there is no training."""
        # Checkpoints hold the loader's own state too, but Lightning (2.6) gives it back to no loader that was asked for
        # before, as `trainer.estimated_stepping_batches` does in `configure_optimizers` (pytorch-lightning#20550): the
        # epoch would begin anew. A data module gets its state earlier.
        return next((loader.state_dict() for loader in self._made.get("train", ())), {})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Make the `Trainer.fit` that restores a checkpoint go on where training stood.

        Raises:
            StateMismatchError: The state belongs to another snapshot, seed, batch size or order.
        """
        # `load_from_checkpoint` makes a module for trainings of any kind; `Trainer.test` and the like read all rows.
        if self.trainer is None or self._function() != "fit":
            return
        self._resume = dict(state_dict)
        for loader in self._made.get("train", ()):  # strategies that restore late, FSDP among them
            loader.load_state_dict(state_dict)

    def _reader(self, stage: Stage, place: int) -> FileSetReader:
        shard = self._shard()
        training = stage == "train"
        shuffle = self.shuffle and training and not self._overfits()
        found = self._readers.get((stage, place))
        # Loaders may be asked for before a trainer is there, which knows the ranks; its tuner tries batch sizes.
        asked = (shard, shuffle, self.batch_size)
        if found is None or (found.shard, found.plan.shuffle.shuffle, found.batch_size) != asked:
            self._readers[stage, place] = FileSetReader(
                self._filesets[stage][place],
                columns=self.columns,
                batch_size=self.batch_size,
                shuffle=shuffle,
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
        if isinstance(self.trainer.strategy, ModelParallelStrategy):
            # Ranks that hold parts of one copy of the model are to see the same rows.
            given = self.trainer.strategy.distributed_sampler_kwargs
            return Shard(given["rank"], given["num_replicas"])
        return Shard(self.trainer.global_rank, self.trainer.world_size)

    def _pins(self) -> bool:
        if self.pin_memory is not None:
            return self.pin_memory
        # A machine may have a GPU and the trainer not use it.
        return gpu_available() and (self.trainer is None or self.trainer.strategy.root_device.type == "cuda")

    def _function(self) -> str:
        return "fit" if self.trainer is None or self.trainer.state.fn is None else self.trainer.state.fn.value

    def _overfits(self) -> bool:
        return self.trainer is not None and self.trainer.overfit_batches > 0  # type: ignore[attr-defined]

    def __str__(self) -> str:
        # Lightning's own text iterates over every loader.
        given = ", ".join(f"{name}={value!r}" for name, value in self.hparams.items() if value is not None)
        return f"{type(self).__name__}({given})"

    def teardown(self, stage: str | None = None) -> None:
        """Let go of the stage's readers, their blocks and workers: of all where none is named."""
        # Not of more: a callback may validate or test on this very module in the midst of a training.
        self._let_go(STAGES.get(stage or "", tuple(self._sources)))

    def on_exception(self, exception: BaseException) -> None:
        """Let go of readers and workers: Lightning calls no `teardown` after an exception."""
        del exception
        self._let_go(STAGES[self._function()])

    def __getstate__(self) -> dict[str, Any]:
        kept = {name: value for name, value in self.__dict__.items() if name != "val_dataloader"}
        return {**kept, "_made": {}}  # workers do not travel

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._hide_validation()

    def _hide_validation(self) -> None:
        """Without `val`, let this look like a module that defines no validation loader.

        Lightning asks whether the method is another than its own. An empty list of loaders would do too, but it warns
        of one.
        """
        if self._sources["val"] is None and type(self).val_dataloader is FileSetDataModule.val_dataloader:
            # Without a hold on itself: workers are to end with the last use of their loader, not with a collection.
            theirs = MethodType(LightningDataModule.val_dataloader, weakref.proxy(self))
            self.val_dataloader = theirs  # type: ignore[method-assign]

    def _let_go(self, stages: Sequence[Stage]) -> None:
        for stage in stages:
            for loader in self._made.pop(stage, ()):
                loader.close()
        for key in [key for key in self._readers if key[0] in stages]:
            del self._readers[key]
        if "train" in stages:
            self._resume = None
