"""What becomes of each type that a query returns, as tables of `docs/columns.md`: worked out by binding, not written.

`python -m fileset_integrations.type_table docs/columns.md` writes them anew into that file.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

import pyarrow as pa

from fileset_integrations.column_specs import SPECS, Column, Spec
from fileset_integrations.columns import (
    Category,
    Columns,
    Hashed,
    Image,
    Numeric,
    Ragged,
    Scaled,
    Stack,
    Timestamp,
    Tokens,
    bind,
)
from fileset_integrations.errors import ColumnError
from fileset_integrations.kernels.calendar import FEATURES
from fileset_integrations.tensors import list_levels

# Who writes the type, by the name it has there; and the type. DuckDB's are those of this package's own engine, which
# tests/test_type_table.py compares with what it writes.
TYPES: tuple[tuple[str, pa.DataType], ...] = (
    ("BOOLEAN", pa.bool_()),
    ("TINYINT; Spark byte", pa.int8()),
    ("SMALLINT; Spark short", pa.int16()),
    ("INTEGER; Snowflake SMALLINT, INT; Spark int", pa.int32()),
    ("BIGINT; Snowflake BIGINT; Spark long", pa.int64()),
    ("UTINYINT", pa.uint8()),
    ("USMALLINT", pa.uint16()),
    ("UINTEGER", pa.uint32()),
    ("UBIGINT", pa.uint64()),
    ("others' half floats", pa.float16()),
    ("FLOAT; Snowflake 4-byte FLOAT; Spark float", pa.float32()),
    ("DOUBLE; Snowflake FLOAT, DOUBLE; Spark double", pa.float64()),
    ("DECIMAL(9, 2); Snowflake NUMBER(9, 2); Spark decimal(9,2)", pa.decimal128(9, 2)),
    ("DECIMAL(38, 10); Snowflake NUMBER(38, 10)", pa.decimal128(38, 10)),
    ("HUGEINT, UHUGEINT, sums of integers; Snowflake NUMBER", pa.decimal128(38, 0)),
    ("others' wider decimals", pa.decimal256(60, 2)),
    ("VARCHAR, BIT, INTERVAL, TIMETZ, UUID, JSON, UNION; Snowflake VARCHAR, VARIANT; Spark string", pa.string()),
    ("others' large strings", pa.large_string()),
    ("others' string views", pa.string_view()),
    ("ENUM", pa.dictionary(pa.uint8(), pa.string())),
    ("others' dictionaries of numbers", pa.dictionary(pa.int8(), pa.int64())),
    ("BLOB; Snowflake BINARY; Spark binary", pa.binary()),
    ("others' large bytes", pa.large_binary()),
    ("others' views of bytes", pa.binary_view()),
    ("others' bytes of one size", pa.binary(4)),
    ("others' UUIDs (DuckDB's COPY, Parquet's UUID)", pa.uuid()),
    ("others' JSON (DuckDB's COPY, Parquet's JSON)", pa.json_()),
    ("DATE; Snowflake DATE; Spark date", pa.date32()),
    ("Arrow's date in milliseconds", pa.date64()),
    ("others' times in milliseconds", pa.time32("ms")),
    ("TIME; Snowflake TIME", pa.time64("us")),
    ("TIMESTAMP; Snowflake TIMESTAMP_NTZ", pa.timestamp("us")),
    ("TIMESTAMP_S, TIMESTAMP_MS", pa.timestamp("ms")),
    ("TIMESTAMP_NS; Spark's INT96", pa.timestamp("ns")),
    ("TIMESTAMPTZ; Spark timestamp", pa.timestamp("us", "UTC")),
    ("others' durations", pa.duration("us")),
    ("Arrow's intervals", pa.month_day_nano_interval()),
    ("INTEGER[2]", pa.list_(pa.int32(), 2)),
    ("INTEGER[2][3]", pa.list_(pa.list_(pa.int32(), 2), 3)),
    ("INTEGER[]; Spark array<int>", pa.list_(pa.int32())),
    ("others' large lists", pa.large_list(pa.float32())),
    ("INTEGER[][]", pa.list_(pa.list_(pa.int32()))),
    ("VARCHAR[]; Snowflake ARRAY (as JSON)", pa.list_(pa.string())),
    ("STRUCT(a INTEGER, b DOUBLE); Spark struct", pa.struct([("a", pa.int32()), ("b", pa.float64())])),
    ("MAP(VARCHAR, INTEGER)", pa.map_(pa.string(), pa.int32())),
    ("NULL", pa.null()),
)

TRIED: tuple[Callable[[pa.DataType], Spec], ...] = (
    lambda type_: Stack("x", _some_shape(type_)),
    lambda type_: Numeric("x"),
    lambda type_: Scaled("x"),
    lambda type_: Timestamp("x"),
    lambda type_: Category("x"),
    lambda type_: Hashed("x", num_buckets=8),
    lambda type_: Ragged("x", length=4),
    lambda type_: Tokens("x", length=4, tokenizer=None if list_levels(type_)[0] else "builtins:list"),
    lambda type_: Image("x", height=1, width=1),
)


def type_table() -> list[str]:
    """Each type's tensor without `columns`, asked for by its name, and the specs that take it."""
    lines = ["| written as | Arrow type | without `columns` | by its name | specs |", "|---|---|---|---|---|"]
    for written, type_ in TYPES:
        schema = pa.schema([("x", type_)])
        plain, named = _tensors(None, schema), _tensors(Columns({"x": "x"}), schema)
        tried: list[Spec] = [make(type_) for make in TRIED]
        specs = [type(one).__name__ for one in tried if _taken(one, schema)]
        taken = ", ".join(f"`{name}`" for name in specs)
        if pa.types.is_struct(type_):
            taken = "those of its fields"
        lines.append(f"| {_literal(written)} | `{type_}` | {plain} | {named} | {taken or 'none'} |")
    return lines


