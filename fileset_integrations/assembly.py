"""How batches come together: blocks decoded ahead by threads, and a few batches gathered from them at once."""

from __future__ import annotations

import heapq
import multiprocessing
import os
from collections import deque
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.blocks import Block, StreamedBlocks
from fileset_integrations.columns import TensorSpec
from fileset_integrations.plan import EpochPlan, Piece, Plan, Visit

Batch = dict[str, Any]

DECODED_AHEAD = 2  # blocks beyond those in use
_MAX_DECODERS = 4


def gather(
    tensors: tuple[TensorSpec, ...],
    rows: int,
    pieces: list[Piece],
    blocks: Mapping[int, Block],
    orders: Mapping[int, NDArray[np.int64] | None],
) -> dict[str, Any]:
    """The rows of some batches, as one array for each tensor; strings stay in Arrow."""
    gathered: dict[str, Any] = {}
    for tensor in tensors:
        if tensor.dtype.kind == "O":
            gathered[tensor.name] = _gather_values(tensor.name, rows, pieces, blocks, orders)
            continue
        out = np.empty((rows, *tensor.shape), tensor.dtype)
        for piece in pieces:
            source, order = blocks[piece.block][tensor.name], orders[piece.block]
            target = out[piece.out :: piece.step][: piece.stop - piece.start]
            target[...] = source[piece.start : piece.stop] if order is None else source[order[piece.start : piece.stop]]
        gathered[tensor.name] = out
    return gathered


def _gather_values(
    name: str,
    rows: int,
    pieces: list[Piece],
    blocks: Mapping[int, Block],
    orders: Mapping[int, NDArray[np.int64] | None],
) -> pa.Array:
    parts: list[pa.Array] = []
    places = np.empty(rows, np.int64)  # place of each output row among the parts laid end to end
    laid = 0
    for piece in pieces:
        source, order, count = blocks[piece.block][name], orders[piece.block], piece.stop - piece.start
        part = (
            source.slice(piece.start, count)
            if order is None
            else source.take(pa.array(order[piece.start : piece.stop]))
        )
        parts.append(part)
        places[piece.out :: piece.step][:count] = np.arange(laid, laid + count)
        laid += count
    joined = pa.concat_arrays(parts) if parts else pa.array([], pa.string())
    return joined.take(pa.array(places))


class Window:
    """The blocks in use and read ahead, as an epoch advances. Used by one thread; decoding happens in others."""

    def __init__(self, store: StreamedBlocks, epoch_plan: EpochPlan, start: int, pool: ThreadPoolExecutor) -> None:
        self._store, self._epoch_plan, self._pool = store, epoch_plan, pool
        self._coming = epoch_plan.visits(start)
        self._next: Visit | None = next(self._coming, None)
        self._ahead: deque[int] = deque()  # first rows of the visits admitted ahead of their use
        self._uses: dict[int, int] = {}
        self._futures: dict[int, Future[tuple[Block, NDArray[np.int64] | None]]] = {}
        self._ends: list[tuple[int, int]] = []  # heap of (last row that reads the block, block)

    def advance(self, start: int, stop: int) -> None:
        """Let go of what only rows before `start` read; decode what rows before `stop` read, and a few blocks ahead."""
        while self._ends and self._ends[0][0] < start:
            _, block = heapq.heappop(self._ends)
            self._uses[block] -= 1
            if not self._uses[block]:
                del self._uses[block], self._futures[block]
        while self._ahead and self._ahead[0] < stop:
            self._ahead.popleft()
        while self._next is not None and (self._next.first < stop or len(self._ahead) < DECODED_AHEAD):
            if self._next.first >= stop:
                self._ahead.append(self._next.first)
            self._admit(self._next)
            self._next = next(self._coming, None)

    def _admit(self, visit: Visit) -> None:
        if visit.block not in self._uses:
            self._uses[visit.block] = 0
            self._futures[visit.block] = self._pool.submit(_load, self._store, self._epoch_plan, visit.block)
        self._uses[visit.block] += 1
        heapq.heappush(self._ends, (visit.last, visit.block))

    def get(self, block: int) -> tuple[Block, NDArray[np.int64] | None]:
        """A block that `advance` let in, and the order of its rows."""
        return self._futures[block].result()


def _load(store: StreamedBlocks, epoch_plan: EpochPlan, block: int) -> tuple[Block, NDArray[np.int64] | None]:
    return store.load(block), epoch_plan.row_order(block)


class Assembly:
    """Gathers groups of batches, one after the other, on a thread of its own."""

    def __init__(
        self, plan: Plan, tensors: tuple[TensorSpec, ...], store: StreamedBlocks, epoch: int, start: int
    ) -> None:
        # Workers of a DataLoader share the machine among themselves: one decoding thread each.
        threads = 1 if multiprocessing.parent_process() else min(os.cpu_count() or 1, _MAX_DECODERS)
        self.decoders = ThreadPoolExecutor(threads, thread_name_prefix="fileset-decode")
        self.gatherer = ThreadPoolExecutor(1, thread_name_prefix="fileset-gather")
        self._plan, self._tensors, self._epoch_plan = plan, tensors, plan.epoch(epoch)
        self._window = Window(store, self._epoch_plan, plan.batch_bounds(start)[0], self.decoders)

    def gather(self, first: int, stop: int) -> tuple[list[Batch], Exception | None]:
        """Batches [first, stop); where a file fails, those before it and the error."""
        try:
            return self._gather(first, stop), None
        except Exception as error:
            if stop - first == 1:
                return [], error
        batches: list[Batch] = []
        for index in range(first, stop):
            try:
                batches += self._gather(index, index + 1)
            except Exception as error:
                return batches, error
        return batches, None

    def _gather(self, first: int, stop: int) -> list[Batch]:
        bounds = [self._plan.batch_bounds(index) for index in range(first, stop)]
        start, end = bounds[0][0], bounds[-1][1]
        self._window.advance(start, end)
        pieces = list(self._epoch_plan.pieces(start, end))
        loaded = {piece.block: self._window.get(piece.block) for piece in pieces}
        blocks = {block: values for block, (values, _) in loaded.items()}
        orders = {block: order for block, (_, order) in loaded.items()}
        arrays = gather(self._tensors, end - start, pieces, blocks, orders)
        return [{name: array[a - start : b - start] for name, array in arrays.items()} for a, b in bounds]

    def shut_down(self) -> None:
        """Stop the threads once they are done with what they are at."""
        for pool in (self.gatherer, self.decoders):
            pool.shutdown(wait=False, cancel_futures=True)
