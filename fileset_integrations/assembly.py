"""How batches come together: blocks decoded ahead by threads, and a few batches gathered from them at once.

What is held at a time is bounded in blocks: one for each lane of the plan, and a few read ahead. Pieces are gathered by
first use, and a block is let go of with its last piece, so that the bound holds where all lanes change blocks at once.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.blocks import Block, StreamedBlocks
from fileset_integrations.columns import TensorSpec
from fileset_integrations.errors import SpecError
from fileset_integrations.plan import EpochPlan, Piece, Plan, Visit

Batch = dict[str, Any]
Loaded = tuple[Block, NDArray[np.int64] | None]  # a block and the order of its rows

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
        row_bytes: Bytes of a decoded row; its table is taken to need as much.

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
        return largest * (held * (row_bytes + order_bytes) + min(budget.decoders, held) * row_bytes) + outstanding

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


def gather(
    tensors: Sequence[TensorSpec],
    rows: int,
    pieces: Sequence[Piece],
    load: Callable[[Piece], Loaded],
    done: Callable[[Piece], None] = lambda piece: None,
) -> dict[str, Any]:
    """The rows of some batches, as one array for each tensor; strings stay in Arrow.

    Args:
        tensors: What a batch consists of.
        rows: Rows of the batches together.
        pieces: Where they come from.
        load: Gives a piece's block and the order of its rows.
        done: Told when a piece has been gathered.
    """
    arrays = {one.name: np.empty((rows, *one.shape), one.dtype) for one in tensors if one.dtype.kind != "O"}
    values: dict[str, list[pa.Array]] = {one.name: [] for one in tensors if one.dtype.kind == "O"}
    places = np.empty(rows if values else 0, np.int64)  # of each row among the parts of `values` laid end to end
    laid = 0
    for piece in pieces:
        block, order = load(piece)
        count = piece.stop - piece.start
        if order is not None:
            order = order[piece.start : piece.stop]
        for name, out in arrays.items():
            target = out[piece.out :: piece.step][:count]
            # np.take: an index in brackets takes twice as long.
            target[...] = (
                block[name][piece.start : piece.stop] if order is None else np.take(block[name], order, axis=0)
            )
        for name, parts in values.items():
            parts.append(block[name].slice(piece.start, count) if order is None else block[name].take(pa.array(order)))
        if values:
            places[piece.out :: piece.step][:count] = np.arange(laid, laid + count)
        laid += count
        done(piece)
    joined = {name: pa.concat_arrays(parts).take(pa.array(places)) for name, parts in values.items()}
    return {one.name: joined[one.name] if one.name in joined else arrays[one.name] for one in tensors}


class _Window:
    """The blocks in use and read ahead, as an epoch advances. Threads that gather share it; others decode.

    Blocks are let in by first use and let go of with the last row that a lane's visit reads, so at most `capacity` are
    held, and whoever gathers the earliest rows never waits for one who gathers later ones.
    """

    def __init__(
        self, store: StreamedBlocks, epoch_plan: EpochPlan, start: int, capacity: int, pool: ThreadPoolExecutor
    ) -> None:
        self._store, self._epoch_plan, self._capacity, self._pool = store, epoch_plan, capacity, pool
        self._lanes = epoch_plan.plan.lanes
        self._coming = epoch_plan.visits(start)
        self._next: Visit | None = next(self._coming, None)
        self._left: dict[tuple[int, int], int] = {}  # (block, lane) -> rows of its visit not yet gathered
        self._uses: dict[int, int] = {}
        self._futures: dict[int, Future[Loaded]] = {}
        self._changed = threading.Condition()
        self._closed = False

    def load(self, piece: Piece) -> Loaded:
        """A piece's block and the order of its rows."""
        with self._changed:
            self._read_ahead()
            while piece.block not in self._futures and not self._closed:
                self._changed.wait()
            if self._closed:
                raise RuntimeError("the window was closed")
            future = self._futures[piece.block]
        return future.result()

    def _read_ahead(self) -> None:
        while self._next is not None and (self._next.block in self._uses or len(self._uses) < self._capacity):
            block = self._next.block
            if block not in self._uses:
                self._uses[block] = 0
                self._futures[block] = self._pool.submit(_load, self._store, self._epoch_plan, block)
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
                    del self._uses[piece.block], self._futures[piece.block]
                self._read_ahead()

    def close(self) -> None:
        """Make waiting threads give up."""
        with self._changed:
            self._closed = True
            self._futures.clear()
            self._changed.notify_all()


def _load(store: StreamedBlocks, epoch_plan: EpochPlan, block: int) -> Loaded:
    return store.load(block), epoch_plan.row_order(block)


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
        self._window = self._window_from(start)

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

        def done(piece: Piece) -> None:
            window.done(piece, (start + piece.out) % self._plan.lanes)

        arrays = gather(self._tensors, end - start, pieces, window.load, done)
        return [{name: array[a - start : b - start] for name, array in arrays.items()} for a, b in bounds]

    def shut_down(self) -> None:
        """Stop the threads once they are done with what they are at."""
        self._window.close()
        for pool in (self.gatherers, self._decoders):
            pool.shutdown(wait=False, cancel_futures=True)
