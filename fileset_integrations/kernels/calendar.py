"""Dates, times and timestamps to integers of a stated unit, and to features of the calendar."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.errors import ColumnError, NullValueError
from fileset_integrations.kernels.zones import to_local

Unit = Literal["s", "ms", "us", "ns", "D"]

_NANOSECONDS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "D": 86_400 * 10**9}
_DAY_SECONDS = 86_400
_INT64 = np.iinfo(np.int64)
_BLOCK_ROWS = 2**14  # more make arrays of a size for which memory is fetched from the system each time
_TABLE_DAYS = 2**12  # tables of days begin and end on multiples of this, so that columns of like years share them
_MOST_TABLE_DAYS = 2**17  # 358 years; what spans more is computed row by row

# The width of each feature, by its name. A name of several words is a cycle: the place in it as (sin, cos), so that its
# end lies beside its beginning. A name of one word is the plain number.
FEATURES: Mapping[str, int] = {
    "second_of_minute": 2,
    "minute_of_hour": 2,
    "hour_of_day": 2,
    "time_of_day": 2,  # to the second
    "day_of_week": 2,
    "day_of_month": 2,  # of as many days as the month has
    "month_of_year": 2,
    "day_of_year": 2,  # of as many days as the year has
    "second": 1,  # 0 to 59
    "minute": 1,  # 0 to 59
    "hour": 1,  # 0 to 23
    "weekday": 1,  # Monday is 0
    "day": 1,  # of the month, from 1
    "month": 1,  # from 1
    "quarter": 1,  # from 1
    "year": 1,
}
_OF_TIME = ("second_of_minute", "minute_of_hour", "hour_of_day", "time_of_day", "second", "minute", "hour")


def unit_of(type_: pa.DataType) -> Unit | None:
    """The unit in which Arrow holds values of a date, time, timestamp or duration type; None for other types."""
    if pa.types.is_date(type_):
        return "D" if pa.types.is_date32(type_) else "ms"
    if pa.types.is_time(type_) or pa.types.is_timestamp(type_) or pa.types.is_duration(type_):
        unit: Unit = type_.unit
        return unit
    return None


def epoch(column: pa.ChunkedArray, unit: Unit, name: str = "") -> NDArray[np.int64]:
    """How many units a column's values are from zero, exactly; shape (rows,); it may share Arrow's memory.

    Zero is 1970-01-01 00:00 for dates and timestamps, of UTC for those with a zone; midnight for times of the day; and
    no time for durations.

    Args:
        column: Dates, times, timestamps or durations, without nulls.
        unit: "s", "ms", "us", "ns" or "D", a day of 24 hours.
        name: The column's name, for the message of an error.

    Raises:
        ColumnError: A value is no whole number of units or does not fit 64 bits, or the type is another.
        NullValueError: There are nulls.
    """
    held = _unit(column, name)
    parts = [_in_unit(_ticks(chunk, name), held, unit, column.type, name) for chunk in column.chunks]
    if len(parts) == 1:
        return parts[0]
    return np.concatenate(parts) if parts else np.empty(0, np.int64)


def features(column: pa.ChunkedArray, names: Sequence[str], name: str = "") -> NDArray[np.float32]:
    """Features of the calendar, shape (rows, sum of the widths in FEATURES), float32.

    Timestamps with a zone are taken as that zone's clocks and calendars show them, those without as they are. Parts of
    a second are cut off. Years before 1583 are those of the calendar of today, as in SQL.

    Args:
        column: Dates, times or timestamps, without nulls. Times have features of the time only, dates of the day only.
        names: Names in FEATURES; their columns follow in this order.
        name: The column's name, for the message of an error.

    Raises:
        ColumnError: A name is unknown or the type does not have that feature, or its zone is unknown.
        NullValueError: There are nulls.
    """
    type_ = column.type
    _check_features(type_, names, name)
    per_second = 10**9 // _NANOSECONDS[_unit(column, name)] if not pa.types.is_date32(type_) else None
    out = np.empty((len(column), sum(FEATURES[feature] for feature in names)), np.float32)
    at = 0
    for chunk in column.chunks:
        ticks = _ticks(chunk, name)
        for start in range(0, len(ticks), _BLOCK_ROWS):
            block = ticks[start : start + _BLOCK_ROWS]
            rows = out[at : at + len(block)]
            at += len(block)
            if per_second is None:
                _put(rows, names, block, None)
                continue
            seconds = block // per_second
            if pa.types.is_timestamp(type_) and type_.tz:
                seconds = to_local(seconds, type_.tz, name)
            days = seconds // _DAY_SECONDS
            _put(rows, names, days, seconds - days * _DAY_SECONDS)
    return out


def _unit(column: pa.ChunkedArray, name: str) -> Unit:
    unit = unit_of(column.type)
    if unit is None:
        raise ColumnError(
            f"Column {name!r} is {column.type}, which is no date, time, timestamp or duration. "
            f"CAST({name} AS TIMESTAMP) in the query makes it one."
        )
    return unit


def _ticks(chunk: pa.Array, name: str) -> NDArray[np.int64]:
    if chunk.null_count:
        raise NullValueError(f"Column {name!r} ({chunk.type}) holds nulls, which have no place in time.")
    numbers = chunk.view(pa.int32() if chunk.type.bit_width == 32 else pa.int64())
    ticks: NDArray[np.int64] = numbers.to_numpy().astype(np.int64, copy=False)
    return ticks


def _in_unit(ticks: NDArray[np.int64], held: Unit, unit: Unit, type_: pa.DataType, name: str) -> NDArray[np.int64]:
    have, want = _NANOSECONDS[held], _NANOSECONDS[unit]
    if have == want or not len(ticks):
        return ticks
    if have > want:
        factor = have // want
        if int(ticks.max()) > _INT64.max // factor or int(ticks.min()) < -(-_INT64.min // factor):
            raise ColumnError(
                f"Column {name!r} ({type_}) holds values that do not fit 64 bits in units of {unit!r}. "
                f"Take unit={held!r}, in which Arrow holds them."
            )
        return ticks * factor
    factor = want // have
    whole = ticks // factor
    if (whole * factor != ticks).any():
        raise ColumnError(
            f"Column {name!r} ({type_}) holds values that are no whole number of units of {unit!r}. Take "
            f"unit={held!r}, in which Arrow holds them, or cut them off in the query with date_trunc."
        )
    return whole


def _check_features(type_: pa.DataType, names: Sequence[str], name: str) -> None:
    unknown = [feature for feature in names if feature not in FEATURES]
    if unknown:
        raise ColumnError(f"Column {name!r}: no features {unknown} of the calendar. There are {', '.join(FEATURES)}.")
    if not (pa.types.is_date(type_) or pa.types.is_time(type_) or pa.types.is_timestamp(type_)):
        raise ColumnError(
            f"Column {name!r} is {type_}, which has no features of the calendar: dates, times and timestamps have. "
            f"CAST({name} AS TIMESTAMP) in the query makes it one."
        )
    without: Callable[[str], bool] | None = None
    if pa.types.is_date(type_):
        without = _OF_TIME.__contains__
    elif pa.types.is_time(type_):
        without = set(FEATURES).difference(_OF_TIME).__contains__
    lacking = [feature for feature in names if without and without(feature)]
    if lacking:
        raise ColumnError(
            f"Column {name!r} is {type_}, which has no {', '.join(lacking)}. Leave that out, or select a timestamp."
        )


def _put(
    rows: NDArray[np.float32], names: Sequence[str], days: NDArray[np.int64], seconds: NDArray[np.int64] | None
) -> None:
    """Write features into `rows`, by tables: there are few different days, and 86,400 seconds in one."""
    first = last = 0
    if len(days):
        first = int(days.min()) // _TABLE_DAYS * _TABLE_DAYS
        last = (int(days.max()) // _TABLE_DAYS + 1) * _TABLE_DAYS
    sparse = last - first > _MOST_TABLE_DAYS
    at = 0
    for feature in names:
        if feature in _OF_TIME:
            table, index = _time_table(feature), seconds
        elif sparse:
            table, index = _of_days(feature, days), None
        else:
            table, index = _day_table(feature, first, last), days - first
        width = FEATURES[feature]
        # A pair is moved as one number of eight bytes.
        kind = np.dtype(np.complex64 if width == 2 else np.float32)
        values = table.view(kind)[:, 0]
        rows[:, at : at + width].view(kind)[:, 0] = values if index is None else values[index]
        at += width


@lru_cache(maxsize=len(_OF_TIME))
def _time_table(feature: str) -> NDArray[np.float32]:
    return _of_seconds(feature, np.arange(_DAY_SECONDS))


@lru_cache(maxsize=64)
def _day_table(feature: str, first: int, last: int) -> NDArray[np.float32]:
    return _of_days(feature, np.arange(first, last))


def _of_seconds(feature: str, seconds: NDArray[np.int64]) -> NDArray[np.float32]:
    """A feature of seconds of the day, shape (rows, width)."""
    if feature == "time_of_day":
        return _cycle(seconds, _DAY_SECONDS)
    length, period = {"second": (1, 60), "minute": (60, 60), "hour": (3_600, 24)}[feature.partition("_")[0]]
    number = seconds // length % period
    return _cycle(number, period) if FEATURES[feature] == 2 else _plain(number)


def _of_days(feature: str, days: NDArray[np.int64]) -> NDArray[np.float32]:
    """A feature of days since 1970-01-01, shape (rows, width)."""
    if feature in ("weekday", "day_of_week"):
        number = (days + 3) % 7  # 1970-01-01 was a Thursday
        return _plain(number) if feature == "weekday" else _cycle(number, 7)
    date = days.astype("datetime64[D]")
    months = date.astype("datetime64[M]")
    years = date.astype("datetime64[Y]")
    month = (months - years.astype("datetime64[M]")).astype(np.int64)
    if feature == "month_of_year":
        return _cycle(month, 12)
    if feature in ("month", "quarter"):
        return _plain(month + 1 if feature == "month" else month // 3 + 1)
    if feature == "year":
        return _plain(years.astype(np.int64) + 1970)
    start: NDArray[Any] = years if feature == "day_of_year" else months
    day = (date - start.astype("datetime64[D]")).astype(np.int64)
    if feature == "day":
        return _plain(day + 1)
    return _cycle(day, ((start + 1).astype("datetime64[D]") - start.astype("datetime64[D]")).astype(np.int64))


def _plain(number: NDArray[np.int64]) -> NDArray[np.float32]:
    return number.astype(np.float32).reshape(-1, 1)


def _cycle(number: NDArray[np.int64], period: int | NDArray[np.int64]) -> NDArray[np.float32]:
    angle = number * (2 * np.pi) / period
    return np.stack([np.sin(angle), np.cos(angle)], axis=1).astype(np.float32)
