"""Lists to padded arrays; to_pylist and plain Python are the oracle."""

import math

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fileset_integrations.errors import ColumnError, NullValueError, SpecError
from fileset_integrations.kernels.ragged import inner_nulls, pad

INT64 = np.dtype(np.int64)
VARYING = (pa.list_, pa.large_list, pa.list_view, pa.large_list_view)


def padded(rows, length, fill, truncate="right", null=None):
    """What `pad` should give, row by row."""
    out, lengths = [], []
    for row in rows:
        kept = [null if value is None else value for value in row or []]
        kept = kept[:length] if truncate == "right" else kept[max(0, len(kept) - length) :]
        out.append(kept + [fill] * (length - len(kept)))
        lengths.append(len(kept))
    return out, lengths


def check(column, length, fill, dtype=INT64, truncate="right", null=None) -> None:
    values, lengths = pad(column, length, fill, dtype, truncate, null)

    expected, expected_lengths = padded(column.to_pylist(), length, fill, truncate, null)
    assert values.dtype == dtype
    assert values.shape == (len(column), length)
    assert values.flags.c_contiguous
    assert values.flags.writeable
    assert values.tolist() == expected
    assert lengths.dtype == np.int64
    assert lengths.tolist() == expected_lengths


NUMBERS = st.integers(-1000, 1000)


@st.composite
def chunked_lists(draw, value=NUMBERS) -> pa.ChunkedArray:
    """Lists of every kind, in chunks, each a slice of a larger array."""
    if draw(st.booleans()):
        type_ = draw(st.sampled_from(VARYING))(pa.int64())
        row = st.none() | st.lists(value, max_size=6)
    else:
        size = draw(st.integers(0, 4))
        type_ = pa.list_(pa.int64(), size)
        row = st.none() | st.lists(value, min_size=size, max_size=size)
    chunks = []
    for rows in draw(st.lists(st.lists(row, max_size=8), max_size=3)):
        start = draw(st.integers(0, len(rows)))
        chunks.append(pa.array(rows, type_).slice(start, draw(st.integers(0, len(rows) - start))))
    return pa.chunked_array(chunks, type_)


@given(column=chunked_lists(), length=st.integers(1, 8), truncate=st.sampled_from(["left", "right"]))
def test_lists_of_every_kind_are_padded_and_cut(column, length, truncate):
    check(column, length, -1, truncate=truncate)


@given(column=chunked_lists(st.none() | st.integers(-9, 9)), length=st.integers(1, 8))
def test_nulls_inside_lists_are_counted_and_get_the_value_that_stands_for_them(column, length):
    nulls = sum(row.count(None) for row in column.to_pylist() if row is not None)

    assert inner_nulls(column) == nulls
    check(column, length, -1, null=-2)
    if nulls:
        with pytest.raises(NullValueError, match=r"'words' .*lists that hold nulls.*'words': 0"):
            pad(column, length, -1, INT64, name="words")
    else:
        check(column, length, -1)


def test_what_lies_under_null_lists_is_nobodys():
    values = pa.array([1, None, 2**40, 4, 5])
    for arrays in (pa.ListArray, pa.LargeListArray):
        array = arrays.from_arrays(pa.array([0, 1, 3, 5]), values, mask=pa.array([False, True, False]))
        column = pa.chunked_array([array])

        assert column.to_pylist() == [[1], None, [4, 5]]
        assert inner_nulls(column) == 0
        check(column, 2, 0, np.dtype(np.int8))
    fixed = pa.FixedSizeListArray.from_arrays(
        pa.array([1, 2, None, 2**40, 5, 6]), 2, mask=pa.array([False, True, False])
    )
    assert inner_nulls(pa.chunked_array([fixed])) == 0
    check(pa.chunked_array([fixed, fixed.slice(1), fixed.slice(2)]), 3, 0, np.dtype(np.int8))


def test_list_views_may_overlap_and_lie_in_any_order():
    for kind, index in ((pa.ListViewArray, pa.int32()), (pa.LargeListViewArray, pa.int64())):
        array = kind.from_arrays(pa.array([2, 0, 1, 0], index), pa.array([2, 3, 0, 4], index), pa.array([5, 6, 7, 8]))

        assert array.to_pylist() == [[7, 8], [5, 6, 7], [], [5, 6, 7, 8]]
        check(pa.chunked_array([array, array.slice(1, 2)]), 3, 0)
        check(pa.chunked_array([array]), 3, 0, truncate="left")


VALUES = {
    **{type_: [0, 1, 127, None] for type_ in (pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint64())},
    pa.int64(): [2**53 + 1, -(2**63), 2**63 - 1, None],
    pa.float16(): [np.float16(0.5), np.float16(-2), None],
    pa.float32(): [0.5, -(2.0**100), None],
    pa.float64(): [0.1, 1e300, math.inf, None],
    pa.bool_(): [True, False, None],
}


