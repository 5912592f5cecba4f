"""Results, and the protocol's JSON form of them: every value a string, as the column's type has it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa

from tests.support.snowflake_server.sqltypes import Column

Row = list[str | None]

# Numbers of statement types, which tell the connector whether a cursor has rows or a count of them.
SELECT, DDL, INSERT, COPY, SHOW, SET, LIST, REMOVE, GET, PUT = (
    *(0x1000, 0x6000, 0x3100, 0x3600, 0x4400),
    *(0x4100, 0x7000, 0x7000, 0x7000, 0x7000),
)


@dataclass
class Result:
    """What a statement answers."""

    columns: list[Column]
    rows: list[Row] | pa.Table  # a table is in Arrow's form, see `arrow_results`
    statement_type: int
    data: dict[str, Any] = field(default_factory=dict)  # more for the answer: that of GET and PUT, say


def said(text: str, statement_type: int = DDL) -> Result:
    """The one row of most statements: what has been done."""
    return Result([Column("status", "text", length=16_777_216)], [[text]], statement_type)


def rows_of(columns: list[Column], batches: Iterable[pa.RecordBatch]) -> list[Row]:
    """The values of Arrow batches as strings."""
    rows: list[Row] = []
    for batch in batches:
        texts = [_texts(column, array) for column, array in zip(columns, batch.columns, strict=True)]
        rows += [list(row) for row in zip(*texts, strict=True)]
    return rows


def _texts(column: Column, array: pa.Array) -> list[str | None]:
    if column.type.startswith("timestamp"):
        nanoseconds = array.cast(pa.timestamp("ns", tz=getattr(array.type, "tz", None))).cast(pa.int64())
        return [None if value is None else _moment(value, column) for value in nanoseconds.to_pylist()]
    if column.type == "date":
        array = array.cast(pa.int32())
    elif column.type == "time":
        array = array.cast(pa.time64("ns")).cast(pa.int64())
    write = str if pa.types.is_string(array.type) else _WRITERS.get(column.type, str)
    if column.type in ("array", "vector"):
        return json_texts(column, array)
    return [None if value is None else write(value) for value in array.to_pylist()]


def json_texts(column: Column, array: pa.Array) -> list[str | None]:
    """Arrays, vectors and the like as JSON."""
    if column.element is None and pa.types.is_list(array.type):
        # Elements are JSON texts already.
        return [None if value is None else f"[{','.join(value)}]" for value in array.to_pylist()]
    is_text = pa.types.is_string(array.type)
    return [
        value if value is None or is_text else json.dumps(value, separators=(",", ":"), default=str)
        for value in array.to_pylist()
    ]


def _moment(nanoseconds: int, column: Column) -> str:
    sign = "-" if nanoseconds < 0 else ""
    seconds, fraction = divmod(abs(nanoseconds), 1_000_000_000)
    digits = f"{fraction:09d}"[: column.scale]
    text = f"{sign}{seconds}.{digits}" if digits else f"{sign}{seconds}"
    # The offset, in minutes, plus 1440: all that we keep is UTC.
    return f"{text} 1440" if column.type == "timestamp_tz" else text


def _time(nanoseconds: int) -> str:
    return f"{nanoseconds // 1_000_000_000}.{nanoseconds % 1_000_000_000:09d}"


_WRITERS: dict[str, Callable[[Any], str]] = {
    "boolean": lambda value: "1" if value else "0",
    "real": repr,
    "binary": lambda value: value.hex(),
    "time": _time,
}
