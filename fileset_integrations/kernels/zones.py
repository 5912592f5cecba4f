"""Local time of time zones, by Python's zoneinfo: the system's database, else the `tzdata` package's.

Arrow can tell local time too, but only where the operating system keeps a database, which slim containers do not.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone, tzinfo
from functools import lru_cache
from typing import NamedTuple
from zoneinfo import ZoneInfo

import numpy as np
from numpy.typing import NDArray

from fileset_integrations.errors import ColumnError

_DAY = 86_400
_CYCLE = 146_097 * _DAY  # 400 years, after which the calendar and the rules that zones end on repeat
# Between these years there are changes to look up. The database's first one is of 1844: before, zones keep the time of
# their place's longitude. Long before the last year, all follow rules.
_FIRST_YEAR, _LAST_YEAR = 1800, 2500

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_OFFSET = re.compile(r"([+-])(\d\d):?(\d\d)?")


def to_local(seconds: NDArray[np.int64], zone: str, name: str = "") -> NDArray[np.int64]:
    """Seconds since 1970 as a clock in the zone shows them.

    Args:
        seconds: Seconds since 1970-01-01 00:00 UTC, shape (rows,).
        zone: What Arrow's timestamp types may hold: a name of the IANA database, "UTC", or an offset such as "+05:30".
        name: The column's name, for the message of an error.

    Raises:
        ColumnError: No database on this machine knows the zone.
    """
    found = _find(zone, name)
    if isinstance(found, timezone):
        return seconds + int(found.utcoffset(None).total_seconds())
    if not len(seconds):
        return seconds
    start, stop = _year_start(_FIRST_YEAR), _year_start(_LAST_YEAR)
    low, high = int(seconds.min()), int(seconds.max())
    looked_up = seconds
    if high >= stop:
        looked_up = np.where(seconds < stop, seconds, stop - _CYCLE + (seconds - stop) % _CYCLE)
        low, high = min(low, stop - _CYCLE), stop - 1
    low, high = max(low, start), max(high, start)
    table = _table(found, _year(low), _year(high))
    days = looked_up // _DAY - table.first_day
    if seconds.min() < start:
        days = np.maximum(days, 0)
    offsets = table.of_day[days]
    # Few rows lie on a day of change. To search for the place of every row among the changes took six times as long.
    rows = np.flatnonzero(table.changes_on[days])
    offsets[rows] = table.offsets[np.searchsorted(table.changes, looked_up[rows], side="right")]
    return seconds + offsets


class _Table(NamedTuple):
    changes: NDArray[np.int64]  # the seconds at which the offset changes
    offsets: NDArray[np.int64]  # before, between and after them
    first_day: int  # since 1970: the first of the next two
    of_day: NDArray[np.int64]  # the offset at each day's first second
    changes_on: NDArray[np.bool_]  # whether it changes on that day


def _find(zone: str, name: str) -> tzinfo:
    if zone.upper() in ("UTC", "Z"):
        return UTC
    if offset := _OFFSET.fullmatch(zone):
        sign, hours, minutes = offset.groups()
        return timezone(timedelta(hours=int(hours), minutes=int(minutes or 0)) * (-1 if sign == "-" else 1))
    try:
        return ZoneInfo(zone)
    except (KeyError, ValueError, OSError) as error:  # ZoneInfoNotFoundError is a KeyError
        raise ColumnError(
            f"Column {name!r} has times of the zone {zone!r}, which this machine's time zone database does not know. "
            "Install or update it (pip install -U tzdata), or convert the column to UTC in the query."
        ) from error


def _year_start(year: int) -> int:
    return int((datetime(year, 1, 1, tzinfo=UTC) - _EPOCH).total_seconds())


def _year(second: int) -> int:
    return (_EPOCH + timedelta(seconds=second)).year


def _offset(zone: tzinfo, second: int) -> int:
    offset = (_EPOCH + timedelta(seconds=second)).astimezone(zone).utcoffset()
    return 0 if offset is None else int(offset.total_seconds())


@lru_cache(maxsize=64)
def _table(zone: tzinfo, first_year: int, last_year: int) -> _Table:
    changes, offsets = _changes(zone, first_year, last_year)
    days = np.arange(_year_start(first_year) // _DAY, _year_start(last_year + 1) // _DAY)
    changes_on = np.zeros(len(days), np.bool_)
    changes_on[changes // _DAY - days[0]] = True
    of_day = offsets[np.searchsorted(changes, days * _DAY, side="right")]
    return _Table(changes, offsets, int(days[0]), of_day, changes_on)


def _changes(zone: tzinfo, first_year: int, last_year: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The seconds at which the zone's offset changes in those years, and the offsets before, between and after them."""
    changes, offsets = [], [_offset(zone, _year_start(first_year))]
    for year in range(first_year, last_year + 1):
        for second, offset in _changes_in(zone, year):
            changes.append(second)
            offsets.append(offset)
    return np.array(changes, np.int64), np.array(offsets, np.int64)


@lru_cache(maxsize=4096)
def _changes_in(zone: tzinfo, year: int) -> tuple[tuple[int, int], ...]:
    """Changes of the offset in one year of UTC: each with its first second and the offset from there on.

    zoneinfo does not list them, so the offset is asked for day by day. A zone that changed twice within a day and ended
    on the offset that it had would be missed; the database has none (held against the files of all its 345 different
    zones, release 2026.6 of tzdata).
    """
    changes = []
    before = _year_start(year) - 1  # so that a change at the year's very first second is one of this year
    known = _offset(zone, before)
    for after in range(before + _DAY, _year_start(year + 1), _DAY):
        last = _offset(zone, after)
        while known != last:
            low, high = before, after
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if _offset(zone, middle) == known else (low, middle)
            before, known = high, _offset(zone, high)
            changes.append((before, known))
        before = after
    return tuple(changes)
