"""The user's own tables, as a DuckDB connection: files by their names, or a database file."""

from __future__ import annotations

import duckdb

from fileset_integrations.errors import SpecError


def connect(database: str | None = None) -> duckdb.DuckDBPyConnection:
    """A DuckDB connection for a query of the user's own.

    Args:
        database: A DuckDB file whose tables the query reads; it is opened for reading only, so that several jobs may
            read it at once. None: no tables; a query names Parquet and CSV files instead.

    Raises:
        SpecError: There is no such file, or it is no DuckDB database.
    """
    if database is None:
        return duckdb.connect()
    try:
        return duckdb.connect(database, read_only=True)
    except duckdb.Error as error:
        raise SpecError(
            f"filesets.connection.database={database}: DuckDB cannot open it ({str(error).splitlines()[0]}). Name a "
            "DuckDB file that no other program is writing to, or null to read files by their names."
        ) from error
