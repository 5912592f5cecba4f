"""The report as text; how it looks is tested in a browser."""

import json
import re
from html.parser import HTMLParser

import numpy as np
import pyarrow as pa
import pytest
from typer.testing import CliRunner

from fileset_integrations import cli
from fileset_integrations.fileset import FileSet
from fileset_integrations.profiles.measure import profile_columns
from fileset_integrations.report.charts import HEIGHT, WIDTH, cells_of, columns_of, grouped
from fileset_integrations.report.page import render
from fileset_integrations.report.words import about, count, duration, instant, number, percent, tidy
from fileset_integrations.throughput import record_throughput
from tests.support.data import fileset_of, numbered, table
from tests.support.staged import PROFILE, STAGE, staged_numbers

HOSTILE = "</pre></title><script>alert(1)</script>\"'&\x00\u202e"


class Elements(HTMLParser):
    """Names of the elements, and all text, of a page whose elements must be closed in their order."""

    EMPTY = frozenset({"meta", "link", "use", "br"})

    def __init__(self, page: str) -> None:
        super().__init__()
        self.names: list[str] = []
        self.text = ""
        self._open: list[str] = []
        self.feed(page)
        assert self._open == []

    def handle_starttag(self, tag, attributes):
        self.names.append(tag)
        if tag not in self.EMPTY:
            self._open.append(tag)

    def handle_endtag(self, tag):
        if tag not in self.EMPTY:
            assert self._open.pop() == tag

    def handle_data(self, data):
        self.text += data


def page_of(fs, cache, **options):
    return Elements(render(fs, profile_columns(fs), cache_dir=str(cache), **options))


def test_names_values_and_the_query_are_text_whatever_they_hold(tmp_path, cache):
    quoted = HOSTILE.replace("\x00", "").replace("'", "''")
    name = HOSTILE.replace("\x00", "").replace('"', '""')
    query = f"""SELECT '{quoted}' AS "{name}", 1 AS y FROM range(5)"""
    fs = FileSet.make(target_stage_loc=tmp_path, name="x", query=query)

    found = page_of(fs, cache, title=HOSTILE)

    assert "script" not in found.names
    assert found.text.count("<script>alert(1)</script>") >= 4  # title, heading, query, column, value
    assert "\\u202e" in found.text and "\\u0000" in found.text
    assert "\u202e" not in found.text


def test_it_says_where_the_fileset_comes_from_and_how_fast_it_was_read(tmp_path, cache):
    fs = FileSet.make(
        target_stage_loc=tmp_path,
        name="x",
        query="SELECT i FROM range(5000) t(i)",
        shuffle=True,
        shuffle_key="i",
        seed=7,
    )
    record_throughput(fs, "lightning", num_rows=5000, seconds=0.5, cache_dir=cache, streams=8)

    text = " ".join(page_of(fs, cache).text.split())

    for said in (
        fs.snapshot_id,
        fs.manifest.query_sha256,
        fs.manifest.query,
        "shuffled globally, seed 7, by i",
        "5,000 rows",
    ):
        assert said in text
    assert "lightning: 5,000 rows in 0.50 s, streams 8" in text and "10,000" in text


def test_it_says_what_is_worth_knowing_before_training(tmp_path, cache):
    query = """SELECT i AS id, 7 AS same, NULL::INT AS nothing, CASE WHEN i % 4 = 0 THEN NULL ELSE 'a' END AS gaps,
               CASE i % 5 WHEN 0 THEN 'nan'::FLOAT WHEN 1 THEN 'inf'::FLOAT ELSE i END AS x FROM range(100) t(i)"""
    fs = FileSet.make(target_stage_loc=tmp_path, name="x", query=query)

    text = " ".join(page_of(fs, cache).text.split())

    for said in (
        "Nothing but nulls: nothing",
        "One and the same value in every row: same",
        "says what becomes of them): gaps 25.0 %",
        "NaN: x 20.0 %",
        "Infinities: x",
        "as an identifier has: id",
    ):
        assert said in text


def test_a_histogram_that_a_few_values_far_off_would_flatten_shows_the_others_and_says_so(tmp_path, cache):
    query = "SELECT CASE WHEN i % 500 = 0 THEN 1000000 + i ELSE i % 50 END AS x FROM range(5000) t(i)"
    fs = FileSet.make(target_stage_loc=tmp_path, name="x", query=query)

    [profile] = profile_columns(fs)
    text = " ".join(page_of(fs, cache).text.split())

    assert (profile.histogram.below, profile.histogram.above) == (0, 10)
    assert sum(profile.histogram.counts) == 4990 and min(profile.histogram.counts) > 0
    assert "not shown: 0 below and 10 above" in text
    assert "1,004,500" in text  # the greatest is told


def test_it_draws_each_number_of_streams_and_the_rows_own_order(tmp_path, cache):
    fs = numbered(tmp_path, [100] * 20)

    found = page_of(fs, cache, streams=(4, 1, 4), batch_size=50)

    assert re.findall(r"Shuffled, (\d+) streams?\n", found.text) == ["1", "4"]
    assert "The rows' own order" in found.text


@pytest.mark.parametrize(
    "rows",
    [
        {"only bytes": ([b"a", b"b"], pa.binary())},
        {"only text": (["a", None], pa.string())},
        {"numbers with nulls": ([1, None], pa.int64()), "more": ([1.5, None], pa.float64())},
        {"no rows": ([], pa.int64())},
        {"null": ([None, None], pa.null())},
        {"list of text": ([["a"], None], pa.list_(pa.string()))},
    ],
    ids=lambda rows: next(iter(rows)),
)
def test_any_fileset_has_a_report(rows, tmp_path, cache):
    found = page_of(fileset_of(tmp_path, table(rows)), cache)

    assert next(iter(rows)) in found.text
    assert "Nothing to show" in found.text


