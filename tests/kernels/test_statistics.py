"""Statistics of columns: exact, whatever the order and grouping; rationals of plain Python are the oracle."""

import itertools
import json
import math
import random
from decimal import Decimal
from fractions import Fraction

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from fileset_integrations.errors import ColumnError, SpecError
from fileset_integrations.kernels.statistics import Statistics
from tests.support import count

WIDE = pa.decimal256(76, 10)


def of(values, type_=None) -> Statistics:
    return Statistics.of(pa.chunked_array([pa.array(values, type_, from_pandas=False)]))


def exact(values) -> tuple[Fraction, Fraction]:
    finite = [Fraction(value) for value in values if value is not None and math.isfinite(value)]
    return sum(finite, Fraction(0)), sum((value * value for value in finite), Fraction(0))


NUMBERS = {
    pa.float64(): st.floats(),
    pa.float32(): st.floats(width=32),
    pa.float16(): st.floats(width=16).map(np.float16),
    pa.int8(): st.integers(-(2**7), 2**7 - 1),
    pa.int64(): st.integers(-(2**63), 2**63 - 1),
    pa.uint64(): st.integers(0, 2**64 - 1),
    pa.bool_(): st.booleans(),
    pa.decimal128(15, 2): st.decimals("-9999999999999.99", "9999999999999.99", places=2),
    pa.decimal128(38, 0): st.integers(1 - 10**38, 10**38 - 1).map(Decimal),
    pa.decimal128(7, -3): st.integers(1 - 10**7, 10**7 - 1).map(lambda number: Decimal(number).scaleb(3)),
    WIDE: st.integers(1 - 10**76, 10**76 - 1).map(lambda number: Decimal((number < 0, digits(number), -10))),
}


def digits(number: int) -> tuple[int, ...]:
    return tuple(map(int, str(abs(number))))


@settings(max_examples=count(300, 20_000))
@given(type_=st.sampled_from(list(NUMBERS)), data=st.data())
def test_statistics_are_those_of_exact_arithmetic(type_, data):
    values = data.draw(st.lists(st.none() | NUMBERS[type_], max_size=30))
    present = [value for value in values if value is not None and not (isinstance(value, float) and math.isnan(value))]
    present = [float(value) if isinstance(value, np.float16) else value for value in present]
    present = [value for value in present if not math.isnan(value)]

    found = of(values, type_)

    assert (found.total, found.squares) == exact(present)
    assert found.count == len(present)
    assert found.nulls == values.count(None)
    assert found.count + found.nulls + found.nans == len(values)
    assert found.minimum == min(present, default=None)
    assert found.maximum == max(present, default=None)
    if present and all(map(math.isfinite, present)):
        mean = found.total / len(present)
        assert found.mean == float(mean)
        if (variance := sum((Fraction(value) - mean) ** 2 for value in present) / len(present)) < 2**1000:
            assert found.variance == float(variance)


@given(
    values=st.lists(st.none() | st.floats() | st.floats(-1e3, 1e3), min_size=1, max_size=40),
    cuts=st.lists(st.integers(0, 40), max_size=6),
    seed=st.integers(0, 100),
)
@example(values=[0.0, -0.0], cuts=[1], seed=1)
@example(values=[-0.0, 0.0], cuts=[1], seed=1)
def test_any_order_and_grouping_gives_the_same_statistics_to_the_bit(values, cuts, seed):
    shuffled = random.Random(seed).sample(values, len(values))
    bounds = [0, *sorted(min(cut, len(values)) for cut in cuts), len(values)]
    groups = [shuffled[start:stop] for start, stop in itertools.pairwise(bounds)]

    whole = of(values, pa.float64())
    chunks = Statistics.of(pa.chunked_array([pa.array(group, pa.float64(), from_pandas=False) for group in groups]))
    merged = Statistics()
    for group in reversed(groups):
        merged = of(group, pa.float64()).merge(merged)

    assert repr(chunks) == repr(whole)  # repr tells 0.0 from -0.0
    assert repr(merged) == repr(whole)
    assert repr((merged.mean, merged.variance)) == repr((whole.mean, whole.variance))


