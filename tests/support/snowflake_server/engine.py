"""The embedded DuckDB: one database in memory for each database of Snowflake, and its errors in Snowflake's numbers."""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import pyarrow as pa

from tests.support.snowflake_server.errors import SnowflakeError, exists, missing
from tests.support.snowflake_server.functions import MACROS
from tests.support.snowflake_server.lexer import quote_name
from tests.support.snowflake_server.sqltypes import Column, Written, column

BATCH_ROWS = 8_192


class Engine:
    """Databases, schemas and tables. Every statement gets a cursor of its own, so statements run at the same time."""

    def __init__(self, presigned_url: Callable[[str, str, int], str]) -> None:
        self._root = duckdb.connect(":memory:", config={"python_enable_replacements": False})
        self._root.execute("SET enable_external_access = false")
        self._root.execute(MACROS)
        self._root.create_function(
            "SNOWFLAKE_PRESIGNED_URL", presigned_url, ["VARCHAR", "VARCHAR", "BIGINT"], "VARCHAR", side_effects=True
        )
        self._lock = threading.Lock()
        self._schemas: dict[str, set[str]] = {}
        # Types that DuckDB cannot hold, by column name: of all tables together, which is enough for tests.
        self.hints: dict[str, str] = {}

    # --- databases and schemas ---------------------------------------------------------------------------------------

    def has_schema(self, database: str | None, schema: str | None) -> bool:
        return schema in self._schemas.get(database or "", ())

    def has_database(self, database: str) -> bool:
        return database in self._schemas

    def schemas(self) -> dict[str, set[str]]:
        with self._lock:
            return {database: set(schemas) for database, schemas in self._schemas.items()}

    def create_database(self, name: str, *, replace: bool, if_not_exists: bool) -> None:
        with self._lock:
            if name in self._schemas:
                if if_not_exists:
                    return
                if not replace:
                    raise exists(name)
                self._root.execute(f"DETACH {quote_name(name)}")
            self._root.execute(f"ATTACH ':memory:' AS {quote_name(name)}")
            self._schemas[name] = set()
        self.create_schema(name, "PUBLIC", replace=False, if_not_exists=False)

    def create_schema(self, database: str, name: str, *, replace: bool, if_not_exists: bool) -> None:
        with self._lock:
            if database not in self._schemas:
                raise missing("Database", database)
            if name in self._schemas[database]:
                if if_not_exists:
                    return
                if not replace:
                    raise exists(name)
                self._root.execute(f"DROP SCHEMA {quote_name(database, name)} CASCADE")
            self._root.execute(f"CREATE SCHEMA {quote_name(database, name)}")
            self._schemas[database].add(name)

    def drop_schema(self, database: str, name: str, *, if_exists: bool) -> None:
        with self._lock:
            if name not in self._schemas.get(database, ()):
                if if_exists:
                    return
                raise missing("Schema", f"{database}.{name}")
            self._root.execute(f"DROP SCHEMA {quote_name(database, name)} CASCADE")
            self._schemas[database].remove(name)

    def drop_database(self, name: str, *, if_exists: bool) -> None:
        with self._lock:
            if name not in self._schemas:
                if if_exists:
                    return
                raise missing("Database", name)
            self._root.execute(f"DETACH {quote_name(name)}")
            del self._schemas[name]

    # --- statements --------------------------------------------------------------------------------------------------

    def cursor(self, database: str | None, schema: str | None) -> duckdb.DuckDBPyConnection:
        cursor = self._root.cursor()
        cursor.execute("SET TimeZone = 'UTC'")
        cursor.execute("SET default_null_order = 'NULLS_LAST_ON_ASC_FIRST_ON_DESC'")
        # DuckDB keeps what DB.PUBLIC holds in a schema of that name; "main" is the macros' home.
        path = "memory.main" if not self.has_schema(database, schema) else f"{_path(database, schema)},memory.main"
        cursor.execute(f"SET search_path = '{path}'")
        return cursor

    def describe(
        self, cursor: duckdb.DuckDBPyConnection, sql: str, casts: dict[str, Written], parameters: list[Any]
    ) -> list[Column]:
        """The columns of a query, which is not run."""
        with translated_errors():
            described = cursor.execute(f"DESCRIBE {sql}", parameters).fetchall()
        return self._columns([(name, type_) for name, type_, *_ in described], casts)

    def query(
        self, cursor: duckdb.DuckDBPyConnection, sql: str, casts: dict[str, Written], parameters: list[Any]
    ) -> tuple[list[Column], pa.RecordBatchReader]:
        """Run a query: its columns, and its rows as they come."""
        with translated_errors():
            relation = cursor.sql(sql, params=parameters or None)
            types = zip(relation.columns, map(str, relation.types), strict=True)
            return self._columns(list(types), casts), _guarded(relation.to_arrow_reader(BATCH_ROWS))

    def execute(self, cursor: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any]) -> int:
        """Run a statement that changes something; the number of rows that it counts."""
        with translated_errors():
            row = cursor.execute(sql, parameters).fetchone()
        return int(row[0]) if row and isinstance(row[0], int) else 0

    def load(self, database: str, schema: str, table: str, rows: pa.Table) -> None:
        """Make or replace a table with these rows."""
        cursor = self.cursor(database, schema)
        cursor.register("loaded_rows", rows)
        with translated_errors():
            cursor.execute(f"CREATE OR REPLACE TABLE {quote_name(database, schema, table)} AS FROM loaded_rows")
        cursor.unregister("loaded_rows")

    def _columns(self, described: list[tuple[str, str]], casts: dict[str, Written]) -> list[Column]:
        columns = []
        for name, type_ in described:
            cast = casts.get(name)
            columns.append(column(name, type_, cast.hint if cast is not None else self.hints.get(name)))
        return columns


