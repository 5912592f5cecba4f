"""Blocks: decoded rows of a file, and where they are kept once decoded.

`StreamedBlocks` decodes a block whenever it is asked for, `KeptBlocks` once and keeps it in memory; `mapped` has those
that lie on disk.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.columns import Decoder
from fileset_integrations.counters import Counters, ReaderStats
from fileset_integrations.decoder import TensorSpec, Value, empty_arrays
from fileset_integrations.fileset import FileSet
from fileset_integrations.forks import mend_after_fork
from fileset_integrations.kept import KeptRows
from fileset_integrations.plan import BlockTable

if TYPE_CHECKING:
    from fileset_integrations.storage.fetching import ReadAhead

RUN_ROWS = 131_072  # go from a file to their block at a time; with 8,192, decoding takes half as much time again

Block = Mapping[str, Value]
Arrays = Mapping[str, NDArray[Any]]


class Arena:
    """Room for several blocks in one array a tensor, so that rows of all of them are gathered by one call.

    Args:
        tensors: What a block consists of; strings have no room here.
        slots: Blocks that it has room for.
        rows: Rows of the largest.
    """

    def __init__(self, tensors: Sequence[TensorSpec], slots: int, rows: int) -> None:
        self.slots, self.rows = slots, rows
        self.arrays: Arrays = empty_arrays(tensors, slots * rows)

    def view(self, offset: int, rows: int) -> Arrays:
        """The room for `rows` rows from row `offset` on."""
        return {name: array[offset : offset + rows] for name, array in self.arrays.items()}


@dataclass(frozen=True, slots=True)
class Loaded:
    """A block, decoded.

    Attributes:
        block: Its values, by tensor.
        arrays: Arrays, by tensor, that hold its numbers among those of other blocks; None where they stand alone.
        offset: Its first row in them.
    """

    block: Block
    arrays: Arrays | None = None
    offset: int = 0


class _Slot:
    """A block that one thread makes while others wait for it. Once it is there, no lock is taken any more."""

    def __init__(self) -> None:
        self.loaded: Loaded | None = None
        self._error: BaseException | None = None
        self._settled = threading.Event()

    def settle(self, loaded: Loaded | None, error: BaseException | None = None) -> None:
        self.loaded, self._error = loaded, error
        self._settled.set()

    def wait(self) -> Loaded:
        if self.loaded is None:
            self._settled.wait()
            if self._error is not None:
                raise self._error
        assert self.loaded is not None
        return self.loaded


class StreamedBlocks:
    """Decodes blocks from their files; keeps the few last asked for by `get`.

    Args:
        fs: The FileSet.
        decoder: The way from its tables to arrays.
        table: Where each block lies.
        kept: Rows that the null policy leaves.
        keep: Blocks that `get` keeps.

    Attributes:
        counters: What is read and decoded.
    """

    def __init__(self, fs: FileSet, decoder: Decoder, table: BlockTable, kept: KeptRows, keep: int) -> None:
        self._fs, self._decoder, self._table, self._kept, self._keep = fs, decoder, table, kept, keep
        self.counters = Counters()
        self._hits = 0  # apart from the other counts, since `batch(i)` comes here for each of its pieces
        self._lock = threading.Lock()
        self._held: OrderedDict[int, _Slot] = OrderedDict()
        self._idle: Arena | None = None
        mend_after_fork(self)

    def after_fork(self) -> None:
        """Keep what is decoded; forget what other threads were decoding."""
        self._lock = threading.Lock()
        self._held = OrderedDict((block, slot) for block, slot in self._held.items() if slot.loaded is not None)

    def stats(self) -> ReaderStats:
        """What was read and decoded so far, and what was there."""
        return self.counters.stats() + ReaderStats(memory_hits=self._hits)

    def arena(self, slots: int) -> Arena | None:
        """Room for `slots` blocks, for `load` to decode into; None where blocks have a place of their own.

        Give it back with `put_back`: memory that was used before is far cheaper than new memory.
        """
        with self._lock:
            arena, self._idle = self._idle, None
        rows = int(self._kept.rows.max(initial=0))
        if arena is None or (arena.slots, arena.rows) != (slots, rows):
            arena = Arena(self._decoder.tensors, slots, rows)
        return arena

    def put_back(self, arena: Arena) -> None:
        """Keep an arena that nobody uses any more for the next who asks."""
        with self._lock:
            self._idle = arena

    def load(self, block: int, arena: Arena | None = None, slot: int = 0) -> Loaded:
        """One block, decoded into a slot of an arena, or from where it is kept.

        Raises:
            FileSetCorruptError: Its file cannot be read; names it.
            ColumnError: A value has no tensor as asked for.
        """
        if arena is None:
            return Loaded(self.decode(block))
        offset = slot * arena.rows
        out = arena.view(offset, int(self._kept.rows[block]))
        return Loaded(self.decode(block, out), arena.arrays, offset)

    def read_ahead(self, blocks: Iterator[int]) -> ReadAhead | None:
        """Begin to fetch the files of blocks that will be loaded, in their order; None where files are not fetched."""
        if not self._fs.fetches:
            return None
        return self._fs.read_ahead(int(self._table.file[block]) for block in blocks if not self.holds(block))

    def want(self, blocks: Iterable[int]) -> None:
        """Begin to fetch the files of blocks that are about to be loaded, where files are fetched."""
        if self._fs.fetches:
            self._fs.want({int(self._table.file[block]): None for block in blocks if not self.holds(block)})

    def holds(self, block: int) -> bool:
        """Whether a block can be had without its file."""
        slot = self._held.get(block)
        return slot is not None and slot.loaded is not None

    def decode(self, block: int, out: Arrays | None = None) -> Block:
        """Decode one block from its file, numbers into `out` where it is given.

        Runs of rows go from the file to their place one after another, so that a file's columns are never in memory
        whole, and are still in the processor's cache when they are written.
        """
        decoder = self._decoder
        if out is None:
            out = empty_arrays(decoder.tensors, int(self._kept.rows[block]))
        file, mask = int(self._table.file[block]), self._kept.mask(block)
        values: dict[str, list[pa.Array]] = {one.name: [] for one in decoder.tensors if one.dtype.kind == "O"}
        read = written = 0
        try:
            for batch in self._fs.iter_file(
                file, decoder.columns, self._table.row_groups(block), decoder.dictionaries, RUN_ROWS, self.counters
            ):
                table = pa.Table.from_batches([batch])
                if mask is not None:
                    table = table.filter(pa.array(mask[read : read + batch.num_rows]))
                part = {name: array[written : written + table.num_rows] for name, array in out.items()}
                decoded = decoder.decode(table, part)
                for name, parts in values.items():
                    parts.append(decoded[name])
                read, written = read + batch.num_rows, written + table.num_rows
        except Exception as error:
            error.add_note(f"in file {self._fs.files()[file]}")
            raise
        self.counters.add(blocks_decoded=1)
        laid = {name: pa.concat_arrays(parts) if parts else pa.nulls(0) for name, parts in values.items()}
        return {one.name: laid[one.name] if one.name in laid else out[one.name] for one in decoder.tensors}

    def prepare(self, blocks: Iterable[int]) -> None:
        """Make what `get` will be asked for, where other processes make other parts of it meanwhile."""

    def get(self, block: int) -> Loaded:
        """One block, of the last few asked for or as `load` gives it. For callers from any thread."""
        with self._lock:
            slot = self._held.get(block)
            if mine := slot is None:
                slot = self._held[block] = _Slot()
                while len(self._held) > self._keep:
                    self._held.popitem(last=False)
            else:
                self._hits += 1
            self._held.move_to_end(block)
        if mine:
            try:
                slot.settle(self._fetch(block))
            except BaseException as error:
                with self._lock:  # the next caller tries again
                    if self._held.get(block) is slot:
                        del self._held[block]
                slot.settle(None, error)
        return slot.wait()

    def _fetch(self, block: int) -> Loaded:
        return self.load(block)

    def __getstate__(self) -> dict[str, Any]:
        return {name: value for name, value in self.__dict__.items() if name not in ("_lock", "_held", "_idle")}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state, _lock=threading.Lock(), _held=OrderedDict(), _idle=None, _hits=0)
        mend_after_fork(self)


class KeptBlocks(StreamedBlocks):
    """Decodes each block once and keeps it in memory."""

    def __init__(self, fs: FileSet, decoder: Decoder, table: BlockTable, kept: KeptRows) -> None:
        super().__init__(fs, decoder, table, kept, keep=max(len(table), 1))
        self._offsets = np.cumsum(kept.rows) - kept.rows
        self._all: Arena | None = None

    def arena(self, slots: int) -> Arena | None:
        return None

    def load(self, block: int, arena: Arena | None = None, slot: int = 0) -> Loaded:
        return self.get(block)

    def _fetch(self, block: int) -> Loaded:
        with self._lock:
            if self._all is None:
                self._all = Arena(self._decoder.tensors, 1, int(self._kept.rows.sum()))
        offset = int(self._offsets[block])
        out = self._all.view(offset, int(self._kept.rows[block]))
        return Loaded(self.decode(block, out), self._all.arrays, offset)

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_all": None}
