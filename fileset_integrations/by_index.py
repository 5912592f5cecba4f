"""Batches asked for by index, in any order and from any thread: the orders last drawn, and blocks from the store."""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import Any

import numpy as np
from numpy.typing import NDArray

from fileset_integrations.blocks import StreamedBlocks
from fileset_integrations.forks import mend_after_fork
from fileset_integrations.gathering import Ordered
from fileset_integrations.plan import EpochPlan, Piece, Plan


class Orders:
    """The epoch plans and row orders last used, for callers from any thread.

    Args:
        max_bytes: Bound for the row orders together; the last one stays in any case.
    """

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._reset()

    def _reset(self) -> None:
        mend_after_fork(self)
        self._lock = threading.Lock()
        self._plans: OrderedDict[int, EpochPlan] = OrderedDict()
        self._rows: OrderedDict[tuple[int, int], NDArray[np.int64]] = OrderedDict()
        self._bytes = 0

    def plan(self, plan: Plan, epoch: int) -> EpochPlan:
        """The plan of an epoch."""
        with self._lock:
            found = self._plans.get(epoch)
        if found is None:
            found = plan.epoch(epoch)
            with self._lock:
                self._plans[epoch] = found
                while len(self._plans) > 2:  # this epoch, and another in the validation between
                    self._plans.popitem(last=False)
        return found

    def rows(self, epoch_plan: EpochPlan, block: int) -> NDArray[np.int64] | None:
        """The order of a block's rows in an epoch, shape (rows,); None without shuffling."""
        if not epoch_plan.plan.shuffle.shuffle:
            return None
        key = (epoch_plan.number, block)
        with self._lock:
            if (order := self._rows.get(key)) is not None:
                self._rows.move_to_end(key)
                return order
        order = epoch_plan.row_order(block)
        assert order is not None
        with self._lock:
            if key not in self._rows:
                self._rows[key] = order
                self._bytes += order.nbytes
            while self._bytes > self._max_bytes and len(self._rows) > 1:
                self._bytes -= self._rows.popitem(last=False)[1].nbytes
        return order

    def after_fork(self) -> None:
        """Renew the lock."""
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"_max_bytes": self._max_bytes}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()


class Stored:
    """What one batch is gathered from: blocks of the store, which any thread may ask, in the order of an epoch."""

    def __init__(self, store: StreamedBlocks, orders: Orders, epoch_plan: EpochPlan) -> None:
        self._store, self._orders, self._epoch_plan = store, orders, epoch_plan

    def load(self, piece: Piece, wait: bool) -> Ordered:
        """A piece's block and the order of its rows."""
        return self._store.get(piece.block), self._orders.rows(self._epoch_plan, piece.block)

    def done(self, piece: Piece) -> None:
        """Nothing is let go of: the store keeps the last few."""
