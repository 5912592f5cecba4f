"""How well a reader's order mixes the rows, and what it costs: computed from the plan, without reading data."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from fileset_integrations.reader import FileSetReader
from fileset_integrations.spec import as_int

_SAMPLED_BATCHES = 32


@dataclass(frozen=True, slots=True)
class ShuffleReport:
    """What `shuffle_report` found. Ratios are to a true shuffle of all rows: 1 is perfect.

    Attributes:
        streams: Blocks that are open at once, over all ranks.
        files_per_batch: Files that a batch takes its rows from, on average.
        position_spread: Standard deviation of a batch's source positions against that of a true shuffle.
        label_mean_variance: Where the rows were sorted by a label: variance of the batches' label means against that of
            a true shuffle. Large: batches differ more than chance makes them.
        window_bytes: Bytes of the decoded blocks that this rank has in use at once, without what is read ahead.
        decodes_per_block: How often an epoch decodes a block of this rank, on average, where blocks are not kept.
        batches: Batches that the figures were computed from.
    """

    streams: int
    files_per_batch: float
    position_spread: float
    label_mean_variance: float
    window_bytes: int
    decodes_per_block: float
    batches: int


def shuffle_report(reader: FileSetReader, epoch: int = 0, batches: int = _SAMPLED_BATCHES) -> ShuffleReport:
    """Say how a reader's batches mix its rows, from batches spread evenly over an epoch; nothing is read.

    Args:
        reader: The reader.
        epoch: The epoch to look at.
        batches: At most so many batches are looked at.
    """
    chosen = _spread(reader, batches)
    total = _total(reader)
    files, spreads, means, sizes = [], [], [], []
    for index in chosen:
        rows = reader.rows(index, epoch)
        positions = _positions(reader, rows)
        files.append(len(np.unique(rows[:, 0])))
        if len(positions) > 1:
            spreads.append(positions.std(ddof=1))
        means.append(positions.mean())
        sizes.append(len(rows))
    # A true shuffle draws from [0, 1) without replacement: variance 1/12, that of means less by the share drawn.
    size = float(np.mean(sizes)) if sizes else 1.0
    expected = (1 / 12) / size * max(total - size, 0) / max(total - 1, 1)
    variance = float(np.mean((np.array(means) - 0.5) ** 2)) if means else np.nan
    held, decodes = _window(reader, epoch)
    return ShuffleReport(
        streams=reader.plan.streams,
        files_per_batch=float(np.mean(files)) if files else 0.0,
        position_spread=float(np.mean(spreads) / (1 / 12) ** 0.5) if spreads else np.nan,
        label_mean_variance=variance / expected if expected else np.nan,
        window_bytes=held * reader.row_bytes,
        decodes_per_block=decodes,
        batches=len(chosen),
    )


def mixing_map(reader: FileSetReader, epoch: int = 0, batches: int = 40, bands: int = 24) -> NDArray[np.float64]:
    """Where in the FileSet batches take their rows from, for batches spread evenly over an epoch; nothing is read.

    Args:
        reader: The reader.
        epoch: The epoch to look at.
        batches: At most so many batches are looked at.
        bands: The FileSet's rows, in their own order, are cut into so many bands of equally many rows.

    Returns:
        Share of each batch's rows that lie in each band, shape (batches, bands): 1 / bands everywhere in a true
        shuffle, and a diagonal of ones where rows come as they stand.
    """
    shares = []
    for index in _spread(reader, batches):
        positions = _positions(reader, reader.rows(index, epoch))
        counts = np.bincount((positions * bands).astype(np.int64), minlength=bands)
        shares.append(counts / max(len(positions), 1))
    return np.array(shares, np.float64).reshape(-1, bands)


def _spread(reader: FileSetReader, batches: int) -> list[int]:
    """Indices of at most so many batches, spread evenly over an epoch."""
    wanted = min(as_int(batches, "batches"), len(reader))
    if wanted <= 0:
        return []
    return [int(index) for index in np.unique(np.linspace(0, len(reader) - 1, wanted).astype(np.int64))]


def _total(reader: FileSetReader) -> int:
    return max(int(reader.fileset.manifest.file_rows.sum()), 1)


def _positions(reader: FileSetReader, rows: NDArray[np.int64]) -> NDArray[np.float64]:
    """Where rows, given as (file, row in it), stand among all rows: in [0, 1)."""
    counts = reader.fileset.manifest.file_rows
    positions: NDArray[np.float64] = ((np.cumsum(counts) - counts)[rows[:, 0]] + rows[:, 1]) / _total(reader)
    return positions


def _window(reader: FileSetReader, epoch: int) -> tuple[int, float]:
    """Most rows of the blocks in use at once, and decodes for each block that is read."""
    rows, read, ends = reader.plan.block_rows, set[int](), dict[int, int]()
    held = most = decodes = 0
    for visit in reader.plan.epoch(epoch).visits():
        for block in [block for block, end in ends.items() if end < visit.first]:
            held -= int(rows[block])
            del ends[block]
        if visit.block not in ends:
            decodes += 1
            held += int(rows[visit.block])
        ends[visit.block] = max(ends.get(visit.block, -1), visit.last)
        read.add(visit.block)
        most = max(most, held)
    return most, decodes / len(read) if read else 0.0
