"""Count, mean, variance and extremes of a column, the same to the bit for any order and grouping of its values.

Sums of floats depend on their order; these do not, because nothing is rounded before the end: the sums of the values
and of their squares are kept as rationals, and mean and variance are each rounded once, when they are asked for.

How that is fast: a block of values is cut into slices, x = q0 + q1 + q2 + q3, where each q is a small integer times
one power of two for the whole block. Adding and subtracting a large constant does the cutting without error (S. M.
Rump, T. Ogita, S. Oishi, "Accurate floating-point summation part I", SIAM J. Sci. Comput. 31, 2008). The integers are
so small that sums and dot products of slices are exact in float64, in whatever order they are taken.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from decimal import Decimal
from fractions import Fraction
from itertools import combinations_with_replacement
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fileset_integrations.errors import ColumnError, SpecError

# The bounds that make everything exact: a slice is an integer of at most 2**21 in its unit, so a product is at most
# 2**42, and 2**11 of them add up to at most 2**53, the last integer before float64 has gaps.
_SLICE_BITS = 22
_SLICES = 4  # 88 bits: whatever lies within 2**-34 of the block's largest value is covered
_DOT_VALUES = 2**11
_BLOCK_VALUES = 2**15  # a quarter of a megabyte: the block and its slices stay in the processor's cache
_LIMB_BITS = 16
_PLAIN_EXPONENT = 400  # up to here squares of slices neither overflow nor lose bits to underflow
_EXACT_INTEGER = 2**53

Number = int | float | Decimal


@dataclass(frozen=True, slots=True)
class Statistics:
    """What is to be known of a column of numbers, exactly.

    NaN is apart from null and from the rest: `count` values are neither, and sums, mean, variance and extremes are
    theirs. Infinities are values: extremes show them, the mean is then an infinity (NaN where both signs occur) and the
    variance NaN. Negative zero counts as zero. Without values, mean and variance are NaN and the extremes None.

    Attributes:
        count: Values that are neither null nor NaN.
        nulls: Nulls.
        nans: NaNs, never of an integer or decimal column.
        total: The exact sum of the finite values.
        squares: The exact sum of the squares of the finite values.
        minimum: The least value: an int for integers and booleans, a Decimal for decimals, else a float.
        maximum: The greatest value, likewise.
    """

    count: int = 0
    nulls: int = 0
    nans: int = 0
    total: Fraction = Fraction(0)
    squares: Fraction = Fraction(0)
    minimum: Number | None = None
    maximum: Number | None = None

    @classmethod
    def of(cls, column: pa.ChunkedArray, name: str = "") -> Statistics:
        """Statistics of a column of integers, floats, decimals, booleans, or dictionaries of them.

        Args:
            column: The column, with nulls and NaN as they come.
            name: Its name, for the message of an error.

        Raises:
            ColumnError: The column's type is not one of numbers.
        """
        found = cls()
        for chunk in column.chunks:
            found = found.merge(_of_chunk(chunk, name))
        if not column.chunks:
            _check(column.type, name)
        return found

    @property
    def mean(self) -> float:
        """The mean of the values, rounded once."""
        if not self.count:
            return math.nan
        ends = [end for end in (self.minimum, self.maximum) if isinstance(end, float) and math.isinf(end)]
        return sum(ends) if ends else float(self.total / self.count)

    @property
    def variance(self) -> float:
        """The population variance, the mean squared distance from the mean, rounded once; inf beyond float64."""
        if not self.count or math.isinf(self.mean) or math.isnan(self.mean):
            return math.nan
        try:
            return float(self.squares / self.count - (self.total / self.count) ** 2)
        except OverflowError:
            return math.inf

    def merge(self, other: Statistics) -> Statistics:
        """Statistics of the values of both, which are values of one column: any grouping gives equal results."""
        return Statistics(
            count=self.count + other.count,
            nulls=self.nulls + other.nulls,
            nans=self.nans + other.nans,
            total=self.total + other.total,
            squares=self.squares + other.squares,
            minimum=_extreme(min, self.minimum, other.minimum),
            maximum=_extreme(max, self.maximum, other.maximum),
        )

    def to_json(self) -> dict[str, Any]:
        """All of it as values that the json module writes and reads without loss, in strict JSON too."""
        return {
            "count": self.count,
            "nulls": self.nulls,
            "nans": self.nans,
            "total": str(self.total),
            "squares": str(self.squares),
            "minimum": _number_to_json(self.minimum),
            "maximum": _number_to_json(self.maximum),
        }

    @classmethod
    def from_json(cls, state: Mapping[str, Any]) -> Statistics:
        """What `to_json` wrote.

        Raises:
            SpecError: It is something else.
        """
        try:
            return cls(
                count=int(state["count"]),
                nulls=int(state["nulls"]),
                nans=int(state["nans"]),
                total=Fraction(state["total"]),
                squares=Fraction(state["squares"]),
                minimum=_number_from_json(state["minimum"]),
                maximum=_number_from_json(state["maximum"]),
            )
        except (KeyError, TypeError, ValueError, ArithmeticError) as error:
            raise SpecError(
                f"No statistics as to_json writes them ({type(error).__name__}: {error}). Fit the columns again."
            ) from error


def _extreme(choose: Any, one: Number | None, other: Number | None) -> Number | None:
    if one is None or other is None:
        return other if one is None else one
    chosen: Number = choose(one, other)
    return chosen


def _number_to_json(number: Number | None) -> int | str | dict[str, str] | None:
    # As text, so that infinities pass and a whole float stays a float.
    if isinstance(number, Decimal):
        return {"decimal": str(number)}
    return repr(number) if isinstance(number, float) else number


def _number_from_json(value: Any) -> Number | None:
    if isinstance(value, dict):
        return Decimal(value["decimal"])
    if isinstance(value, str):
        return float(value)
    return None if value is None else int(value)


def _check(type_: pa.DataType, name: str) -> None:
    if pa.types.is_dictionary(type_):
        type_ = type_.value_type
    kinds = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_boolean, pa.types.is_null)
    if not any(kind(type_) for kind in kinds):
        raise ColumnError(
            f"Column {name!r} is {type_}, and statistics are of numbers. CAST it to a number in the query, or take it "
            "as a Category, a Hashed or a Timestamp."
        )


def _of_chunk(chunk: pa.Array, name: str) -> Statistics:
    _check(chunk.type, name)
    rows = len(chunk)
    if pa.types.is_dictionary(chunk.type):
        chunk = chunk.dictionary_decode()
    if chunk.null_count:
        chunk = chunk.drop_null()
    if not len(chunk):
        return Statistics(nulls=rows)
    if pa.types.is_boolean(chunk.type):
        chunk = chunk.cast(pa.uint8())
    found = _of_floats(chunk.to_numpy()) if pa.types.is_floating(chunk.type) else _of_whole_numbers(chunk)
    return found.merge(Statistics(nulls=rows - len(chunk)))


def _of_floats(values: NDArray[Any]) -> Statistics:
    count, nans = len(values), 0
    least, greatest = math.inf, -math.inf
    sums = _Sums()
    for start in range(0, len(values), _BLOCK_VALUES):
        block = values[start : start + _BLOCK_VALUES].astype(np.float64, copy=False)
        low, high = float(block.min()), float(block.max())
        if not (math.isfinite(low) and math.isfinite(high)):
            missing = int(np.count_nonzero(np.isnan(block)))
            nans += missing
            if missing == len(block):
                continue
            low, high = float(np.nanmin(block)), float(np.nanmax(block))
            block = block[np.isfinite(block)]
        least, greatest = min(least, low), max(greatest, high)
        sums.add(block)
    count -= nans
    # Adding zero makes 0.0 of -0.0: which of the two came first must not show.
    ends = (least + 0.0, greatest + 0.0) if count else (None, None)
    return Statistics(count, 0, nans, sums.total(), sums.squares(), *ends)


def _of_whole_numbers(chunk: pa.Array) -> Statistics:
    """Of integers, and of decimals, which are integers times a power of ten."""
    ends = pc.min_max(chunk).as_py()
    unit = Fraction(1)
    if pa.types.is_decimal(chunk.type):
        unit = Fraction(10) ** -chunk.type.scale
        words = _words(chunk)
    else:
        words = chunk.to_numpy().reshape(-1, 1)
    largest = max(abs(Fraction(end)) for end in ends.values()) / unit
    sums = _Sums()
    for start in range(0, len(words), _BLOCK_VALUES):
        block = words[start : start + _BLOCK_VALUES]
        if largest <= _EXACT_INTEGER:
            sums.add(block[:, 0].astype(np.float64))
        else:
            sums.add_limbs(list(_limbs(block)))
    return Statistics(
        len(chunk), 0, 0, sums.total() * unit, sums.squares() * unit**2, minimum=ends["min"], maximum=ends["max"]
    )


def _words(chunk: pa.Array) -> NDArray[Any]:
    """The integers that decimals are, shape (rows, words): the lowest word first, two's complement over all of them."""
    width = chunk.type.bit_width
    word = np.int32 if width == 32 else np.int64
    words = np.frombuffer(chunk.buffers()[1], word).reshape(-1, max(1, width // 64))
    words = words[chunk.offset : chunk.offset + len(chunk)]
    return words if sys.byteorder == "little" else words[:, ::-1]


def _limbs(words: NDArray[Any]) -> Iterator[NDArray[np.float64]]:
    """Integers of 64-bit words in limbs of 16 bits, the lowest first; the last one has the sign."""
    for place in range(words.shape[1]):
        word = words[:, place]
        for shift in range(0, 64, _LIMB_BITS):
            limb = word >> word.dtype.type(shift)
            if place + 1 < words.shape[1] or shift + _LIMB_BITS < 64:
                limb = limb & word.dtype.type(2**_LIMB_BITS - 1)
            yield limb.astype(np.float64) * 2.0 ** (64 * place + shift)


class _Sums:
    """Exact sums of values and of their squares: integers, each under the exponent of two that is its unit."""

    def __init__(self) -> None:
        self._values: dict[int, int] = {}
        self._squares: dict[int, int] = {}

    def total(self) -> Fraction:
        return sum((number * Fraction(2) ** exponent for exponent, number in self._values.items()), Fraction(0))

    def squares(self) -> Fraction:
        return sum((number * Fraction(2) ** exponent for exponent, number in self._squares.items()), Fraction(0))

    def add(self, values: NDArray[np.float64]) -> None:
        """Add finite values, at most _BLOCK_VALUES of them."""
        while len(values):
            largest = max(-float(values.min()), float(values.max()))
            if not largest:
                return
            values = self._add_largest(values, math.frexp(largest)[1])

    def _add_largest(self, values: NDArray[np.float64], exponent: int) -> NDArray[np.float64]:
        """Add those that the slices under 2**exponent, which none reaches, cover; return the others."""
        others = values[:0]
        moved = 0
        if abs(exponent) > _PLAIN_EXPONENT:
            near = np.abs(values) >= math.ldexp(1.0, max(exponent - 34, -1074))
            values, others = np.ldexp(values[near], -exponent), values[~near]
            exponent, moved = 0, exponent
        rest = values
        slices: list[NDArray[np.float64]] = []
        for place in range(_SLICES):
            # Adding 1.5 * 2**52 units leaves no room for bits below the unit: they are rounded off, to the nearest.
            shift = 1.5 * 2.0 ** (52 + _unit(exponent, place))
            slice_ = rest + shift
            slice_ -= shift
            rest = rest - slice_ if place == 0 else np.subtract(rest, slice_, out=rest)
            slices.append(slice_)
            # One slice is seldom enough, so that the question would be asked in vain.
            if place and not rest.any():
                break
        else:
            far = rest != 0
            if far.any():
                others = values[far]  # never after a move, which took near values only
                for slice_ in slices:
                    slice_[far] = 0.0
        self._add_slices(slices, [_unit(exponent, place) for place in range(len(slices))], moved)
        return others

    def add_limbs(self, limbs: list[NDArray[np.float64]]) -> None:
        """Add integers of 16-bit limbs, the lowest first; at most _BLOCK_VALUES of them."""
        self._add_slices(limbs, [_LIMB_BITS * place for place in range(len(limbs))])

    def _add_slices(self, slices: list[NDArray[np.float64]], units: list[int], moved: int = 0) -> None:
        """Add the sums of slices, each a multiple of its unit, of values that were moved down by 2**moved."""
        for slice_, unit in zip(slices, units, strict=True):
            exact = int(math.ldexp(float(slice_.sum()), -unit))
            self._values[unit + moved] = self._values.get(unit + moved, 0) + exact
        for one, other in combinations_with_replacement(range(len(slices)), 2):
            unit = units[one] + units[other]
            exact = _dot(slices[one], slices[other], unit)
            place = unit + 2 * moved + (one != other)  # a product of two different slices occurs twice in the square
            self._squares[place] = self._squares.get(place, 0) + exact


def _unit(exponent: int, place: int) -> int:
    """Exponent of the unit of slice `place` of values below 2**exponent."""
    return exponent - (_SLICE_BITS - 1) - _SLICE_BITS * place


def _dot(one: NDArray[np.float64], other: NDArray[np.float64], unit: int) -> int:
    """The exact dot product, in units of 2**unit."""
    whole = len(one) // _DOT_VALUES * _DOT_VALUES
    sums = np.vecdot(one[:whole].reshape(-1, _DOT_VALUES), other[:whole].reshape(-1, _DOT_VALUES))
    return sum(int(math.ldexp(value, -unit)) for value in [*sums.tolist(), float(one[whole:] @ other[whole:])])
