"""Snowflake's types: what each is cast to before it is unloaded to Parquet, so that nothing is lost in silence.

What Snowflake documents of the Parquet types of an unload
(https://docs.snowflake.com/en/user-guide/data-unload-considerations) stands in `cast_of`; what came is then compared in
`check_unloaded`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from fileset_integrations.errors import ColumnError, QueryError
from fileset_integrations.storage.locations import identifier

# Type codes of the connector's ResultMetadata.
_FIXED, _REAL, _TEXT, _DATE = range(4)
_VARIANT, _LTZ, _TZ, _NTZ, _OBJECT, _ARRAY, _BINARY, _TIME, _BOOLEAN = range(5, 14)
_GEOGRAPHY, _GEOMETRY, _VECTOR, _MAP, _FILE = range(14, 19)
_INT64_DIGITS = 18  # every integer of so many digits fits 64 bits
_FLOAT64_DIGITS = 15  # every decimal of so many digits comes back from a double

_REFUSED = {
    _GEOGRAPHY: ("GEOGRAPHY", "ST_ASWKB({0})"),
    _GEOMETRY: ("GEOMETRY", "ST_ASWKB({0})"),
    _FILE: ("FILE", "FL_GET_RELATIVE_PATH({0})"),
}


@dataclass(frozen=True, slots=True)
class Column:
    """A column of the query's result.

    Attributes:
        name: Its name, as Snowflake keeps it.
        code: The connector's code of its type.
        precision: Digits of a number.
        scale: Digits after the point; of a second, for times.
        dimension: Of a vector, where it is known.
    """

    name: str
    code: int
    precision: int | None = None
    scale: int | None = None
    dimension: int | None = None

    @classmethod
    def of(cls, described: Any) -> Column:
        """From the connector's ResultMetadata."""
        dimension = getattr(described, "vector_dimension", None)
        return cls(described.name, described.type_code, described.precision, described.scale, dimension)


def columns_of(described: Sequence[Any]) -> list[Column]:
    """The columns of a described query.

    Raises:
        QueryError: Two have one name, or one has none.
    """
    columns = [Column.of(one) for one in described]
    seen: set[str] = set()
    for column in columns:
        if not column.name or column.name in seen:
            raise QueryError(
                f"The query returns two columns named {column.name!r}, or one without a name. Give each an alias with "
                "AS."
            )
        seen.add(column.name)
    return columns


def cast_of(column: Column) -> str:
    """The SQL expression that is unloaded in place of a column, without its alias.

    Raises:
        ColumnError: Its type has no lossless form; says how to choose one in the query.
    """
    name, code = identifier(column.name), column.code
    if code == _FIXED:
        return _number(column)
    if code == _REAL:
        return f"CAST({name} AS DOUBLE)"  # FLOAT is unloaded with 4 bytes
    if code in (_LTZ, _TZ):
        return f"CAST(CONVERT_TIMEZONE('UTC', {name}) AS TIMESTAMP_NTZ)"  # with a time zone it is not unloaded at all
    if code in (_VARIANT, _OBJECT, _MAP):
        return f"TO_JSON(TO_VARIANT({name}))"
    if code == _VECTOR:
        return f"CAST(TO_ARRAY({name}) AS ARRAY(DOUBLE NOT NULL))"  # a vector itself is not unloaded
    if code in _REFUSED:
        kind, instead = _REFUSED[code]
        raise ColumnError(
            f"Column {column.name!r} is {kind}, which Parquet cannot hold. Convert it in the query, such as "
            f"{instead.format(name)} AS {name}."
        )
    return name


def _number(column: Column) -> str:
    name = identifier(column.name)
    precision, scale = column.precision or 38, column.scale or 0
    if scale == 0:
        # Snowflake's own integers are NUMBER(38, 0): the inner cast fails loudly where a value has more digits.
        inner = name if precision <= _INT64_DIGITS else f"CAST({name} AS NUMBER({_INT64_DIGITS}, 0))"
        return f"CAST({inner} AS BIGINT)"
    if precision <= _FLOAT64_DIGITS:
        return f"CAST({name} AS DOUBLE)"
    raise ColumnError(
        f"Column {column.name!r} is NUMBER({precision}, {scale}): a double keeps {_FLOAT64_DIGITS} of its digits. "
        f"Choose in the query: {name}::DOUBLE AS {name} rounds, {name}::NUMBER({_FLOAT64_DIGITS}, "
        f"{min(scale, _FLOAT64_DIGITS)}) fails where that would matter, {name}::VARCHAR keeps all as text."
    )


def arrow_type(column: Column) -> pa.DataType:
    """The Arrow type that a column's files should have; for a result without rows, which has no files."""
    if column.code == _FIXED:
        return pa.int64() if not column.scale else pa.float64()
    simple = {
        _REAL: pa.float64(),
        _DATE: pa.date32(),
        _BINARY: pa.binary(),
        _BOOLEAN: pa.bool_(),
        _TIME: pa.time64("us"),
        _VECTOR: pa.list_(pa.float64()),
        _ARRAY: pa.list_(pa.string()),
        **dict.fromkeys((_LTZ, _TZ, _NTZ), pa.timestamp("us")),
    }
    return simple.get(column.code, pa.string())


def check_unloaded(columns: Sequence[Column], schema: pa.Schema) -> list[str]:
    """Compare the files with what they should hold; returns what is worth a warning.

    Raises:
        ColumnError: A number came with less than was asked for.
    """
    if schema.names != [column.name for column in columns]:
        raise ColumnError(
            f"The files have the columns {', '.join(schema.names)}; {', '.join(c.name for c in columns)} were unloaded."
        )
    remarks: list[str] = []
    for column in columns:
        found = schema.field(column.name).type
        if column.code == _FIXED and not column.scale:
            exact = pa.types.is_int64(found) or pa.types.is_decimal(found)
        elif column.code in (_FIXED, _REAL):
            exact = pa.types.is_float64(found)
        elif column.code == _VECTOR:
            exact = pa.types.is_list(found) and pa.types.is_floating(found.value_type)
        else:
            exact = True
        if not exact:
            raise ColumnError(
                f"Column {column.name!r} was unloaded as {found}, where {arrow_type(column)} was asked for. Its values "
                "may have lost precision: cast it in the query to a type that Snowflake unloads as it is."
            )
        if pa.types.is_timestamp(found) and found.unit in ("s", "ms") and (column.scale or 0) > 3:
            remarks.append(
                f"Column {column.name!r}: Snowflake unloads its times in {found.unit}. Where finer ones matter, ask "
                f"for DATE_PART(epoch_nanosecond, {identifier(column.name)}) in the query."
            )
    return remarks
