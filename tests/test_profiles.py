"""What the columns of a FileSet look like: against NumPy and Python, exactly where that is said, closely elsewhere."""

import datetime as dt
import json
import math
from collections import Counter
from dataclasses import replace
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fileset_integrations.errors import ColumnError, FileSetCorruptError
from fileset_integrations.fileset import FileSet
from fileset_integrations.profiles.leaves import leaves
from fileset_integrations.profiles.measure import profile_columns
from fileset_integrations.type_table import TYPES
from tests.support import count
from tests.support.data import fileset_of, numbered, table


def profile(folder, column, *more, **options):
    """The one profile of a column in one or several files."""
    fs = fileset_of(folder, *(pa.table({"c": one}) for one in (column, *more)))
    (found,) = profile_columns(fs, **options)
    return found


def parts(values, share):
    cut = int(len(values) * share)
    return values[:cut], values[cut:]


@pytest.mark.parametrize("exact", [True, False])
def test_numbers_have_moments_extremes_and_counts_that_are_exact(exact, tmp_path):
    values = np.random.default_rng(0).normal(5, 2, 20_000)

    found = profile(tmp_path, *map(pa.array, parts(values, 0.3)), exact=exact)

    assert (found.kind, found.rows, found.nulls, found.nans) == ("number", 20_000, 0, 0)
    assert (found.minimum, found.maximum) == (values.min(), values.max())
    assert found.mean == pytest.approx(math.fsum(values) / len(values), rel=1e-15)
    assert found.std == pytest.approx(values.std(), rel=1e-12)
    assert found.histogram.counts == tuple(np.histogram(values, 40)[0])
    assert found.approximate is not exact


@pytest.mark.parametrize("exact", [True, False])
def test_quantiles_and_distinct_counts_are_exact_or_close(exact, tmp_path):
    values = np.random.default_rng(0).permutation(np.arange(50_000) % 20_000)

    found = profile(tmp_path, pa.array(values), exact=exact)

    assert found.distinct == (20_000 if exact else pytest.approx(20_000, rel=0.1))
    for share, value in found.quantiles.items():
        wanted = float(np.quantile(values, float(share), method="inverted_cdf"))
        assert value == (wanted if exact else pytest.approx(wanted, abs=200))


@settings(max_examples=count(20, 1000))
@given(st.lists(st.one_of(st.none(), st.floats(width=64)), min_size=1, max_size=40))
def test_whatever_floats_there_are_each_is_counted_once(tmp_path_factory, values):
    found = profile(tmp_path_factory.mktemp("floats"), pa.array(values, pa.float64()))

    numbers = [value for value in values if value is not None]
    finite = [value for value in numbers if math.isfinite(value)]
    assert found.nulls == values.count(None)
    assert found.nans == sum(map(math.isnan, numbers))
    if found.histogram is not None:
        assert sum(found.histogram.counts) == len(finite)
    json.dumps(found.to_json(), allow_nan=False)


def test_integers_beyond_float64_keep_their_extremes(tmp_path):
    found = profile(tmp_path, pa.array([2**63 + 1, 2**64 - 1, 0], pa.uint64()))

    assert (found.minimum, found.maximum) == (0, 2**64 - 1)
    assert sum(found.histogram.counts) == 3


def test_few_integers_have_a_bin_each(tmp_path):
    found = profile(tmp_path, pa.array([3, 3, 5, None, 7]))

    assert (found.histogram.start, found.histogram.stop) == (2.5, 7.5)
    assert found.histogram.counts == (2, 0, 1, 0, 1)
    assert found.histogram.labels == (3, 7)


def test_the_most_frequent_values_come_with_exact_counts(tmp_path):
    rng = np.random.default_rng(1)
    words = [f"word {int(one)}" for one in np.minimum(rng.zipf(1.3, 30_000), 5_000)]

    found = profile(tmp_path, *map(pa.array, parts(words, 0.5)), exact=False)

    wanted = sorted(Counter(words).items(), key=lambda one: (-one[1], one[0]))[:10]
    assert list(found.top) == wanted
    assert found.top_share == pytest.approx(sum(number for _, number in wanted) / len(words))
    assert (found.lengths.minimum, found.lengths.maximum) == (6, 9)


def test_values_that_occur_once_are_not_named(tmp_path):
    assert profile(tmp_path, pa.array(["a", "b", "c"])).top == ()


def test_times_are_shown_as_times(tmp_path):
    days = [dt.date(2020, 1, 1) + dt.timedelta(days=day) for day in range(5)]

    found = profile(tmp_path, pa.array(days))

    assert (found.minimum, found.maximum, found.mean) == ("2020-01-01", "2020-01-05", "2020-01-03")
    assert found.std == pytest.approx(math.sqrt(2) * 86_400)
    assert found.quantiles["0.5"] == "2020-01-03"