def _path(database: str | None, schema: str | None) -> str:
    return quote_name(str(database), str(schema)).replace("'", "''")


_KINDS = {
    "INTERRUPT Error": (604, "57014", "SQL execution canceled"),
    "Conversion Error": (100038, "22018", "{0}"),
    "Out of Range Error": (100039, "22003", "{0}"),
    "Parser Error": (1003, "42000", "SQL compilation error:\n{0}"),
}
_PATTERNS = (
    (r"Table with name (\S+) does not exist", 2003, "42S02", "Object '{0}' does not exist or not authorized."),
    (r"schema \"?(.+?)\"? does not exist", 2003, "02000", "Schema '{0}' does not exist or not authorized."),
    (r"Function with name (\S+) does not exist", 2140, "42601", "Unknown function {0}"),
    (r"[Cc]olumn \"?(.+?)\"? not found", 904, "42000", "invalid identifier '{0}'"),
    (r"does not have a column named \"(.+?)\"", 904, "42000", "invalid identifier '{0}'"),
    (r"[Aa]mbiguous reference to column name \"(.+?)\"", 1104, "42601", "ambiguous column name '{0}'"),
)


@contextmanager
def translated_errors() -> Iterator[None]:
    """DuckDB's errors as Snowflake's. Those of rows that stream out of it come through Arrow, as OSError."""
    try:
        yield
    except (duckdb.Error, OSError) as error:
        raise _translated(str(error)) from None


def _translated(text: str) -> SnowflakeError:
    first_line = text.partition("\n")[0]
    for kind, (errno, state, message) in _KINDS.items():
        if text.startswith(kind):
            return SnowflakeError(errno, state, message.format(first_line))
    for pattern, errno, state, message in _PATTERNS:
        if match := re.search(pattern, text):
            return SnowflakeError(errno, state, "SQL compilation error:\n" + message.format(match[1].upper()))
    return SnowflakeError(9999, "0A000", f"The embedded engine says: {first_line}")


def _guarded(reader: pa.RecordBatchReader) -> pa.RecordBatchReader:
    """The same batches; an error of a late row is translated, too."""

    def batches() -> Iterator[pa.RecordBatch]:
        with translated_errors():
            yield from reader

    return pa.RecordBatchReader.from_batches(reader.schema, batches())
