"""Arrow columns to arrays: the dtype by schema alone, values exactly or not at all."""

import datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fileset_integrations.columns import Columns, Stack, bind
from fileset_integrations.errors import ColumnError, NullValueError


def decode(column: pa.Array | pa.ChunkedArray, spec="a", nulls="error"):
    """A column as Columns({"a": spec}) makes it a tensor."""
    table = pa.table({"a": column})
    return bind(Columns({"a": spec}, nulls=nulls), table.schema).decode(table)["a"]


def decode_plain(column: pa.Array | pa.ChunkedArray):
    """A column as a reader without `columns` makes it a tensor."""
    table = pa.table({"a": column})
    return bind(None, table.schema).decode(table)["a"]


NUMBERS = {
    pa.int8(): ("int8", [-128, 127]),
    pa.int16(): ("int16", [-(2**15), 2**15 - 1]),
    pa.int32(): ("int32", [-(2**31), 2**31 - 1]),
    pa.int64(): ("int64", [-(2**63), 2**53 + 1, 2**63 - 1]),
    pa.uint8(): ("uint8", [0, 255]),
    pa.uint16(): ("uint16", [0, 2**16 - 1]),
    pa.uint32(): ("uint32", [0, 2**32 - 1]),
    pa.uint64(): ("uint64", [0, 2**53 + 1, 2**64 - 1]),
    pa.float16(): ("float16", [np.float16(1.5), np.float16(-65504)]),
    pa.float32(): ("float32", [1.5, -(2.0**100)]),
    pa.float64(): ("float64", [0.1, 5e-324, 1.7976931348623157e308]),
    pa.bool_(): ("bool", [True, False]),
    pa.decimal128(38, 0): ("int64", [-(2**63), 2**53 + 1, 2**63 - 1]),
    pa.decimal128(5, -2): ("int64", [12300, -45600]),
    pa.decimal128(15, 2): ("float64", [Decimal("1.10"), Decimal("-9999999999999.99")]),
    pa.decimal128(38, 10): ("float64", [Decimal("0.3000000000"), Decimal("99999.9999999999")]),
    pa.decimal128(30, 25): ("float64", [Decimal("0.0000000000000000000000011")]),
    pa.decimal256(60, 2): ("float64", [Decimal("1.10"), Decimal("-7.31")]),
    pa.decimal256(60, 0): ("int64", [7, -(2**63)]),
}


@pytest.mark.parametrize("type_", NUMBERS, ids=str)
@pytest.mark.parametrize("form", ["plain", "spec", "chunks", "slice", "empty", "no chunks", "filled"])
def test_each_number_type_has_a_dtype_of_its_own_and_keeps_its_values(type_, form):
    dtype, values = NUMBERS[type_]
    whole = pa.array(values, type_)
    column, expected, nulls = whole, values, "error"
    if form == "chunks":
        column, expected = pa.chunked_array([whole, whole[:0], whole[1:]]), values + values[1:]
    elif form == "slice":
        column, expected = pa.concat_arrays([whole, whole]).slice(1, len(values)), (values * 2)[1 : len(values) + 1]
    elif form in ("empty", "no chunks"):
        column, expected = (whole[:0] if form == "empty" else pa.chunked_array([], type_)), []
    elif form == "filled":
        column, expected, nulls = pa.array([*values, None], type_), [*values, 0], 0

    found = decode_plain(column) if form == "plain" else decode(column, nulls=nulls)

    assert found.dtype == np.dtype(dtype)
    assert found.shape == (len(expected),)
    assert found.tolist() == [float(value) if isinstance(value, Decimal) else value for value in expected]
    assert found.flags.writeable
    assert found.flags.c_contiguous


@given(
    scale=st.integers(1, 38),
    unscaled=st.lists(st.one_of(st.none(), st.integers(1 - 10**15, 10**15 - 1)), min_size=1, max_size=20),
)
def test_decimals_of_15_digits_are_the_nearest_floats(scale, unscaled):
    values = [None if number is None else Decimal(number).scaleb(-scale) for number in unscaled]

    found = decode_plain(pa.array(values, pa.decimal128(38, scale)))

    for value, number in zip(values, found.tolist(), strict=True):
        assert np.isnan(number) if value is None else number == float(value)


