"""The order contract once more, position by position and as slowly as it reads: what the plan is held against."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def permutation(seed: int, *key: int, size: int) -> list[int]:
    """A permutation of [0, size) from the random stream of `key`."""
    generator = np.random.Generator(np.random.SFC64(np.random.SeedSequence(seed, spawn_key=key)))
    return generator.permutation(size).tolist()


def epoch_order(
    block_rows: Sequence[int], *, shuffle: bool, seed: int, epoch: int, streams: int
) -> list[tuple[int, int]]:
    """Every row of an epoch, as (block, row of the block), by its position."""
    if not shuffle:
        return [(block, row) for block, rows in enumerate(block_rows) for row in range(rows)]
    sequence: list[tuple[int, int]] = []
    for block in permutation(seed, 0, epoch, size=len(block_rows)):
        sequence += [(block, row) for row in permutation(seed, 1, epoch, block, size=block_rows[block])]
    spans: list[list[tuple[int, int]]] = []
    at = 0
    for span in range(streams):
        length = -((span - len(sequence)) // streams)  # ceil((N - s) / S)
        spans.append(sequence[at : at + length])
        at += length
    return [spans[position % streams][position // streams] for position in range(len(sequence))]


def rank_order(
    block_rows: Sequence[int], *, shuffle: bool, seed: int, epoch: int, streams: int, rank: int, world_size: int
) -> list[tuple[int, int]]:
    """The rows of an epoch that one rank reads, in its order."""
    order = epoch_order(block_rows, shuffle=shuffle, seed=seed, epoch=epoch, streams=streams)
    if shuffle:
        return [row for position, row in enumerate(order) if position % world_size == rank]
    return order[rank * len(order) // world_size : (rank + 1) * len(order) // world_size]


def batch_sizes(num_rows: int, batch_size: int, *, drop_last_batch: bool, rank_rows: int, world_size: int) -> list[int]:
    """Rows of each batch of a rank that has `rank_rows` of `num_rows` rows."""
    if drop_last_batch:
        return [batch_size] * (num_rows // (batch_size * world_size))
    most = -(-num_rows // world_size)  # rows of the rank that has most
    batches = -(-most // batch_size)
    sizes = [batch_size] * (batches - 1)
    rest = rank_rows - sum(sizes)
    if batches and not rest:  # one row short of needing the last batch: one row moves there
        sizes[-1] -= 1
        rest = 1
    return sizes + [rest] * bool(batches)
