"""The table of types in docs/columns.md: what the code does, of what the engine writes."""

import re

import pyarrow as pa
import pytest

from fileset_integrations import Columns, FileSet
from fileset_integrations.columns import bind
from fileset_integrations.decoder import storage_type
from fileset_integrations.errors import ColumnError
from fileset_integrations.type_table import BLOCKS, TRIED, TYPES, renewed
from tests.support import ROOT

# An expression for each type that DuckDB is said to write.
SQL = {
    **{"BOOLEAN": "true", "TINYINT": "1::TINYINT", "SMALLINT": "1::SMALLINT", "INTEGER": "1", "BIGINT": "1::BIGINT"},
    **{"UTINYINT": "1::UTINYINT", "USMALLINT": "1::USMALLINT", "UINTEGER": "1::UINTEGER", "UBIGINT": "1::UBIGINT"},
    **{"FLOAT": "1::FLOAT", "DOUBLE": "1::DOUBLE", "DECIMAL(9, 2)": "1::DECIMAL(9, 2)"},
    **{"DECIMAL(38, 10)": "1::DECIMAL(38, 10)", "HUGEINT": "1::HUGEINT", "UHUGEINT": "1::UHUGEINT"},
    **{"sums of integers": "sum(1) OVER ()", "VARCHAR": "'a'", "BIT": "'1'::BIT", "INTERVAL": "INTERVAL 1 DAY"},
    **{"TIMETZ": "'10:00:00+01'::TIMETZ", "UUID": "uuid()", "JSON": "'{}'::JSON", "UNION": "union_value(n := 1)"},
    **{"ENUM": "'a'::ENUM('a', 'b')", "BLOB": "'a'::BLOB", "DATE": "DATE '2020-01-01'", "TIME": "TIME '10:00'"},
    **{"TIMESTAMP": "TIMESTAMP '2020-01-01'", "TIMESTAMP_S": "TIMESTAMP_S '2020-01-01'"},
    **{"TIMESTAMP_MS": "TIMESTAMP_MS '2020-01-01'", "TIMESTAMP_NS": "TIMESTAMP_NS '2020-01-01'"},
    **{"TIMESTAMPTZ": "TIMESTAMPTZ '2020-01-01'", "INTEGER[2]": "[1, 2]::INTEGER[2]"},
    **{"INTEGER[2][3]": "[[1, 2], [1, 2], [1, 2]]::INTEGER[2][3]", "INTEGER[]": "[1]", "INTEGER[][]": "[[1]]"},
    **{"VARCHAR[]": "['a']", "STRUCT(a INTEGER, b DOUBLE)": "{'a': 1, 'b': 1::DOUBLE}"},
    **{"MAP(VARCHAR, INTEGER)": "MAP {'a': 1}", "NULL": "NULL"},
}


REMEDY = re.compile(r"CAST|Pass |Name |Take |Say |Leave |Ask |Make |Decode |Stack\(|Ragged\(|BLOB|in the query")


@pytest.mark.parametrize(("written", "type_"), TYPES, ids=lambda value: str(value))
def test_every_refusal_names_the_column_its_type_and_a_way_out(written, type_):
    schema = pa.schema([("x", type_)])
    for spec in ["x", ["x"], *(make(type_) for make in TRIED)]:
        try:
            bind(Columns({"f": spec}), schema)
        except ColumnError as error:
            assert "'x'" in str(error), spec
            assert str(type_) in str(error) or str(storage_type(type_)) in str(error), spec
            assert REMEDY.search(str(error)), spec


def in_duckdb(written: str) -> list[str]:
    """DuckDB's names among those of a row of the table."""
    first = written.partition(";")[0]
    if "others'" in first or "Arrow's" in first:
        return []
    return [first] if "(" in first else first.split(", ")


@pytest.mark.checkout
def test_the_documents_tables_are_those_of_the_code():
    text = (ROOT / "docs" / "columns.md").read_text(encoding="utf-8")

    assert renewed(text) == text, "python -m fileset_integrations.type_table docs/columns.md writes them anew"
    assert all(f"<!-- {name} -->" in text for name in BLOCKS)


def test_a_document_without_a_place_for_a_table_is_refused():
    with pytest.raises(ValueError, match="no part between '<!-- types -->'"):
        renewed("# Columns")


def test_the_types_that_duckdb_is_said_to_write_are_those_that_it_writes(tmp_path):
    expected = {name: type_ for written, type_ in TYPES for name in in_duckdb(written)}
    assert expected.keys() == SQL.keys()
    query = "SELECT " + ", ".join(f'{expression} AS "{name}"' for name, expression in SQL.items())

    schema = FileSet.make(target_stage_loc=tmp_path, name="types", query=query).schema

    for name, type_ in expected.items():
        found = schema.field(name).type
        if pa.types.is_timestamp(found) and found.tz:
            found = pa.timestamp(found.unit, "UTC")  # DuckDB names the session's zone
        assert found.equals(type_), name
