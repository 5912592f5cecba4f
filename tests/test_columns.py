"""Columns: a plain value that says what becomes of which column, fitted once, the same in training and serving."""

import pickle

import numpy as np
import pyarrow as pa
import pytest

from fileset_integrations import Columns, FileSetReader
from fileset_integrations.columns import Category, FittedColumns, Hashed, Stack, Tokens, bind
from fileset_integrations.errors import ColumnError, NullValueError
from tests.support.columns import Memory
from tests.support.data import fileset_of, numbered, table

FLIGHTS = {
    "dep": ([1.5, 2.5, None, 4.5, 5.5, 6.5], pa.float64()),
    "dist": ([10, 20, 30, 40, 50, 60], pa.int32()),
    "day": ([1, 2, 3, 4, 5, 6], pa.int8()),
    "carrier": (["UA", "AA", "UA", None, "DL", "AA"], pa.string()),
    "arr": ([1, 2, 3, None, 5, 6], pa.int64()),
    "pix": ([[1, 2]] * 6, pa.list_(pa.uint8(), 2)),
}


def flights(folder):
    whole = table(FLIGHTS)
    return fileset_of(folder, whole[:4], whole[4:])


def spec(**changes) -> Columns:
    features = {"x": ["dep", "dist"], "day": "day", "carrier": Category("carrier"), "pix": Stack("pix", (2, 1))}
    return Columns(**{"features": features, "label": "arr", "nulls": "drop", **changes})


def everything(reader: FileSetReader) -> dict:
    batches = list(reader)
    return {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}


# --- the spec --------------------------------------------------------------------------------------------------------


def test_a_spec_is_a_value_that_survives_json_and_pickle():
    for one in (spec(), spec(weight="dist", nulls={"dep": -0.5}), Columns({"a": "a"}, nulls=float("nan"))):
        again = Columns.from_json(one.to_json())

        assert again == one == pickle.loads(pickle.dumps(one))
        assert hash(again) == hash(one)
    assert Columns({"a": "a"}, nulls=0) != Columns({"a": "a"}, nulls=False)
    assert spec() != spec(label=None)


def test_a_list_of_columns_asks_for_float32(tmp_path):
    rows = everything(FileSetReader(flights(tmp_path), columns=spec(), batch_size=2, drop_last_batch=False))

    assert {name: (value.dtype.name, value.shape[1:]) for name, value in rows.items()} == {
        "x": ("float32", (2,)),
        "day": ("int8", ()),
        "carrier": ("int64", ()),
        "pix": ("float32", (2, 1)),
        "label": ("int64", ()),
    }


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: Columns({}), "pass a dict"),
        (lambda: Columns("x"), "pass a dict"),
        (lambda: Columns(["a"]), "pass a dict"),
        (lambda: Columns({"label": "a"}), "cannot be named 'label'"),
        (lambda: Columns({"weight": "a"}), "cannot be named 'weight'"),
        (lambda: Columns({"x": 3}), "x: 3 is no spec"),
        (lambda: Columns({"x": []}), "names no columns"),
        (lambda: Columns({"x": "a"}, nulls="fill"), "nulls='fill'"),
        (lambda: Columns({"x": "a"}, nans="drop"), "nans='drop'"),
        (lambda: Columns({"x": "a"}, nans={"b": "null"}), "nans names 'b'"),
        (lambda: Columns({"x": "a"}, nulls=None), "nulls=None"),
        (lambda: Columns({"x": "a"}, nulls=[0]), "nulls="),
        (lambda: Columns({"x": "a"}, nulls={"b": 0}), "'b', which no feature.*Columns in use: a"),
        (lambda: Columns({"x": "a"}, nulls={"a": None}), "'a': None"),
        (lambda: Columns({"x": "a"}, nulls={"a": object()}), "'a'"),
        (lambda: Stack([]), "names no columns"),
        (lambda: Stack([1]), "names no columns"),
        (lambda: Stack("a", shape=0), "at least 1"),
        (lambda: Stack(["a", "b"], shape=3), "2 columns cannot have shape"),
        (lambda: Stack("a", dtype="text"), "dtype='text'"),
        (lambda: Stack("a", dtype="datetime64"), "dtype='datetime64'"),
        (lambda: Category(["a"]), "name of one column"),
    ],
)
def test_a_spec_that_contradicts_itself_is_refused(make, said):
    with pytest.raises(ColumnError, match=said):
        make()


