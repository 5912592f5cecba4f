"""Types: how Snowflake writes them, which DuckDB type stands for each, how results are described."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tests.support.snowflake_server.errors import syntax, unsupported
from tests.support.snowflake_server.lexer import Token

INTEGERS = (
    "INT",
    "INTEGER",
    "BIGINT",
    "SMALLINT",
    "TINYINT",
    "BYTEINT",
)  # all of them NUMBER(38,0), but for the unload
_NUMBERS = ("NUMBER", "DECIMAL", "NUMERIC", "DEC")
_FLOATS = ("FLOAT", "FLOAT4", "FLOAT8", "DOUBLE", "REAL")  # all of them 8 bytes, but for the unload
_TEXTS = ("VARCHAR", "STRING", "TEXT", "CHAR", "CHARACTER", "NVARCHAR", "NCHAR")
_NTZ = ("TIMESTAMP_NTZ", "TIMESTAMP", "DATETIME", "TIMESTAMPNTZ")
_ZONED = {"TIMESTAMP_LTZ": "timestamp_ltz", "TIMESTAMPLTZ": "timestamp_ltz"}
_ZONED |= {"TIMESTAMP_TZ": "timestamp_tz", "TIMESTAMPTZ": "timestamp_tz"}
_SEMI_STRUCTURED = {"VARIANT": "variant", "OBJECT": "object", "ARRAY": "array"}
TYPE_WORDS = frozenset(
    (
        *(*INTEGERS, *_NUMBERS, *_FLOATS, *_TEXTS, *_NTZ, *_ZONED, *_SEMI_STRUCTURED),
        *("BOOLEAN", "DATE", "TIME", "BINARY", "VARBINARY", "VECTOR"),
    )
)


@dataclass(frozen=True, slots=True)
class Written:
    """A type as a statement writes it: its word, the DuckDB type, and what DuckDB cannot tell of it."""

    word: str
    duckdb: str
    hint: str | None = None  # rowtype name that DuckDB's type does not determine: timestamp_tz, object, ...


def read_type(tokens: list[Token], at: int) -> tuple[Written, int]:
    """The type that begins at `tokens[at]`, and the index after it.

    Raises:
        SnowflakeError: If it is no type that we know.
    """
    word = tokens[at].upper
    if word not in TYPE_WORDS:
        raise unsupported(f"the type {tokens[at].text}")
    at += 1
    if word == "DOUBLE" and at < len(tokens) and tokens[at].upper == "PRECISION":
        at += 1
    arguments: list[Token] = []
    if at < len(tokens) and tokens[at].text == "(":
        stop = at + 1
        depth = 1
        while depth:
            if stop == len(tokens):
                raise syntax(f"unclosed ( after {word}")
            depth += {"(": 1, ")": -1}.get(tokens[stop].text, 0)
            stop += 1
        arguments, at = tokens[at + 1 : stop - 1], stop
    return _written(word, arguments), at


def _written(word: str, arguments: list[Token]) -> Written:
    numbers = [int(token.text) for token in arguments if token.kind == "number"]
    if word in _NUMBERS:
        precision, scale = (*numbers, 38, 0)[:2] if not numbers else (*numbers, 0)[:2]
        return Written(word, f"DECIMAL({precision},{scale})")
    if word in INTEGERS:
        return Written(word, "DECIMAL(38,0)")
    if word in _FLOATS:
        return Written(word, "DOUBLE")
    if word in _TEXTS:
        return Written(word, "VARCHAR")
    if word in ("BINARY", "VARBINARY"):
        return Written(word, "BLOB")
    if word in _NTZ:
        digits = numbers[0] if numbers else 9
        names = {0: "TIMESTAMP_S", 1: "TIMESTAMP_MS", 2: "TIMESTAMP_MS", 3: "TIMESTAMP_MS"}
        return Written(word, names.get(digits, "TIMESTAMP" if digits <= 6 else "TIMESTAMP_NS"))
    if word in _ZONED:
        return Written(word, "TIMESTAMPTZ", _ZONED[word])
    if word == "ARRAY" and arguments:
        element, rest = read_type(arguments, 0)
        if [token.upper for token in arguments[rest:]] not in ([], ["NOT", "NULL"]):
            raise syntax("in the element type of ARRAY")
        return Written(word, f"{element.duckdb}[]")
    if word in _SEMI_STRUCTURED:
        return Written(word, "JSON", _SEMI_STRUCTURED[word])
    if word == "VECTOR":
        if len(arguments) != 3 or arguments[0].upper not in ("FLOAT", "INT") or not numbers:
            raise syntax("VECTOR takes (FLOAT|INT, dimension)")
        return Written(word, f"{'FLOAT' if arguments[0].upper == 'FLOAT' else 'INTEGER'}[{numbers[0]}]")
    return Written(word, word)


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a result, as the protocol's `rowtype` describes it."""

    name: str
    type: str
    precision: int | None = None
    scale: int | None = None
    length: int | None = None
    dimension: int | None = None
    element: str | None = None  # rowtype name of a vector's or a structured array's elements

    def row_type(self) -> dict[str, Any]:
        described = {
            "name": self.name,
            "type": self.type,
            "nullable": True,
            "precision": self.precision,
            "scale": self.scale,
            "length": self.length,
            "byteLength": self.length,
            "database": "",
            "schema": "",
            "table": "",
            "collation": None,
        }
        if self.element is not None:
            described["fields"] = [
                {"name": "", "type": self.element, "nullable": True, "length": 0, "scale": 0, "precision": 0}
            ]
        if self.dimension is not None:
            described["vectorDimension"] = self.dimension
        return described