@pytest.mark.parametrize(
    ("type_", "value", "said"),
    [
        (pa.decimal128(38, 0), 2**63, "beyond 64 bits"),
        (pa.decimal128(38, 0), -(2**63) - 1, "beyond 64 bits"),
        (pa.decimal128(18, 2), Decimal("90071992547409.91"), "15 digits"),  # float64 has none between .90 and .92
        (pa.decimal128(38, 10), Decimal("-1234567.0123456789"), "15 digits"),
    ],
)
def test_decimals_that_no_tensor_holds_exactly_are_refused_by_column_without_their_value(type_, value, said):
    with pytest.raises(ColumnError, match=rf"Column 'a' \(decimal.*{said}.*CAST\(a AS DOUBLE\)") as raised:
        decode(pa.array([1, value], type_))

    assert str(abs(value)) not in str(raised.value)


# --- nulls -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("type_", [pa.float16(), pa.float32(), pa.float64()], ids=str)
def test_without_columns_a_null_float_is_nan(type_):
    found = decode_plain(pa.array([np.float16(1), None], type_))

    assert found.dtype == type_.to_pandas_dtype()
    assert np.isnan(found).tolist() == [False, True]


def test_a_nan_is_a_value_and_no_null():
    column = pa.array([np.nan, 1.0, None], pa.float64(), from_pandas=False)

    assert np.isnan(decode(column, nulls=5.0)).tolist() == [True, False, False]
    assert not bind(Columns({"a": "a"}, nulls="drop"), pa.schema([("a", pa.float64())])).kept_rows(
        pa.table({"a": column})
    )[2]


def test_integers_with_nulls_never_pass_through_floats():
    large = 2**63 - 1

    assert decode(pa.array([large, None], pa.int64()), nulls=0).tolist() == [large, 0]
    assert decode(pa.array([2**53 + 1, None], pa.int64()), nulls=-1).tolist() == [2**53 + 1, -1]


@pytest.mark.parametrize(
    ("type_", "fill", "expected"),
    [
        (pa.int64(), 3.0, 3),
        (pa.float32(), 1, 1.0),
        (pa.float16(), 0.5, 0.5),
        (pa.bool_(), True, True),
        (pa.bool_(), 0, False),
        (pa.decimal128(5, 2), 0.25, 0.25),
        (pa.float64(), np.float32(0.5), 0.5),
        (pa.int32(), np.int64(7), 7),
    ],
)
def test_a_fill_value_becomes_one_of_the_columns_own_type(type_, fill, expected):
    assert decode(pa.array([None], type_), nulls=fill).tolist() == [expected]


@pytest.mark.parametrize(
    ("type_", "fill"),
    [
        (pa.int64(), 0.5),
        (pa.int64(), float("nan")),
        (pa.int64(), float("inf")),
        (pa.int8(), 300),
        (pa.uint8(), -1),
        (pa.bool_(), 2),
        (pa.decimal128(5, 0), 0.5),
        (pa.decimal128(3, 2), 100),
    ],
)
def test_a_fill_value_that_the_column_cannot_hold_is_refused_before_any_row_is_read(type_, fill):
    with pytest.raises(ColumnError, match="cannot stand in for nulls of column 'a'"):
        bind(Columns({"a": "a"}, nulls=fill), pa.schema([("a", type_)]))


# --- lists -----------------------------------------------------------------------------------------------------------

LIST_TYPES = [pa.list_(pa.int32()), pa.large_list(pa.int32()), pa.list_(pa.int32(), 2)]


@pytest.mark.parametrize("type_", LIST_TYPES, ids=str)
def test_lists_of_equal_lengths_are_one_tensor(type_):
    column = pa.chunked_array([pa.array([[9, 9], [1, 2], [3, 4]], type_)[1:], pa.array([[5, 6]], type_)])

    found = decode(column, Stack("a", shape=(2, 1), dtype="int64"))

    assert found.dtype == np.int64
    assert found.tolist() == [[[1], [2]], [[3], [4]], [[5], [6]]]
    assert decode(column, Stack("a", shape=2)).dtype == np.float32
    assert decode(column[:0], Stack("a", shape=2)).shape == (0, 2)


def test_fixed_lists_know_their_shape_and_keep_their_dtype():
    column = pa.array([[1, 2], [3, 4]], pa.list_(pa.int16(), 2))

    assert decode(column).dtype == decode_plain(column).dtype == np.int16
    assert decode(column).tolist() == [[1, 2], [3, 4]]
    assert decode(column, Stack("a")).dtype == np.float32


