"""What specs learn of columns: how often each value occurs, and statistics of numbers."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fileset_integrations.decoder import Rows
from fileset_integrations.errors import ColumnError
from fileset_integrations.kernels.statistics import Statistics
from fileset_integrations.tensors import is_text, numbers, rows_with_nulls

Key = str | int | bool


@dataclass(frozen=True, slots=True)
class Count:
    """How often each value of a column occurs; nulls are left out.

    Attributes:
        column: The column, of strings, integers or booleans, or of values that a cast writes as strings.
        texts: Whether it is read as a dictionary: strings that repeat are then compared once.
    """

    column: str
    texts: bool

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def dictionaries(self) -> tuple[str, ...]:
        return self.columns if self.texts else ()

    def of(self, rows: Rows) -> Counter[Key]:
        counter: Counter[Key] = Counter()
        for chunk in keys(rows[self.column]).chunks:
            counted = pc.value_counts(chunk)
            values, counts = counted.field("values"), counted.field("counts").to_pylist()
            if isinstance(values, pa.DictionaryArray):
                values = values.dictionary_decode()
            for value, count in zip(values.to_pylist(), counts, strict=True):
                if value is not None:
                    counter[value] += count
        return counter

    def merge(self, one: Counter[Key], other: Counter[Key]) -> Counter[Key]:
        one.update(other)
        return one


def is_key(type_: pa.DataType) -> bool:
    """Whether values of the type are told apart as they are, as strings, integers or booleans."""
    return bool(is_text(type_) or pa.types.is_integer(type_) or pa.types.is_boolean(type_))


def is_written(type_: pa.DataType) -> bool:
    """Whether values of the type are told apart by how Arrow writes them as strings: dates, times and decimals."""
    return bool(pa.types.is_decimal(type_) or pa.types.is_date(type_) or pa.types.is_time(type_)) or bool(
        pa.types.is_timestamp(type_)
    )


def keys(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """A column as the values that a vocabulary holds."""
    return column.cast(pa.string()) if is_written(column.type) else column


@dataclass(frozen=True, slots=True)
class Describe:
    """Statistics of a column of numbers, as they are or clipped and then as logarithms.

    Attributes:
        column: The column.
        clip: Bounds for its values; None for one that is not there.
        log: Whether statistics are those of log(1 + x).
    """

    column: str
    clip: tuple[float | None, float | None] | None = None
    log: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def dictionaries(self) -> tuple[str, ...]:
        return ()

    def of(self, rows: Rows) -> Statistics:
        column = rows[self.column]
        if self.clip is None and not self.log:
            return Statistics.of(column, self.column)
        nulls = rows_with_nulls(column)
        values = shaped(numbers(column, self.column, 0), self.column, self.clip, self.log, nulls)
        return Statistics.of(pa.chunked_array([pa.array(values, mask=nulls)]), self.column)

    def merge(self, one: Statistics, other: Statistics) -> Statistics:
        return one.merge(other)


def shaped(
    values: NDArray[Any],
    name: str,
    clip: tuple[float | None, float | None] | None,
    log: bool,
    nulls: NDArray[np.bool_],
) -> NDArray[np.float64]:
    """Numbers as float64, clipped where asked for, and then as log(1 + x).

    Raises:
        ColumnError: A logarithm of -1 or less was asked for, of a value that is no null.
    """
    shaped = values.astype(np.float64)
    if clip is not None:
        np.clip(shaped, -np.inf if clip[0] is None else clip[0], np.inf if clip[1] is None else clip[1], out=shaped)
    if log:
        shaped[nulls] = 0.0
        if (shaped <= -1).any():
            raise ColumnError(
                f"Numeric({name!r}, log=True): the column holds values of -1 or less, which log(1 + x) does not "
                f"take. Pass clip=(0, None), or leave log out."
            )
        np.log1p(shaped, out=shaped)
    return shaped
