"""Times to integers and features of the calendar; Python's datetime and zoneinfo are the oracle."""

import datetime
import math
import os
import subprocess
import sys
from calendar import isleap, monthrange
from zoneinfo import ZoneInfo

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fileset_integrations.errors import ColumnError, NullValueError
from fileset_integrations.kernels.calendar import FEATURES, epoch, features, unit_of
from tests.support import count

NANOSECONDS = {"ns": 1, "us": 10**3, "ms": 10**6, "s": 10**9, "D": 86_400 * 10**9}
TYPES = {
    pa.date32(): "D",
    pa.date64(): "ms",
    pa.time32("s"): "s",
    pa.time32("ms"): "ms",
    pa.time64("us"): "us",
    pa.time64("ns"): "ns",
    **{pa.timestamp(unit): unit for unit in ("s", "ms", "us", "ns")},
    pa.timestamp("us", "Europe/Berlin"): "us",
    pa.timestamp("ns", "+05:30"): "ns",
    **{pa.duration(unit): unit for unit in ("s", "ms", "us", "ns")},
}
UTC = datetime.UTC
START = datetime.datetime(1970, 1, 1)


def column(values, type_) -> pa.ChunkedArray:
    return pa.chunked_array([pa.array(values, type_)])


# --- integers --------------------------------------------------------------------------------------------------------


