"""The reader: carries out what the plan says, and yields batches as contiguous arrays.

Iteration goes group by group: a few batches are gathered at once, on a thread of the iterator's own, from blocks that
other threads decode in the order of first use. All state lives on the iterator.
"""

from __future__ import annotations

import copy
import os
import warnings
import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.assembly import GROUPS_AHEAD, Assembly, fit_budget
from fileset_integrations.blocks import KeptBlocks, StreamedBlocks
from fileset_integrations.by_index import Orders, Stored
from fileset_integrations.columns import LABEL, WEIGHT, Columns, FittedColumns, TensorSpec, bind
from fileset_integrations.counters import ReaderStats
from fileset_integrations.errors import FileSetLocationError, SpecError
from fileset_integrations.fits import fit_once
from fileset_integrations.gathering import Batch, gather
from fileset_integrations.kept import check_nulls, kept_rows
from fileset_integrations.mapped import MappedBlocks
from fileset_integrations.plan import Plan, transform_generator
from fileset_integrations.spec import BatchSpec, Shard, ShuffleSpec, as_epoch, as_int
from fileset_integrations.states import check_state, state_of
from fileset_integrations.views import FileSetLike, as_fileset

Transform = Callable[[Batch, np.random.Generator], Batch]
BlockMode = Literal["auto", "stream", "memory", "disk"]


