"""Which statement it is, and who carries it out."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tests.support.snowflake_server import definitions, files
from tests.support.snowflake_server.arrow_results import encoded
from tests.support.snowflake_server.context import Context
from tests.support.snowflake_server.dialect import translate
from tests.support.snowflake_server.errors import syntax, unsupported
from tests.support.snowflake_server.lexer import Token, one_statement, quote_name, string_value
from tests.support.snowflake_server.reading import Reader
from tests.support.snowflake_server.results import INSERT, SELECT, SET, Result, rows_of, said
from tests.support.snowflake_server.sqltypes import number_column, text_column


def run(sql: str, context: Context) -> Result:
    """Carry out one statement.

    Raises:
        SnowflakeError: It does not parse, cannot be done, or is not imitated.
    """
    tokens = one_statement(sql)
    first = tokens[0].upper
    if first in ("SELECT", "WITH") or tokens[0].text == "(":
        return _select(tokens, context)
    if context.describe_only:
        # Of other statements, a description says only that there is a status.
        return Result([text_column("status")], [], SELECT)
    handler = _HANDLERS.get(first)
    if handler is None:
        if first in _NOT_IMITATED:
            raise unsupported(f"the statement {first}")
        raise syntax(f"line 1 at position {tokens[0].start} unexpected '{tokens[0].text}'.")
    reader = Reader(tokens[1:])
    result = handler(reader, context)
    reader.end()
    return result


def _select(tokens: list[Token], context: Context) -> Result:
    translated = translate(tokens, context.dialect)
    cursor = context.cursor()
    if context.describe_only:
        columns = context.engine.describe(cursor, translated.sql, translated.casts, context.parameters)
        return Result(columns, [], SELECT)
    columns, batches = context.engine.query(cursor, translated.sql, translated.casts, context.parameters)
    write = encoded if context.settings.results == "arrow" else rows_of
    return Result(columns, write(columns, batches), SELECT)


def _insert(reader: Reader, context: Context) -> Result:
    reader.expect("INTO")
    name = context.complete(reader.name(), 3)
    rest = translate(reader.rest(), context.dialect)
    count = context.engine.execute(context.cursor(), f"INSERT INTO {quote_name(*name)} {rest.sql}", context.parameters)
    return Result([number_column("number of rows inserted")], [[str(count)]], INSERT)


def _alter(reader: Reader, context: Context) -> Result:
    reader.expect("SESSION")
    if reader.accept("UNSET"):
        for token in reader.rest():
            context.session.parameters.pop(token.text.upper(), None)
    else:
        reader.expect("SET")
        while reader.token is not None:
            name = reader.next("word").upper
            reader.expect("=")
            value = reader.next("string", "number", "word")
            context.session.parameters[name] = string_value(value) if value.kind == "string" else value.text
            reader.accept(",")
    return said("Statement executed successfully.", SET)


def _transaction(reader: Reader, context: Context) -> Result:
    """Every statement is a transaction of its own here."""
    reader.rest()
    return said("Statement executed successfully.", SET)


def _copy(reader: Reader, context: Context) -> Result:
    reader.expect("INTO")
    if reader.token is None or reader.token.kind not in ("stage", "string"):
        raise unsupported("COPY INTO a table")
    return files.copy_into(reader, context)


_HANDLERS: dict[str, Callable[[Reader, Context], Result]] = {
    "ALTER": _alter,
    "BEGIN": _transaction,
    "COMMIT": _transaction,
    "COPY": _copy,
    "CREATE": definitions.create,
    "DESC": definitions.describe,
    "DESCRIBE": definitions.describe,
    "DROP": definitions.drop,
    "GET": files.get,
    "INSERT": _insert,
    "LIST": files.list_files,
    "LS": files.list_files,
    "PUT": files.put,
    "REMOVE": files.remove,
    "RM": files.remove,
    "ROLLBACK": _transaction,
    "SHOW": definitions.show,
    "USE": definitions.use,
}
_NOT_IMITATED = frozenset(
    (
        "CALL",
        "COMMENT",
        "DELETE",
        "EXECUTE",
        "EXPLAIN",
        "GRANT",
        "MERGE",
        "REVOKE",
        "SET",
        "TRUNCATE",
        "UNDROP",
        "UPDATE",
    )
)


def bound_values(bindings: dict[str, Any] | None) -> list[Any]:
    """Values of qmark bindings, {"1": {"type": "FIXED", "value": "3"}, ...}, in order."""
    ordered = sorted((bindings or {}).items(), key=lambda item: int(item[0]))
    return [_bound(binding.get("type", "TEXT"), binding.get("value")) for _, binding in ordered]


def _bound(kind: str, value: str | list[str] | None) -> Any:
    if isinstance(value, list):
        raise unsupported("bindings of many rows")
    if value is None:
        return None
    if kind == "FIXED":
        return int(value)
    if kind == "REAL":
        return float(value)
    if kind == "BOOLEAN":
        return value.lower() in ("true", "1")
    return value