_TEXT_LENGTH = 16_777_216
_BINARY_LENGTH = 8_388_608
# Precision of DuckDB's integers: those that Snowflake gives to literals, COUNT(*) (18) and SUM of integers (38).
_INTEGER_PRECISION = {
    "TINYINT": 3,
    "SMALLINT": 5,
    "INTEGER": 10,
    "BIGINT": 18,
    "UTINYINT": 3,
    "USMALLINT": 5,
    "UINTEGER": 10,
    "UBIGINT": 20,
    "HUGEINT": 38,
    "UHUGEINT": 38,
}
_SIMPLE = {
    "BOOLEAN": Column("", "boolean"),
    "DATE": Column("", "date"),
    "DOUBLE": Column("", "real"),
    "FLOAT": Column("", "real"),
    "BLOB": Column("", "binary", length=_BINARY_LENGTH),
    "VARCHAR": Column("", "text", length=_TEXT_LENGTH),
    "TIME": Column("", "time", precision=0, scale=9),
    "TIMESTAMP": Column("", "timestamp_ntz", precision=0, scale=6),
    "TIMESTAMP_S": Column("", "timestamp_ntz", precision=0, scale=0),
    "TIMESTAMP_MS": Column("", "timestamp_ntz", precision=0, scale=3),
    "TIMESTAMP_NS": Column("", "timestamp_ntz", precision=0, scale=9),
    "TIMESTAMP WITH TIME ZONE": Column("", "timestamp_ltz", precision=0, scale=9),
    "JSON": Column("", "variant"),
    '"NULL"': Column("", "text", length=_TEXT_LENGTH),
    "NULL": Column("", "text", length=_TEXT_LENGTH),
}
# What a hint may choose from.
_CHOICES = {
    "TIMESTAMP WITH TIME ZONE": frozenset(_ZONED.values()),
    "JSON": frozenset(_SEMI_STRUCTURED.values()),
}


def column(name: str, duckdb_type: str, hint: str | None = None) -> Column:
    """Describe a column of that DuckDB type.

    Args:
        name: The column's.
        duckdb_type: As DuckDB writes it.
        hint: Rowtype name where the type leaves a choice, see `Written`.
    """
    if match := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", duckdb_type):
        return Column(name, "fixed", precision=int(match[1]), scale=int(match[2]))
    if duckdb_type in _INTEGER_PRECISION:
        return Column(name, "fixed", precision=_INTEGER_PRECISION[duckdb_type], scale=0)
    if match := re.fullmatch(r"(FLOAT|INTEGER)\[(\d+)\]", duckdb_type):
        element = "real" if match[1] == "FLOAT" else "fixed"
        return Column(name, "vector", dimension=int(match[2]), element=element)
    if match := re.fullmatch(r"(.+)\[\]", duckdb_type):
        element = column("", match[1]).type
        return Column(name, "array", element=None if element == "variant" else element)
    simple = _SIMPLE.get(duckdb_type)
    if simple is None:
        raise unsupported(f"results of DuckDB's type {duckdb_type} (column {name})")
    kind = str(hint) if hint in _CHOICES.get(duckdb_type, ()) else simple.type
    return Column(name, kind, simple.precision, simple.scale, simple.length)


def text_column(name: str) -> Column:
    return Column(name, "text", length=_TEXT_LENGTH)


def number_column(name: str) -> Column:
    return Column(name, "fixed", precision=38, scale=0)
