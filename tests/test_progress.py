"""Progress bars: on a terminal, and nothing anywhere else."""

import re

import pytest

from fileset_integrations.progress import amount, clock, progress_bar


@pytest.mark.parametrize("total", [None, 100])
def test_a_bar_says_how_much_how_fast_and_leaves_nothing_behind(total, capsys):
    with progress_bar("Counting", total, shown=True) as done:
        done(40)
        done(60)

    said = capsys.readouterr()
    assert said.out == ""
    assert "Counting" in said.err and "100 rows" in said.err
    assert ("100 of 100 rows" in said.err) == (total is not None)
    assert ("so far" in said.err) == (total is None)


@pytest.mark.parametrize("width", ["40", "80", "120"])
def test_the_time_left_is_said_at_any_width(width, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", width)

    with progress_bar("Making a_rather_long_name_of_a_fileset", None, shown=True, share=lambda: 0.25) as done:
        done(123_456_789)

    said = capsys.readouterr().err
    assert re.search(r"about 0:00:0\d left", said)
    assert ("123,456,789 rows" in said) == (width != "40")


def test_where_nobody_looks_nothing_is_said(capsys):
    with progress_bar("Counting", 1) as done:
        done(1)

    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("number", "unit", "said"),
    [
        (0, "bytes", "0 bytes"),
        (2048, "bytes", "2.0 KiB"),
        (3 * 2**40, "bytes", "3.0 TiB"),
        (1234, "rows", "1,234 rows"),
    ],
)
def test_amounts_have_units(number, unit, said):
    assert amount(number, unit) == said


@pytest.mark.parametrize(("seconds", "said"), [(0.4, "0:00:00"), (65, "0:01:05"), (36_000, "10:00:00")])
def test_times_are_those_of_a_clock(seconds, said):
    assert clock(seconds) == said