@pytest.mark.parametrize("type_", LIST_TYPES, ids=str)
@pytest.mark.parametrize("rows", [[None, [1, 2]], [[1, None], [1, 2]]])
def test_nulls_of_lists_follow_the_policy(type_, rows):
    column = pa.array(rows, type_)
    spec = Stack("a", shape=2)

    with pytest.raises(NullValueError, match=r"Column 'a'|holds nulls"):
        decode(column, spec)
    assert decode(column, spec, nulls=7).tolist() == [[7, 7] if rows[0] is None else [1, 7], [1, 2]]
    table = pa.table({"a": column})
    dropping = bind(Columns({"a": spec}, nulls="drop"), table.schema)
    assert dropping.kept_rows(table).tolist() == [False, True]


@pytest.mark.parametrize("rows", [[[1, 2], [3]], [[1, 2], []], [[1, 2, 3, 4]], [[1], [1, 2, 3]]])
def test_lists_of_another_length_are_refused_by_column_and_lengths(rows):
    with pytest.raises(ColumnError, match=r"Column 'a' .*lists of \d to \d values where each must have 2"):
        decode(pa.array(rows, pa.list_(pa.int32())), Stack("a", shape=2))


# --- strings, bytes and what has no tensor ---------------------------------------------------------------------------

TEXTS = [
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.dictionary(pa.int8(), pa.string()),
    pa.binary(),
    pa.large_binary(),
    pa.binary_view(),
    pa.binary(1),
]


@pytest.mark.parametrize("type_", TEXTS, ids=str)
def test_without_columns_strings_and_bytes_stay_values_and_nulls_none(type_):
    values = ["a", None, "ä"] if "string" in str(type_) else [b"a", None, b"\xff"]

    found = decode_plain(pa.chunked_array([pa.array(values, type_), pa.array(values[:1], type_)]))

    assert found.take(pa.array([3, 1, 2])).to_pylist() == [values[0], None, values[2]]


NO_TENSOR = [
    pa.string(),
    pa.json_(),
    pa.binary(),
    pa.binary(16),
    pa.uuid(),
    pa.month_day_nano_interval(),
    pa.null(),
    pa.struct([("x", pa.int64())]),
    pa.map_(pa.string(), pa.int64()),
    pa.list_(pa.int64()),
    pa.list_(pa.list_(pa.int64()), 2),
    pa.list_(pa.string(), 2),
    pa.dictionary(pa.int8(), pa.binary()),
    pa.dense_union([pa.field("x", pa.int64())]),
]


@pytest.mark.parametrize("type_", NO_TENSOR, ids=str)
def test_a_type_without_a_tensor_is_refused_at_construction_by_column_and_type(type_):
    schema = pa.schema([("fine", pa.int64()), ("bad", type_)])

    for columns in (Columns({"x": "bad"}), Columns({"x": ["fine", "bad"]}), Columns({"x": "fine"}, label="bad")):
        with pytest.raises(ColumnError, match=r"[Cc]olumn 'bad'") as raised:
            bind(columns, schema)
        assert str(type_) in str(raised.value)
    bind(Columns({"x": "fine"}), schema)  # columns that nobody asked for do no harm


def test_a_timestamp_among_stacked_columns_is_refused_with_the_ways_out():
    schema = pa.table({"when": [datetime.datetime(2013, 1, 1)]}).schema

    with pytest.raises(ColumnError, match=r"'when' is timestamp.*Timestamp\('when'\).*epoch\(when\)"):
        bind(Columns({"x": ["when"]}), schema)


def test_strings_as_a_float_feature_are_refused_with_the_ways_out():
    with pytest.raises(ColumnError, match=r"'carrier' is string, not a number.*Category\('carrier'\).*CAST"):
        bind(Columns({"x": ["distance", "carrier"]}), pa.schema([("distance", pa.int64()), ("carrier", pa.string())]))


def test_two_columns_of_one_name_are_refused():
    schema = pa.schema([("a", pa.int64()), ("a", pa.int64())])

    for columns in (Columns({"x": "a"}), None):
        with pytest.raises(ColumnError, match="Two columns are named 'a'"):
            bind(columns, schema)