@pytest.mark.parametrize(
    ("value", "type_", "shown"),
    [
        (dt.datetime(2020, 1, 2, 3, 4, 5), pa.timestamp("ns"), "2020-01-02T03:04:05"),
        (dt.datetime(2020, 1, 2, 3, 4, 5, 600, dt.UTC), pa.timestamp("us", "UTC"), "2020-01-02T03:04:05.0006Z"),
        (dt.time(3, 4, 5), pa.time64("us"), "03:04:05"),
        (dt.date(2020, 1, 2), pa.date64(), "2020-01-02"),
        (dt.timedelta(seconds=90), pa.duration("ms"), "90 s"),
        (Decimal("1.50"), pa.decimal128(9, 2), 1.5),
        (True, pa.bool_(), "true"),
        (b"\x00\xff", pa.binary(), "00ff"),
    ],
)
def test_a_value_of_each_kind_is_shown_as_what_it_is(value, type_, shown, tmp_path):
    found = profile(tmp_path, pa.array([value, value, None], type_))

    assert found.top == ((shown, 2),)
    assert found.nulls == 1
    if found.kind in ("number", "time"):
        assert found.minimum == found.maximum == found.mean == shown


def test_lists_are_described_by_their_lengths_and_elements(tmp_path):
    found = profile(tmp_path, pa.array([[[1, 2], [3]], [], None, [[4, None]]]))

    assert (found.kind, found.nulls) == ("list", 1)
    assert (found.lengths.minimum, found.lengths.maximum) == (0, 2)
    assert (found.minimum, found.maximum, found.mean) == (1, 4, 2.5)
    assert found.histogram.counts == (1, 1, 1, 1)


def test_structs_are_described_field_by_field(tmp_path):
    fs = fileset_of(tmp_path, pa.table({"s": [{"a": 1, "b": {"c": "x"}}, {"a": 2, "b": None}, None]}))

    inner, deep = profile_columns(fs)

    assert (inner.name, inner.nulls, inner.mean) == ("s.a", 1, 1.5)
    assert (deep.name, deep.nulls, deep.distinct) == ("s.b.c", 2, 1)


def test_fields_may_have_any_name(tmp_path):
    fs = fileset_of(tmp_path, pa.table({"s": [{"a.b": 1, "": "x", "a": {"b": 2.5}}]}))

    assert [(one.name, one.minimum) for one in profile_columns(fs)] == [("s.a.b", 1), ("s.", None), ("s.a.b", 2.5)]


@pytest.mark.parametrize("type_", [type_ for _, type_ in TYPES], ids=str)
def test_every_type_that_a_file_can_have_is_described(type_, tmp_path):
    try:
        fs = fileset_of(tmp_path, pa.table({"c": pa.nulls(3, type_)}))
    except pa.ArrowNotImplementedError:
        pytest.skip("Parquet has no such type")

    for found, leaf in zip(profile_columns(fs), leaves(fs.schema), strict=True):
        assert (found.name, found.type, found.rows, found.nulls) == (leaf.name, str(leaf.type), 3, 3)


def test_zero_rows_are_described_as_none(tmp_path):
    found = profile(tmp_path, pa.array([], pa.float64()))

    assert (found.rows, found.distinct, found.minimum, found.histogram) == (0, 0, None, None)
    assert profile(tmp_path / "more", pa.array([], pa.string())).top == ()


def test_a_part_of_a_split_is_described_by_its_own_rows(tmp_path):
    part = numbered(tmp_path, [60, 40]).split(train=0.7, val=0.3)["val"]

    found = profile_columns(part, ["id"])[0]

    assert found.rows == 30
    assert found.mean == np.mean(part.to_arrow(["id"])["id"].to_numpy())


def test_only_the_columns_asked_for_are_described(tmp_path):
    fs = numbered(tmp_path, [10])

    assert [one.name for one in profile_columns(fs, ["y", "id"])] == ["y", "id"]
    with pytest.raises(ColumnError, match="'absent'"):
        profile_columns(fs, ["absent"])


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    fs = numbered(tmp_path, [1000, 1000])
    path = tmp_path / "data_1.parquet"
    path.write_bytes(path.read_bytes()[:-100])

    with pytest.raises(FileSetCorruptError, match=r"data_1\.parquet"):
        profile_columns(fs)


def test_text_that_is_no_utf8_is_refused_by_a_word_about_it(tmp_path):
    buffers = [None, pa.py_buffer(np.array([0, 1], np.int32)), pa.py_buffer(b"\xff")]
    column = pa.Array.from_buffers(pa.string(), 1, buffers)

    with pytest.raises(ColumnError, match="cannot be described"):
        profile(tmp_path, column)


def test_names_of_columns_are_names_and_no_sql(tmp_path):
    names = ['"; DROP TABLE x; --', "select", "a.b", "", "é\n"]
    fs = fileset_of(tmp_path, table({name: ([1, 1], pa.int64()) for name in names}))

    assert [one.name for one in profile_columns(fs)] == names


def test_columns_of_few_different_values_are_exact_even_where_others_are_estimated(tmp_path):
    query = """SELECT i % 12 AS month, CASE WHEN i % 7 = 0 THEN 'nan'::DOUBLE ELSE i % 3 END AS x, i AS id
               FROM range(50000) t(i)"""
    fs = FileSet.make(target_stage_loc=tmp_path, name="x", query=query)

    estimated, exact = profile_columns(fs, exact=False), profile_columns(fs, exact=True)

    assert [one.approximate for one in estimated] == [False, False, True]
    assert [replace(one, top_approximate=False) for one in estimated[:2]] == [
        replace(one, top_approximate=False) for one in exact[:2]
    ]
    assert exact[1].distinct == 3 and exact[1].nans == len(range(0, 50_000, 7))  # NaN is no value
