"""What Lightning's trainer and a loader tell each other beside batches: epochs, progress, rows of a prediction."""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.overrides import distributed
from lightning.pytorch.trainer.states import TrainerStatus

from fileset_integrations.loader import FileSetLoader
from fileset_integrations.plan import Plan


class Progress:
    """How far a trainer has come, for loaders: they may outlive it, and must not keep it."""

    def __init__(self, trainer: Trainer | None) -> None:
        self._trainer = None if trainer is None else weakref.ref(trainer)

    def _running(self) -> Trainer | None:
        trainer = None if self._trainer is None else self._trainer()
        return None if trainer is None or trainer.state.status == TrainerStatus.FINISHED else trainer

    def epoch(self) -> int | None:
        """The epoch that it is in; None where there is no trainer, or it is done."""
        trainer = self._running()
        return None if trainer is None else trainer.current_epoch

    def trained(self) -> int | None:
        """Batches of that epoch that were trained on."""
        # "Processed", not "completed": that is counted after the hooks in which checkpoints are taken, and Lightning
        # itself counts it on when it resumes. A batch on which an exception struck is in neither.
        trainer = self._running()
        done = None if trainer is None else trainer.fit_loop.epoch_loop.batch_progress.current
        return None if done is None else done.processed  # type: ignore[attr-defined]


class TrainerLoader(FileSetLoader):
    """A loader that hears its epoch from any trainer: Lightning tells it to the samplers of batch samplers.

    Of one that was given the loader without its module, nothing else is known; and it restores no state of loaders
    from a checkpoint of an epoch's end (seen with Lightning 2.6).
    """

    @property
    def batch_sampler(self) -> Any:
        return _Sampler(self)


class _Sampler:
    def __init__(self, loader: FileSetLoader) -> None:
        self.batch_size, self.set_epoch = loader.reader.batch_size, loader.tell_epoch

    @property
    def sampler(self) -> _Sampler:  # not an attribute: nothing here may wait for the collector of cycles
        return self


class PredictLoader(FileSetLoader):
    """A loader that says which rows its batches hold, where Lightning's prediction writers look for it."""

    @property
    def batch_sampler(self) -> Any:
        return _Places(self.reader.plan)


# A name of Lightning's own, which a later one may lack: writers are told no rows then.
class _Places(getattr(distributed, "_IndexBatchSamplerWrapper", object)):  # type: ignore[misc]
    # Of Lightning's class it has the type, by which it is known, and the one attribute that is read.
    def __init__(self, plan: Plan) -> None:
        self.seen_batch_indices = _BatchPlaces(plan)


class _BatchPlaces(Sequence[list[int]]):
    def __init__(self, plan: Plan) -> None:
        self._plan = plan

    def __len__(self) -> int:
        return self._plan.num_batches

    def __getitem__(self, index: Any) -> Any:
        return list(self._plan.places(index))
