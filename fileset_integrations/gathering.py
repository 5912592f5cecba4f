"""Rows of several blocks gathered into one array for each tensor, in memory that is used again."""

from __future__ import annotations

import contextlib
import math
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.blocks import Arrays, Loaded
from fileset_integrations.decoder import TensorSpec
from fileset_integrations.plan import Piece

Batch = dict[str, Any]
Ordered = tuple[Loaded, NDArray[np.int64] | None]  # a block and the order of its rows


class Source(Protocol):
    """Where pieces are gathered from."""

    def load(self, piece: Piece, wait: bool) -> Ordered | None:
        """A piece's block and the order of its rows; None where that must wait for others and `wait` is false."""

    def done(self, piece: Piece) -> None:
        """Told when a piece has been gathered."""


class Room:
    """Memory for gathered batches that is used again once nobody holds an array on it any more.

    Memory that the system hands out afresh costs more than all copying into it: on 200 columns half of the time.

    Args:
        spares: Most pieces of memory that wait to be used again.
    """

    def __init__(self, spares: int) -> None:
        self._spare: deque[NDArray[np.uint8]] = deque(maxlen=spares)

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
