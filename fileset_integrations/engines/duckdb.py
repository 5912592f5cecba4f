"""The embedded engine: DuckDB, in this process, runs a query; its result goes to Parquet as it streams.

DuckDB's own COPY is not used: with several threads and more than one file it does not keep the order of rows, with one
file it is no faster than streaming, and it writes sums of integers as doubles (all seen with DuckDB 2.0).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from fileset_integrations.engines.writer import write_files
from fileset_integrations.errors import ColumnError, QueryError
from fileset_integrations.manifest import DataFile, mask_secrets

NAME = "duckdb"
VERSION: str = duckdb.__version__

_BATCH_ROWS = 8_192  # rows that DuckDB hands over at a time

# What Arrow or Parquet would lose or refuse, and the type that keeps it. 128-bit integers, which every sum of integers
# is, become 38 digits exactly (DuckDB refuses more); the rest becomes its text.
_LOSSLESS = {"hugeint": "DECIMAL(38,0)", "uhugeint": "DECIMAL(38,0)"} | dict.fromkeys(
    ("bignum", "bit", "interval", "union", "time with time zone"), "VARCHAR"
)


def connect() -> duckdb.DuckDBPyConnection:
    """A connection to an empty in-memory database, which takes no Python variable for a table."""
    return duckdb.connect(config={"python_enable_replacements": False})


@contextmanager
def share_done(connection: duckdb.DuckDBPyConnection) -> Iterator[Callable[[], float | None]]:
    """While this is held, gives a function that says which part of the running query is done, in [0, 1].

    None: nobody knows, or no query runs. DuckDB's own estimate (`query_progress`), which it makes only where its bar is
    on, here without being printed. The connection's settings are put back.
    """
    wanted = {"enable_progress_bar": True, "enable_progress_bar_print": False}
    settings = ", ".join(f"current_setting('{name}')" for name in wanted)
    [before] = _relation(connection, f"SELECT {settings}").fetchall()
    for name, value in wanted.items():
        connection.execute(f"SET {name} = {value}")

    def share() -> float | None:
        percent = connection.query_progress()
        return None if percent < 0 else min(percent / 100, 1.0)

    try:
        yield share
    finally:
        with suppress(duckdb.Error):  # of a transaction that the query's failure has ended
            for name, value in zip(wanted, before, strict=True):
                connection.execute(f"SET {name} = {bool(value)}")


@dataclass(frozen=True, slots=True)
class Query:
    """One SELECT, ready to be written.

    Attributes:
        text: The statement without its closing semicolon.
        columns: Name and DuckDB type of each column of the result.
    """

    text: str
    columns: tuple[tuple[str, duckdb.sqltypes.DuckDBPyType], ...]


def parse(query: str, connection: duckdb.DuckDBPyConnection) -> Query:
    """Check that `query` is exactly one SELECT that can be written as it is; nothing is run.

    Raises:
        QueryError: It is empty, several statements, no SELECT, has parameters, or does not compile.
    """
    if not isinstance(query, str) or not query.strip():
        raise QueryError("query is empty. Pass one SELECT statement.")
    try:
        statements = connection.extract_statements(query)
    except duckdb.Error as error:
        raise QueryError(f"The query does not parse: {mask_secrets(str(error))}") from None
    if len(statements) != 1:
        what = f"{len(statements)} statements" if statements else "no statement"
        raise QueryError(f"The query holds {what}. Pass exactly one SELECT; run what prepares it on duckdb_connection.")
    statement = statements[0]
    if statement.type != duckdb.StatementType.SELECT:
        raise QueryError(
            f"The query is a {statement.type.name} statement. Pass exactly one SELECT "
            "(a PIVOT statement: SELECT * FROM (PIVOT ...))."
        )
    if statement.named_parameters:
        names = ", ".join(sorted(f"${name}" for name in statement.named_parameters))
        raise QueryError(
            f"The query has parameters ({names}), and nothing gives them values. Write the values into it."
        )
    text = _without_semicolon(query)
    try:
        described = _relation(connection, text)
    except duckdb.Error as error:
        raise QueryError(f"DuckDB refuses the query: {mask_secrets(str(error))}") from None
    seen: set[str] = set()
    for name in described.columns:
        if name.lower() in seen:
            raise QueryError(
                f"The query returns two columns named {name!r} (DuckDB's names ignore case). Give one an alias with AS."
            )
        seen.add(name.lower())
    return Query(text, tuple(zip(described.columns, described.types, strict=True)))


def _without_semicolon(query: str) -> str:
    # The statement goes into a subquery, where a closing semicolon is an error. The tokenizer tells a semicolon from
    # one within a string or comment; there is one statement, so what follows the first is only space and comments.
    for place, kind in duckdb.tokenize(query):
        if kind == duckdb.token_type.operator and query.encode()[place : place + 1] == b";":
            return query.encode()[:place].decode()
    return query


def write(
    query: Query,
    folder: Path,
    connection: duckdb.DuckDBPyConnection,
    *,
    shuffle: bool,
    seed: int,
    shuffle_key: Sequence[str],
    max_file_bytes: int,
    done: Callable[[int], object] = lambda rows: None,
) -> tuple[pa.Schema, list[DataFile]]:
    """Run the query, once, and write its result into `folder` as files of equally many rows, the last one short.

    Args:
        query: What `parse` made of the user's text.
        folder: An empty directory.
        connection: Where the query's tables are.
        shuffle: Order the rows by a hash of `shuffle_key`, or of their number in the query's own order.
        seed: Seed of that hash.
        shuffle_key: Columns of the result that together are unique.
        max_file_bytes: Size that files should have; a target, not a bound.
        done: Is told how many rows more the query has returned.

    Returns:
        The schema of the files, and the files in order, their paths relative to `folder`.

    Raises:
        QueryError: The query failed while it ran.
        ColumnError: `shuffle_key` names no column of the result, or is not unique.
    """
    names = [name for name, _ in query.columns]
    missing = [name for name in shuffle_key if name not in names]
    if missing:
        raise ColumnError(
            f"shuffle_key names {', '.join(map(repr, missing))}, which the query does not return. "
            f"Its columns: {', '.join(names)}."
        )
    try:
        reader = _relation(connection, _select(query, shuffle, seed, shuffle_key)).to_arrow_reader(_BATCH_ROWS)
        schema, files = write_files(reader, folder, max_file_bytes, done)
        if shuffle_key:
            _check_unique(folder, files, shuffle_key, connection)
    except (duckdb.Error, OSError) as error:
        # What fails while Arrow pulls the result comes as an OSError that wraps DuckDB's words.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise QueryError(f"DuckDB could not run the query to its end: {_without_values(str(error))}") from None
    return schema, files


def _without_values(message: str) -> str:
    """DuckDB's words about a failure at run time, in which it quotes values of rows, without these."""
    said, line, query = message.partition("\nLINE ")
    return re.sub(r"'(?:[^']|'')*'|\b\d[\w.+-]*", "***", said) + line + mask_secrets(query)


