"""Arrow's layouts of the same values, of which specs make the same tensors."""

import datetime as dt

import pyarrow as pa
import pytest

from fileset_integrations import Columns
from fileset_integrations.columns import Category, Hashed, Stack
from fileset_integrations.errors import ColumnError
from tests.support.columns import Memory, fitted_rows


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


def test_nested_lists_of_one_shape_are_one_tensor():
    values = [[[1, 2], [3, 4], [5, 6]], None, [[7, 8], None, [None, 9]]]
    for type_ in (pa.list_(pa.list_(pa.int32(), 2), 3), pa.list_(pa.list_(pa.int32()))):
        found = fitted_rows(Stack("a", shape=(3, 2), dtype="int64"), values, type_, nulls=0)["x"]
        assert found.tolist() == [values[0], [[0, 0]] * 3, [[7, 8], [0, 0], [0, 9]]]
    with pytest.raises(ColumnError, match="lists of 1 to 1 values where each must have 2"):
        fitted_rows(Stack("a", shape=(1, 2)), [[[1]]], pa.list_(pa.list_(pa.int32())))