class FileSetReader:
    """Batches of a FileSet: by index, or in order.

    Batch `i` of epoch `e` follows from the snapshot, the seed and the sizes alone (see `plan`), so that any batch can
    be asked for, on any machine.

    Args:
        fs: The FileSet; or a view, "LOCATION/NAME", or a list of these, which is their concatenation.
        columns: Which columns become which tensors; unfitted ones are fitted on `fs`. None: every column as a tensor of
            its own.
        batch_size: Rows per batch of this rank.
        global_batch_size: Rows per batch of all ranks together; exactly one of the two is given.
        shuffle: Draw a new order of rows in every epoch.
        drop_last_batch: Only full batches. False: every row exactly once, equally many batches on every rank.
        seed: Base seed of the order.
        streams: Blocks that are open at once when shuffling: more mix better and take more memory. None: the least
            multiple of the world size that is at least 8.
        shard: This rank's share: `Shard(rank, world_size)`.
        blocks: "stream" decodes files as they are needed, in every epoch; "memory" keeps decoded blocks; "disk" keeps
            them in the cache directory, where all processes of the machine find them; "auto" keeps them in memory where
            they take at most half of `memory_bytes`, and streams otherwise.
        memory_bytes: Bound for what is in memory at once: open blocks, those read ahead or kept, outstanding batches;
            beside it, allocators hold up to 192 MiB in reserve. It never changes the order.
        cache_dir: The cache directory; None: `FILESET_CACHE_DIR`, else the user's.
        cache_bytes: Most bytes that decoded blocks and fetched files, of all FileSets, take together in
            the cache directory: those used least recently make room for others. None: what is free on its disk.
        transform: A picklable function batch, generator -> batch, whose generator is seeded by (seed, epoch, batch).
        random_access: Batches will be asked for by index, in any order: "auto" never streams then.

    Raises:
        SpecError: An argument is out of range, or the ranks cannot be served equally.
        FileSetLocationError: blocks="disk" finds no room in the cache directory.
        ColumnError: A column is missing or has no tensor form as asked.
        NullValueError: A column holds nulls and its policy is "error".
    """

    def __init__(
        self,
        fs: FileSetLike,
        *,
        columns: Columns | FittedColumns | None = None,
        batch_size: int | None = None,
        global_batch_size: int | None = None,
        shuffle: bool = False,
        drop_last_batch: bool = True,
        seed: int = 0,
        streams: int | None = None,
        shard: Shard = Shard(0, 1),  # noqa: B008 - frozen
        blocks: BlockMode = "auto",
        memory_bytes: int = 2 * 2**30,
        cache_dir: str | os.PathLike[str] | None = None,
        cache_bytes: int | None = None,
        transform: Transform | None = None,
        random_access: bool = False,
    ) -> None:
        if transform is not None and not callable(transform):
            raise SpecError(f"transform={transform!r}: pass a function of a batch and a generator, or None.")
        if cache_bytes is not None and as_int(cache_bytes, "cache_bytes") < 1:
            raise SpecError(f"cache_bytes={cache_bytes}: pass the most bytes that the cache may take, or None.")
        fs = as_fileset(fs).with_cache(cache_dir, cache_bytes)
        batch = BatchSpec.of(batch_size, global_batch_size, shard.world_size, drop_last_batch)
        order = ShuffleSpec(shuffle, seed, streams)
        self.fileset, self.shard, self.transform = fs, shard, transform
        self.columns = fit_once(columns, fs, cache_dir) if isinstance(columns, Columns) else columns
        decoder = bind(self.columns, fs.schema)
        check_nulls(decoder, fs)
        table = fs.manifest.blocks()
        self._kept = kept_rows(decoder, fs, table, cache_dir)
        self._table, self._decoder = table, decoder
        self._fetched_before = fs.fetched()
        self._batch, self._order = batch, order
        self._memory_bytes = memory_bytes = as_int(memory_bytes, "memory_bytes")
        self._make_plan(streams)
        if blocks not in ("auto", "stream", "memory", "disk"):
            raise SpecError(f"blocks={blocks!r}: pass 'auto', 'stream', 'memory' or 'disk'.")
        self._asked_blocks, self._cache_dir, self._cache_bytes = blocks, cache_dir, cache_bytes
        if blocks == "auto":
            otherwise: BlockMode = "disk" if random_access else "stream"
            blocks = "memory" if 2 * self.num_bytes <= memory_bytes else otherwise
        self.blocks: BlockMode = blocks
        self._store: StreamedBlocks
        if blocks == "memory":
            if self.num_bytes > memory_bytes:
                raise SpecError(
                    f"blocks='memory' keeps {self.num_bytes} bytes, memory_bytes={memory_bytes}. "
                    "Pass at least that, or blocks='stream' or 'disk'."
                )
            self._store = KeptBlocks(fs, decoder, table, self._kept)
        elif blocks == "disk":
            self._store = self._mapped()
        else:
            self._store = StreamedBlocks(fs, decoder, table, self._kept, keep=self.plan.lanes + 1)

    def _mapped(self) -> MappedBlocks:
        return MappedBlocks(
            self.fileset, self._decoder, self._table, self._kept, self.columns, self._cache_dir, self._cache_bytes
        )

    def shared(self) -> FileSetReader:
        """The reader for processes that read the same rows: "auto" has them decode each block once, to disk.

        Returns:
            Another reader of the same batches; this one where it was told how to keep blocks, or, with a warning, where
            the disk has no room.
        """
        if self._asked_blocks != "auto" or self.blocks == "disk":
            return self
        try:
            store = self._mapped()
        except (SpecError, FileSetLocationError) as error:
            warnings.warn(f"Every process decodes all blocks for itself: {error}", UserWarning, stacklevel=2)
            return self
        reader = copy.copy(self)
        reader.blocks, reader._store = "disk", store
        return reader

    @property
    def num_bytes(self) -> int:
        """Bytes that all rows take once decoded; strings are guessed."""
        return self.plan.num_rows * self.row_bytes

    @property
    def row_bytes(self) -> int:
        """Bytes that a row takes once decoded; strings are guessed."""
        return self._decoder.row_bytes

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of every tensor of a batch, before any transform."""
        return self._decoder.tensors

    @property
    def stats(self) -> ReaderStats:
        """What was read since the reader was made, in this process: DataLoader workers count for themselves."""
        return self._store.stats() + (self.fileset.fetched() - self._fetched_before)

    def model_input(self, batch: Batch) -> Any:
        """A batch as models take it: (x, y), (x, y, weight), or x alone without a label.

        x is the dict of features, or the tensor itself where there is one. A reader without `columns` knows of no
        features, and its batch stays the dict that it is.
        """
        if self.columns is None:
            return batch
        features = {name: value for name, value in batch.items() if name not in (LABEL, WEIGHT)}
        x = features if len(features) > 1 else next(iter(features.values()))
        if LABEL not in batch:
            return x
        return (x, batch[LABEL], batch[WEIGHT]) if WEIGHT in batch else (x, batch[LABEL])

    @property
    def batch_size(self) -> int:
        """Rows per batch of this rank."""
        return self.plan.batch.batch_size

    def __len__(self) -> int:
        """Batches of an epoch, the same on every rank."""
        return self.plan.num_batches

    def __bool__(self) -> bool:
        return True

    def batch(self, index: int, epoch: int = 0) -> Batch:
        """Batch `index` of an epoch, as `iter_batches(epoch)` yields it. May be called from any thread.

        Raises:
            IndexError: There is no such batch.
            FileSetCorruptError: A file cannot be read; names it.
        """
        start, stop = self._bounds(index)
        epoch_plan = self._orders.plan(self.plan, as_epoch(epoch))
        pieces = list(epoch_plan.pieces(start, stop))
        if self.fileset.fetches:
            self._store.want(piece.block for piece in pieces)
        self._store.prepare(piece.block for piece in pieces)
        source = Stored(self._store, self._orders, epoch_plan)
        return self._finish(gather(self.tensors, stop - start, pieces, source), epoch, index)

    def rows(self, index: int, epoch: int = 0) -> NDArray[np.int64]:
        """Where the rows of a batch come from; nothing is read.

        Returns:
            Pairs (file index, row index in that file), in the batch's order; int64, shape (rows, 2).
        """
        start, stop = self._bounds(index)
        epoch_plan = self._orders.plan(self.plan, as_epoch(epoch))
        found = np.empty((stop - start, 2), np.int64)
        for piece in epoch_plan.pieces(start, stop):
            order = self._orders.rows(epoch_plan, piece.block)
            rows = np.arange(piece.start, piece.stop) if order is None else order[piece.start : piece.stop]
            if (mask := self._kept.mask(piece.block)) is not None:
                rows = np.flatnonzero(mask)[rows]
            target = found[piece.out :: piece.step][: len(rows)]
            target[:, 0] = self._table.file[piece.block]
            target[:, 1] = rows + self._table.first_row[piece.block]
        return found

    def iter_batches(self, epoch: int = 0, start: int = 0) -> BatchIterator:
        """The batches of an epoch in order, read ahead by threads. Iterators do not disturb each other.

        Args:
            epoch: The epoch, counted from 0.
            start: Index of the first batch; those before it are not read.
        """
        return BatchIterator(self, as_epoch(epoch), start)

    def __iter__(self) -> BatchIterator:
        return self.iter_batches()

    def state(self, epoch: int, batches: int) -> dict[str, Any]:
        """Where an epoch stands after `batches` batches: flat JSON, the same on every rank."""
        return state_of(self.plan, self.fileset.snapshot_id, self._decoder.dropped, epoch, batches)

    def resume(self, state: Mapping[str, Any]) -> tuple[int, int]:
        """Epoch and batches of a saved state. Streams that nobody named are taken over from it, for all that follows.

        Raises:
            StateMismatchError: It belongs to another snapshot, seed, batch size or order; names both values.
        """
        check_state(state, self.state(0, 0), len(self), self._takes_streams)
        if state["streams"] != self.plan.streams:
            self._make_plan(state["streams"])
        return state["epoch"], state["batches"]

    def _takes_streams(self, streams: Any) -> bool:
        """Whether a state's streams can be taken over: those that nobody named are part of the state."""
        free = self._order.shuffle and self._order.streams is None
        return free and type(streams) is int and streams > 0 and streams % self.shard.world_size == 0

    def _make_plan(self, streams: int | None) -> None:
        order = ShuffleSpec(self._order.shuffle, self._order.seed, streams)
        self.plan = Plan(self._kept.rows, self._batch, order, self.shard)
        self._budget = fit_budget(self._memory_bytes, self.plan, self._decoder.row_bytes)
        self._orders = Orders(self._memory_bytes // 8)

    def _bounds(self, index: int) -> tuple[int, int]:
        number = as_int(index, "index")
        if not 0 <= number < len(self):
            raise IndexError(f"batch {number} of {len(self)}: an epoch's batches are 0 to {len(self) - 1}.")
        return self.plan.batch_bounds(number)

    def _finish(self, batch: Batch, epoch: int, index: int) -> Batch:
        for name, value in batch.items():
            if isinstance(value, pa.Array):
                batch[name] = value.to_pylist()
        if self.transform is not None:
            batch = self.transform(batch, transform_generator(self.plan.shuffle.seed, epoch, index))
        return batch


class BatchIterator(Iterator[Batch]):
    """The rest of one epoch, in order. Threads start at the first `next` and end with the iterator.

    `state_dict()` says where it stands, `load_state_dict()` moves it there; both are cheap.
    """

    def __init__(self, reader: FileSetReader, epoch: int, start: int) -> None:
        start = as_int(start, "start")
        if not 0 <= start <= len(reader):
            raise SpecError(f"start={start}: an epoch's batches are 0 to {len(reader)} (its end).")
        self._reader, self._epoch, self._index = reader, epoch, start
        self._assembly: Assembly | None = None
        self._close: Callable[[], object] = lambda: None
        self._reset()

    def _reset(self) -> None:
        self._asked = self._index  # batches before this one were asked for
        self._ready: deque[Batch] = deque()
        self._error: Exception | None = None
        self._groups: deque[Future[tuple[list[Batch], Exception | None]]] = deque()

    def __next__(self) -> Batch:
        while not self._ready:
            if (error := self._error) is not None:
                self.close()  # another `next` tries that batch again
                raise error
            self._ask()
            if not self._groups:
                if self._assembly is not None:
                    self._assembly.finish()
                self.close()
                raise StopIteration
            batches, self._error = self._groups.popleft().result()
            self._ready.extend(batches)
        batch = self._reader._finish(self._ready[0], self._epoch, self._index)
        self._ready.popleft()
        self._index += 1
        return batch

    def _ask(self) -> None:
        """Keep a few groups under way."""
        reader = self._reader
        if self._assembly is None:
            if self._asked >= len(reader):
                return
            self._assembly = Assembly(
                reader.plan, reader.tensors, reader._store, reader._budget, self._epoch, self._index
            )
            self._close = weakref.finalize(self, self._assembly.shut_down)
        while len(self._groups) < GROUPS_AHEAD and self._asked < len(reader):
            # The first batch comes alone: nobody waits for the rest of a group before it.
            stop = min(self._asked + (reader._budget.group if self._asked > self._index else 1), len(reader))
            self._groups.append(self._assembly.gatherers.submit(self._assembly.gather, self._asked, stop))
            self._asked = stop

    def state_dict(self) -> dict[str, Any]:
        """Where the iterator stands: flat JSON under 1 KB, the same on every rank."""
        return self._reader.state(self._epoch, self._index)

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where `state_dict` was taken, without reading what came before.

        Raises:
            StateMismatchError: The state belongs to another snapshot, seed, batch size or order.
        """
        epoch, index = self._reader.resume(state)
        self.close()
        self._epoch, self._index = epoch, index
        self._reset()

    def close(self) -> None:
        """Stop reading ahead; the iterator goes on where it is if asked to."""
        self._close()
        self._close = lambda: None
        self._assembly = None
        self._reset()
