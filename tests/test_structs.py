"""Fields of structs: columns named by their path."""

import numpy as np
import pyarrow as pa
import pytest

from fileset_integrations import Columns, FileSet, FileSetReader
from fileset_integrations.columns import Category, bind
from fileset_integrations.errors import ColumnError, NullValueError
from tests.support.data import fileset_of

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
