"""How long training waits for data: the arithmetic and the words that the frameworks' `DataWait` callbacks share.

```
   done          ready              done          ready     done
    |-- waited --|---- computed -----|-- waited --|-- ... ---|     step time = from done to done
```
Where the loader is ours it times its own `next`, and that is the time waited. Else it is the gap between the end of one
step and the beginning of the next, which holds what else the framework does there, and so is an upper bound. Validation
belongs to no step.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple, Protocol, TypeVar, runtime_checkable

from fileset_integrations.counters import ReaderStats

NOT_THE_BOTTLENECK = 0.05  # share of the step time; what is waited below it, nobody would win back by any means
THE_BOTTLENECK = 0.5

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Wait:
    """What some steps of one rank took, and how much of it was waiting for data.

    Attributes:
        steps: Batches that were trained on.
        rows: Their rows; None where nobody counts them.
        seconds: Time of the steps, from the end of the one before to their own.
        waited_s: Part of it in which the training stood still until a batch came; None where that is not to be seen.
        stats: What was read meanwhile; None where other processes read.
    """

    steps: int = 0
    rows: int | None = None
    seconds: float = 0.0
    waited_s: float | None = None
    stats: ReaderStats | None = None

    @property
    def share(self) -> float | None:
        """Part of the time that was waited, 0 to 1."""
        if self.waited_s is None:
            return None
        return self.waited_s / self.seconds if self.seconds else 0.0

    @property
    def rows_per_s(self) -> float | None:
        """Rows a second, waiting included."""
        return None if self.rows is None or not self.seconds else self.rows / self.seconds

    def numbers(self, prefix: str = "", suffix: str = "") -> dict[str, float]:
        """What is known, by name: times, rows, bytes, and blocks that lay decoded (hits) or had to be (misses)."""
        found = {"wait_s": self.waited_s, "wait_share": self.share, "rows_per_s": self.rows_per_s}
        if (stats := self.stats) is not None:
            found |= {"bytes_read": stats.file_bytes, "bytes_fetched": stats.fetched_bytes}
            found |= {"cache_hits": stats.cache_hits, "cache_misses": stats.blocks_decoded}
        return {f"{prefix}{name}{suffix}": float(value) for name, value in found.items() if value is not None}


class Watch(NamedTuple):
    """What a source of batches tells of itself, counted from its beginning. None: it does not know."""

    waited_s: float | None
    rows: int | None
    stats: ReaderStats | None


@runtime_checkable
class Watched(Protocol):
    """A source of batches that says how long it was waited for, and what it read."""

    def watch(self) -> Watch:
        """The numbers so far."""


class WaitMeter:
    """Adds up the steps of an epoch.

    Args:
        sources: Where the batches come from.
        gaps: Take the gap between steps for the time waited, where the sources do not tell it. False: say that it is
            not known.
        clock: Gives seconds.
    """

    def __init__(
        self, sources: Sequence[Watched] = (), gaps: bool = True, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        self._sources, self._gaps, self._clock = tuple(sources), gaps, clock
        self._steps = self._counted = 0
        self._seconds = self._waited = 0.0
        self._rows: int | None = 0
        self._paused: float | None = None
        self._began = self._lap = self._now()
        self._mark = clock()

    def ready(self) -> None:
        """The next step's batch is there."""
        self._waited += self._clock() - self._mark

    def done(self, rows: int | None = None, steps: int = 1) -> None:
        """A step has ended.

        Args:
            rows: Rows that were trained on; of no account where the sources count them.
            steps: Batches that were.
        """
        now = self._clock()
        self._seconds += now - self._mark
        self._mark = now
        self._steps += steps
        self._rows = None if self._rows is None or rows is None else self._rows + rows

    def pause(self) -> None:
        """What follows belongs to no step."""
        self._paused = self._clock()

    def resume(self) -> None:
        """What follows belongs to the next step again."""
        if self._paused is not None:
            self._mark += self._clock() - self._paused
            self._paused = None

    def total(self) -> Wait:
        """All steps so far."""
        return _between(self._began, self._now())

    def lap(self) -> Wait:
        """The steps since the last call."""
        before, self._lap = self._lap, self._now()
        return _between(before, self._lap)

    def _now(self) -> Wait:
        watches = [source.watch() for source in self._sources]
        told = [watch.waited_s for watch in watches]
        rows = [watch.rows for watch in watches]
        stats = [watch.stats for watch in watches]
        waited = self._waited if self._gaps else None
        return Wait(
            self._steps,
            _sum(rows, 0) if watches and None not in rows else self._rows,
            self._seconds,
            _sum(told, 0.0) if watches and None not in told else waited,
            _sum(stats, ReaderStats()) if watches and None not in stats else None,
        )


def _sum(values: Sequence[T | None], nothing: T) -> T:
    total = nothing
    for value in values:
        if value is not None:
            total = total + value  # type: ignore[operator]
    return total


