"""Which rows go into which batch: arithmetic over row counts. No file is opened here; numpy only.

The order of one shuffled epoch, with N rows and S streams:

```
blocks, in an order drawn for the epoch            [ b2 ][ b0 ][ b3 ][ b1 ]
rows of each block, in an order drawn for it       Q = q0 q1 q2 ...            (N rows)
Q cut into S spans, span s of ceil((N - s) / S)    S=3: [ span 0 ][ span 1 ][ span 2 ]
position p of the epoch                            row p // S of span p % S
global batch t                                     positions [t*B, (t+1)*B)
rank r of W (W divides S and B)                    positions with p % W == r
```

Seen from rank r this is simpler: it owns the L = S / W spans r, r + W, ... ("lanes"), and its k-th row is row k // L of
lane k % L. Batch i of a rank is a run of k. `shuffle=False` is the case of one lane: rank r takes rows
[r*N // W, (r+1)*N // W) in natural order.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from fileset_integrations.errors import FileSetError, SpecError
from fileset_integrations.spec import BatchSpec, Shard, ShuffleSpec, ceil_div

ORDER = "spans-2"  # the name of this arithmetic in saved states: change it whenever any row moves
BLOCK_ROWS = 524_288  # above this many rows a file is cut into blocks of consecutive row groups

# First elements of the spawn keys: what a random stream is for. The rest of a key is (epoch,), (epoch, block) or
# (epoch, batch); of a split, which is the same in every epoch, (file,).
_BLOCK_ORDER, _ROW_ORDER, _TRANSFORM, _SPLIT = 0, 1, 2, 3

_GENERATOR_CHECK = (9, 4, 11, 2, 15, 14, 0, 6, 1, 7, 5, 3, 13, 12, 10, 8)


def _generator(seed: int, *key: int) -> np.random.Generator:
    # default_rng((seed, epoch)) pads with zeros, so it equals default_rng((seed, epoch, 0)). spawn_key keeps keys of
    # different lengths apart. SFC64, since it draws permutations in little more than half the time of PCG64.
    return np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key)))


@cache
def check_generator() -> None:
    """Refuse a NumPy whose random streams differ from those that the orders were pinned with.

    NumPy keeps the right to change the streams of `Generator` methods between versions (NEP 19); a silent change
    would break resume and reproducibility.
    """
    drawn = tuple(_generator(2024, _ROW_ORDER, 7, 11).permutation(16).tolist())
    if drawn != _GENERATOR_CHECK:
        raise FileSetError(
            f"NumPy {np.__version__} draws other permutations than the NumPy that this package's orders are pinned to, "
            "so epochs would not be reproducible. Install a NumPy within the range of this package's requirements."
        )


def transform_generator(seed: int, epoch: int, batch: int) -> np.random.Generator:
    """Generator for the user's transform of one batch: the same for equal arguments, on every rank and worker."""
    return _generator(seed, _TRANSFORM, epoch, batch)


def split_generator(seed: int, file: int) -> np.random.Generator:
    """Generator of the permutation from which a split deals out the rows of one file."""
    return _generator(seed, _SPLIT, file)


@dataclass(frozen=True, slots=True, eq=False)
class BlockTable:
    """Where each block's rows lie. Arrays of shape (blocks,), int64.

    Attributes:
        file: Index of the block's file in the manifest's order.
        first_row: First row of the block within its file.
        first_group: First row group of the block within its file.
        num_groups: Row groups of the block; -1 says all of the file's.
        rows: Rows in the block.
    """

    file: NDArray[np.int64]
    first_row: NDArray[np.int64]
    first_group: NDArray[np.int64]
    num_groups: NDArray[np.int64]
    rows: NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.rows)

    def row_groups(self, block: int) -> range | None:
        """Row groups of a block within its file; None: all."""
        first, groups = int(self.first_group[block]), int(self.num_groups[block])
        return None if groups < 0 else range(first, first + groups)