def remedies() -> list[str]:
    """What is said of each type that has no tensor by its name alone."""
    lines = []
    for _, type_ in TYPES:
        try:
            bind(Columns({"x": "x"}), pa.schema([("x", type_)]))
        except ColumnError as error:
            lines.append(f"- {_literal(str(error))}")
    return lines


def spec_table() -> list[str]:
    """Each spec and the first sentence of what it says of itself."""
    lines = ["| spec | what it makes |", "|---|---|"]
    specs: list[type[Spec]] = [Column, *(made for made in SPECS.values() if made is not Column)]
    for made in specs:
        summary = (made.__doc__ or "").split("\n\n")[0].replace("\n", " ")
        name = "a column's name" if made is Column else f"`{made.__name__}`"
        lines.append(f"| {name} | {re.sub(' +', ' ', summary).replace('|', chr(92) + '|')} |")
    return lines


def feature_table() -> list[str]:
    """Features of the calendar and how many numbers each is."""
    return ["| feature | numbers |", "|---|---|"] + [f"| `{name}` | {width} |" for name, width in FEATURES.items()]


BLOCKS = {"types": type_table, "remedies": remedies, "specs": spec_table, "features": feature_table}


def renewed(text: str) -> str:
    """A document whose generated parts, between `<!-- name -->` and `<!-- end -->`, are written anew."""
    for name, lines in BLOCKS.items():
        begin, end = f"<!-- {name} -->\n", "<!-- end -->"
        before, found, rest = text.partition(begin)
        if not found or end not in rest:
            raise ValueError(
                f"The document has no part between {begin.strip()!r} and {end!r}. Write both lines into it."
            )
        text = before + begin + _joined(lines()) + rest[rest.index(end) :]
    return text


def _literal(text: str) -> str:
    """Text that Markdown shows as it is: "INTEGER[2]" would be a link, "array<int>" a tag."""
    return re.sub(r"([\[\]])", r"\\\1", text).replace("<", "&lt;")


def _joined(lines: Iterable[str]) -> str:
    return "".join(f"{line}\n" for line in lines)


def _some_shape(type_: pa.DataType) -> tuple[int, ...] | None:
    lengths, _ = list_levels(type_)
    return tuple(4 if length < 0 else length for length in lengths) or None


def _taken(spec: Spec, schema: pa.Schema) -> bool:
    try:
        bind(Columns({"x": spec}), schema)
    except ColumnError:
        return False
    return True


def _tensors(columns: Columns | None, schema: pa.Schema) -> str:
    try:
        tensors = bind(columns, schema).tensors
    except ColumnError:
        return "refused"
    described = []
    for tensor in tensors:
        axes = ", ".join(["batch", *map(str, tensor.shape)]) + ("" if tensor.shape else ",")
        what = "list of values" if tensor.dtype.kind == "O" else f"{tensor.dtype.name} ({axes})"
        described.append(what if tensor.name == "x" else f"`{tensor.name}`: {what}")
    return "; ".join(described)


if __name__ == "__main__":
    path = Path(sys.argv[1])
    path.write_text(renewed(path.read_text(encoding="utf-8")), encoding="utf-8")