def _between(earlier: Wait, later: Wait) -> Wait:
    return replace(
        later,
        steps=later.steps - earlier.steps,
        rows=None if later.rows is None or earlier.rows is None else later.rows - earlier.rows,
        seconds=later.seconds - earlier.seconds,
        waited_s=None if later.waited_s is None or earlier.waited_s is None else later.waited_s - earlier.waited_s,
        stats=None if later.stats is None or earlier.stats is None else later.stats - earlier.stats,
    )


class NextClock:
    """Times the `next` of iterations: how long whoever asked for an item stood still.

    Attributes:
        seconds: All of it so far.
    """

    def __init__(self) -> None:
        self.seconds = 0.0

    def over(self, items: Iterator[T]) -> Iterator[T]:
        """The items, timed."""
        while True:
            begin = time.perf_counter()
            try:
                item = next(items)
            except StopIteration:
                return
            finally:
                self.seconds += time.perf_counter() - begin
            yield item


class ThreadClock:
    """Times what threads do inside `with clock:`, each for itself. A copy in another process begins with zero."""

    def __init__(self) -> None:
        self._begun = threading.local()
        self._seconds: dict[int, float] = {}

    def __enter__(self) -> None:
        self._begun.at = time.perf_counter()

    def __exit__(self, *error: object) -> None:
        # Each thread writes under its own name: no lock is needed.
        thread = threading.get_ident()
        self._seconds[thread] = self._seconds.get(thread, 0.0) + time.perf_counter() - self._begun.at

    def here(self) -> float:
        """Seconds of the thread that asks."""
        return self._seconds.get(threading.get_ident(), 0.0)

    def everywhere(self) -> float:
        """Seconds of all threads together."""
        return sum(list(self._seconds.values()))

    def __reduce__(self) -> tuple[type[ThreadClock], tuple[()]]:
        return ThreadClock, ()


def together(ranks: Sequence[Wait]) -> Wait:
    """What ranks that step together took as one: rows of all, time of the slowest, the wait of who waited most."""
    waits, rows, stats = ([getattr(rank, name) for rank in ranks] for name in ("waited_s", "rows", "stats"))
    return Wait(
        max(rank.steps for rank in ranks),
        None if None in rows else sum(rows),
        max(rank.seconds for rank in ranks),
        None if None in waits else max(waits),
        None if None in stats else sum(stats, ReaderStats()),
    )


def in_words(epoch: int, ranks: Sequence[Wait], first: bool = False, unseen: str = "") -> str:
    """One line on an epoch: what it took, how long was waited for data, and whether data is the bottleneck.

    Ranks wait for each other at every step, so one that waits for data holds up all: it is what counts.

    Args:
        epoch: Number of the epoch.
        ranks: What each rank measured.
        first: It is the first epoch of this run, in which everything must be read.
        unseen: What to say where the time waited is not known.
    """
    whole = together(ranks)
    text = f"Epoch {epoch}: {whole.steps:,} steps in {whole.seconds:.2f} s"
    if len(ranks) > 1:
        text += f" on {len(ranks)} ranks"
    if whole.rows_per_s is not None:
        text += f", {whole.rows_per_s:,.0f} rows/s"
    if whole.waited_s is None or whole.share is None:
        text += f"; {unseen or 'how long was waited for data is not to be seen'}."
    else:
        text += f"; waited {whole.waited_s:.2f} s for data ({whole.share:.1%}): {_verdict(whole)}."
        if len(ranks) > 1 and whole.share >= NOT_THE_BOTTLENECK:
            worst = max(range(len(ranks)), key=lambda rank: ranks[rank].waited_s or 0.0)
            text += f" That is rank {worst}, which waited most."
    return f"{text} {_reading(whole, first)}"


def _verdict(wait: Wait) -> str:
    share = wait.share or 0.0
    if share < NOT_THE_BOTTLENECK:
        return "data is not the bottleneck"
    gain = f"without waiting it were {1 / (1 - min(share, 0.999)):.1f} times as fast"
    return f"data is the bottleneck, {gain}" if share >= THE_BOTTLENECK else f"data costs time, {gain}"


def _reading(wait: Wait, first: bool) -> str:
    stats = wait.stats
    if stats is None:
        return "What other processes read for it is not counted here."
    text = (
        f"{stats.blocks_decoded:,} blocks decoded ({_bytes(stats.file_bytes)} read), {stats.cache_hits:,} from caches"
    )
    if stats.files_fetched:
        text += f"; {stats.files_fetched:,} files fetched ({_bytes(stats.fetched_bytes)})"
    if stats.blocks_decoded and not stats.cache_hits and not first and (wait.share or 0.0) >= NOT_THE_BOTTLENECK:
        text += "; with blocks='memory' or 'disk' each is decoded once, not in every epoch"
    return f"{text}."


def _bytes(count: int) -> str:
    return f"{count / 2**20:,.1f} MiB" if count >= 2**20 else f"{count / 2**10:,.1f} KiB"