@pytest.mark.parametrize(
    ("columns", "said"),
    [
        (Columns({"x": "nowhere"}), "no column 'nowhere'. Columns: dep, dist, day, carrier, arr, pix"),
        (Columns({"x": Category("dep")}), r"Category\('dep'\): the column is double"),
        (Columns({"x": Category("pix")}), "fixed_size_list"),
        (Columns({"x": Stack(["dist", "day"], dtype="int16")}), "'dist' .int32. cannot have dtype int16"),
        (Columns({"x": Stack("dep", dtype="int64")}), "'dep' .double. cannot have dtype int64"),
        (Columns({"x": Stack("dep", shape=4)}), "one number a row"),
        (Columns({"x": Stack("pix", shape=3)}), "3 values.*lists (have )?2"),
        (Columns({"x": ["dep", "pix"]}), "'pix'"),
        (Columns({"x": "carrier"}), "'carrier' is string"),
    ],
)
def test_a_spec_that_the_schema_cannot_serve_is_refused_when_a_reader_is_made(tmp_path, columns, said):
    with pytest.raises(ColumnError, match=said):
        FileSetReader(flights(tmp_path), columns=columns, batch_size=2)


def test_shapes_and_dtypes_of_stacks(tmp_path):
    fs = numbered(tmp_path, [4])
    grid = Stack(["x", "y", "id", "x"], shape=(2, 2), dtype="float64")
    features = {"one": Stack("x", shape=()), "int": Stack("id", dtype="int64"), "grid": grid}

    batch = FileSetReader(fs, columns=Columns(features), batch_size=4).batch(0)

    assert batch["one"].tolist() == [0.25, 1.25, 2.25, 3.25]
    assert (batch["int"].dtype, batch["int"].tolist()) == (np.int64, [[0], [1], [2], [3]])
    assert batch["grid"][3].tolist() == [[3.25, -3.0], [3.0, 3.25]]


# --- nulls -----------------------------------------------------------------------------------------------------------


def test_nulls_are_an_error_when_the_reader_is_made_that_names_the_column_and_the_ways_out(tmp_path):
    with pytest.raises(NullValueError, match=r"'dep' \(double\).*1 nulls in 6 rows.*'drop'.*COALESCE"):
        FileSetReader(flights(tmp_path), columns=spec(nulls="error", label="dist"), batch_size=2)


@pytest.mark.parametrize("write_statistics", [True, False])
@pytest.mark.parametrize("values", [[1, None, 3], [[1, 2], None, [3, 4]], [[1, 2], [None, 2], [3, 4]]])
def test_nulls_are_found_with_and_without_counts_in_the_footers(tmp_path, write_statistics, values):
    fs = fileset_of(tmp_path, pa.table({"a": values}), write_statistics=write_statistics)
    one = Stack("a", shape=2) if isinstance(values[0], list) else "a"

    with pytest.raises(NullValueError, match="'a'"):
        FileSetReader(fs, columns=Columns({"a": one}), batch_size=1)
    assert len(FileSetReader(fs, columns=Columns({"a": one}, nulls="drop"), batch_size=1)) == 2


def test_drop_leaves_out_rows_with_a_null_in_any_column_used(tmp_path):
    rows = everything(FileSetReader(flights(tmp_path), columns=spec(), batch_size=1))

    assert rows["day"].tolist() == [1, 2, 5, 6]


def test_a_policy_for_one_column_leaves_the_others_as_they_are(tmp_path):
    columns = spec(nulls={"dep": -1, "arr": "drop"})

    rows = everything(FileSetReader(flights(tmp_path), columns=columns, batch_size=1))

    assert rows["day"].tolist() == [1, 2, 3, 5, 6]
    assert rows["x"][:, 0].tolist() == [1.5, 2.5, -1, 5.5, 6.5]


