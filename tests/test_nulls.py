"""Nulls and NaN: masks, means, rows that are left out, and the state that says so."""

import math

import numpy as np
import pyarrow as pa
import pytest

from fileset_integrations import Columns, FileSetReader
from fileset_integrations.columns import Category, Numeric, Ragged, Stack
from fileset_integrations.errors import ColumnError, NullValueError, StateMismatchError
from tests.support.columns import Memory, fitted_rows
from tests.support.data import fileset_of, table


def test_a_mask_says_where_there_is_a_value_and_the_mean_stands_in():
    numbers = {"a": ([1, None, 4], pa.int32()), "b": ([None, 2.5, 3.5], pa.float64())}
    rows = table({**numbers, "l": ([[1, 2], None, [3, None]], pa.list_(pa.int8(), 2))})
    columns = Columns({"x": ["a", "b"], "a": "a", "l": "l"}, nulls={"a": "mask", "b": "mean", "l": "mask"})

    found = columns.fit(Memory(rows)).transform(rows)

    assert {name: value.tolist() for name, value in found.items()} == {
        "x": [[1, 3], [0, 2.5], [4, 3.5]],
        "x_mask": [[True, True], [False, True], [True, True]],
        "a": [1, 0, 4],
        "a_mask": [True, False, True],
        "l": [[1, 2], [0, 0], [3, 0]],
        "l_mask": [[True, True], [False, False], [True, False]],
    }
    assert [found[name].dtype.name for name in ("x", "a", "l", "l_mask")] == ["float32", "int32", "int8", "bool"]


def test_nan_is_a_null_where_that_is_asked_for(tmp_path):
    rows = pa.table({"a": pa.array([1.0, math.nan, None], from_pandas=False), "b": [1, 2, 3]})
    fs = fileset_of(tmp_path, rows)

    def read(nulls, nans):
        reader = FileSetReader(fs, columns=Columns({"a": "a", "b": "b"}, nulls=nulls, nans=nans), batch_size=1)
        return np.concatenate([batch["a"] for batch in reader]).tolist(), len(reader)

    assert str(read({"a": 0}, "keep")) == "([1.0, nan, 0.0], 3)"
    assert read({"a": 0}, "null") == ([1, 0, 0], 3)
    assert read({"a": "mean"}, {"a": "null"}) == ([1, 1, 1], 3)
    assert read("drop", {"a": "null"}) == ([1], 1)
    assert read("drop", "keep")[1] == 2
    with pytest.raises(NullValueError, match=r"'a'.*2 nulls in 3 rows"):
        read("error", "null")
    with pytest.raises(ColumnError, match=r"'b'.*int64.*holds no NaN"):
        read("drop", {"b": "null"})


def test_a_state_says_which_rows_were_dropped(tmp_path):
    rows = pa.table({"a": [1.0, math.nan, None, 2.0], "l": pa.array([[1], [2], [], [3]], pa.list_(pa.int64()))})
    fs = fileset_of(tmp_path, rows)
    readers = [
        FileSetReader(fs, columns=Columns({"a": "a"}, nulls="drop", nans=nans), batch_size=1)
        for nans in ("keep", "null")
    ]
    readers += [
        FileSetReader(fs, columns=Columns({"l": spec}, nulls="drop"), batch_size=1)
        for spec in (Stack("l", shape=1), Ragged("l", 1))
    ]

    assert len({reader.state(0, 0)["order"] for reader in readers}) == 4
    assert [len(reader) for reader in readers] == [3, 2, 3, 4]
    with pytest.raises(StateMismatchError, match="or NaN"):
        readers[0].resume(readers[1].state(0, 1))


def test_a_mask_or_mean_of_a_column_that_is_a_category_too_is_for_the_number():
    rows = pa.table({"a": [4, None, 4]})
    features = {"number": Numeric("a", scale=None), "code": Category("a")}

    for nulls in ("mask", {"a": "mask"}, "mean", {"a": "mean"}):
        found = Columns(features, nulls=nulls).fit(Memory(rows)).transform(rows)
        assert found["code"].tolist() == [2, 0, 2]
        assert found["number"].tolist() == [4, 0 if "mask" in str(nulls) else 4, 4]


def test_a_nan_counts_in_no_mean():
    values = pa.array([1.0, math.nan, None, 3.0], from_pandas=False)

    assert str(fitted_rows("a", values, nulls="mean")["x"].tolist()) == "[1.0, nan, 2.0, 3.0]"
