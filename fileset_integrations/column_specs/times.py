"""Dates, times, timestamps and durations as epochs, or as features of the calendar: `Timestamp`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.column_specs.base import Binding, BoundColumn, Spec, check_choice, check_column, spec
from fileset_integrations.decoder import Bound, TensorSpec
from fileset_integrations.errors import ColumnError
from fileset_integrations.kernels import calendar

Unit = Literal["s", "ms", "us", "ns", "D"]


@spec("timestamp")
@dataclass(frozen=True, slots=True)
class Timestamp(Spec):
    """A column of dates, times, timestamps or durations as an epoch, or as features of the calendar.

    An epoch is int64, shape (batch,): whole units since 1970-01-01T00:00, in UTC where the column has a zone; times
    count from midnight. Values that are no whole number of units are an error. Features are float32, shape (batch,
    their widths together): those that are cyclic are a sine and a cosine (`kernels.calendar.FEATURES`).

    Nulls can be filled with an epoch in that unit; where features are asked for, with a number for each of them.

    Attributes:
        column: Name of the column.
        unit: "s", "ms", "us", "ns" or "D" (days). None: that of the column's type, days for dates.
        features: Names of features, such as ("hour_of_day", "day_of_week"). None are asked for: the epoch.
        timezone: The zone whose clock and calendar the features are of, such as "Europe/Berlin", for a column of
            instants; None: the column's own.
    """

    column: str
    unit: Unit | None = None
    features: tuple[str, ...] = ()
    timezone: str | None = None

    def __init__(
        self,
        column: str,
        unit: Unit | None = None,
        features: str | Sequence[str] = (),
        timezone: str | None = None,
    ) -> None:
        object.__setattr__(self, "column", column)
        object.__setattr__(self, "unit", unit)
        object.__setattr__(self, "features", (features,) if isinstance(features, str) else tuple(features))
        object.__setattr__(self, "timezone", timezone)
        check_column(self, column)
        check_choice(self, "unit", unit, ("s", "ms", "us", "ns", "D", None))
        unknown = [name for name in self.features if name not in calendar.FEATURES]
        if unknown:
            raise ColumnError(
                f"Timestamp({column!r}, features={list(self.features)}): there is no {unknown[0]!r}. "
                f"Features: {', '.join(calendar.FEATURES)}."
            )
        if self.features and unit is not None:
            raise ColumnError(
                f"Timestamp({column!r}, unit={unit!r}, features={list(self.features)}): a unit is that of an epoch. "
                "Leave one of the two out; a second feature of the batch may take the other."
            )
        if timezone is not None and not self.features:
            raise ColumnError(
                f"Timestamp({column!r}, timezone={timezone!r}): an epoch is that of UTC in every zone. Name features, "
                "or leave the zone out."
            )

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.column,)

    def bind(self, binding: Binding) -> Bound:
        column, type_ = self.column, binding.type(self.column)
        held = calendar.unit_of(type_)
        if held is None:
            raise ColumnError(
                f"Timestamp({column!r}): the column is {binding.types[column]}, which is no date, time, timestamp or "
                f"duration. CAST({column} AS TIMESTAMP) in the query, or name the column alone if it is a number."
            )
        fill = binding.rules[column].fill
        if self.features:
            return self._bind_features(binding, type_, fill)
        if fill is not None and (isinstance(fill, str) or fill != int(fill)):
            raise ColumnError(
                f"nulls={fill!r} cannot stand in for nulls of column {column!r} ({binding.types[column]}), which "
                "becomes an epoch. Pass a whole number of units."
            )
        unit = self.unit or ("D" if pa.types.is_date(type_) else held)
        tensor = TensorSpec(binding.name, (), np.dtype(np.int64))
        return BoundColumn(binding, column, tensor, partial(calendar.epoch, unit=unit, name=column), fill=fill)

    def _bind_features(self, binding: Binding, type_: pa.DataType, fill: Any) -> Bound:
        column, zoned = self.column, type_
        if isinstance(fill, str):
            raise ColumnError(
                f"nulls={fill!r} cannot stand in for nulls of column {column!r} ({binding.types[column]}), which "
                "becomes features of the calendar. Pass a number."
            )
        if self.timezone is not None:
            if not pa.types.is_timestamp(type_) or type_.tz is None:
                raise ColumnError(
                    f"Timestamp({column!r}, timezone={self.timezone!r}): the column is {binding.types[column]}, no "
                    "instant but what some clock showed. Leave the zone out, or say in the query whose clock that was: "
                    f"{column} AT TIME ZONE '...'."
                )
            zoned = pa.timestamp(type_.unit, self.timezone)
        # Refuses what the type does not have, and a zone that nobody knows.
        zero = pa.array([0], pa.int32() if zoned.bit_width == 32 else pa.int64()).view(zoned)
        calendar.features(pa.chunked_array([zero]), self.features, column)
        width = sum(calendar.FEATURES[name] for name in self.features)
        tensor = TensorSpec(binding.name, (width,), np.dtype(np.float32))
        values = partial(_features, type_=zoned, names=self.features, column=column)
        return BoundColumn(binding, column, tensor, values, fill=fill)


def _features(values: pa.ChunkedArray, type_: pa.DataType, names: tuple[str, ...], column: str) -> NDArray[np.float32]:
    return calendar.features(values.cast(type_), names, column)
