"""Progress bars: on a terminal, and nothing anywhere else."""

import pytest

from fileset_integrations.progress import amount, progress_bar


@pytest.mark.parametrize("total", [None, 100])
def test_a_bar_says_how_much_how_fast_and_leaves_nothing_behind(total, capsys):
    with progress_bar("Counting", total, shown=True) as done:
        done(40)
        done(60)

    said = capsys.readouterr()
    assert said.out == ""
    assert "Counting" in said.err and "100 rows" in said.err
    assert ("100 rows of 100 rows" in said.err) == (total is not None)


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