def _select(query: Query, shuffle: bool, seed: int, shuffle_key: Sequence[str]) -> str:
    casts = [_cast(name, type_) for name, type_ in query.columns]
    names = [quoted(name) for name, _ in query.columns]
    if not shuffle and casts == names:
        return query.text  # as it is, so that its own ORDER BY surely holds
    select, source = f"SELECT {', '.join(casts)} FROM", f"(\n{query.text}\n)"
    if not shuffle:
        return f"{select} {source}"
    if shuffle_key:
        keys = ", ".join(map(quoted, shuffle_key))
        return f"{select} {source} ORDER BY hash({keys}, {seed}::UBIGINT), {keys}"
    number = quoted(_free_name("row_number", [name for name, _ in query.columns]))
    return (
        f"{select} (SELECT *, row_number() OVER () AS {number} FROM {source}) "
        f"ORDER BY hash({number}, {seed}::UBIGINT), {number}"
    )


def _relation(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.DuckDBPyRelation:
    # A function of its own: DuckDB looks for tables it does not know among the caller's local variables.
    return connection.sql(sql)


def _check_unique(
    folder: Path, files: Sequence[DataFile], shuffle_key: Sequence[str], connection: duckdb.DuckDBPyConnection
) -> None:
    keys = ", ".join(map(quoted, shuffle_key))
    sources = ", ".join(_literal(str(folder / file.path)) for file in files)
    found = _relation(
        connection, f"SELECT count(*), count(DISTINCT row({keys})) FROM read_parquet([{sources}])"
    ).fetchall()
    rows, distinct = found[0]
    if rows != distinct:
        raise ColumnError(
            f"shuffle_key={list(shuffle_key)!r} is not unique: {rows} rows have {distinct} distinct keys, so that rows "
            "with equal keys would lie side by side. Add columns until it is unique, or leave shuffle_key out."
        )


def quoted(name: str) -> str:
    """A column's name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _free_name(name: str, taken: Sequence[str]) -> str:
    lowered = {column.lower() for column in taken}
    while name in lowered:
        name = "_" + name
    return name


def _cast(name: str, type_: duckdb.sqltypes.DuckDBPyType) -> str:
    lossless = _lossless(type_)
    if lossless == str(type_):
        return quoted(name)
    return f"CAST({quoted(name)} AS {lossless}) AS {quoted(name)}"


def _lossless(type_: duckdb.sqltypes.DuckDBPyType) -> str:
    """The type to write in place of `type_`, within lists and structs too."""
    if type_.id in _LOSSLESS:
        return _LOSSLESS[type_.id]
    if type_.id in ("list", "array", "struct", "map"):
        children: list[tuple[str, Any]] = type_.children
        if type_.id == "list":
            return f"{_lossless(children[0][1])}[]"
        if type_.id == "array":
            return f"{_lossless(children[0][1])}[{children[1][1]}]"
        if type_.id == "map":
            return f"MAP({_lossless(children[0][1])}, {_lossless(children[1][1])})"
        inner = [(field, child, _lossless(child)) for field, child in children]
        if any(new != str(child) for _, child, new in inner):
            return f"STRUCT({', '.join(f'{quoted(field)} {new}' for field, _, new in inner)})"
    return str(type_)
