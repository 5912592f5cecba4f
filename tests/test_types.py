"""Every type that a query returns, with and without nulls, as tensors: Arrow's own `to_pylist` is the oracle."""

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fileset_integrations import Columns, FileSet, FileSetReader
from fileset_integrations.columns import FittedColumns
from fileset_integrations.errors import NullValueError
from tests.support import count
from tests.support.data import fileset_of
from tests.support.typed import TYPED, column, elements, expected_elements

NUMBERS = [name for name, typed in TYPED.items() if typed.dtype != "object"]
KEEPING = [name for name, typed in TYPED.items() if typed.dtype in ("object", "float16", "float32", "float64")]


def read(fs: FileSet, columns: Columns | FittedColumns | None, batch_size: int, **options: Any) -> dict[str, Any]:
    """All rows, after a look at whether every batch has the dtypes that the reader names."""
    reader = FileSetReader(fs, columns=columns, batch_size=batch_size, drop_last_batch=False, **options)
    batches = list(reader)
    for batch in batches:
        for tensor in reader.tensors:
            value = batch[tensor.name]
            assert isinstance(value, list) or (value.dtype, value.shape[1:]) == (tensor.dtype, tensor.shape)
    return {
        tensor.name: [value for batch in batches for value in batch[tensor.name]]
        if tensor.dtype.kind == "O"
        else np.concatenate([batch[tensor.name] for batch in batches])
        for tensor in reader.tensors
    }


def files(name: str, parts: list[list[Any]], row_group_size: int) -> list[pa.Table]:
    columns = [column(name, part) for part in parts]
    return [pa.table({"a": one, "s": pa.StructArray.from_arrays([one], ["a"])}) for one in columns]


@pytest.mark.parametrize("name", TYPED)
@settings(max_examples=count(4, 100), deadline=None)
@given(data=st.data())
def test_a_column_of_each_type_keeps_its_values_whatever_the_nulls_chunks_and_files(name, data):
    typed = TYPED[name]
    drawn = st.lists(st.one_of(st.none(), st.sampled_from(typed.edges), typed.values), max_size=6)
    # The first file holds no null, the second nothing else: a dtype must not depend on that.
    parts = [list(typed.edges), [None] * 2, *data.draw(st.lists(drawn, max_size=2))]
    with tempfile.TemporaryDirectory() as folder:
        fs = fileset_of(Path(folder), *files(name, parts, 2), row_group_size=data.draw(st.integers(1, 4)))
        oracle = fs.to_arrow(["a"])["a"].to_pylist()
        options = {"batch_size": data.draw(st.integers(1, 5)), "cache_dir": Path(folder) / "cache"}

        if name in KEEPING:
            found = read(fs, None, **options)
            null = None if typed.dtype == "object" else float("nan")
            assert elements(name, found["a"]) == expected_elements(name, oracle, null)
            assert elements(name, found["s.a"]) == expected_elements(name, oracle, null)
        else:
            with pytest.raises(NullValueError, match="'a'"):
                FileSetReader(fs, **options)
        if name in NUMBERS:
            zero = np.zeros(typed.shape, typed.dtype).tolist()
            masked = read(fs, Columns({"x": "a", "y": "s.a"}, nulls="mask"), **options)
            for x in ("x", "y"):
                assert masked[x].dtype.name == typed.dtype
                assert elements(name, masked[x]) == expected_elements(name, oracle, zero)
                present = np.ones(typed.shape, bool)
                assert masked[f"{x}_mask"].tolist() == [(present & (value is not None)).tolist() for value in oracle]
            kept = read(fs, Columns({"x": "a"}, nulls="drop"), **options)["x"]
            assert elements(name, kept) == expected_elements(name, [one for one in oracle if one is not None], None)


@pytest.mark.parametrize("name", NUMBERS)
def test_serving_gives_the_bits_of_training_from_tables_and_plain_rows(name, tmp_path):
    typed = TYPED[name]
    values = [*typed.edges, None]
    fs = fileset_of(tmp_path, pa.table({"a": column(name, values)}))
    reader = FileSetReader(fs, columns=Columns({"x": "a"}, nulls={"a": 0}), batch_size=len(values))
    reader.columns.save(tmp_path / "columns.json")
    fitted, trained = FittedColumns.load(tmp_path / "columns.json"), reader.batch(0)["x"]
    rows = fs.to_arrow()

    for served in (fitted.transform(rows), fitted.transform(rows.to_pylist()), fitted.transform(rows.to_pydict())):
        assert served["x"].dtype == trained.dtype
        assert served["x"].tobytes() == trained.tobytes()
    one_by_one = [fitted.transform([row])["x"].tobytes() for row in rows.to_pylist()]
    assert b"".join(one_by_one) == trained.tobytes()
