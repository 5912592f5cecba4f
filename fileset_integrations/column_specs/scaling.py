"""Numbers made fit for a model by statistics of the training data (`Numeric`), and exact decimals (`Scaled`)."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.column_specs.base import (
    Binding,
    BoundColumn,
    Learned,
    Learner,
    Spec,
    check_choice,
    check_column,
    check_dtype,
    no_tensor,
    spec,
)
from fileset_integrations.column_specs.learning import Describe, shaped
from fileset_integrations.decoder import Bound, Rows, TensorSpec
from fileset_integrations.errors import ColumnError
from fileset_integrations.kernels.statistics import Statistics
from fileset_integrations.tensors import fill_scalar, nulls_found, number_dtype, numbers, rows_with_nulls

Clip = tuple[float | None, float | None]


@spec("numeric")
@dataclass(frozen=True, slots=True)
class Numeric(Spec):
    """Columns of numbers, clipped, as logarithms and scaled by statistics of the training data.

    In this order: nulls are filled, values are clipped, then become log(1 + x), then are scaled. Statistics are those
    of the training data's values at that stage, without nulls and NaN: they do not see what stands in for nulls, and
    the rows that another column's nulls drop count in them. "mean" for nulls is the mean of the values before scaling.

    Attributes:
        columns: Name of a column, for a tensor of shape (batch,); or names, for one of shape (batch, number of names).
        scale: "standard": less the mean, divided by the standard deviation (of the population: divided by n).
            "minmax": from 0 at the least to 1 at the greatest value of the training data. None: not scaled. A column
            that never changes becomes 0.
        log: Whether values become log(1 + x); those of -1 and less are an error.
        clip: Least and greatest value, in the column's own unit; values beyond become these. None for either: no bound.
        dtype: "float32" or another float.
    """

    columns: tuple[str, ...] | str
    scale: Literal["standard", "minmax"] | None = "standard"
    log: bool = False
    clip: Clip | None = None
    dtype: str = "float32"

    def __init__(
        self,
        columns: str | Sequence[str],
        scale: Literal["standard", "minmax"] | None = "standard",
        log: bool = False,
        clip: Sequence[float | None] | None = None,
        dtype: str = "float32",
    ) -> None:
        object.__setattr__(self, "columns", columns if isinstance(columns, str) else tuple(columns))
        object.__setattr__(self, "scale", scale)
        object.__setattr__(self, "log", log)
        if not self.sources:
            raise ColumnError("Numeric([]) names no columns. Pass a column's name, or a list of names.")
        for column in self.sources:
            check_column(self, column)
        check_choice(self, "scale", scale, ("standard", "minmax", None))
        check_choice(self, "log", log, (True, False))
        object.__setattr__(self, "clip", None if clip is None else self._bounds(clip))
        object.__setattr__(self, "dtype", check_dtype(self, dtype))
        if np.dtype(self.dtype).kind != "f":
            raise ColumnError(f"Numeric({columns!r}, dtype={dtype!r}): what is scaled is a float. Pass 'float32'.")

    def _bounds(self, clip: Any) -> Clip:
        bounds = tuple(clip) if isinstance(clip, Sequence) and not isinstance(clip, str) else ()
        numbers_or_none = [one is None or (isinstance(one, int | float) and not math.isnan(one)) for one in bounds]
        if len(bounds) != 2 or not all(numbers_or_none) or (None not in bounds and bounds[0] > bounds[1]):
            raise ColumnError(
                f"Numeric({self.columns!r}, clip={clip!r}): pass the least and the greatest value, such as (0, 100) or "
                "(0, None)."
            )
        return bounds

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.columns,) if isinstance(self.columns, str) else self.columns

    def learners(self, binding: Binding) -> dict[str, Learner]:
        asked = [column for column in self.sources if self.scale or binding.rules[column].kind == "mean"]
        return {column: Describe(column, self.clip, self.log) for column in asked}

    def learn(self, binding: Binding, found: Mapping[str, Statistics]) -> Learned:
        learned = {}
        for column, statistics in found.items():
            scale = self._scale_of(statistics)
            if not all(map(math.isfinite, scale)):
                raise ColumnError(
                    f"Numeric({column!r}): the column ({binding.types[column]}) of the training data has no mean and "
                    "spread: it holds infinities, or no value at all. Clip it, clip=(..., ...), or leave it out."
                )
            learned[column] = dict(zip(("mean", "offset", "spread"), scale, strict=True))
        return learned

    def _scale_of(self, statistics: Statistics) -> tuple[float, float, float]:
        """Mean, and what is subtracted and what is divided by."""
        mean = float(statistics.mean)
        if self.scale == "minmax" and statistics.minimum is not None and statistics.maximum is not None:
            least, greatest = float(statistics.minimum), float(statistics.maximum)
            return mean, least, greatest - least or 1.0
        if self.scale == "standard":
            return mean, mean, math.sqrt(statistics.variance) or 1.0
        return mean, 0.0, 1.0

    def bind(self, binding: Binding) -> Bound:
        for column in self.sources:
            if number_dtype(binding.type(column)) is None:
                raise no_tensor(column, binding.types[column])
            rule = binding.rule(column, "fill", "mean", "mask")
            if rule.kind == "fill":
                fill_scalar(rule.fill, binding.type(column), column)
        return BoundNumeric(binding, self)


class BoundNumeric(Bound):
    """Columns of numbers, scaled."""

    def __init__(self, binding: Binding, numeric: Numeric) -> None:
        shape = () if isinstance(numeric.columns, str) else (len(numeric.columns),)
        self._numeric, self._learned = numeric, binding.learned or {}
        self._rules = [binding.rules[column] for column in numeric.sources]
        tensor, mask = TensorSpec(binding.name, shape, np.dtype(numeric.dtype)), binding.mask(self._rules, shape)
        self.tensors = (tensor,) if mask is None else (tensor, mask)
        self.columns = numeric.sources

    def put(self, rows: Rows, out: Mapping[str, NDArray[Any]]) -> None:
        arrays = [out[tensor.name].reshape(rows.num_rows, len(self.columns)) for tensor in self.tensors]
        for array in arrays[1:]:
            array[...] = True
        for place, (name, rule) in enumerate(zip(self.columns, self._rules, strict=True)):
            column = rows[name]
            if rule.kind == "fill":
                column = column.fill_null(fill_scalar(rule.fill, column.type, name))
            nulls = rows_with_nulls(column)
            if column.null_count and rule.kind in ("error", "drop"):
                raise nulls_found(name, column.type)
            learned = self._learned.get(name, {"mean": 0.0, "offset": 0.0, "spread": 1.0})
            values = shaped(numbers(column, name, 0), name, self._numeric.clip, self._numeric.log, nulls)
            if rule.kind == "mean":
                values[nulls] = learned["mean"]
            if self._numeric.scale is not None:
                values -= learned["offset"]
                values /= learned["spread"]
            if rule.kind == "mask":
                values[nulls] = 0
                arrays[1][nulls, place] = False
            arrays[0][:, place] = values


@spec("scaled")
@dataclass(frozen=True, slots=True)
class Scaled(Spec):
    """A column of decimals as whole numbers of its last digit, exactly: in decimal(9, 2), 12.34 is 1234.

    int64, shape (batch,). Numbers that do not fit, as those of more than 18 digits may not, are an error.

    Attributes:
        column: Name of the column.
    """

    column: str

    def __post_init__(self) -> None:
        check_column(self, self.column)

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.column,)

    def bind(self, binding: Binding) -> Bound:
        column, type_ = self.column, binding.type(self.column)
        if not pa.types.is_decimal(type_):
            raise ColumnError(
                f"Scaled({column!r}): the column is {binding.types[column]}; decimals are scaled. Name the column "
                f"alone if it is a number, or CAST({column} AS DECIMAL(18, 2)) in the query."
            )
        rule, fill = binding.rules[column], None
        if rule.kind == "fill":
            scalar = fill_scalar(rule.fill, type_, column)
            fill = unscaled(pa.chunked_array([pa.array([scalar.as_py()], type_)]), column)[0]
        tensor = TensorSpec(binding.name, (), np.dtype(np.int64))
        return BoundColumn(binding, column, tensor, partial(unscaled, name=column), fill=fill)


def unscaled(column: pa.ChunkedArray, name: str) -> NDArray[np.int64]:
    """Decimals, none of them null, as whole numbers of their last digit.

    Raises:
        ColumnError: One does not fit 64 bits.
    """
    type_ = column.type
    if type_.bit_width < 128:
        column = column.cast(pa.decimal128(type_.precision, type_.scale))
    parts = []
    for chunk in column.chunks:
        # Words of 64 bits, the lowest first: a number fits where all the others only repeat its sign.
        words = np.frombuffer(chunk.buffers()[1] or b"", np.int64).reshape(-1, column.type.bit_width // 64)
        words = words[chunk.offset : chunk.offset + len(chunk)]
        words = words if sys.byteorder == "little" else words[:, ::-1]
        low = words[:, 0]
        if (words[:, 1:] != (low >> 63)[:, None]).any():
            raise ColumnError(
                f"Column {name!r} ({type_}) holds numbers of more than 18 digits, which do not fit 64 bits. "
                f"CAST({name} AS DOUBLE) in the query rounds them; a Category keeps them apart."
            )
        parts.append(low)
    return np.concatenate(parts) if parts else np.empty(0, np.int64)
