"""What commands show to people: tables that fit a terminal, names that a shell completes, words for a mistaken name."""

import re
import sys

import pytest
from typer.testing import CliRunner

from fileset_integrations import cli
from fileset_integrations.cli.completion import complete_fileset
from fileset_integrations.cli.measuring import stats
from fileset_integrations.cli.output import print_rows
from fileset_integrations.cli.snapshots import info, ls
from fileset_integrations.fileset import FileSet


@pytest.fixture
def terminal(monkeypatch):
    """Standard output is a terminal, as wide as is said."""

    def wide(columns):
        monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
        monkeypatch.setenv("COLUMNS", str(columns))

    return wide


@pytest.fixture
def sets(tmp_path):
    query = "SELECT i, i % 3 AS m, NULL::INT AS n, 'row ' || i AS name, i / 7 AS x FROM range(12345) t(i)"
    for name in ("flights", "fleet", "zoo"):
        FileSet.make(target_stage_loc=tmp_path, name=name, query=query)
    return tmp_path


def shown(capsys):
    return [re.sub("\x1b\\[[0-9;]*m", "", line).rstrip() for line in capsys.readouterr().out.splitlines()]


def test_rows_that_fit_are_a_table(terminal, capsys):
    terminal(80)
    print_rows(("number", "text"), [[1, "a"], [10, None]])

    assert shown(capsys) == ["number  text", "     1  a", "    10"]


def test_rows_that_do_not_fit_stand_column_below_column_and_all_of_them_are_there(terminal, capsys):
    terminal(40)
    names = [f"column {place}" for place in range(8)]
    print_rows(names, [[f"{row}.{place}" for place in range(8)] for row in range(12)])

    lines = shown(capsys)

    assert all(len(line) <= 40 for line in lines)
    assert lines[0].split() == ["row", "1", "2", "3", "4", "5"]
    assert sum(line.startswith("column 7") for line in lines) == 3
    assert {f"{row}.{place}" for row in range(12) for place in range(8)} <= {
        word for one in lines for word in one.split()
    }


def test_long_values_are_cut_and_what_a_terminal_would_obey_is_written_out(terminal, capsys):
    terminal(200)
    print_rows(("a", "b\n"), [["x" * 500, "\x1b[31m"]])

    header, row = shown(capsys)
    assert header.split() == ["a", "b\\n"]
    assert row.split() == ["x" * 39 + "…", "\\x1b[31m"]


def test_info_ls_and_stats_are_tables_of_a_line_for_each(sets, terminal, capsys):
    terminal(100)
    info(f"{sets}/zoo")
    told = shown(capsys)
    ls(str(sets))
    listed = shown(capsys)
    stats(f"{sets}/zoo")
    described = shown(capsys)

    assert ["num_rows", "12,345"] in [line.split() for line in told]
    assert ["n", "int32", "12,345"] in [line.split() for line in told]
    assert not any("query_id" in line or "schema" in line for line in told)
    assert [line.split()[:2] for line in listed] == [
        ["name", "rows"],
        ["fleet", "12,345"],
        ["flights", "12,345"],
        ["zoo", "12,345"],
    ]
    assert [line.split()[:4] for line in described if line[:2] in ("m ", "n ")] == [
        ["m", "int64", "0", "3"],
        ["n", "int32", "12,345", "0"],
    ]


def test_names_are_completed_and_directories_are_left_to_the_shell(sets, monkeypatch):
    monkeypatch.chdir(sets)

    assert complete_fileset(f"{sets}/fl") == [f"{sets}/fleet", f"{sets}/flights"]
    assert complete_fileset("z") == ["zoo"]
    assert complete_fileset("./z") == ["./zoo"]
    assert complete_fileset(str(sets)) == complete_fileset("@db.s.stage/x") == complete_fileset("nowhere/x") == []


def test_a_mistaken_name_is_told_what_there_is(sets):
    def said(where):
        done = CliRunner().invoke(cli.app, ["info", str(where)])
        assert done.exit_code == 3
        return done.stderr

    assert f"{sets}/fligths: there is no such FileSet. {sets} holds flights" in said(sets / "fligths")
    assert f"`fileset ls {sets}` lists them" in said(sets)
    assert "FileSet.make" in said(sets / "none" / "x")


def test_a_bench_of_no_rows_is_refused_and_one_of_a_few_says_that_it_tells_little(sets):
    FileSet.make(target_stage_loc=sets, name="none", query="SELECT 1 AS x WHERE false")

    none = CliRunner().invoke(cli.app, ["bench", f"{sets}/none"])
    few = CliRunner().invoke(cli.app, ["bench", f"{sets}/zoo", "--batch-size", "10000", "--seconds", "0.2"])

    assert (none.exit_code, none.stderr) == (2, "fileset: none has no rows, so there is nothing to be measured.\n")
    assert few.exit_code == 0, few.output
    assert "1 batch: too few to tell streams apart" in few.stdout and "nan" not in few.stdout
