"""What is learned of the training data: the same for any order and grouping of its rows, in one pass."""

import random

import numpy as np
import pyarrow as pa

from fileset_integrations import Columns, FileSetReader
from fileset_integrations.columns import Category, Numeric
from tests.support.columns import Memory
from tests.support.data import fileset_of


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
