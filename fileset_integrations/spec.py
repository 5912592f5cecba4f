"""Frozen, self-validating values that say how a FileSet is read. A spec that exists is valid."""

from __future__ import annotations

import operator
from dataclasses import dataclass

from fileset_integrations.errors import SpecError

MAX_SEED = 2**63 - 1
MIN_STREAMS = 8  # the shuffle window where the user names none: eight blocks open at once


def ceil_div(dividend: int, divisor: int) -> int:
    """The quotient, rounded up."""
    return -(-dividend // divisor)


def as_int(value: object, name: str) -> int:
    """Return `value` as an int; booleans, floats and strings are refused by the argument's name."""
    if not isinstance(value, bool):
        try:
            return operator.index(value)  # type: ignore[arg-type]
        except TypeError:
            pass
    raise SpecError(f"{name}={value!r} is not an integer. Pass a whole number.")


def as_epoch(value: object) -> int:
    """Return the number of an epoch as an int; what is no whole number from 0 on is refused."""
    number = as_int(value, "epoch")
    if number < 0:
        raise SpecError(f"epoch={number}: epochs are counted from 0.")
    return number


@dataclass(frozen=True, slots=True)
class Shard:
    """One rank's share of a FileSet. DataLoader workers are not shards.

    Attributes:
        rank: Rank of this training process, in [0, world_size).
        world_size: Number of training processes.
    """

    rank: int = 0
    world_size: int = 1

    def __post_init__(self) -> None:
        rank, world_size = as_int(self.rank, "rank"), as_int(self.world_size, "world_size")
        if not 0 <= rank < world_size:
            raise SpecError(
                f"Shard({rank}, {world_size}): the rank must lie in [0, world size). "
                "Pass the rank first, counted from 0, and the world size second."
            )
        object.__setattr__(self, "rank", rank)
        object.__setattr__(self, "world_size", world_size)


@dataclass(frozen=True, slots=True)
class BatchSpec:
    """How an epoch is cut into batches.

    Attributes:
        batch_size: Rows per batch and rank, >= 1.
        drop_last_batch: True: only full batches, as many on every rank. False: every row exactly once.
    """

    batch_size: int
    drop_last_batch: bool = True

    def __post_init__(self) -> None:
        batch_size = as_int(self.batch_size, "batch_size")
        if batch_size < 1:
            raise SpecError(f"batch_size={batch_size}: a batch holds at least one row. Pass a number >= 1.")
        object.__setattr__(self, "batch_size", batch_size)
        object.__setattr__(self, "drop_last_batch", bool(self.drop_last_batch))

    @classmethod
    def of(
        cls, batch_size: int | None, global_batch_size: int | None, world_size: int, drop_last_batch: bool
    ) -> BatchSpec:
        """Build from exactly one of `batch_size` (per rank) and `global_batch_size` (over all ranks)."""
        if (batch_size is None) == (global_batch_size is None):
            raise SpecError(
                f"batch_size={batch_size}, global_batch_size={global_batch_size}: pass exactly one of the two. "
                "batch_size counts the rows of one rank, global_batch_size those of all ranks together."
            )
        if global_batch_size is None:
            return cls(batch_size, drop_last_batch)  # type: ignore[arg-type]
        total = as_int(global_batch_size, "global_batch_size")
        if total < 1 or total % world_size:
            below = total - total % world_size
            fits = [size for size in (below, below + world_size) if size > 0]
            raise SpecError(
                f"global_batch_size={total} cannot be shared equally by {world_size} ranks. "
                f"Pass a multiple of the world size, such as {' or '.join(map(str, fits))}."
            )
        return cls(total // world_size, drop_last_batch)


@dataclass(frozen=True, slots=True)
class ShuffleSpec:
    """The order in which an epoch visits the rows.

    Attributes:
        shuffle: False: natural order. True: blocks, and the rows of each block, in an order drawn anew each epoch.
        seed: Base seed in [0, 2**63), the same on every rank.
        streams: Spans that the epoch's row sequence is cut into; that many blocks are open at once, and a batch mixes
            rows of that many places. None: the least multiple of the world size that is at least 8.
    """

    shuffle: bool = False
    seed: int = 0
    streams: int | None = None

    def __post_init__(self) -> None:
        seed = as_int(self.seed, "seed")
        if not 0 <= seed <= MAX_SEED:
            raise SpecError(f"seed={seed} lies outside [0, 2**63). Pass a non-negative 63-bit integer.")
        if self.streams is not None:
            streams = as_int(self.streams, "streams")
            if streams < 1:
                raise SpecError(f"streams={streams}: at least one block is open at a time. Pass a number >= 1.")
            object.__setattr__(self, "streams", streams)
        object.__setattr__(self, "shuffle", bool(self.shuffle))
        object.__setattr__(self, "seed", seed)

    def streams_for(self, world_size: int) -> int:
        """Number of streams for `world_size` ranks; refuses world sizes that do not divide it."""
        if self.streams is None:
            return ceil_div(MIN_STREAMS, world_size) * world_size
        if self.streams % world_size:
            good = [w for w in range(1, self.streams + 1) if self.streams % w == 0]
            nearest = ceil_div(self.streams, world_size) * world_size
            raise SpecError(
                f"streams={self.streams} cannot be shared by {world_size} ranks: with shuffle=True the world size must "
                f"divide streams. World sizes that do: {', '.join(map(str, good))}. For {world_size} ranks pass "
                f"streams={nearest} (another order of rows) or a multiple of it."
            )
        return self.streams
