"""How batches come together: blocks decoded ahead by threads, and a few batches gathered from them at once.

What is held at a time is bounded in blocks: one for each lane of the plan, and a few read ahead. Pieces are gathered by
first use, and a block is let go of with its last piece, so that the bound holds where all lanes change blocks at once.
"""

from __future__ import annotations

import contextlib
import math
import multiprocessing
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.blocks import RUN_ROWS, Arena, Arrays, Loaded, StreamedBlocks
from fileset_integrations.columns import TensorSpec
from fileset_integrations.errors import SpecError
from fileset_integrations.plan import EpochPlan, Piece, Plan, Visit

Batch = dict[str, Any]
Ordered = tuple[Loaded, NDArray[np.int64] | None]  # a block and the order of its rows

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


class Source(Protocol):
    """Where pieces are gathered from."""

    def load(self, piece: Piece, wait: bool) -> Ordered | None:
        """A piece's block and the order of its rows; None where that must wait for others and `wait` is false."""

    def done(self, piece: Piece) -> None:
        """Told when a piece has been gathered."""


class Room:
    """Memory for gathered batches that is used again once nobody holds an array on it any more.

    Memory that the system hands out afresh costs more than all copying into it: on 200 columns half of the time.
    """

    def __init__(self) -> None:
        self._spare: deque[NDArray[np.uint8]] = deque(maxlen=GROUPS_AHEAD + 1)

    def empty(self, shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
        """A new array as of `np.empty`."""
        size = math.prod(shape) * dtype.itemsize
        memory = None
        with contextlib.suppress(IndexError):  # other threads take from it too
            memory = self._spare.popleft()
        if memory is None or memory.size < size:
            memory = np.empty(size, np.uint8)
        return np.asarray(_Lease(memory, self._spare))[:size].view(dtype).reshape(shape)


class _Lease:
    """What all views of some memory keep alive: with the last of them, the memory goes back to the spare."""

    __slots__ = ("__array_interface__", "_memory", "_spare")

    def __init__(self, memory: NDArray[np.uint8], spare: deque[NDArray[np.uint8]]) -> None:
        self.__array_interface__ = memory.__array_interface__
        self._memory, self._spare = memory, spare

    def __del__(self) -> None:
        self._spare.append(self._memory)


Empty = Callable[[tuple[int, ...], np.dtype[Any]], NDArray[Any]]


def gather(
    tensors: Sequence[TensorSpec], rows: int, pieces: Sequence[Piece], source: Source, empty: Empty = np.empty
) -> dict[str, Any]:
    """The rows of some batches, as one array for each tensor; strings stay in Arrow.

    Args:
        tensors: What a batch consists of.
        rows: Rows of the batches together.
        pieces: Where they come from, by first use.
        source: Where their blocks are.
        empty: Makes the arrays, from shape and dtype.
    """
    return _Gathering(tensors, rows, source, empty).run(pieces)


class _Gathering:
    """Rows whose blocks share one array are gathered by one call; others piece by piece.

    One call takes half the time of a call for each piece, whose result must be copied into every so many-th row.
    """

    def __init__(self, tensors: Sequence[TensorSpec], rows: int, source: Source, empty: Empty) -> None:
        self._tensors, self._rows, self._source, self._empty = tensors, rows, source, empty
        self._out: dict[str, NDArray[Any]] | None = None
        self._values: dict[str, list[pa.Array]] = {one.name: [] for one in tensors if one.dtype.kind == "O"}
        self._places = np.empty(rows if self._values else 0, np.int64)  # of each row among `_values` laid end to end
        self._laid = 0
        self._from = np.empty(0, np.int64)  # row of the shared arrays for each row of the output
        self._arrays: Arrays = {}
        self._pending: list[Piece] = []

    def run(self, pieces: Sequence[Piece]) -> dict[str, Any]:
        for piece in pieces:
            ordered = self._source.load(piece, wait=not self._pending)
            if ordered is None:  # there is room for its block once the pieces so far are gathered
                self._flush()
                ordered = self._source.load(piece, wait=True)
                assert ordered is not None
            self._take(piece, *ordered)
        if len(self._pending) == len(pieces) and self._arrays:
            for name, out in self._output().items():
                # "clip", since "raise" gathers into memory of its own first; the places are right.
                self._arrays[name].take(self._from, axis=0, out=out, mode="clip")
            self._finish()
        else:
            self._flush()
        values = {name: pa.concat_arrays(parts).take(pa.array(self._places)) for name, parts in self._values.items()}
        gathered = {**self._output(), **values}
        return {one.name: gathered[one.name] for one in self._tensors}

    def _output(self) -> dict[str, NDArray[Any]]:
        if self._out is None:
            self._out = {
                one.name: self._empty((self._rows, *one.shape), one.dtype)
                for one in self._tensors
                if one.dtype.kind != "O"
            }
        return self._out

    def _take(self, piece: Piece, loaded: Loaded, order: NDArray[np.int64] | None) -> None:
        count = piece.stop - piece.start
        rows = None if order is None else order[piece.start : piece.stop]
        for name, parts in self._values.items():
            values = loaded.block[name]
            parts.append(values.slice(piece.start, count) if rows is None else values.take(pa.array(rows)))
        if self._values:
            self._places[piece.out :: piece.step][:count] = np.arange(self._laid, self._laid + count)
            self._laid += count
        self._pending.append(piece)
        if rows is not None and loaded.arrays:
            if not self._arrays:
                self._arrays, self._from = loaded.arrays, np.empty(self._rows, np.int64)
            np.add(rows, loaded.offset, out=self._from[piece.out :: piece.step][:count])
            return
        for name, out in self._output().items():
            values, target = loaded.block[name], out[piece.out :: piece.step][:count]
            # take: an index in brackets takes twice as long.
            target[...] = values[piece.start : piece.stop] if rows is None else values.take(rows, axis=0)

    def _flush(self) -> None:
        if self._arrays and self._pending:
            rows = [np.arange(p.out, p.out + (p.stop - p.start) * p.step, p.step) for p in self._pending]
            places = np.concatenate(rows)
            sources = self._from[places]
            for name, out in self._output().items():
                out[places] = np.take(self._arrays[name], sources, axis=0)
        self._finish()

    def _finish(self) -> None:
        for piece in self._pending:
            self._source.done(piece)
        self._pending = []


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
        self._room = Room()
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
