"""Specs of columns: what each makes of which values and nulls, and what it refuses, naming the way out."""

import datetime as dt
import io
import math
import pickle
import random
import uuid
from decimal import Decimal

import duckdb
import numpy as np
import PIL.Image
import pyarrow as pa
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from fileset_integrations import Columns, FileSet, FileSetReader
from fileset_integrations.column_specs import SPECS
from fileset_integrations.columns import (
    Category,
    FittedColumns,
    Hashed,
    Image,
    Numeric,
    Ragged,
    Scaled,
    Stack,
    Timestamp,
    Tokens,
    bind,
)
from fileset_integrations.errors import ColumnError, NullValueError, StateMismatchError
from tests.support.data import fileset_of, table

CHARACTERS = "tests.support.tokenizers:characters"

SPECS_OF_EACH_KIND = [
    Stack(["a", "b"]),
    Stack("a", shape=[2, 3], dtype="int64"),
    Category("a"),
    Category("a", order="value", min_count=2, max_size=9, null_code=-1, oov_code=0),
    Hashed("a", 8),
    Hashed("a", 2, seed=2**64 - 1),
    Numeric("a"),
    Numeric(["a", "b"], scale=None, log=True, clip=[None, 2.5], dtype="float64"),
    Scaled("a"),
    Timestamp("a", unit="ms"),
    Timestamp("a", features=["hour_of_day", "year"], timezone="Europe/Berlin"),
    Ragged("a", 3),
    Ragged("a", 3, padding=-1.0, truncate="left", beside="mask", dtype="float32"),
    Image("a", 2, 3),
    Image("a", 2, 3, channels=1, layout="HWC", dtype="float32", resize=True, raw=False),
    Tokens("a", 3),
    Tokens("a", 3, tokenizer=CHARACTERS, vocabulary_size=2, padding=1, truncate="left", beside="lengths"),
]


def fitted_rows(spec, values, type_=None, nulls="error", nans="keep") -> dict[str, np.ndarray]:
    """Tensors of a column "a" that is the training data itself."""
    rows = pa.table({"a": values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, type_)})
    columns = Columns({"x": spec}, nulls=nulls, nans=nans)
    return columns.fit(Memory(rows)).transform(rows)


class Memory:
    """Tables in memory that columns can be fitted on, in tables of so many rows."""

    def __init__(self, *tables: pa.Table) -> None:
        self.tables, self.schema = tables, tables[0].schema
        self.num_rows = sum(len(one) for one in tables)
        self.read: list[str] = []

    def scan(self, columns, dictionaries=()):
        self.read += columns
        yield from self.tables


# --- specs are values ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("spec", SPECS_OF_EACH_KIND, ids=repr)
def test_a_spec_survives_json_and_pickle_and_is_a_value(spec):
    columns = Columns({"x": spec})

    again = Columns.from_json(columns.to_json())

    assert again == columns == pickle.loads(pickle.dumps(columns))
    assert again.features["x"] == spec
    assert hash(again.features["x"]) == hash(spec)
    assert type(spec).spec_name in SPECS