@pytest.mark.parametrize(
    ("rows", "why"),
    [(0, "there are no rows"), (3, "all rows fit into one batch"), (20, "no column has a tensor by itself"), (30, "")],
)
def test_where_there_is_no_shuffling_to_be_seen_it_says_why(rows, why, tmp_path, cache):
    values = ([b"a"] * rows, pa.binary()) if rows == 20 else (list(range(rows)), pa.int64())

    text = page_of(fileset_of(tmp_path, table({"x": values})), cache, batch_size=10).text

    assert ("Nothing to show" in text, why in text) == (bool(why), True)


def test_many_files_are_drawn_as_means_of_neighbours():
    bars, size = grouped(range(1000))

    assert (len(bars), size) == (77, 13)
    assert bars[0] == 6
    assert grouped([5, 6]) == ([5, 6], 1)


def test_bars_stay_in_the_chart_and_none_that_counts_is_invisible():
    bars = columns_of([0, 1, 10**9])

    assert len(bars) == 2
    assert bars[0].height == 1 and bars[1].height == HEIGHT
    assert all(bar.x >= 0 and bar.x + bar.width <= WIDTH and bar.y + bar.height == HEIGHT for bar in bars)
    assert columns_of([]) == columns_of([0]) == []


def test_cells_are_darker_where_more_rows_come_from():
    shares = np.array([[1.0, 0.0], [0.5, 0.5], [0.0, 0.0]])

    cells = cells_of(shares)

    assert [(cell.x > 0, cell.shade) for cell in cells] == [(False, 0.5), (True, 0.25), (True, 0.25)]
    assert cells_of(np.zeros((0, 2))) == []


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        (None, "–"),
        (1234567, "1,234,567"),
        (0.0, "0"),
        (999999.5, "999,999.5"),
        (1234567.8, "1,234,568"),
        (1e-9, "1e-09"),
        (2013, "2013"),
        (-12345, "-12,345"),
    ],
)
def test_numbers_are_shown_as_people_read_them(value, shown):
    assert number(value) == shown


def test_estimates_shares_and_times_are_rounded_and_nothing_seems_to_be_all_or_none():
    assert [about(one) for one in (12.34567, 1344.25, 3, 3.0, 0.0001234567)] == ["12.35", "1344", "3", "3", "0.0001235"]
    assert [percent(part, 10**6) for part in (0, 1, 7_500, 25_000, 999_999, 10**6)] == [
        "0 %",
        "< 0.01 %",
        "0.75 %",
        "2.5 %",
        "> 99.9 %",
        "100 %",
    ]
    assert [instant("2013-07-03T09:22:54.639523Z", coarse) for coarse in (True, False)] == [
        "2013-07-03 09:22:54",
        "2013-07-03 09:22:54.639523",
    ]
    assert [instant(one, True) for one in ("09:22:54.5", "2013-07-03", "12.5 s", None)] == [
        "09:22:54",
        "2013-07-03",
        "12.5 s",
        "–",
    ]
    assert [count(one, "row") for one in (0, 1, 2000)] == ["0 rows", "1 row", "2,000 rows"]


def test_emoji_and_scripts_keep_what_joins_their_characters():
    family = "\U0001f469\u200d\U0001f469\u200d\U0001f467"

    assert tidy(family) == family
    assert tidy("pay\u200dpal") == "pay\\u200dpal"
    assert tidy("\u200d") == "\\u200d"


def test_spans_of_time_and_long_texts_are_shortened():
    assert [duration(one) for one in (1.5, 600, 7200 * 2, 86_400 * 10)] == ["1.5 s", "10 minutes", "4 hours", "10 days"]
    assert tidy("x" * 500) == "x" * 119 + "…"


def test_a_fileset_in_a_stage_is_fetched_for_it(snowflake_server, stage, cache, tmp_path):
    staged_numbers(snowflake_server, [30, 20])
    path = tmp_path / "page.html"

    done = CliRunner().invoke(cli.app, ["report", f"{STAGE}/sets/numbers", "-o", str(path), "-c", PROFILE])

    assert done.exit_code == 0, done.output
    text = " ".join(Elements(path.read_text(encoding="utf-8")).text.split())
    assert "rows50 " in text and "files2 " in text


def test_the_commands_write_it_and_record_what_they_measured(tmp_path, cache):
    FileSet.make(target_stage_loc=tmp_path, name="x", query="SELECT i, i % 3 AS m FROM range(3000) t(i)")

    def call(*arguments):
        done = CliRunner().invoke(cli.app, [*arguments, "--json"])
        assert done.exit_code == 0, done.output
        return json.loads(done.stdout)

    measured = call("bench", f"{tmp_path}/x", "--seconds", "0.2", "--memory-bytes", "100MB")
    described = call("stats", f"{tmp_path}/x", "--column", "m")
    written = call("report", f"{tmp_path}/x", "-o", f"{tmp_path}/page.html", "--streams", "2")

    assert measured["memory_bytes"] == 10**8
    assert [(one["name"], one["distinct"]) for one in described["columns"]] == [("m", 3)]
    page = (tmp_path / "page.html").read_text(encoding="utf-8")
    assert written["num_bytes"] == len(page.encode())
    assert "bench, first epoch" in page and "bench, kept in memory" in page
    assert [path.name for path in tmp_path.iterdir() if path.suffix == ".html" or path.name.startswith(".page")] == [
        "page.html"
    ]
