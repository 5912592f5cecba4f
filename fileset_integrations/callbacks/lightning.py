"""`DataWait` for Lightning: is the training waiting for data?"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import astuple
from typing import Any

from fileset_integrations.counters import ReaderStats
from fileset_integrations.errors import MissingDependencyError, SpecError, how_to_install
from fileset_integrations.waiting import Wait, WaitMeter, Watch, Watched, in_words, together

try:
    import torch
    from lightning.pytorch import Callback, LightningModule, Trainer
    from lightning.pytorch.utilities import rank_zero_info
except ImportError as error:  # pragma: no cover - seen only where lightning is not installed
    raise MissingDependencyError(f"{error}. Lightning is optional. {how_to_install('lightning')}") from error


_SHOW_EVERY_S = 2.0  # on the progress bar


class DataWait(Callback):
    """Measures how long training waits for data, and says at the end of each epoch whether that is the bottleneck.

    Numbers go to every logger of the trainer: `data/wait_s` (seconds waited), `data/wait_share` (their part of the step
    time, 0 to 1), `data/rows_per_s`, `data/bytes_read`, `data/bytes_fetched`, `data/cache_hits` and `data/cache_misses`
    (blocks of rows that were there, or had to be decoded). With `_step` at their end they are this rank's, over the
    steps since the last ones were logged (the trainer's `log_every_n_steps`); with `_epoch` all ranks' together, each
    rank's own beside them as `data/rank_0/wait_s` and so on where there are several. The progress bar has
    `data/wait_share` of the steps last logged, every two seconds.

    Time is that of a `FileSetLoader`'s own `next`, with what it does to bring a batch into tensors and, where asked to,
    into page-locked memory. For other loaders it is the gap between steps, in which Lightning moves the batch to the
    device and runs other callbacks: an upper bound. Validation counts as neither. A GPU that has work queued goes on
    while the processor waits: the time is what the loop stood still, and the GPU stood still no longer than that.

    Use it on all ranks or none: at the end of an epoch they exchange their numbers.

    Args:
        say: Say it in words at the end of each epoch, on rank 0.

    Attributes:
        history: For each epoch of this run, what every rank measured.
    """

    def __init__(self, say: bool = True) -> None:
        if not isinstance(say, bool):
            raise SpecError(f"say={say!r}: pass True, or False for numbers without words.")
        self.say = say
        self.history: list[list[Wait]] = []
        self._meter: WaitMeter | None = None
        self._bar, self._shown_at = False, 0.0
        self._counted = False  # by the loader
        self._logged_at = 0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to measure."""
        sources = list(_sources(trainer.train_dataloader))
        self._bar = trainer.progress_bar_callback is not None
        self._counted = all(source.watch().rows is not None for source in sources) and bool(sources)
        self._logged_at = trainer.global_step
        self._meter = WaitMeter(sources)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """The batch is there."""
        if self._meter is not None:
            self._meter.ready()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """A step has ended; log, where Lightning does."""
        if self._meter is None:
            return
        self._meter.done(None if self._counted else _rows(batch))
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if every and step % every == 0 and step != self._logged_at:
            self._logged_at = step
            numbers = self._meter.lap().numbers("data/", "_step")
            # Past `pl_module.log`, which takes half a millisecond for each; the step is the one that it would name.
            for logger in trainer.loggers:
                logger.log_metrics(numbers, step=step - 1)
            share = numbers.get("data/wait_share_step")
            if share is not None and self._bar and time.monotonic() > self._shown_at + _SHOW_EVERY_S:
                self._shown_at = time.monotonic()
                pl_module.log("data/wait_share", share, on_step=True, on_epoch=False, prog_bar=True, logger=False)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop the clock."""
        if self._meter is not None:
            self._meter.pause()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let it run again."""
        if self._meter is not None:
            self._meter.resume()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the epoch, and say how it was."""
        if self._meter is None:
            return
        waits, self._meter = _gather(trainer, self._meter.total()), None
        first = not self.history
        self.history.append(waits)
        numbers = together(waits).numbers("data/", "_epoch")
        # The same on all ranks: the mean that Lightning takes changes nothing, and it warns where it takes none.
        pl_module.log_dict(numbers, on_step=False, on_epoch=True, batch_size=1, sync_dist=len(waits) > 1)
        if len(waits) > 1:
            own = {
                key: value
                for rank, wait in enumerate(waits)
                for key, value in wait.numbers(f"data/rank_{rank}/").items()
            }
            for logger in trainer.loggers:
                logger.log_metrics(own, step=trainer.global_step)
        if self.say:
            rank_zero_info(in_words(trainer.current_epoch, waits, first))

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Let go of the loaders."""
        self._meter = None

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Forget the epoch that did not come to its end."""
        self._meter = None


class _Reads:
    """A DataLoader without workers over one of our datasets: what it reads is counted here, not how long it takes."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def watch(self) -> Watch:
        return Watch(None, None, self._reader.stats)


class _Other:
    """A loader that tells nothing."""

    def watch(self) -> Watch:
        return Watch(None, None, None)


def _sources(loaders: Any) -> Iterator[Watched]:
    if isinstance(loaders, Mapping):
        loaders = list(loaders.values())
    if isinstance(loaders, list | tuple):
        for loader in loaders:
            yield from _sources(loader)
    elif isinstance(loaders, Watched):
        yield loaders
    else:
        reader = getattr(getattr(loaders, "dataset", None), "reader", None)
        counts = getattr(loaders, "num_workers", 0) == 0 and isinstance(getattr(reader, "stats", None), ReaderStats)
        yield _Reads(reader) if counts else _Other()


def _rows(batch: Any) -> int | None:
    """Length of the first tensor of a batch; None where there is none."""
    if isinstance(batch, torch.Tensor):
        return len(batch) if batch.ndim else None
    parts = list(batch.values()) if isinstance(batch, Mapping) else batch
    if not isinstance(parts, list | tuple):
        return None
    return next((rows for part in parts if (rows := _rows(part)) is not None), None)


def _gather(trainer: Trainer, wait: Wait) -> list[Wait]:
    """What every rank measured."""
    if trainer.world_size == 1:
        return [wait]
    stats = [None] * len(astuple(ReaderStats())) if wait.stats is None else astuple(wait.stats)
    known = [wait.steps, wait.seconds, wait.rows, wait.waited_s, *stats]
    numbers = [float("nan") if number is None else number for number in known]
    return [_unpacked(rank) for rank in of_all_ranks(trainer, numbers)]


def of_all_ranks(trainer: Trainer, numbers: Sequence[float]) -> list[list[float]]:
    """The numbers of every rank, exchanged: all of them must call it."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return [list(numbers)]
    mine = torch.tensor(numbers, dtype=torch.float64, device=trainer.strategy.root_device)
    ranks = [torch.empty_like(mine) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(ranks, mine)
    return [rank.tolist() for rank in ranks]


def _unpacked(numbers: list[float]) -> Wait:
    steps, seconds, rows, waited_s, *stats = (None if number != number else number for number in numbers)
    assert steps is not None and seconds is not None
    counts = [int(number) for number in stats if number is not None]
    return Wait(
        int(steps), None if rows is None else int(rows), seconds, waited_s, ReaderStats(*counts) if counts else None
    )
