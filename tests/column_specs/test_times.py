"""Times: exact as numbers of units, and as features of the clock and the calendar in a zone."""

import datetime as dt

import numpy as np
import pyarrow as pa
import pytest

from fileset_integrations.columns import Timestamp
from fileset_integrations.errors import ColumnError
from tests.support.columns import fitted_rows

BERLIN = "Europe/Berlin"


def test_epochs_are_exact_in_every_unit_before_1970_too():
    instant = dt.datetime(1901, 12, 13, 20, 45, 51, tzinfo=dt.UTC)
    seconds = -(2**31) - 1
    for unit, factor in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        values = pa.array([seconds * factor, 0], pa.int64()).cast(pa.timestamp(unit, "UTC"))
        assert values.to_pylist()[0] == instant
        assert fitted_rows("a", values)["x"].tolist() == [seconds * factor, 0]
        assert fitted_rows(Timestamp("a", unit="s"), values)["x"].tolist() == [seconds, 0]
    days = [dt.date(1969, 12, 31), dt.date(2000, 2, 29)]
    assert fitted_rows("a", days, pa.date32())["x"].tolist() == [-1, 11016]
    assert fitted_rows("a", days, pa.date64())["x"].tolist() == [-1, 11016]
    assert fitted_rows(Timestamp("a", unit="s"), days, pa.date32())["x"].tolist() == [-86400, 11016 * 86400]
    assert fitted_rows(Timestamp("a"), [None], pa.date32(), nulls={"a": -7})["x"].tolist() == [-7]


def test_a_unit_that_would_lose_something_is_refused_by_column_and_remedy():
    with pytest.raises(ColumnError, match=r"'a' .timestamp.us.*unit='us'.*date_trunc"):
        fitted_rows(Timestamp("a", unit="s"), [dt.datetime(2000, 1, 1, 0, 0, 0, 1)])


def test_features_follow_the_clock_of_a_zone_across_a_change_of_it():
    # Clocks in Berlin went from 3:00 back to 2:00 at 1:00 UTC.
    instants = [dt.datetime(2020, 10, 25, hour, 30, tzinfo=dt.UTC) for hour in (0, 1, 2)]
    values = pa.array(instants, pa.timestamp("us", "UTC"))

    assert fitted_rows(Timestamp("a", features=["hour"]), values)["x"].tolist() == [[0], [1], [2]]
    assert fitted_rows(Timestamp("a", features=["hour"], timezone=BERLIN), values)["x"].tolist() == [[2], [2], [3]]
    zoned = values.cast(pa.timestamp("us", BERLIN))
    assert fitted_rows(Timestamp("a", features=["hour"]), zoned)["x"].tolist() == [[2], [2], [3]]
    assert fitted_rows("a", zoned)["x"].tolist() == fitted_rows("a", values)["x"].tolist()


def test_features_lie_side_by_side_and_have_a_mask():
    values = pa.array([dt.datetime(2021, 3, 1, 6), None])

    found = fitted_rows(Timestamp("a", features=["hour_of_day", "year"]), values, nulls="mask")

    assert found["x"] == pytest.approx(np.array([[1, 0, 2021], [0, 0, 0]]), abs=1e-6)
    assert found["x_mask"].tolist() == [[True] * 3, [False] * 3]