def test_a_fill_value_for_all_columns_spares_the_label(tmp_path):
    with pytest.raises(NullValueError, match="'arr'"):
        FileSetReader(flights(tmp_path), columns=spec(nulls=0), batch_size=1)

    named = spec(nulls={"dep": 0, "arr": 0})
    assert everything(FileSetReader(flights(tmp_path), columns=named, batch_size=1))["label"].tolist() == [
        *(1, 2, 3, 0, 5, 6)
    ]


def test_a_column_that_is_a_category_and_a_number_follows_the_policy_of_the_number(tmp_path):
    fs = fileset_of(tmp_path, pa.table({"k": [5, None, 5, 6]}))
    both = {"code": Category("k"), "number": "k"}

    with pytest.raises(NullValueError, match="'k'"):
        FileSetReader(fs, columns=Columns(both), batch_size=1)
    rows = everything(FileSetReader(fs, columns=Columns(both, nulls="drop"), batch_size=1))
    assert (rows["code"].tolist(), rows["number"].tolist()) == ([2, 2, 3], [5, 5, 6])


def test_a_category_follows_a_policy_only_where_it_is_named(tmp_path):
    def carriers(**options):
        columns = Columns({"c": Category("carrier"), "day": "day"}, **options)
        return everything(FileSetReader(flights(tmp_path), columns=columns, batch_size=1))["c"].tolist()

    assert carriers() == carriers(nulls="drop") == carriers(nulls=3) == [3, 2, 3, 0, 4, 2]
    assert carriers(nulls={"carrier": "drop"}) == [3, 2, 3, 4, 2]
    assert carriers(nulls={"carrier": "DL"}) == [3, 2, 3, 4, 4, 2]
    with pytest.raises(NullValueError, match="'carrier'"):
        carriers(nulls={"carrier": "error"})


# --- categories ------------------------------------------------------------------------------------------------------

VALUES = {
    "string": (pa.string(), ["b", "c", None, "a", "b", "ä"], "z", ("b", "a", "c", "ä")),
    "large string": (pa.large_string(), ["b", "c", None, "a", "b", "ä"], "z", ("b", "a", "c", "ä")),
    "string view": (pa.string_view(), ["b", "c", None, "a", "b", "ä"], "z", ("b", "a", "c", "ä")),
    "dictionary": (pa.dictionary(pa.int8(), pa.string()), ["b", "c", None, "a", "b", "b"], "z", ("b", "a", "c")),
    "int64": (pa.int64(), [7, 2**63 - 1, None, -5, 7, 7], 8, (7, -5, 2**63 - 1)),
    "int8": (pa.int8(), [7, 1, None, -5, 7, 7], 8, (7, -5, 1)),
    "uint64": (pa.uint64(), [7, 2**64 - 1, None, 5, 7, 7], 8, (7, 5, 2**64 - 1)),
    "bool": (pa.bool_(), [True, True, None, True, True, True], False, (True,)),
    "tied bool": (pa.bool_(), [True, False, None, False, True, None], True, (False, True)),
    "only nulls": (pa.string(), [None, None], "a", ()),
    "no rows": (pa.string(), [], "a", ()),
}


@pytest.mark.parametrize("case", VALUES)
def test_codes_are_by_frequency_then_value_and_null_and_unseen_values_have_their_own(tmp_path, case):
    type_, values, unseen, vocabulary = VALUES[case]
    train = pa.table({"c": pa.array(values, type_)})
    fitted = Columns({"c": Category("c")}).fit(fileset_of(tmp_path, train[:3], train[3:]))
    codes = {None: 0} | {value: 2 + place for place, value in enumerate(vocabulary)}

    assert fitted.vocabularies["c"] == vocabulary
    assert fitted.vocabulary_sizes == {"c": len(vocabulary) + 2}
    later = pa.table({"c": pa.array([*values, unseen, None], type_)})
    expected = [codes.get(value, 1) for value in [*values, unseen, None]]
    assert fitted.transform(later)["c"].tolist() == expected
    reader = FileSetReader(fileset_of(tmp_path / "later", later), columns=fitted, batch_size=len(expected))
    assert reader.batch(0)["c"].tolist() == expected
    assert FittedColumns.from_json(fitted.to_json()).vocabularies == fitted.vocabularies


