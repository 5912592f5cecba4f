"""How batches come together: blocks decoded ahead by threads, and a few batches gathered from them at once.

What is held at a time is bounded in blocks: one for each lane of the plan, and a few read ahead. Pieces are gathered by
first use, and a block is let go of with its last piece, so that the bound holds where all lanes change blocks at once.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
import weakref
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace

from fileset_integrations.blocks import RUN_ROWS, Arena, StreamedBlocks
from fileset_integrations.decoder import TensorSpec
from fileset_integrations.errors import SpecError
from fileset_integrations.gathering import Batch, Ordered, Room, gather
from fileset_integrations.plan import EpochPlan, Piece, Plan, Visit

GROUPS_AHEAD = 3
_GROUP_BYTES = 4 * 2**20  # batches are gathered in groups of about this size: long NumPy calls, small memory
_GROUP_BATCHES = 64
_BLOCKS_AHEAD = 2
_MAX_DECODERS = 4
_GATHERERS = 2
_ORDER_BYTES = 8  # of a row's place in its block's order


@dataclass(frozen=True, slots=True)
class Budget:
    """How much is under way at once.

    Attributes:
        ahead: Blocks decoded beyond those in use.
        decoders: Threads that decode.
        gatherers: Threads that gather.
        group: Batches gathered at once.
    """

    ahead: int
    decoders: int
    gatherers: int
    group: int


def fit_budget(memory_bytes: int, plan: Plan, row_bytes: int) -> Budget:
    """The largest budget whose blocks, orders of rows, tables being decoded and outstanding batches fit.

    Args:
        memory_bytes: The bound.
        plan: The plan.
        row_bytes: Bytes of a decoded row; rows on their way from the file are taken to need as much.

    Raises:
        SpecError: The smallest budget does not fit; says the least `memory_bytes` that does.
    """
    largest = int(plan.block_rows.max(initial=0))
    batch_bytes = max(plan.batch.batch_size * row_bytes, 1)
    # Workers of a DataLoader share the machine among themselves: one thread of each kind.
    threads = 1 if multiprocessing.parent_process() else os.cpu_count() or 1
    decoders, gatherers = min(threads, _MAX_DECODERS), min(threads, _GATHERERS)
    group = max(1, min(_GROUP_BATCHES, _GROUP_BYTES // batch_bytes))

    def needed(budget: Budget) -> int:
        held = min(plan.lanes + budget.ahead, len(plan.block_rows))
        order_bytes = _ORDER_BYTES if plan.shuffle.shuffle else 0
        outstanding = (GROUPS_AHEAD + 1) * budget.group * batch_bytes
        on_the_way = min(budget.decoders, held) * min(largest, RUN_ROWS) * row_bytes
        return largest * held * (row_bytes + order_bytes) + on_the_way + outstanding

    least = Budget(ahead=0, decoders=1, gatherers=1, group=1)
    full = Budget(_BLOCKS_AHEAD, decoders, gatherers, group)
    for budget in (full, replace(full, ahead=1, decoders=1), replace(full, ahead=0, decoders=1), least):
        if needed(budget) <= memory_bytes:
            return budget
    raise SpecError(
        f"memory_bytes={memory_bytes} is too small: {plan.lanes} open blocks of up to {largest} rows of {row_bytes} "
        f"bytes, and batches of {plan.batch.batch_size} rows, take {needed(least)}. "
        f"Pass memory_bytes={needed(least)} or more; or fewer streams, which is another order of rows."
    )


class _Window:
    """The blocks in use and read ahead, as an epoch advances. Threads that gather share it; others decode.

    Blocks are let in by first use and let go of with the last row that a lane's visit reads, so at most `capacity` are
    held, and whoever gathers the earliest rows never waits for one who gathers later ones.
    """

    def __init__(
        self, store: StreamedBlocks, epoch_plan: EpochPlan, start: int, capacity: int, pool: ThreadPoolExecutor
    ) -> None:
        self._store, self._epoch_plan, self._capacity, self._pool = store, epoch_plan, capacity, pool
        self._arena = store.arena(capacity)
        self._slots = list(range(capacity))  # free ones
        self._lanes = epoch_plan.plan.lanes
        self._coming = epoch_plan.visits(start)
        self._next: Visit | None = next(self._coming, None)
        self._left: dict[tuple[int, int], int] = {}  # (block, lane) -> rows of its visit not yet gathered
        self._uses: dict[int, int] = {}
        self._futures: dict[int, tuple[Future[Ordered], int]] = {}  # and the slot
        self._changed = threading.Condition()
        self._closed = False
        self._ahead = store.read_ahead(visit.block for visit in epoch_plan.visits(start))

    def load(self, piece: Piece, wait: bool) -> Ordered | None:
        """A piece's block and the order of its rows; None where others must let go first and `wait` is false."""
        with self._changed:
            self._read_ahead()
            while wait and piece.block not in self._futures and not self._closed:
                self._changed.wait()
            if self._closed:
                raise RuntimeError("the window was closed")
            if piece.block not in self._futures:
                return None
            future, _ = self._futures[piece.block]
        return future.result()

    def _read_ahead(self) -> None:
        while self._next is not None and (self._next.block in self._uses or len(self._uses) < self._capacity):
            block = self._next.block
            if block not in self._uses:
                self._uses[block] = 0
                slot = self._slots.pop()
                future = self._pool.submit(_load, self._store, self._epoch_plan, block, self._arena, slot)
                self._futures[block] = (future, slot)
                self._changed.notify_all()
            self._uses[block] += 1
            rows = (self._next.last - self._next.first) // self._lanes + 1
            self._left[block, self._next.first % self._lanes] = rows
            self._next = next(self._coming, None)

    def done(self, piece: Piece, lane: int) -> None:
        """Let go of a piece's block once all rows of its lane's visit are gathered."""
        with self._changed:
            if self._closed:
                return
            visit = (piece.block, lane)
            self._left[visit] -= piece.stop - piece.start
            if not self._left[visit]:
                del self._left[visit]
                self._uses[piece.block] -= 1
                if not self._uses[piece.block]:
                    del self._uses[piece.block]
                    self._slots.append(self._futures.pop(piece.block)[1])
                self._read_ahead()

    def put_back(self) -> None:
        """Give the arena back, where nobody gathers any more and no thread decodes into it."""
        with self._changed:
            if self._arena is not None and all(future.done() for future, _ in self._futures.values()):
                self._store.put_back(self._arena)
                self._arena = None

    def close(self) -> None:
        """Make waiting threads give up."""
        if self._ahead is not None:
            self._ahead.close()
        with self._changed:
            self._closed = True
            self._futures.clear()
            self._changed.notify_all()


