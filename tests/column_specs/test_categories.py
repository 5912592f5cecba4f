"""Categories and hashes: which code a value has, and which have those of null and of unknown values."""

import datetime as dt
import uuid
from decimal import Decimal

import pyarrow as pa
import pytest

from fileset_integrations import Columns
from fileset_integrations.columns import Category, FittedColumns, Hashed
from tests.support.columns import Memory, fitted_rows


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