@pytest.mark.parametrize("type_", VALUES, ids=str)
def test_values_of_each_type_keep_themselves_in_their_own_dtype(type_):
    column = pa.chunked_array([pa.array([VALUES[type_], [], None, VALUES[type_][:1]], pa.list_(type_))])
    dtype = np.dtype(f"float{type_.bit_width}" if pa.types.is_floating(type_) else str(type_))

    check(column, 5, 0, dtype, null=1)


def test_floats_are_rounded_to_the_dtype_and_nan_is_a_value():
    column = pa.chunked_array([pa.array([[0.1, math.nan], [2**60 + 0.0]])])

    values, _ = pad(column, 2, math.nan, np.dtype(np.float32))

    assert values.dtype == np.float32
    np.testing.assert_array_equal(values, np.array([[0.1, np.nan], [2**60, np.nan]], np.float32))


def test_integers_and_booleans_become_floats_where_asked_to():
    check(pa.chunked_array([[[1, 2], [3]]]), 2, 0.5, np.dtype(np.float32))
    check(pa.chunked_array([[[True], [False, True]]]), 2, -1, np.dtype(np.int8))


@pytest.mark.parametrize("type_", [pa.list_(pa.int8()), pa.list_(pa.int8(), 3), pa.list_view(pa.int8())], ids=str)
def test_columns_without_rows_or_without_values_have_the_same_shape(type_):
    for rows in ([], [None, None]):
        check(pa.chunked_array([pa.array(rows, type_)]), 4, 7)
    check(pa.chunked_array([], type_), 4, 7)
    if not pa.types.is_fixed_size_list(type_):
        check(pa.chunked_array([pa.array([[], None, []], type_)]), 4, 7)


def test_many_rows_are_padded_each():
    generator = np.random.default_rng(4)
    rows = [list(range(size)) for size in generator.integers(0, 9, 30_000).tolist()]

    check(pa.chunked_array([rows[:20_000], rows[20_000:]]), 5, -1)
    check(pa.chunked_array([rows]), 5, -1, truncate="left")


@pytest.mark.parametrize(
    "column, dtype, message",
    [
        (pa.chunked_array([[1, 2]]), INT64, r"'words' is int64, which is no list"),
        (pa.chunked_array([["a"]]), INT64, r"'words' is string, which is no list"),
        (pa.chunked_array([[["a"]]]), INT64, r"'words' is list<.*string>, and lists of numbers.*CAST\(words AS DOUBLE"),
        (pa.chunked_array([[[[1]]]]), INT64, r"'words' is list<.*list<.*lists of numbers"),
        (pa.chunked_array([[[0.5]]]), INT64, r"'words' is list<.*double>, whose values int64 does not hold.*float32"),
        (pa.chunked_array([[[5]]]), np.dtype(bool), r"'words' is list<.*int64>, whose values bool does not hold"),
        (pa.chunked_array([[[1], [300]]]), np.dtype(np.int8), r"'words' .*integers that int8 does not.*dtype='int64'"),
        (pa.chunked_array([[[-1]]]), np.dtype(np.uint64), r"'words' .*integers that uint64 does not.*dtype='int64'"),
    ],
)
def test_what_cannot_be_padded_is_refused_by_name_and_type(column, dtype, message):
    with pytest.raises(ColumnError, match=message):
        pad(column, 3, 0, dtype, name="words")


def test_a_column_of_no_lists_has_no_inner_nulls_to_count():
    with pytest.raises(ColumnError, match="'words' is int64, which is no list"):
        inner_nulls(pa.chunked_array([[1]]), "words")


@pytest.mark.parametrize(
    "change, message",
    [
        ({"length": 0}, "length=0"),
        ({"truncate": "middle"}, "truncate='middle'"),
        ({"fill": 0.5}, "fill=0.5 is no value of int8"),
        ({"fill": math.nan}, "fill=nan is no value of int8"),
        ({"fill": math.inf}, "fill=inf is no value of int8"),
        ({"fill": 128}, "fill=128 is no value of int8"),
        ({"fill": "x"}, "fill='x' is no value of int8"),
        ({"null": 300}, "null=300 is no value of int8"),
        ({"dtype": np.dtype(object)}, "dtype=object"),
    ],
)
def test_arguments_that_make_no_sense_are_refused(change, message):
    arguments = {"length": 2, "fill": 0, "dtype": np.dtype(np.int8)} | change

    with pytest.raises(SpecError, match=message):
        pad(pa.chunked_array([pa.array([[1], [None]], pa.list_(pa.int8()))]), **arguments)
