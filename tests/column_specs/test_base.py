"""What every spec is: a value that survives JSON, pickle and Hydra, and says what it cannot take and what would do."""

import datetime as dt
import math
import pickle
import uuid
from decimal import Decimal

import pyarrow as pa
import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from fileset_integrations import Columns
from fileset_integrations.column_specs import SPECS
from fileset_integrations.columns import (
    Category,
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
from fileset_integrations.errors import ColumnError
from tests.support.columns import CHARACTERS, Memory

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