def cut_blocks(
    file_rows: NDArray[np.int64], row_groups: dict[int, NDArray[np.int64]], block_rows: int = BLOCK_ROWS
) -> BlockTable:
    """Cut files into blocks by a rule that sees only the snapshot.

    A file of at most `block_rows` rows is one block. A larger one is cut into runs of consecutive row groups, each run
    as long as it stays within `block_rows`; a row group above that is a block of its own.

    Args:
        file_rows: Rows of each file, shape (files,).
        row_groups: File index -> rows of each of its row groups, for at least every file above `block_rows`.
        block_rows: Rows above which a file is cut.
    """
    large = np.flatnonzero(file_rows > block_rows)
    if not len(large):
        zeros = np.zeros(len(file_rows), np.int64)
        return BlockTable(np.arange(len(file_rows)), zeros, zeros, zeros - 1, file_rows.astype(np.int64))
    parts: list[NDArray[np.int64]] = []  # rows of (file, first_row, first_group, num_groups, rows)
    previous = 0
    for file in large.tolist():
        parts.append(_whole_files(file_rows, previous, file))
        parts.append(_cut_file(file, row_groups[file], block_rows))
        previous = file + 1
    parts.append(_whole_files(file_rows, previous, len(file_rows)))
    return BlockTable(*np.concatenate(parts).T.copy())


def _whole_files(file_rows: NDArray[np.int64], start: int, stop: int) -> NDArray[np.int64]:
    table = np.zeros((stop - start, 5), np.int64)
    table[:, 0] = np.arange(start, stop)
    table[:, 3] = -1
    table[:, 4] = file_rows[start:stop]
    return table


def _cut_file(file: int, group_rows: NDArray[np.int64], block_rows: int) -> NDArray[np.int64]:
    cut: list[tuple[int, int, int, int, int]] = []
    first_row = first_group = rows = 0
    for group, count in enumerate(group_rows.tolist()):
        if rows and rows + count > block_rows:
            cut.append((file, first_row, first_group, group - first_group, rows))
            first_row, first_group, rows = first_row + rows, group, 0
        rows += count
    cut.append((file, first_row, first_group, len(group_rows) - first_group, rows))
    return np.array(cut, np.int64).reshape(-1, 5)


class Piece(NamedTuple):
    """A run of one block's row order that lands in one run of batches.

    Rows `start` to `stop` (exclusive) of the block's order go to output positions `out`, `out + step`, ...
    """

    block: int
    start: int
    stop: int
    out: int
    step: int


class Visit(NamedTuple):
    """A lane's stay in one block: the rank's rows k in [first, last] read it."""

    first: int
    last: int
    block: int


class Plan:
    """Batches of one rank, for every epoch: a pure function of row counts and specs.

    Args:
        block_rows: Rows of each block, shape (blocks,).
        batch: Batch size and what happens to the last batch.
        shuffle: Seed and streams.
        shard: The rank and the world size.

    Raises:
        SpecError: The ranks cannot be given equal batch counts, or streams cannot be shared by them.
    """

    def __init__(self, block_rows: NDArray[np.int64], batch: BatchSpec, shuffle: ShuffleSpec, shard: Shard) -> None:
        self.block_rows = np.asarray(block_rows, np.int64)
        self.batch, self.shuffle, self.shard = batch, shuffle, shard
        self.num_rows = int(self.block_rows.sum())
        self.streams = shuffle.streams_for(shard.world_size) if shuffle.shuffle else 1
        self.global_batch_size = batch.batch_size * shard.world_size
        rank, world_size = shard.rank, shard.world_size
        if shuffle.shuffle:
            spans = np.arange(rank, self.streams, world_size)
            short, extra = divmod(self.num_rows, self.streams)
            self.lane_starts = (spans * short + np.minimum(spans, extra)).tolist()
            self.local_rows = ceil_div(self.num_rows - rank, world_size)
        else:
            first, stop = rank * self.num_rows // world_size, (rank + 1) * self.num_rows // world_size
            self.lane_starts = [first]
            self.local_rows = stop - first
        self.lanes = len(self.lane_starts)
        self.num_batches = self._count_batches()

    def _count_batches(self) -> int:
        size, world_size = self.batch.batch_size, self.shard.world_size
        if self.batch.drop_last_batch:
            return self.num_rows // self.global_batch_size
        if self.num_rows and self.num_rows < world_size:
            raise SpecError(
                f"{self.num_rows} rows cannot give each of {world_size} ranks a batch, and drop_last_batch=False "
                f"leaves no row out. Use at most {self.num_rows} ranks."
            )
        if size == 1 and self.num_rows % world_size:
            raise SpecError(
                f"batch_size=1 with drop_last_batch=False cannot give {world_size} ranks equally many batches of "
                f"{self.num_rows} rows. Pass batch_size >= 2, or a world size that divides {self.num_rows}."
            )
        return ceil_div(ceil_div(self.num_rows, world_size), size)

    def batch_bounds(self, index: int) -> tuple[int, int]:
        """Half-open run [start, stop) of the rank's rows that is batch `index`.

        Without dropping, a rank one row short of needing its last batch moves one row there from the batch before:
        `b = 4, T = 3`: 9 rows -> 4 4 1, 8 rows -> 4 3 1.
        """
        size = self.batch.batch_size
        start, stop = index * size, (index + 1) * size
        if not self.batch.drop_last_batch:
            if self.local_rows == (self.num_batches - 1) * size:
                start = min(start, self.local_rows - 1) if index == self.num_batches - 1 else start
                stop = stop - 1 if index == self.num_batches - 2 else stop
            stop = min(stop, self.local_rows)
        return start, stop

    def places(self, index: int) -> range:
        """Places of the rows of batch `index` among all ranks' rows, in natural order; for `shuffle=False` only."""
        first = self.lane_starts[0]
        start, stop = self.batch_bounds(index)
        return range(first + start, first + stop)

    def epoch(self, epoch: int) -> EpochPlan:
        """The order of epoch `epoch`, counted from 0."""
        return EpochPlan(self, epoch)


