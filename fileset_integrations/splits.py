"""Parts of a FileSet, such as train and val: which rows of each file belong to which. Arithmetic over row counts.

```
11 rows in files of 4, 1, 6; train=0.5, val=0.25, test=0.25:

rows before a file, and all         0     4   5       11
before the cut at 1/2, rounded down 0     2   2        5    train has 2, 0, 3 of the files' rows
before the cut at 3/4, rounded down 0     3   3        8    val has 1, 0, 2
before the end                      0     4   5       11    test has 1, 1, 1
```

A file's own rows are dealt out from a permutation drawn for it once: the first of it to train, the next to val, and so
on. So the parts are disjoint and together whole, each is spread evenly over the files, and what a file gives follows
from the row counts, the shares and the seed alone.

Rounded so, a part would sometimes have to give a row back: of 3 rows, one lies between the cuts at 0.5 and 0.7; of 4,
none. Where that happens, in files of less than 1 / share rows, the part keeps what it has, and its cut, and those after
it, are late by a row until the rounding has caught up.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fileset_integrations.errors import SpecError
from fileset_integrations.forks import mend_after_fork
from fileset_integrations.plan import check_generator, split_generator
from fileset_integrations.spec import MAX_SEED, as_int

Share = float | str | Decimal | Fraction

_KEPT_MASK_BYTES = 32 * 2**20  # of masks kept as bits: those of 268 million rows


class Selection(Protocol):
    """Which rows of a FileSet's files a view of it holds."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Rows that it holds of each file, shape (files,), int64."""

    def mask(self, file: int) -> NDArray[np.bool_] | None:
        """Which rows of a file it holds, shape (rows of the file,); None: all."""


@dataclass(frozen=True, slots=True)
class Split:
    """How the rows are shared out; the arguments of `FileSet.split`, checked.

    Attributes:
        shares: Name and share of each part, in the order in which they are cut off; the shares sum to 1.
        seed: Seed of the permutations.
    """

    shares: tuple[tuple[str, Fraction], ...]
    seed: int

    @classmethod
    def of(cls, shares: Mapping[str, Share], seed: int) -> Split:
        """Check what the user passed.

        Raises:
            SpecError: The shares are not positive numbers that sum to 1, or the seed is out of range.
        """
        if not shares:
            raise SpecError("split() names no part. Pass the parts and their shares, such as train=0.8, val=0.2.")
        number = as_int(seed, "seed")
        if not 0 <= number <= MAX_SEED:
            raise SpecError(f"seed={number} lies outside [0, 2**63). Pass a non-negative 63-bit integer.")
        exact = {name: _exact(name, share) for name, share in shares.items()}
        total = sum(exact.values())
        if total != 1:
            given = ", ".join(f"{name}={share}" for name, share in shares.items())
            raise SpecError(
                f"The shares {given} sum to {shown(total)}, not to 1. Each is taken as the decimal that is written; "
                "for thirds and the like pass fractions.Fraction(1, 3) or '1/3'. Name a part for what is left over too."
            )
        return cls(tuple(exact.items()), number)

    def __str__(self) -> str:
        shares = {name: shown(share) for name, share in self.shares}
        parts = [f"{name}={share!r}" if "/" in share else f"{name}={share}" for name, share in shares.items()]
        return ", ".join([*parts, f"seed={self.seed}"])

    def places(self, file_rows: NDArray[np.int64], part: str) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Places [first, stop) of each file's permutation that hold a part's rows; two arrays of shape (files,)."""
        rows = np.concatenate([np.zeros(1, np.int64), np.cumsum(file_rows)])  # before each file, and all
        earlier, cut = np.zeros_like(rows), Fraction(0)  # rows of the parts before this one, counted likewise
        for name, share in self.shares:
            cut += share
            held = np.maximum.accumulate(_floor_of(cut, rows) - earlier)
            if name == part:
                first = np.diff(earlier)
                return first, first + np.diff(held)
            earlier += held
        raise KeyError(part)


def _floor_of(cut: Fraction, rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """floor(cut * rows), exactly, whatever the numbers."""
    largest = max(cut.numerator * int(rows[-1]), cut.denominator)
    exact = rows.astype(np.int64 if largest <= np.iinfo(np.int64).max else object)  # else Python's own integers
    return (exact * cut.numerator // cut.denominator).astype(np.int64)


def _exact(name: str, share: object) -> Fraction:
    exact = None
    if isinstance(share, float | np.floating):
        share = str(share)  # the decimal that is written: 0.1, not the binary number nearest to it
    if isinstance(share, str | Decimal | Fraction | int) and not isinstance(share, bool):
        try:
            exact = Fraction(share)
        except (ValueError, OverflowError, ZeroDivisionError):
            exact = None
    if exact is None or exact <= 0:
        raise SpecError(f"{name}={share!r}: pass the share of the rows that the part takes, above 0, such as 0.8.")
    return exact


def shown(share: Fraction | int) -> str:
    """A share as a decimal where it has one that a float can hold, else as a fraction."""
    decimal = repr(float(share))
    return decimal if Fraction(decimal) == share else str(share)


class PartRows:
    """The rows of one part of a split.

    A file's mask is drawn when it is asked for. Those last asked for are kept as bits, up to a bound, so that the
    blocks of one file, and the next epoch, need not draw it again.

    Args:
        split: The split.
        part: Name of the part.
        file_rows: Rows of each file, shape (files,).
    """

    def __init__(self, split: Split, part: str, file_rows: NDArray[np.int64]) -> None:
        self._split, self._part, self._file_rows = split, part, file_rows
        self._reset()

    def _reset(self) -> None:
        self._first, self._stop = self._split.places(self._file_rows, self._part)
        self.rows = self._stop - self._first
        self._drawn: OrderedDict[int, NDArray[np.uint8]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        mend_after_fork(self)

    def mask(self, file: int) -> NDArray[np.bool_] | None:
        """Which rows of a file belong to the part, shape (rows of the file,); None: all. For any thread."""
        count = int(self._file_rows[file])
        if self.rows[file] == count:
            return None
        with self._lock:
            if (bits := self._drawn.get(file)) is not None:
                self._drawn.move_to_end(file)
        if bits is not None:
            return np.unpackbits(bits, count=count).view(np.bool_)
        mask = np.zeros(count, np.bool_)
        if self.rows[file]:
            check_generator()
            order = split_generator(self._split.seed, file).permutation(count)
            mask[order[self._first[file] : self._stop[file]]] = True
        self._keep(file, np.packbits(mask))
        return mask

    def _keep(self, file: int, bits: NDArray[np.uint8]) -> None:
        with self._lock:
            if file not in self._drawn:
                self._drawn[file] = bits
                self._bytes += bits.nbytes
            while self._bytes > _KEPT_MASK_BYTES and len(self._drawn) > 1:
                self._bytes -= self._drawn.popitem(last=False)[1].nbytes

    def after_fork(self) -> None:
        """Renew the lock."""
        self._lock = threading.Lock()

    def __getstate__(self) -> dict[str, Any]:
        return {"_split": self._split, "_part": self._part, "_file_rows": self._file_rows}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._reset()
