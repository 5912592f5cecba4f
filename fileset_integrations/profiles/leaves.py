"""What of a column can be described: its kind, its values in a plain form, and how one of them is shown."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

Kind = Literal["number", "time", "text", "bytes", "list", "other"]
Plain = int | float | str | None


@dataclass(frozen=True, slots=True)
class Leaf:
    """A column, or a field of a struct, that is described by itself.

    Attributes:
        name: The column's name; of a field of a struct the path to it, such as "address.city".
        path: The column's name and those of the fields.
        type: Its Arrow type.
        kind: How it is described: "number", "time" (dates, times, durations: as integers in their own unit), "text"
            (booleans too), "bytes", "list" (its lengths, and its elements where they are numbers), or "other", of which
            only nulls are counted.
    """

    name: str
    path: tuple[str, ...]
    type: pa.DataType
    kind: Kind

    def column(self, table: pa.Table) -> pa.ChunkedArray:
        """The column or field as it stands in a table that holds the column; null where a struct around it is."""
        column = table[self.path[0]]
        for name in self.path[1:]:
            column = _storage(column)
            # By its place: a name with a dot would be taken for a path.
            column = pc.struct_field(column, [column.type.get_field_index(name)])
        return _storage(column)

    def values(self, column: pa.ChunkedArray) -> pa.ChunkedArray | None:
        """What is counted of a column: its values in a plain type, a list's elements; None: nothing but nulls."""
        if self.kind == "other":
            return None
        if self.kind == "list":
            while _is_list(column.type):
                column = _storage(pc.list_flatten(column))
            kind = _kind(column.type)
            return column.cast(_plain(column.type)) if kind == "number" else None
        return column.cast(_plain(column.type))

    def lengths(self, column: pa.ChunkedArray) -> pa.ChunkedArray | None:
        """Length of each value: characters of texts, bytes of bytes, elements of lists; None: it has none."""
        if self.kind == "text" and not pa.types.is_boolean(_decoded(self.type)):
            return pc.utf8_length(column.cast(pa.large_string()))
        if self.kind == "bytes":
            return pc.binary_length(column.cast(pa.large_binary()))
        return pc.list_value_length(column) if self.kind == "list" else None

    def shown(self, value: Any) -> Plain:
        """One of `values`, or a mean of them, as a plain value: times as ISO 8601 text, infinities as text."""
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, bytes):
            return value.hex()
        if isinstance(value, Decimal):
            value = float(value)
        if isinstance(value, float) and not math.isfinite(value):
            return None if math.isnan(value) else str(value)
        return _time(value, _decoded(self.type)) if self.kind == "time" else value

    @property
    def unit(self) -> float:
        """Seconds that a step of a time's integer is; 1 for all else."""
        return _SECONDS[_unit(_decoded(self.type))] if self.kind == "time" else 1.0


def leaves(schema: pa.Schema) -> list[Leaf]:
    """What is described of each column, in their order; structs field by field."""
    return [leaf for field in schema for leaf in _leaves((field.name,), field.type)]


def _leaves(path: tuple[str, ...], type_: pa.DataType) -> Iterator[Leaf]:
    stored = type_.storage_type if isinstance(type_, pa.BaseExtensionType) else type_
    if pa.types.is_struct(stored) and stored.num_fields:
        for field in stored:
            yield from _leaves((*path, field.name), field.type)
    else:
        yield Leaf(".".join(path), path, type_, _kind(stored))


def _kind(type_: pa.DataType) -> Kind:
    type_ = _decoded(type_)
    types = pa.types
    if types.is_integer(type_) or types.is_floating(type_) or types.is_decimal(type_):
        return "number"
    if types.is_date(type_) or types.is_time(type_) or types.is_timestamp(type_) or types.is_duration(type_):
        return "time"
    if types.is_boolean(type_) or types.is_string(type_) or types.is_large_string(type_) or types.is_string_view(type_):
        return "text"
    if types.is_binary(type_) or types.is_large_binary(type_) or types.is_binary_view(type_):
        return "bytes"
    if types.is_fixed_size_binary(type_):
        return "bytes"
    return "list" if _is_list(type_) else "other"


def _plain(type_: pa.DataType) -> pa.DataType:
    """The type that values of a type are counted in: one that DuckDB and the exact sums both take."""
    type_ = _decoded(type_)
    types = pa.types
    if types.is_floating(type_):
        return pa.float64()
    if types.is_decimal(type_):
        # Decimals of more than 38 digits exist in Arrow only.
        return pa.float64() if type_.precision > 38 else pa.decimal128(type_.precision, type_.scale)
    if types.is_date32(type_) or types.is_time32(type_):
        return pa.int32()
    if types.is_integer(type_):
        return type_
    if _kind(type_) == "time":
        return pa.int64()
    return pa.large_binary() if _kind(type_) == "bytes" else pa.large_string()


def _decoded(type_: pa.DataType) -> pa.DataType:
    if isinstance(type_, pa.BaseExtensionType):
        type_ = type_.storage_type
    return type_.value_type if pa.types.is_dictionary(type_) else type_


def _is_list(type_: pa.DataType) -> bool:
    return isinstance(type_, pa.ListType | pa.LargeListType | pa.FixedSizeListType)


def _storage(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """Values of an extension type as what they are stored as, those of a dictionary in full."""
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    if pa.types.is_dictionary(column.type):
        column = column.cast(column.type.value_type)
    return column


_SECONDS = {"D": 86_400.0, "s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def _unit(type_: pa.DataType) -> str:
    return {"date32[day]": "D", "date64[ms]": "ms"}.get(str(type_)) or str(type_.unit)


def _time(value: float, type_: pa.DataType) -> str:
    """An instant, a time of day or a duration, given in the unit of its type."""
    number = round(value)
    unit = _unit(type_)
    if pa.types.is_duration(type_):
        return f"{number * _SECONDS[unit]:g} s"
    date, _, time = str(np.array(number, np.int64).view(f"datetime64[{unit}]")).partition("T")
    if pa.types.is_date(type_):
        return date
    time = time.rstrip("0").rstrip(".") if "." in time else time
    if pa.types.is_time(type_):
        return time  # as of an instant of the first of January 1970
    return f"{date}T{time}{'' if type_.tz is None else 'Z'}"