def test_a_vocabulary_meets_a_column_of_another_width_or_is_refused_by_kind(tmp_path):
    fitted = Columns({"c": Category("c")}).fit(fileset_of(tmp_path, pa.table({"c": [1000, 2, 2]})))

    narrow, wide = pa.table({"c": pa.array([2, 1], pa.int8())}), pa.table({"c": pa.array([2**64 - 1], pa.uint64())})
    assert fitted.transform(narrow)["c"].tolist() == [2, 1]
    assert fitted.transform(wide)["c"].tolist() == [1]
    with pytest.raises(ColumnError, match="'c' is string, the columns were fitted where it is int64"):
        bind(fitted, pa.schema([("c", pa.string())]))


# --- fitted ----------------------------------------------------------------------------------------------------------


def test_serving_gives_the_tensors_of_training(tmp_path):
    fs = flights(tmp_path)
    reader = FileSetReader(fs, columns=spec(), batch_size=4)
    reader.columns.save(tmp_path / "columns.json")
    rows = fs.to_arrow().drop_columns(["arr"]).take([0, 1, 4, 5])

    served = [
        FittedColumns.load(tmp_path / "columns.json").transform(form)
        for form in (rows, rows.to_pylist(), rows.to_pydict())
    ]

    trained = reader.batch(0)
    for tensors in served:
        assert list(tensors) == ["x", "day", "carrier", "pix"]
        for name, value in tensors.items():
            assert value.dtype == trained[name].dtype, name
            assert value.tolist() == trained[name].tolist(), name


def test_one_row_with_nothing_known_of_it_can_be_served(tmp_path):
    columns = spec(nulls={"dep": 0, "dist": 0, "pix": 0, "day": 9, "arr": "drop"})
    fitted = columns.fit(flights(tmp_path))

    row = fitted.transform([{"dep": None, "dist": None, "day": None, "carrier": None, "pix": None}])

    assert {name: value.tolist() for name, value in row.items()} == {
        "x": [[0, 0]],
        "day": [9],
        "carrier": [0],
        "pix": [[[0], [0]]],
    }
    assert row["day"].dtype == np.int8


def test_serving_never_drops_a_row(tmp_path):
    fitted = spec().fit(flights(tmp_path))

    with pytest.raises(NullValueError, match="'dep'"):
        fitted.transform([{"dep": None, "dist": 1, "day": 1, "carrier": "UA", "pix": [1, 2]}])


def test_serving_values_that_do_not_fit_says_which(tmp_path):
    fitted = spec().fit(flights(tmp_path))
    row = {"dep": 1.0, "dist": 1, "day": 1, "carrier": "UA", "pix": [1, 2]}

    for change, named in [({"day": 1000}, "'day'"), ({"pix": [1, 2, 3]}, "'pix'"), ({"carrier": 3}, "'carrier'")]:
        with pytest.raises(ColumnError, match=named):
            fitted.transform([{**row, **change}])
    with pytest.raises(ColumnError, match="no column 'dist'"):
        fitted.transform([{"dep": 1.0}])


@pytest.mark.parametrize("text", ["", "{}", "[]", "null", '{"columns": 3}', "not json"])
def test_what_is_no_fit_is_refused_by_its_path(tmp_path, text):
    (tmp_path / "columns.json").write_text(text)

    with pytest.raises(ColumnError, match=r"columns\.json: not fitted columns"):
        FittedColumns.load(tmp_path / "columns.json")


def test_fits_on_train_are_used_as_they_are_elsewhere(tmp_path):
    train = fileset_of(tmp_path / "train", pa.table({"c": ["a", "b", "b"]}))
    val = fileset_of(tmp_path / "val", pa.table({"c": ["c", "a", "a"]}))
    fitted = FileSetReader(train, columns=Columns({"c": Category("c")}), batch_size=3).columns

    reader = FileSetReader(val, columns=fitted, batch_size=3)

    assert reader.columns is fitted
    assert reader.batch(0)["c"].tolist() == [1, 3, 3]


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
    assert fitted.feature_shapes == {"c": (), "h": (), "t": (5,), "x": (1,)}