def test_what_a_later_version_wrote_is_refused_by_its_name():
    with pytest.raises(ColumnError, match=r"no spec 'spectrum'; a later version"):
        Columns.from_json({**Columns({"x": "a"}).to_json(), "features": {"x": {"spec": "spectrum"}}})
    with pytest.raises(ColumnError, match=r"hashed: .*'salt'.*a later version"):
        Columns.from_json(
            {**Columns({"x": "a"}).to_json(), "features": {"x": {"spec": "hashed", "column": "a", "salt": 1}}}
        )


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Category("a", order="size"), "order='size'.*'frequency' or 'value'"),
        (lambda: Category("a", min_count=0), "min_count=0.*at least 1"),
        (lambda: Category("a", max_size=0), "max_size=0"),
        (lambda: Category("a", null_code=0.5), "null_code=0.5.*whole number"),
        (lambda: Hashed("a", 1), "num_buckets=1.*at least 2"),
        (lambda: Hashed("a", 8, seed=-1), "seed=-1"),
        (lambda: Hashed("a", 8, seed=2**64), "below 2"),
        (lambda: Hashed(["a"], 8), "name of one column"),
        (lambda: Numeric([]), "names no columns"),
        (lambda: Numeric([3]), "name of one column"),
        (lambda: Numeric("a", scale="max"), "scale='max'"),
        (lambda: Numeric("a", log=1), "log=1"),
        (lambda: Numeric("a", clip=(2, 1)), r"clip=\(2, 1\).*least and the greatest"),
        (lambda: Numeric("a", clip=3), "clip=3"),
        (lambda: Numeric("a", clip=(math.nan, 1)), "clip="),
        (lambda: Numeric("a", dtype="int64"), "dtype='int64'.*'float32'"),
        (lambda: Scaled(""), "name of one column"),
        (lambda: Timestamp("a", unit="h"), "unit='h'"),
        (lambda: Timestamp("a", features=["hours"]), "no 'hours'. Features: .*hour_of_day"),
        (lambda: Timestamp("a", unit="s", features=["hour"]), "unit is that of an epoch"),
        (lambda: Timestamp("a", timezone="UTC"), "Name features"),
        (lambda: Ragged("a", 0), "length=0"),
        (lambda: Ragged("a", 2, truncate="middle"), "truncate='middle'"),
        (lambda: Ragged("a", 2, beside="both"), "beside='both'"),
        (lambda: Ragged("a", 2, padding="x"), "padding='x'"),
        (lambda: Ragged("a", 2, dtype="text"), "dtype='text'"),
        (lambda: Image("a", 0, 2), "height=0"),
        (lambda: Image("a", 2, 2, layout="WHC"), "layout='WHC'"),
        (lambda: Image("a", 2, 2, dtype="int8"), "dtype='int8'.*0 to 255"),
        (lambda: Tokens("a", 2, tokenizer="characters"), "package.module:function"),
        (lambda: Tokens("a", 2, vocabulary_size=0), "vocabulary_size=0"),
        (lambda: Tokens("a", 2, padding=0.5), "padding=0.5"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused_when_it_is_made(make, said):
    with pytest.raises(ColumnError, match=said):
        make()


REFUSED = [
    (Category("a"), pa.float64(), "CAST"),
    (Category("a"), pa.binary(), "Hashed"),
    (Category("a"), pa.struct([("b", pa.int64())]), r"Category\('a.b'\)"),
    (Hashed("a", 8), pa.float64(), "CAST"),
    (Hashed("a", 8), pa.null(), "CAST"),
    (Numeric("a"), pa.string(), "Category"),
    (Numeric("a"), pa.date32(), "Timestamp"),
    (Scaled("a"), pa.float64(), "DECIMAL"),
    (Timestamp("a"), pa.int64(), "CAST"),
    (Timestamp("a", features=["hour"], timezone="UTC"), pa.timestamp("us"), "AT TIME ZONE"),
    (Timestamp("a", features=["hour"]), pa.date32(), "hour"),
    (Timestamp("a", features=["year"]), pa.duration("s"), "'a'"),
    (Timestamp("a", features=["hour"], timezone="Mars/Olympus"), pa.timestamp("us", "UTC"), "Olympus"),
    (Ragged("a", 2), pa.int64(), "no list"),
    (Ragged("a", 2), pa.list_(pa.string()), "CAST"),
    (Ragged("a", 2), pa.list_(pa.list_(pa.int64())), "Stack"),
    (Ragged("a", 2, dtype="int8"), pa.list_(pa.int64()), "float32"),
    (Ragged("a", 2, padding=0.5), pa.list_(pa.int64()), "padding=0.5"),
    (Ragged("a", 2, padding=300), pa.list_(pa.int8()), "padding=300"),
    (Tokens("a", 2), pa.string(), "tokenizer="),
    (Tokens("a", 2), pa.list_(pa.float64()), "Ragged"),
    (Tokens("a", 2), pa.int64(), "CAST"),
    (Tokens("a", 2, tokenizer=CHARACTERS), pa.list_(pa.int64()), "Leave the tokenizer out"),
    (Tokens("a", 2, tokenizer="tests.support.nowhere:f"), pa.string(), "cannot be imported"),
    (Tokens("a", 2, tokenizer="tests.support.tokenizers:f"), pa.string(), "cannot be imported"),
    (Tokens("a", 2, tokenizer="tests.support.tokenizers:NO_FUNCTION"), pa.string(), "no function"),
    (Image("a", 2, 2), pa.string(), "BLOB"),
    (Image("a", 2, 2), pa.list_(pa.float32()), "UTINYINT"),
    (Image("a", 2, 2), pa.list_(pa.uint8(), 5), "12"),
    (Stack("a", shape=(2, 2)), pa.list_(pa.list_(pa.int64(), 3), 2), "shape that begins"),
    (Stack("a", shape=4), pa.list_(pa.list_(pa.int64(), 2), 2), "shape that begins"),
]


@pytest.mark.parametrize(("spec", "type_", "said"), REFUSED, ids=lambda value: str(value))
def test_a_column_that_a_spec_cannot_take_is_refused_at_construction_by_name_and_type(spec, type_, said):
    with pytest.raises(ColumnError, match=said) as raised:
        bind(Columns({"x": spec}), pa.schema([("a", type_)]))

    assert "'a'" in str(raised.value)
    if not {"tokenizer", "imported", "function", "padding", "Olympus"} & set(said.replace("=", " ").split()):
        assert str(type_).partition("<")[0] in str(raised.value)


POLICIES_THAT_MEAN_NOTHING = [
    ("a", pa.int64(), "mean", "int64 does not hold its mean"),
    ("a", pa.timestamp("us"), "mean", "no mean"),
    ("a", pa.list_(pa.float32(), 2), "mean", "means nothing"),
    (Category("a"), pa.string(), "mask", "null has a code of its own"),
    (Category("a"), pa.int64(), "mean", "means nothing"),
    (Hashed("a", 8), pa.string(), "mask", "null has a code of its own"),
    (Hashed("a", 8), pa.int64(), "text", "cannot stand in"),
    (Numeric("a"), pa.int64(), 0.5, "cannot stand in"),
    (Scaled("a"), pa.decimal128(5, 2), "mean", "means nothing"),
    (Timestamp("a"), pa.timestamp("us"), 0.5, "whole number of units"),
    (Timestamp("a"), pa.timestamp("us"), "noon", "whole number of units"),
    (Timestamp("a", features=["hour"]), pa.timestamp("us"), "noon", "Pass a number"),
    (Ragged("a", 2), pa.list_(pa.int64()), "mean", "means nothing"),
    (Ragged("a", 2), pa.list_(pa.int64()), 0.5, "cannot stand in"),
    (Tokens("a", 2, tokenizer=CHARACTERS), pa.string(), 3, "cannot stand in"),
    (Stack("a"), pa.list_(pa.int64(), 2), "x", "cannot stand in"),
    (Image("a", 2, 2), pa.binary(), 256, "0 to 255"),
    (Image("a", 2, 2), pa.binary(), "mean", "means nothing"),
]


@pytest.mark.parametrize(("spec", "type_", "policy", "said"), POLICIES_THAT_MEAN_NOTHING, ids=lambda value: str(value))
def test_a_null_policy_that_means_nothing_to_a_spec_is_refused_at_construction(spec, type_, policy, said):
    with pytest.raises(ColumnError, match=said) as raised:
        bind(Columns({"x": spec}, nulls={"a": policy}), pa.schema([("a", type_)]))

    assert "'a'" in str(raised.value)


def test_a_label_is_one_tensor():
    schema = pa.schema([("a", pa.float64()), ("l", pa.list_(pa.int64()))])

    with pytest.raises(ColumnError, match=r"label, made of column 'l' \(list.*label, label_lengths.*Stack\('l'"):
        bind(Columns({"x": "a"}, label=Ragged("l", 2)), schema)
    assert bind(Columns({"x": "a"}, label=Stack("l", 2)), schema).tensors[1].shape == (2,)


def test_a_mask_stands_beside_features_only_and_names_do_not_collide():
    schema = pa.schema([("a", pa.float64()), ("b", pa.float64())])

    with pytest.raises(ColumnError, match=r"'b' .double. is the label.*'drop'"):
        bind(Columns({"x": "a"}, label="b", nulls={"b": "mask"}), schema)
    with pytest.raises(ColumnError, match="Two tensors of a batch are named 'x_mask'"):
        bind(Columns({"x": "a", "x_mask": "b"}, nulls={"a": "mask"}), schema)
    assert [one.name for one in bind(Columns({"x": "a"}, label="b", nulls="mask"), schema).tensors] == [
        *("x", "x_mask", "label")
    ]


def test_hydra_builds_specs_whose_lists_become_tuples():
    for spec in SPECS_OF_EACH_KIND:
        arguments = {name: value for name, value in spec.to_json().items() if name != "spec"}
        node = OmegaConf.create({"_target_": f"fileset_integrations.columns.{type(spec).__name__}", **arguments})

        assert instantiate(node) == spec


def test_what_decodes_can_be_sent_to_another_process():
    columns = pa.table(
        {
            "n": pa.array([1, None]),
            "d": pa.array([Decimal("1.5"), None], pa.decimal128(9, 2)),
            "t": pa.array([dt.datetime(2020, 1, 1), None], pa.timestamp("us", "UTC")),
            "s": ["a", None],
            "u": pa.array([uuid.UUID(int=1).bytes, None], pa.uuid()),
            "e": pa.array(["a", None]).dictionary_encode(),
            "l": [[1], None],
            "i": pa.array([b"\0" * 12, None], pa.binary(12)),
        }
    )
    features = {
        **{"n": "n", "x": ["n"], "z": Numeric("n"), "d": Scaled("d"), "t": Timestamp("t")},
        **{"c": Timestamp("t", features=["hour"]), "s": Category("s"), "u": Hashed("u", 9), "l": Ragged("l", 2)},
        **{"w": Tokens("s", 2, tokenizer=CHARACTERS), "e": Category("e"), "i": Image("i", 2, 2)},
    }
    fitted = Columns(features, nulls="mask").fit(Memory(columns))
    decoder = bind(fitted, columns.schema)

    again = pickle.loads(pickle.dumps(decoder)).decode(columns)

    served = pickle.loads(pickle.dumps(fitted)).transform(columns)
    for name, value in decoder.decode(columns).items():
        assert value.tobytes() == again[name].tobytes() == served[name].tobytes(), name
    nothing = fitted.transform([dict.fromkeys(columns.schema.names)])
    assert {name: value.any() for name, value in nothing.items()} == dict.fromkeys(nothing, False)


# --- categories ------------------------------------------------------------------------------------------------------


def test_a_vocabulary_can_be_ordered_cut_and_coded_otherwise():
    values = ["b"] * 3 + ["c"] * 3 + ["a"] * 2 + ["d", None]

    def codes(**options):
        found = fitted_rows(Category("a", **options), values)["x"]
        return dict(zip(values, found.tolist(), strict=True))

    assert codes() == {"b": 2, "c": 3, "a": 4, "d": 5, None: 0}
    assert codes(order="value") == {"a": 2, "b": 3, "c": 4, "d": 5, None: 0}
    assert codes(min_count=2) == {"b": 2, "c": 3, "a": 4, "d": 1, None: 0}
    assert codes(max_size=2, order="value") == {"b": 2, "c": 3, "a": 1, "d": 1, None: 0}
    assert codes(null_code=-100, oov_code=-100, max_size=3) == {"b": 0, "c": 1, "a": 2, "d": -100, None: -100}
    assert codes(null_code=1, oov_code=0) == {"b": 2, "c": 3, "a": 4, "d": 5, None: 1}
    assert codes(null_code=-1, oov_code=0, max_size=1) == {"b": 1, "c": 0, "a": 0, "d": 0, None: -1}


def test_a_fill_value_has_a_code_of_its_own_though_the_training_data_lacks_it_or_it_is_rare():
    train = pa.table({"a": ["b", "b", "c"]})
    columns = Columns({"x": Category("a", max_size=1)}, nulls={"a": "c"}).fit(Memory(train))
    absent = Columns({"x": Category("a")}, nulls={"a": "none"}).fit(Memory(train))
    rows = pa.table({"a": ["b", None, "c", "none", "other"]})

    assert columns.vocabularies == {"x": ("b", "c")}
    assert columns.transform(rows)["x"].tolist() == [2, 3, 3, 1, 1]
    assert absent.vocabularies == {"x": ("b", "c", "none")}
    assert absent.transform(rows)["x"].tolist() == [2, 4, 3, 4, 1]


@pytest.mark.parametrize(
    ("type_", "values", "vocabulary"),
    [
        (pa.date32(), [dt.date(1969, 7, 20), dt.date(2000, 1, 1)], ("1969-07-20", "2000-01-01")),
        (pa.decimal128(38, 2), [Decimal("1.10"), Decimal(10**35)], ("1.10", "1" + "0" * 35 + ".00")),
        (pa.time32("s"), [dt.time(1, 2), dt.time(3, 4)], ("01:02:00", "03:04:00")),
        (pa.bool_(), [False, True], (False, True)),
    ],
)
def test_values_that_are_written_as_text_are_categories_too(type_, values, vocabulary):
    rows = pa.table({"a": pa.array([*values, None], type_)})
    fitted = Columns({"x": Category("a", order="value")}).fit(Memory(rows))

    assert fitted.vocabularies == {"x": vocabulary}
    assert FittedColumns.from_json(fitted.to_json()).transform(rows)["x"].tolist() == [2, 3, 0]


def test_two_categories_of_one_column_learn_apart():
    rows = pa.table({"a": ["a", "b", "b"]})
    fitted = Columns({"all": Category("a"), "one": Category("a", max_size=1)}, label=Category("a")).fit(Memory(rows))

    assert fitted.vocabularies == {"all": ("b", "a"), "one": ("b",), "label": ("b", "a")}
    assert fitted.vocabulary_sizes == {"all": 4, "one": 3}


def test_an_integer_beyond_the_vocabularys_type_is_an_unknown_value():
    fitted = Columns({"x": Category("a")}).fit(Memory(pa.table({"a": pa.array([-1, 5], pa.int64())})))

    later = pa.table({"a": pa.array([2**64 - 1, 5], pa.uint64())})
    assert fitted.transform(later)["x"].tolist() == [1, 3]


def test_hashed_values_fall_into_the_same_buckets_in_every_form():
    plain = fitted_rows(Hashed("a", 1000), ["x", None, "y", "x"])["x"]
    coded = fitted_rows(Hashed("a", 1000), pa.array(["x", None, "y", "x"]).dictionary_encode())["x"]
    narrow, wide = (fitted_rows(Hashed("a", 1000), [3, -4, None], type_)["x"] for type_ in (pa.int8(), pa.int64()))

    assert plain.tolist() == coded.tolist()
    assert plain[1] == 0 and plain[0] == plain[3] != plain[2]
    assert narrow.tolist() == wide.tolist()
    assert fitted_rows(Hashed("a", 3), list(range(100)))["x"].min() == 1
    assert fitted_rows(Hashed("a", 1000), ["x", None], nulls={"a": "x"})["x"].tolist() == [plain[0]] * 2
    ids = pa.array([uuid.UUID(int=7).bytes, None], pa.uuid())
    assert fitted_rows(Hashed("a", 1000), ids)["x"].tolist()[1] == 0


# --- numbers ---------------------------------------------------------------------------------------------------------


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


# --- nulls and NaN ---------------------------------------------------------------------------------------------------


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


# --- time ------------------------------------------------------------------------------------------------------------

BERLIN = "Europe/Berlin"


def test_epochs_are_exact_in_every_unit_before_1970_too():
    instant = dt.datetime(1901, 12, 13, 20, 45, 51, tzinfo=dt.UTC)
    seconds = -(2**31) - 1
    for unit, factor in (("s", 1), ("ms", 10**3), ("us", 10**6), ("ns", 10**9)):
        values = pa.array([seconds * factor, 0], pa.int64()).cast(pa.timestamp(unit, "UTC"))
        assert values.to_pylist()[0] == instant
        assert fitted_rows("a", values)["x"].tolist() == [seconds * factor, 0]
        assert fitted_rows(Timestamp("a", unit="s"), values)["x"].tolist() == [seconds, 0]
    days = [dt.date(1969, 12, 31), dt.date(2000, 2, 29)]
    assert fitted_rows("a", days, pa.date32())["x"].tolist() == [-1, 11016]
    assert fitted_rows("a", days, pa.date64())["x"].tolist() == [-1, 11016]
    assert fitted_rows(Timestamp("a", unit="s"), days, pa.date32())["x"].tolist() == [-86400, 11016 * 86400]
    assert fitted_rows(Timestamp("a"), [None], pa.date32(), nulls={"a": -7})["x"].tolist() == [-7]


def test_a_unit_that_would_lose_something_is_refused_by_column_and_remedy():
    with pytest.raises(ColumnError, match=r"'a' .timestamp.us.*unit='us'.*date_trunc"):
        fitted_rows(Timestamp("a", unit="s"), [dt.datetime(2000, 1, 1, 0, 0, 0, 1)])


def test_features_follow_the_clock_of_a_zone_across_a_change_of_it():
    # Clocks in Berlin went from 3:00 back to 2:00 at 1:00 UTC.
    instants = [dt.datetime(2020, 10, 25, hour, 30, tzinfo=dt.UTC) for hour in (0, 1, 2)]
    values = pa.array(instants, pa.timestamp("us", "UTC"))

    assert fitted_rows(Timestamp("a", features=["hour"]), values)["x"].tolist() == [[0], [1], [2]]
    assert fitted_rows(Timestamp("a", features=["hour"], timezone=BERLIN), values)["x"].tolist() == [[2], [2], [3]]
    zoned = values.cast(pa.timestamp("us", BERLIN))
    assert fitted_rows(Timestamp("a", features=["hour"]), zoned)["x"].tolist() == [[2], [2], [3]]
    assert fitted_rows("a", zoned)["x"].tolist() == fitted_rows("a", values)["x"].tolist()


def test_features_lie_side_by_side_and_have_a_mask():
    values = pa.array([dt.datetime(2021, 3, 1, 6), None])

    found = fitted_rows(Timestamp("a", features=["hour_of_day", "year"]), values, nulls="mask")

    assert found["x"] == pytest.approx(np.array([[1, 0, 2021], [0, 0, 0]]), abs=1e-6)
    assert found["x_mask"].tolist() == [[True] * 3, [False] * 3]


# --- lists and tokens ------------------------------------------------------------------------------------------------

LISTS = [[1, 2, 3], [], None, [4]]
LIST_TYPES = [pa.list_(pa.int16()), pa.large_list(pa.int16()), pa.list_view(pa.int16()), pa.large_list_view(pa.int16())]


@pytest.mark.parametrize("type_", LIST_TYPES, ids=str)
def test_lists_of_unequal_lengths_are_padded_and_cut(type_):
    column = pa.chunked_array([pa.array([[9], *LISTS[:2]], type_)[1:], pa.array(LISTS[2:], type_)])

    found = fitted_rows(Ragged("a", 2), column, nulls=0)
    assert {name: (value.dtype.name, value.tolist()) for name, value in found.items()} == {
        "x": ("int16", [[1, 2], [0, 0], [0, 0], [4, 0]]),
        "x_lengths": ("int64", [2, 0, 0, 1]),
    }
    masked = fitted_rows(Ragged("a", 2, truncate="left", padding=-1, beside="mask", dtype="float32"), column, nulls=0)
    assert {name: (value.dtype.name, value.tolist()) for name, value in masked.items()} == {
        "x": ("float32", [[2, 3], [-1, -1], [-1, -1], [4, -1]]),
        "x_mask": ("bool", [[True, True], [False, False], [False, False], [True, False]]),
    }


def test_nulls_of_lists_and_in_lists_follow_the_policy(tmp_path):
    values = [[1, None], None, [], [2]]
    fs = fileset_of(tmp_path, pa.table({"a": pa.array(values, pa.list_(pa.int64()))}))

    def read(nulls):
        batches = list(FileSetReader(fs, columns=Columns({"x": Ragged("a", 2)}, nulls=nulls), batch_size=1))
        return {name: np.concatenate([batch[name] for batch in batches]).tolist() for name in batches[0]}

    assert read("drop") == {"x": [[0, 0], [2, 0]], "x_lengths": [0, 1]}
    assert read({"a": 7}) == {"x": [[1, 7], [0, 0], [0, 0], [2, 0]], "x_lengths": [2, 0, 0, 1]}
    assert read("mask") == {
        "x": [[1, 0], [0, 0], [0, 0], [2, 0]],
        "x_lengths": [2, 0, 0, 1],
        "x_mask": [[True, False], [False, False], [False, False], [True, False]],
    }
    with pytest.raises(NullValueError, match=r"'a' .*2 nulls in 4 rows"):
        read("error")
    no_nulls = fileset_of(tmp_path / "empty", pa.table({"a": [[1], []]}))
    assert len(FileSetReader(no_nulls, columns=Columns({"x": Ragged("a", 2)}), batch_size=1)) == 2


@pytest.mark.parametrize(
    ("leaf", "values", "expected"),
    [
        (pa.bool_(), [True, False], [True, False, False]),
        (pa.float16(), [np.float16(1.5)], [1.5, 0, 0]),
        (pa.decimal128(9, 2), [Decimal("1.25")], [1.25, 0, 0]),
        (pa.date32(), [dt.date(1970, 1, 3)], [2, 0, 0]),
        (pa.uint64(), [2**64 - 1], [2**64 - 1, 0, 0]),
    ],
    ids=str,
)
def test_lists_of_every_kind_of_number_are_padded(leaf, values, expected):
    assert fitted_rows(Ragged("a", 3), [values], pa.list_(leaf))["x"].tolist() == [expected]


def test_nested_lists_of_one_shape_are_one_tensor():
    values = [[[1, 2], [3, 4], [5, 6]], None, [[7, 8], None, [None, 9]]]
    for type_ in (pa.list_(pa.list_(pa.int32(), 2), 3), pa.list_(pa.list_(pa.int32()))):
        found = fitted_rows(Stack("a", shape=(3, 2), dtype="int64"), values, type_, nulls=0)["x"]
        assert found.tolist() == [values[0], [[0, 0]] * 3, [[7, 8], [0, 0], [0, 9]]]
    with pytest.raises(ColumnError, match="lists of 1 to 1 values where each must have 2"):
        fitted_rows(Stack("a", shape=(1, 2)), [[[1]]], pa.list_(pa.list_(pa.int32())))


def test_text_becomes_the_tokens_of_a_function_found_by_its_path():
    texts = ["ab", "", "\U0001f642c", None]
    spec = Tokens("a", 3, tokenizer=CHARACTERS, truncate="left", beside="lengths")

    found = fitted_rows(spec, texts, nulls={"a": "zzzz"})
    assert found["x"].tolist() == [[97, 98, 0], [0, 0, 0], [0x1F642, 99, 0], [122, 122, 122]]
    assert found["x_lengths"].tolist() == [2, 0, 2, 3]
    coded = fitted_rows(spec, pa.array(texts).dictionary_encode(), nulls={"a": "zzzz"})
    assert coded["x"].tolist() == found["x"].tolist()
    masked = fitted_rows(Tokens("a", 2, tokenizer=CHARACTERS), texts, nulls="mask")
    assert masked["x_mask"].tolist() == [[True, True], [False, False], [True, True], [False, False]]


def test_a_tokenizer_that_returns_something_else_is_refused():
    for name, said in (("one_too_few", "given 2 texts and returned 1 lists"), ("of_floats", "list of integers")):
        with pytest.raises(ColumnError, match=said):
            fitted_rows(Tokens("a", 3, tokenizer=f"tests.support.tokenizers:{name}"), ["a", "b"])


def test_lists_of_tokens_are_checked_against_the_size_of_their_vocabulary():
    fitted = fitted_rows(Tokens("a", 2, vocabulary_size=5), [[4, 0], [1]])

    assert (fitted["x"].tolist(), fitted["x_mask"].tolist()) == ([[4, 0], [1, 0]], [[True, True], [True, False]])
    for values in ([[5]], [[-1]]):
        with pytest.raises(ColumnError, match=r"'a', vocabulary_size=5.*outside \[0, 5\)"):
            fitted_rows(Tokens("a", 2, vocabulary_size=5), values)


# --- layouts of Arrow's ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("spec", "type_", "values", "expected"),
    [
        (Category("a"), pa.string_view(), ["b", None, "a", "b"], [2, 0, 3, 2]),
        (Category("a"), pa.json_(), ["{}", None], [2, 0]),
        (Category("a"), pa.dictionary(pa.int8(), pa.int64()), [7, None, 5, 7], [2, 0, 3, 2]),
        (Hashed("a", 9), pa.string_view(), ["x" * 20, None], [3, 0]),
        (Hashed("a", 9), pa.large_string(), ["x" * 20, None], [3, 0]),
        (Hashed("a", 9), pa.binary_view(), [b"x" * 20, None], [3, 0]),
        (Stack("a", shape=2), pa.list_view(pa.int64()), [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
        (Stack("a", shape=2), pa.large_list_view(pa.int8()), [[1, 2], [3, 4]], [[1, 2], [3, 4]]),
    ],
    ids=str,
)
def test_a_layout_changes_nothing_in_training_or_serving(spec, type_, values, expected):
    column = pa.array(values, type_.value_type if pa.types.is_dictionary(type_) else type_)
    rows = pa.table({"a": column.dictionary_encode().cast(type_) if pa.types.is_dictionary(type_) else column})
    fitted = Columns({"x": spec}).fit(Memory(rows))

    for form in (rows, pa.concat_tables([rows[:1], rows[1:]]), rows.to_pylist(), {"a": values}):
        assert fitted.transform(form)["x"].tolist() == expected


def test_a_fill_value_of_dates_is_in_days_whatever_arrow_holds():
    for type_ in (pa.date32(), pa.date64()):
        assert fitted_rows("a", [dt.date(1970, 1, 2), None], type_, nulls=-3)["x"].tolist() == [1, -3]


# --- images ----------------------------------------------------------------------------------------------------------


def test_images_are_tensors_of_one_size_encoded_or_raw_and_nulls_are_blank_or_masked():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    sink = io.BytesIO()
    PIL.Image.fromarray(pixels).save(sink, "PNG")
    encoded = pa.array([sink.getvalue(), None], pa.binary())
    raw = pa.array([pixels.reshape(-1).tolist(), None], pa.list_(pa.uint8()))

    for column in (encoded, raw):
        found = fitted_rows(Image("a", 2, 3), column, nulls="mask")
        assert (found["x"].dtype, found["x_mask"].tolist()) == (np.uint8, [True, False])
        assert found["x"].tolist() == [pixels.transpose(2, 0, 1).tolist(), np.zeros((3, 2, 3)).tolist()]
    last = fitted_rows(Image("a", 2, 3, layout="HWC", dtype="float32"), encoded, nulls={"a": 255})["x"]
    assert (last.dtype, last[0].tolist(), last[1].min()) == (np.float32, pixels.tolist(), 255)
    with pytest.raises(ColumnError, match="'a'"):
        fitted_rows(Image("a", 2, 4), encoded, nulls="mask")


# --- structs ---------------------------------------------------------------------------------------------------------

PLACES = [{"at": {"x": 1.5, "y": 2}, "name": "a"}, None, {"at": None, "name": "b"}, {"at": {"x": None, "y": 4}}]


def test_a_field_of_a_struct_is_a_column_by_its_path_and_a_null_struct_a_null(tmp_path, monkeypatch):
    rows = pa.table({"place": PLACES, "other": [1, 2, 3, 4]})
    fs = fileset_of(tmp_path, rows[:2], rows[2:])
    columns = Columns({"x": ["place.at.x"], "name": Category("place.name")}, nulls={"place.at.x": -1})
    read: list[str] = []
    real = FileSet._opened

    def opened(self, file, names, dictionaries):
        read.extend(names)
        return real(self, file, names, dictionaries)

    monkeypatch.setattr(FileSet, "_opened", opened)

    batch = FileSetReader(fs, columns=columns, batch_size=4).batch(0)

    assert (batch["x"].tolist(), batch["name"].tolist()) == ([[1.5], [-1], [-1], [-1]], [2, 0, 3, 0])
    assert set(read) == {"place.at.x", "place.name"}
    only = fs.read_file(0, ["place.at.x"])
    assert only.schema.field("place").type == pa.struct([("at", pa.struct([("x", pa.float64())]))])
    with pytest.raises(NullValueError, match=r"'place.at.x' \(double\).*3 nulls in 4 rows"):
        FileSetReader(fs, columns=Columns({"x": "place.at.x"}), batch_size=4)
    assert len(FileSetReader(fs, columns=Columns({"x": "place.at.x"}, nulls="drop"), batch_size=1)) == 1


def test_without_columns_structs_are_their_fields(tmp_path):
    rows = pa.table({"p": [{"a": 1.5, "b": {"c": "x"}}, None], "q": [1, 2]})

    batch = FileSetReader(fileset_of(tmp_path, rows), batch_size=2).batch(0)

    assert list(batch) == ["p.a", "p.b.c", "q"]
    assert (str(batch["p.a"].tolist()), batch["p.b.c"]) == ("[1.5, nan]", ["x", None])


def test_a_path_that_leads_nowhere_says_what_there_is(tmp_path):
    schema = pa.table({"p": PLACES, "a.b": [1, 2, 3, 4]}).schema

    with pytest.raises(ColumnError, match=r"no column 'p.z'.*p.at, p.name"):
        bind(Columns({"x": "p.z"}), schema)
    with pytest.raises(ColumnError, match=r"no column 'q.z'. Columns: p, a.b"):
        bind(Columns({"x": "q.z"}), schema)
    with pytest.raises(ColumnError, match=r"'p' is struct.*Name its fields: 'p.at', 'p.name'"):
        bind(Columns({"x": "p"}), schema)
    assert bind(Columns({"x": "a.b"}), schema).tensors[0].dtype == np.int64


# --- fitting ---------------------------------------------------------------------------------------------------------


def test_a_fit_is_the_same_for_any_order_and_grouping_of_the_rows():
    generator = random.Random(0)
    rows = [
        {"a": generator.choice(["x", "y", "z", None]), "b": generator.gauss(1e6, 1) * 10 ** generator.randint(-9, 9)}
        for _ in range(3000)
    ]
    schema = pa.schema([("a", pa.string()), ("b", pa.float64())])
    columns = Columns({"a": Category("a"), "b": Numeric("b"), "log": Numeric("b", log=True, clip=(0, None))})
    fits = set()
    for parts in (1, 7, 100):
        generator.shuffle(rows)
        cut = -(-len(rows) // parts)
        tables = [pa.Table.from_pylist(rows[at : at + cut], schema) for at in range(0, len(rows), cut)]
        fits.add(columns.fit(Memory(*tables)).to_json())

    assert len(fits) == 1


def test_a_part_is_fitted_on_its_own_rows_only(tmp_path):
    generator = np.random.default_rng(1)
    tables = [pa.table({"n": generator.normal(size=50), "c": generator.integers(0, 30, 50)}) for _ in range(3)]
    parts = fileset_of(tmp_path, *tables).split(train=0.5, val=0.5, seed=1)
    columns = Columns({"n": Numeric("n"), "c": Category("c")})

    fitted = columns.fit(parts["train"])

    assert fitted.to_json() == columns.fit(Memory(parts["train"].to_arrow())).to_json()
    assert fitted.to_json() != columns.fit(parts["val"]).to_json()
    assert FileSetReader(parts["val"], columns=fitted, batch_size=5).columns is fitted


def test_a_fit_reads_each_column_once_and_only_those_that_something_is_learned_of():
    source = Memory(pa.table({"a": ["x"], "b": [1.0], "c": [2.0]}))

    Columns({"a": Category("a"), "z": Category("a", max_size=1), "b": Numeric("b"), "c": "c"}).fit(source)
    assert source.read == ["a", "b"]
    source.read.clear()
    Columns({"c": "c"}, nulls="drop").fit(source)
    assert source.read == []


def test_a_bar_is_shown_where_it_is_asked_for_only(capsys):
    columns, source = Columns({"a": Category("a")}), Memory(pa.table({"a": ["x"]}))

    columns.fit(source)
    assert capsys.readouterr() == ("", "")
    columns.fit(source, progress=True)
    captured = capsys.readouterr()
    assert "Fitting columns" in captured.err and captured.out == ""


def test_a_fit_of_an_earlier_format_is_refused_by_its_number(tmp_path):
    (tmp_path / "old.json").write_text('{"columns": {}, "vocabularies": {}, "tensors": []}')
    (tmp_path / "new.json").write_text('{"format": 3}')

    for name, number in (("old.json", 1), ("new.json", 3)):
        with pytest.raises(ColumnError, match=rf"{name}: .*format {number}, this version reads 2. Fit .* again"):
            FittedColumns.load(tmp_path / name)


def test_a_model_can_be_built_from_the_inputs_description():
    schema = pa.schema([("a", pa.string()), ("b", pa.float64()), ("l", pa.list_(pa.int32()))])
    columns = Columns(
        {"c": Category("a"), "h": Hashed("a", 64), "t": Tokens("l", 5, vocabulary_size=9), "x": ["b"]},
        label="b",
        nulls={"b": 0},
    )

    def described(inputs):
        return {name: (one.shape, one.dtype.name, one.vocabulary_size) for name, one in inputs.items()}

    expected = {
        "c": ((), "int64", None),
        "h": ((), "int64", 64),
        "t": ((5,), "int64", 9),
        "t_mask": ((5,), "bool", None),
        "x": ((1,), "float32", None),
    }
    assert described(columns.input_spec(schema)) == expected
    fitted = columns.fit(Memory(pa.table({"a": ["x", "y"], "b": [1.0, 2.0], "l": [[1], [2]]}, schema)))
    assert described(fitted.input_spec()) == {**expected, "c": ((), "int64", 4)}
    assert fitted.vocabulary_sizes == {"c": 4, "h": 64, "t": 9}