class EpochPlan:
    """One epoch of a plan: where each of the rank's rows comes from. Costs O(blocks) to make, O(1) a batch."""

    def __init__(self, plan: Plan, epoch: int) -> None:
        self.plan, self.number = plan, epoch
        blocks = len(plan.block_rows)
        if plan.shuffle.shuffle:
            check_generator()
            self.order = _generator(plan.shuffle.seed, _BLOCK_ORDER, epoch).permutation(blocks)
        else:
            self.order = np.arange(blocks)
        self.ends = np.cumsum(plan.block_rows[self.order])

    def row_order(self, block: int) -> NDArray[np.int64] | None:
        """Order in which the epoch visits one block's rows, shape (rows,), int64; None: natural order."""
        if not self.plan.shuffle.shuffle:
            return None
        rows = int(self.plan.block_rows[block])
        return _generator(self.plan.shuffle.seed, _ROW_ORDER, self.number, block).permutation(rows)

    def pieces(self, start: int, stop: int) -> Iterator[Piece]:
        """The runs of blocks that make up the rank's rows [start, stop)."""
        lanes = self.plan.lanes
        for lane, lane_start in enumerate(self.plan.lane_starts):
            first, last = max(ceil_div(start - lane, lanes), 0), ceil_div(stop - lane, lanes)
            out = first * lanes + lane - start
            for block, begin, end in self._runs(lane_start + first, lane_start + last):
                yield Piece(block, begin, end, out, lanes)
                out += (end - begin) * lanes

    def visits(self, start: int = 0) -> Iterator[Visit]:
        """Every stay in a block from the rank's row `start` on, by first use; lazy."""
        return heapq.merge(*(self._lane_visits(lane, start) for lane in range(self.plan.lanes)))

    def _lane_visits(self, lane: int, start: int) -> Iterator[Visit]:
        lanes, lane_start = self.plan.lanes, self.plan.lane_starts[lane]
        rows = ceil_div(self.plan.local_rows - lane, lanes)
        row = max(ceil_div(start - lane, lanes), 0)
        for block, begin, end in self._runs(lane_start + row, lane_start + max(rows, row)):
            yield Visit(row * lanes + lane, (row + end - begin - 1) * lanes + lane, block)
            row += end - begin

    def _runs(self, start: int, stop: int) -> Iterator[tuple[int, int, int]]:
        """Cut [start, stop) of the epoch's row sequence at the borders of blocks: (block, begin, end) in its order."""
        if start >= stop:
            return
        place = int(self.ends.searchsorted(start, side="right"))
        while start < stop:
            end = int(self.ends[place])
            if end > start:  # else an empty block
                block = int(self.order[place])
                offset = end - int(self.plan.block_rows[block])
                upto = min(end, stop)
                yield block, start - offset, upto - offset
                start = upto
            place += 1