@settings(max_examples=count(300, 10_000))
@given(type_=st.sampled_from(list(TYPES)), unit=st.sampled_from(list(NANOSECONDS)), data=st.data())
def test_units_since_the_epoch_are_exact_or_refused(type_, unit, data):
    held = TYPES[type_]
    bits = type_.bit_width
    tick = st.integers(-(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    whole = st.integers(-(10**4), 10**4).map(lambda number: number * max(1, NANOSECONDS[unit] // NANOSECONDS[held]))
    ticks = data.draw(st.lists(whole.filter(lambda number: abs(number) < 2 ** (bits - 1)), max_size=5))
    ticks += data.draw(st.lists(tick, max_size=1))
    array = pa.array(ticks, pa.int32() if bits == 32 else pa.int64()).view(type_)
    wanted = [divmod(number * NANOSECONDS[held], NANOSECONDS[unit]) for number in ticks]

    fits = all(not rest and -(2**63) <= number < 2**63 for number, rest in wanted)
    if fits:
        found = epoch(pa.chunked_array([array[:1], array[1:]]), unit)

        assert found.dtype == np.int64
        assert found.tolist() == [number for number, _ in wanted]
    else:
        with pytest.raises(ColumnError, match=rf"'when' .*unit='{held}'"):
            epoch(pa.chunked_array([array]), unit, "when")
    assert unit_of(type_) == held


def test_units_since_the_epoch_are_those_of_midnight_and_of_utc():
    day, hour = datetime.date(1969, 12, 31), datetime.time(1, 0, 0, 5)
    berlin = datetime.datetime(1970, 1, 1, tzinfo=ZoneInfo("Europe/Berlin"))

    assert epoch(column([day], pa.date32()), "s").tolist() == [-86_400]
    assert epoch(column([day], pa.date64()), "D").tolist() == [-1]
    assert epoch(column([hour], pa.time64("us")), "us").tolist() == [3_600_000_005]
    assert epoch(column([berlin], pa.timestamp("s", "Europe/Berlin")), "s").tolist() == [-3_600]
    assert epoch(column([datetime.timedelta(days=-2)], pa.duration("ns")), "D").tolist() == [-2]


@pytest.mark.parametrize("type_", TYPES, ids=str)
def test_columns_without_rows_have_units_too(type_):
    for empty in (pa.chunked_array([], type_), column([], type_)):
        assert epoch(empty, "ms").tolist() == []
        assert epoch(empty, "ms").dtype == np.int64


def test_what_has_no_epoch_is_refused_by_name_and_type():
    assert unit_of(pa.int64()) is None
    with pytest.raises(ColumnError, match=r"'when' is string.*CAST\(when AS TIMESTAMP\)"):
        epoch(column(["2020-01-01"], pa.string()), "s", "when")
    with pytest.raises(NullValueError, match=r"'when' \(date32\[day\]\) holds nulls"):
        epoch(column([None], pa.date32()), "s", "when")
    with pytest.raises(NullValueError, match="'when'"):
        features(column([None], pa.date32()), ["year"], "when")


# --- features --------------------------------------------------------------------------------------------------------


def cycle(number, period) -> list[float]:
    return [math.sin(2 * math.pi * number / period), math.cos(2 * math.pi * number / period)]


def day_of_year(moment) -> int:
    return (datetime.date(moment.year, moment.month, moment.day) - datetime.date(moment.year, 1, 1)).days


OF_TIME = {
    "second_of_minute": lambda time: cycle(time.second, 60),
    "minute_of_hour": lambda time: cycle(time.minute, 60),
    "hour_of_day": lambda time: cycle(time.hour, 24),
    "time_of_day": lambda time: cycle(time.hour * 3600 + time.minute * 60 + time.second, 86_400),
    "second": lambda time: [time.second],
    "minute": lambda time: [time.minute],
    "hour": lambda time: [time.hour],
}
OF_DAY = {
    "day_of_week": lambda day: cycle(day.weekday(), 7),
    "day_of_month": lambda day: cycle(day.day - 1, monthrange(day.year, day.month)[1]),
    "month_of_year": lambda day: cycle(day.month - 1, 12),
    "day_of_year": lambda day: cycle(day_of_year(day), 366 if isleap(day.year) else 365),
    "weekday": lambda day: [day.weekday()],
    "day": lambda day: [day.day],
    "month": lambda day: [day.month],
    "quarter": lambda day: [(day.month + 2) // 3],
    "year": lambda day: [day.year],
}
ORACLE = {**OF_TIME, **OF_DAY}


def expected(moments, names) -> np.ndarray:
    rows = [[number for name in names for number in ORACLE[name](moment)] for moment in moments]
    return np.array(rows, np.float32).reshape(len(moments), sum(FEATURES[name] for name in names))


def check(found, moments, names) -> None:
    assert found.dtype == np.float32
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected(moments, names), rtol=0, atol=1e-6)


def test_every_feature_is_held_against_the_oracle():
    assert set(ORACLE) == set(FEATURES)


@given(
    moments=st.lists(st.datetimes() | st.datetimes(datetime.datetime(1960, 1, 1), datetime.datetime(2040, 1, 1))),
    names=st.lists(st.sampled_from(list(FEATURES)), unique=True),
    cut=st.integers(0, 9),
)
def test_features_of_timestamps_without_a_zone_are_those_of_datetime(moments, names, cut):
    array = pa.array(moments, pa.timestamp("us"))

    found = features(pa.chunked_array([array[:cut], array[cut:]], array.type), names)

    check(found, moments, names)


@given(
    seconds=st.lists(st.integers(-(10**10), 10**10) | st.integers(-(5 * 10**10), 10**11), max_size=8),
    zone=st.sampled_from(
        [
            *("Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Kathmandu", "Europe/Dublin", "UTC"),
            *("America/St_Johns", "Africa/Casablanca", "Antarctica/Troll", "utc", "+05:30", "-0330", "+02"),
        ]
    ),
    unit=st.sampled_from(["s", "ms", "us"]),
)
def test_features_of_timestamps_with_a_zone_are_those_of_its_clocks(seconds, zone, unit):
    offset = {"+05:30": 5.5, "-0330": -3.5, "+02": 2, "utc": 0}
    known = datetime.timezone(datetime.timedelta(hours=offset[zone])) if zone in offset else ZoneInfo(zone)
    moments = [(START.replace(tzinfo=UTC) + datetime.timedelta(seconds=second)).astimezone(known) for second in seconds]
    array = pa.array(seconds, pa.int64()).cast(pa.timestamp("s", zone)).cast(pa.timestamp(unit, zone))

    found = features(pa.chunked_array([array]), list(FEATURES))

    check(found, moments, list(FEATURES))


@pytest.mark.parametrize(
    "zone, utc, clock",
    [
        ("Europe/Berlin", "2020-10-25 00:59:59", "2020-10-25 02:59:59"),  # an hour that comes twice
        ("Europe/Berlin", "2020-10-25 01:00:00", "2020-10-25 02:00:00"),
        ("Europe/Berlin", "2020-03-29 00:59:59", "2020-03-29 01:59:59"),  # and one that is left out
        ("Europe/Berlin", "2020-03-29 01:00:00", "2020-03-29 03:00:00"),
        ("Europe/Berlin", "2999-07-01 12:00:00", "2999-07-01 14:00:00"),  # long after the last year that is listed
        ("Europe/Berlin", "1700-07-01 12:00:00", "1700-07-01 12:53:28"),  # by the sun over Berlin
        ("Australia/Lord_Howe", "2020-04-04 14:59:59", "2020-04-05 01:59:59"),  # by half an hour
        ("Australia/Lord_Howe", "2020-04-04 15:00:00", "2020-04-05 01:30:00"),
        ("Pacific/Apia", "2011-12-30 09:59:59", "2011-12-29 23:59:59"),  # the day that Samoa left out
        ("Pacific/Apia", "2011-12-30 10:00:00", "2011-12-31 00:00:00"),
        ("America/New_York", "1918-03-31 07:00:00", "1918-03-31 03:00:00"),
        ("Asia/Kolkata", "1969-12-31 18:30:00", "1970-01-01 00:00:00"),
    ],
)
def test_clock_changes_are_met_to_the_second(zone, utc, clock):
    moment, local = datetime.datetime.fromisoformat(utc), datetime.datetime.fromisoformat(clock)
    far = datetime.datetime(1900, 1, 1)

    found = features(column([moment, far], pa.timestamp("s", zone)), list(FEATURES))

    check(found[:1], [local], list(FEATURES))


def test_parts_of_a_second_are_cut_off_before_1970_too():
    moments = [datetime.datetime(1969, 12, 31, 23, 59, 59, 999_999), datetime.datetime(1969, 12, 31, 0, 0, 0, 1)]

    found = features(column(moments, pa.timestamp("ns")), list(FEATURES))

    check(found, moments, list(FEATURES))


@given(days=st.lists(st.dates(), max_size=5))
def test_features_of_dates_are_those_of_the_day(days):
    names = list(OF_DAY)

    for type_ in (pa.date32(), pa.date64()):
        check(features(column(days, type_), names), days, names)


@given(times=st.lists(st.times(), max_size=5))
def test_features_of_times_are_those_of_the_clock(times):
    names = list(OF_TIME)

    for type_ in (pa.time64("us"), pa.time64("ns")):
        check(features(column(times, type_), names), times, names)
    whole = [time.replace(microsecond=0) for time in times]
    for type_ in (pa.time32("s"), pa.time32("ms")):
        check(features(column(whole, type_), names), whole, names)


def test_many_rows_have_the_features_of_each():
    seconds = np.random.default_rng(2).integers(0, 2 * 10**9, 2**15 + 3)
    array = pa.array(seconds, pa.timestamp("s", "America/New_York"))

    found = features(pa.chunked_array([array.slice(1, 2**14 + 1), array.slice(2**14 + 2)]), ["hour", "day_of_year"])

    some = [*range(5), *range(2**14 - 2, 2**14 + 3), *range(2**15 - 3, 2**15 + 2)]
    zone = ZoneInfo("America/New_York")
    moments = [datetime.datetime.fromtimestamp(int(seconds[row + 1]), zone) for row in some]
    assert len(found) == len(seconds) - 1
    check(np.ascontiguousarray(found[some]), moments, ["hour", "day_of_year"])


@pytest.mark.parametrize("type_", [type_ for type_ in TYPES if not pa.types.is_duration(type_)], ids=str)
def test_columns_without_rows_have_features_of_the_same_width(type_):
    names = list(OF_DAY if pa.types.is_date(type_) else OF_TIME)

    for empty in (pa.chunked_array([], type_), column([], type_)):
        check(features(empty, names), [], names)


@pytest.mark.parametrize(
    "type_, names, message",
    [
        (pa.date32(), ["year", "hour_of_day"], r"'when' is date32\[day\], which has no hour_of_day\."),
        (pa.time64("us"), ["year", "hour_of_day"], r"'when' is time64\[us\], which has no year\."),
        (pa.timestamp("us"), ["age"], r"'when': no features \['age'\].*year"),
        (pa.duration("s"), ["hour"], r"'when' is duration\[s\].*CAST"),
        (pa.int64(), ["year"], r"'when' is int64.*CAST\(when AS TIMESTAMP\)"),
        (pa.timestamp("us", "Mars/Base"), ["year"], r"'when' .*'Mars/Base'.*tzdata"),
        (pa.timestamp("us", "../passwd"), ["year"], r"'when' .*'../passwd'.*tzdata"),
    ],
)
def test_features_that_a_column_does_not_have_are_refused(type_, names, message):
    with pytest.raises(ColumnError, match=message):
        features(column([0], type_), names, "when")


def test_zones_are_known_where_the_system_has_no_database():
    program = (
        "import zoneinfo, pyarrow as pa\n"
        "from fileset_integrations.kernels.calendar import features\n"
        "assert zoneinfo.TZPATH == (), zoneinfo.TZPATH\n"
        "column = pa.chunked_array([pa.array([0], pa.timestamp('s', 'Europe/Berlin'))])\n"
        "print(features(column, ['hour']).tolist())"
    )
    environment = {**os.environ, "PYTHONTZPATH": ""}

    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True, timeout=120)

    assert done.stdout == "[[1.0]]\n", done.stderr