def _load(store: StreamedBlocks, epoch_plan: EpochPlan, block: int, arena: Arena | None, slot: int) -> Ordered:
    return store.load(block, arena, slot), epoch_plan.row_order(block)


class _Group:
    """The window as one group of batches sees it, whose rows begin at row `start` of the rank."""

    def __init__(self, window: _Window, start: int, lanes: int) -> None:
        self._window, self._start, self._lanes = window, start, lanes
        self.load = window.load

    def done(self, piece: Piece) -> None:
        self._window.done(piece, (self._start + piece.out) % self._lanes)


class Assembly:
    """Gathers groups of batches of an epoch, on threads of its own.

    Attributes:
        gatherers: Those threads; groups go to them in order.
    """

    def __init__(
        self, plan: Plan, tensors: tuple[TensorSpec, ...], store: StreamedBlocks, budget: Budget, epoch: int, start: int
    ) -> None:
        self.gatherers = ThreadPoolExecutor(budget.gatherers, thread_name_prefix="fileset-gather")
        self._decoders = ThreadPoolExecutor(budget.decoders, thread_name_prefix="fileset-decode")
        self._plan, self._tensors, self._store, self._budget = plan, tensors, store, budget
        self._epoch_plan = plan.epoch(epoch)
        self._room = Room(GROUPS_AHEAD + 1)
        self._window = self._window_from(start)
        _at_work.add(self)

    def _window_from(self, batch: int) -> _Window:
        start = self._plan.batch_bounds(batch)[0]
        return _Window(self._store, self._epoch_plan, start, self._plan.lanes + self._budget.ahead, self._decoders)

    def gather(self, first: int, stop: int) -> tuple[list[Batch], Exception | None]:
        """Batches [first, stop); where a file fails, those before it and the error."""
        try:
            return self._gather(self._window, first, stop), None
        except Exception as error:
            if stop - first == 1:
                return [], error
        # One batch at a time: those that do without the file are delivered.
        window = self._window_from(first)
        batches: list[Batch] = []
        for index in range(first, stop):
            try:
                batches += self._gather(window, index, index + 1)
            except Exception as error:
                return batches, error
        return batches, None

    def _gather(self, window: _Window, first: int, stop: int) -> list[Batch]:
        bounds = [self._plan.batch_bounds(index) for index in range(first, stop)]
        start, end = bounds[0][0], bounds[-1][1]
        pieces = sorted(self._epoch_plan.pieces(start, end), key=lambda piece: piece.out)
        group = _Group(window, start, self._plan.lanes)
        arrays = gather(self._tensors, end - start, pieces, group, self._room.empty)
        return [{name: array[a - start : b - start] for name, array in arrays.items()} for a, b in bounds]

    def finish(self) -> None:
        """To be called when all batches were gathered."""
        self._window.put_back()

    def shut_down(self) -> None:
        """Stop the threads once they are done with what they are at."""
        self._window.close()
        for pool in (self.gatherers, self._decoders):
            pool.shutdown(wait=False, cancel_futures=True)


_at_work: weakref.WeakSet[Assembly] = weakref.WeakSet()


def _stop_all() -> None:
    for assembly in list(_at_work):
        assembly.shut_down()


# Python waits for the threads of pools before it ends, and pools take no work by then: a thread that gathers would wait
# for ever for a block that is never decoded. What `atexit` or a finalizer does comes after that.
threading._register_atexit(_stop_all)  # type: ignore[attr-defined]
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_at_work.clear)  # their threads are not in the child