@pytest.mark.parametrize("rows", [2**11 - 1, 2**11, 2**15 + 1, count(40_000, 1_000_000)])
@pytest.mark.parametrize("kind", ["normal", "single", "uniform", "all magnitudes", "largest", "tiny", "equal"])
def test_blocks_of_many_values_add_up_exactly(rows, kind):
    generator = np.random.default_rng(rows)
    values = {
        "normal": lambda: generator.normal(size=rows),
        "single": lambda: generator.normal(size=rows).astype(np.float32),
        "uniform": lambda: generator.random(rows) - 0.5,
        "all magnitudes": lambda: np.ldexp(generator.normal(size=rows), generator.integers(-1074, 1000, rows)),
        "largest": lambda: np.full(rows, np.finfo(np.float64).max),  # every slice as large as it can be
        "tiny": lambda: generator.integers(-9, 9, rows) * 5e-324,
        "equal": lambda: np.full(rows, -0.1),
    }[kind]()

    found = of(values)

    # Integers in units of 2**-1074 add up faster than Fractions.
    whole = [int(numerator * (2**1074 // denominator)) for numerator, denominator in map(ratio, values.tolist())]
    assert found.total == Fraction(sum(whole), 2**1074)
    assert found.squares == Fraction(sum(number * number for number in whole), 2**2148)


def ratio(value: float) -> tuple[int, int]:
    return value.as_integer_ratio()


@pytest.mark.parametrize("least, most", [(-(2**63), 2**63 - 1), (-1, 2**53 + 1), (0, 2**40)])
def test_many_large_integers_add_up_exactly(least, most):
    values = np.random.default_rng(1).integers(least, most, 70_000, endpoint=True)
    values[:2] = least, most

    found = of(values)

    assert found.total == sum(values.tolist())
    assert found.squares == sum(value * value for value in values.tolist())
    assert (found.minimum, found.maximum) == (least, most)


def test_what_lies_in_a_slice_of_an_array_counts_and_nothing_else():
    for type_ in (pa.int64(), pa.float64(), pa.decimal128(20, 2), WIDE, pa.bool_()):
        array = pa.array([1, 0, None, 1, 1, 1], pa.int8()).cast(type_)

        found = Statistics.of(pa.chunked_array([array.slice(1, 3), array.slice(5)]))

        assert (found.count, found.nulls, found.total, found.squares) == (3, 1, 2, 2)


def test_a_dictionary_counts_as_its_values():
    array = pa.array([3, None, 3, 5], pa.int32()).dictionary_encode()

    assert Statistics.of(pa.chunked_array([array])) == of([3, None, 3, 5], pa.int32())


@pytest.mark.parametrize("type_", [pa.int32(), pa.float64(), pa.decimal128(9, 2), pa.null()], ids=str)
@pytest.mark.parametrize("values", [[], [None, None]])
def test_a_column_without_values_has_neither_mean_nor_extremes(type_, values):
    found = of(values, type_)

    assert found == Statistics(nulls=len(values))
    assert math.isnan(found.mean)
    assert math.isnan(found.variance)


@pytest.mark.parametrize(
    "values, mean",
    [([1.0, math.inf], math.inf), ([-math.inf, 2.0], -math.inf), ([math.inf, -math.inf, 0.0], math.nan)],
)
def test_infinities_are_values_and_nan_is_not(values, mean):
    found = of([*values, math.nan, None])

    assert (found.count, found.nulls, found.nans) == (len(values), 1, 1)
    assert (found.minimum, found.maximum) == (min(values), max(values))
    assert repr(found.mean) == repr(mean)
    assert math.isnan(found.variance)


def test_a_variance_beyond_float64_is_infinite():
    found = of([1.7e308, -1.7e308])

    assert found.mean == 0.0
    assert found.variance == math.inf


@given(data=st.data())
def test_json_brings_statistics_back_to_the_bit(data):
    type_ = data.draw(st.sampled_from(list(NUMBERS)))
    found = of(data.draw(st.lists(st.none() | NUMBERS[type_], max_size=5)), type_)

    text = json.dumps(found.to_json(), allow_nan=False)
    back = Statistics.from_json(json.loads(text))

    assert repr(back) == repr(found)
    assert back.merge(found) == found.merge(found)


@pytest.mark.parametrize("change", [{"total": "1/0"}, {"squares": "x"}, {"count": None}, {"minimum": {}}])
def test_json_that_is_something_else_is_refused(change):
    state = of([1, 2]).to_json() | change

    with pytest.raises(SpecError, match="Fit the columns again"):
        Statistics.from_json(state)
    with pytest.raises(SpecError, match="No statistics"):
        Statistics.from_json({})


def test_statistics_agree_with_those_of_duckdb():
    generator = np.random.default_rng(5)
    rows = 20_000
    numbers = pa.table(
        {
            "normal": pa.array(generator.normal(3, 7, rows), mask=generator.random(rows) < 0.1),
            "far": generator.normal(1e6, 1, rows),
            "whole": generator.integers(-(2**40), 2**40, rows),
            "price": pa.array([Decimal(int(cents)).scaleb(-2) for cents in generator.integers(0, 10**9, rows)]),
            "single": generator.random(rows).astype(np.float32),
        }
    )
    for name in numbers.column_names:
        mean, variance, least, most, nulls = duckdb.sql(
            f"SELECT avg({name}), var_pop({name}), min({name}), max({name}), count(*) - count({name}) FROM numbers"
        ).fetchall()[0]

        found = Statistics.of(numbers[name])

        assert found.mean == pytest.approx(float(mean), rel=1e-9)
        assert found.variance == pytest.approx(variance, rel=1e-9)
        assert (found.minimum, found.maximum, found.nulls) == (least, most, nulls)


@pytest.mark.parametrize(
    "type_", [pa.string(), pa.date32(), pa.list_(pa.int8()), pa.dictionary(pa.int8(), pa.string())]
)
def test_what_is_no_number_is_refused_by_name_and_type(type_):
    for column in (pa.chunked_array([], type_), pa.chunked_array([pa.array([None], type_)])):
        with pytest.raises(ColumnError, match=r"'price' is .*CAST"):
            Statistics.of(column, "price")
