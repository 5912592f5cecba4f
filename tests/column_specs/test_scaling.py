"""Numbers scaled by the statistics of the training data, and decimals as whole numbers."""

import math
from decimal import Decimal

import duckdb
import numpy as np
import pyarrow as pa
import pytest

from fileset_integrations import Columns
from fileset_integrations.columns import Numeric, Scaled, Stack
from fileset_integrations.errors import ColumnError, NullValueError
from tests.support.columns import Memory, fitted_rows
from tests.support.data import fileset_of


def test_numbers_are_scaled_by_the_statistics_of_the_training_data():
    train, later = [1.0, 2.0, 4.0, 9.0], [0.0, 4.0, 100.0]
    rows, mean, spread = pa.table({"a": train}), 4.0, math.sqrt(9.5)

    def served(**options):
        return Columns({"x": Numeric("a", **options)}).fit(Memory(rows)).transform(pa.table({"a": later}))["x"]

    assert served().dtype == np.float32
    assert served(dtype="float64").tolist() == [(value - mean) / spread for value in later]
    assert served(scale="minmax").tolist() == [-0.125, 0.375, 12.375]
    assert served(scale=None, clip=(1, 50)).tolist() == [1, 4, 50]
    assert served(scale=None, log=True).tolist() == np.log1p(later).astype(np.float32).tolist()
    assert served(scale="minmax", clip=(None, 4), dtype="float64").tolist() == [(value - 1) / 3 for value in (0, 4, 4)]


def test_several_numbers_share_a_tensor_and_constants_become_zero():
    rows = pa.table({"a": [1, 3], "b": [5.0, 5.0]})
    fitted = Columns({"x": Numeric(["a", "b"])}).fit(Memory(rows))

    assert fitted.transform(rows)["x"].tolist() == [[-1, 0], [1, 0]]
    assert fitted.input_spec()["x"].shape == (2,)


def test_what_stands_in_for_nulls_of_scaled_numbers():
    values = [1.0, None, 3.0]

    assert fitted_rows(Numeric("a"), values, nulls="mean")["x"].tolist() == [-1, 0, 1]
    assert fitted_rows(Numeric("a"), values, nulls={"a": 4})["x"].tolist() == [-1, 2, 1]
    masked = fitted_rows(Numeric("a", scale="minmax"), values, nulls="mask")
    assert {name: value.tolist() for name, value in masked.items()} == {
        "x": [0, 0, 1],
        "x_mask": [True, False, True],
    }
    with pytest.raises(NullValueError, match="'a'"):
        fitted_rows(Numeric("a"), values)


@pytest.mark.parametrize("values", [[], [None], [math.inf, 1.0], [math.nan]])
def test_numbers_without_mean_and_spread_are_refused_when_they_are_fitted(values):
    for spec, nulls in ((Numeric("a"), "drop"), (Stack("a"), "mean")):
        with pytest.raises(ColumnError, match=r"'a'.*double.*(infinities).*no value"):
            fitted_rows(spec, values, pa.float64(), nulls=nulls)


def test_a_logarithm_of_what_has_none_is_refused_without_the_value():
    with pytest.raises(ColumnError, match=r"'a', log=True.*-1 or less.*clip=\(0, None\)"):
        fitted_rows(Numeric("a", log=True), [1.0, -3.5])
    assert fitted_rows(Numeric("a", log=True, clip=(0, None), scale=None), [0.0, -3.5])["x"].tolist() == [0, 0]


def test_statistics_agree_with_those_of_duckdb_over_the_same_files(tmp_path):
    generator = np.random.default_rng(0)
    parts = [
        pa.table(
            {
                "far": generator.normal(1e6, 1, rows),  # farther out, DuckDB's own rounding exceeds 1e-9
                "wide": generator.lognormal(0, 5, rows),
                "integer": generator.integers(-(2**40), 2**40, rows),
                "holes": pa.array(generator.normal(size=rows), mask=generator.random(rows) < 0.3),
            }
        )
        for rows in (1000, 1, 70_000)
    ]
    fs = fileset_of(tmp_path, *parts)
    names = fs.schema.names
    fitted = Columns({"x": Numeric(names), "low": Numeric(names, scale="minmax")}, nulls="mean").fit(fs)

    found = {name: (one["offset"], one["spread"]) for name, one in fitted.learned["x"].items()}
    asked = ", ".join(f"avg({name}), stddev_pop({name}), min({name}), max({name})" for name in names)
    expected = duckdb.execute(f"SELECT {asked} FROM read_parquet('{tmp_path}/*.parquet')").fetchall()[0]
    for place, name in enumerate(names):
        mean, spread, low, high = expected[4 * place : 4 * place + 4]
        assert found[name] == pytest.approx((mean, spread), rel=1e-9), name
        assert fitted.learned["low"][name]["offset"] == low
        assert fitted.learned["low"][name]["spread"] == high - low


def test_decimals_are_scaled_to_whole_numbers_exactly_or_refused():
    values = [Decimal("1.25"), Decimal("-0.01"), Decimal("90071992547409.93"), None]
    for type_ in (pa.decimal128(18, 2), pa.decimal128(38, 2), pa.decimal256(60, 2)):
        assert fitted_rows(Scaled("a"), values, type_, nulls=0)["x"].tolist() == [125, -1, 9007199254740993, 0]
    assert fitted_rows(Scaled("a"), [None], pa.decimal128(5, 2), nulls=1.5)["x"].tolist() == [150]
    for edge in (2**63, -(2**63) - 1, 10**37):
        with pytest.raises(ColumnError, match=r"'a' .decimal.*18 digits.*CAST") as raised:
            fitted_rows(Scaled("a"), [Decimal(edge)], pa.decimal128(38, 0))
        assert str(edge) not in str(raised.value)
    assert fitted_rows(Scaled("a"), [Decimal(2**63 - 1)], pa.decimal128(38, 0))["x"].tolist() == [2**63 - 1]
