"""One column of each type that a query returns: values at the edges, others drawn, and what tensors hold of them."""

from __future__ import annotations

import datetime as dt
import math
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import strategies as st

EPOCH = dt.datetime(1970, 1, 1)
UTC_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
MICROSECOND = dt.timedelta(microseconds=1)


@dataclass(frozen=True)
class Typed:
    """A type, and what its tensor is.

    Attributes:
        type: The Arrow type.
        dtype: Name of the tensor's dtype; "object" where values come as lists.
        edges: Values that are easily lost.
        values: Other values.
        expected: From a value, as `to_pylist` gives it, to the tensor's element, as `tolist` gives it.
        shape: Shape of a row.
    """

    type: pa.DataType
    dtype: str
    edges: tuple[Any, ...]
    values: st.SearchStrategy[Any]
    expected: Callable[[Any], Any] = lambda value: value
    shape: tuple[int, ...] = ()


def _integers(bits: int, signed: bool) -> Typed:
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if signed else (0, 2**bits - 1)
    name = f"{'' if signed else 'u'}int{bits}"
    beyond_float = (2**53 + 1,) if bits == 64 else ()
    return Typed(getattr(pa, name)(), name, (low, high, *beyond_float), st.integers(low, high))


def _floats(bits: int, type_: pa.DataType) -> Typed:
    edges = (math.nan, math.inf, -math.inf, -0.0, 1.5)
    return Typed(type_, f"float{bits}", edges, st.floats(width=bits), float)


def _decimals(type_: pa.DataType, digits: int) -> Typed:
    limit = 10**digits - 1
    unscaled = st.integers(-limit, limit).map(lambda number: Decimal(number).scaleb(-type_.scale))
    edges = tuple(Decimal(number).scaleb(-type_.scale) for number in (limit, -limit, 1, 0))
    return Typed(type_, "float64", edges, unscaled, float)


def _timestamps(unit: str, step: int, zone: str | None = None) -> Typed:
    # Units of `step` microseconds.
    epoch = UTC_EPOCH if zone else EPOCH
    # Berlin's clocks were turned back at 1:00 UTC of that day.
    moments = [(1677, 9, 22), (1969, 12, 31, 23, 59, 59), (2020, 10, 25, 0, 30), (2020, 10, 25, 1, 30), (2262, 4, 11)]
    edges = tuple(dt.datetime(*moment, tzinfo=epoch.tzinfo) for moment in moments)
    reach = 2**62 // 10**3
    drawn = st.integers(-reach // step, reach // step).map(lambda number: epoch + number * step * MICROSECOND)
    return Typed(pa.timestamp(unit, zone), "int64", edges, drawn, lambda value: (value - epoch) // MICROSECOND // step)


def _time(value: dt.time) -> int:
    return ((value.hour * 60 + value.minute) * 60 + value.second) * 10**6 + value.microsecond


_TEXT_EDGES = ("", "\U0001f642", "ä\u0000b", "x" * 100)
_BYTES_EDGES = (b"", b"\x00\xff", b"x" * 100)
_small = st.integers(-(2**31), 2**31 - 1)

TYPED: dict[str, Typed] = {
    **{f"int{bits}": _integers(bits, True) for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": _integers(bits, False) for bits in (8, 16, 32, 64)},
    "float16": _floats(16, pa.float16()),
    "float32": _floats(32, pa.float32()),
    "float64": _floats(64, pa.float64()),
    "bool": Typed(pa.bool_(), "bool", (True, False), st.booleans()),
    "decimal": _decimals(pa.decimal128(15, 2), 15),
    "wide_decimal": _decimals(pa.decimal128(38, 10), 15),
    "hugeint": Typed(
        pa.decimal128(38, 0),
        "int64",
        tuple(map(Decimal, (2**63 - 1, -(2**63), 2**53 + 1))),
        st.integers(-(2**63), 2**63 - 1).map(Decimal),
        int,
    ),
    "string": Typed(pa.string(), "object", _TEXT_EDGES, st.text()),
    "large_string": Typed(pa.large_string(), "object", _TEXT_EDGES, st.text()),
    "enum": Typed(pa.dictionary(pa.int8(), pa.string()), "object", ("", "a"), st.sampled_from("abc")),
    "coded_number": Typed(pa.dictionary(pa.int8(), pa.int64()), "int64", (2**53 + 1,), st.integers(-5, 5)),
    "binary": Typed(pa.binary(), "object", _BYTES_EDGES, st.binary()),
    "fixed_binary": Typed(pa.binary(2), "object", (b"\x00\xff",), st.binary(min_size=2, max_size=2)),
    "uuid": Typed(
        pa.uuid(),
        "object",
        (uuid.UUID(int=0), uuid.UUID(int=2**128 - 1)),
        st.uuids(),
        lambda value: value.bytes,
    ),
    "json": Typed(pa.json_(), "object", ("{}", '{"ä": [1]}'), st.just("[]")),
    "date": Typed(
        pa.date32(),
        "int64",
        (dt.date(1, 1, 1), dt.date(1969, 12, 31), dt.date(9999, 12, 31)),
        st.dates(),
        lambda value: (value - dt.date(1970, 1, 1)).days,
    ),
    "time": Typed(pa.time64("us"), "int64", (dt.time(0), dt.time(23, 59, 59, 999999)), st.times(), _time),
    "timestamp_ms": _timestamps("ms", 1000),
    "timestamp_us": _timestamps("us", 1),
    "timestamp_utc": _timestamps("us", 1, "UTC"),
    "timestamp_berlin": _timestamps("us", 1, "Europe/Berlin"),
    "duration": Typed(
        pa.duration("us"),
        "int64",
        (dt.timedelta(days=-1), dt.timedelta(0)),
        st.integers(-(2**40), 2**40).map(lambda number: number * MICROSECOND),
        lambda value: value // MICROSECOND,
    ),
    "array": Typed(
        pa.list_(pa.int32(), 2),
        "int32",
        ([-(2**31), 2**31 - 1],),
        st.lists(_small, min_size=2, max_size=2),
        shape=(2,),
    ),
    "nested_array": Typed(
        pa.list_(pa.list_(pa.int16(), 1), 2),
        "int16",
        ([[1], [-2]],),
        st.lists(st.lists(st.integers(-5, 5), min_size=1, max_size=1), min_size=2, max_size=2),
        shape=(2, 1),
    ),
}


def column(name: str, values: list[Any]) -> pa.Array:
    """A column of a type. A NaN stays one."""
    type_ = TYPED[name].type
    if isinstance(type_, pa.UuidType):
        return pa.array([None if value is None else value.bytes for value in values], type_)
    if pa.types.is_dictionary(type_):
        return pa.array(values, type_.value_type).dictionary_encode().cast(type_)
    if pa.types.is_float16(type_):
        values = [None if value is None else np.float16(value) for value in values]
    return pa.array(values, type_, from_pandas=False)


def elements(name: str, found: Any) -> list[Any]:
    """Elements of a tensor or list, as they compare: NaN equal to itself, -0.0 apart from 0.0."""
    return [_comparable(value) for value in (found if isinstance(found, list) else found.tolist())]


def expected_elements(name: str, values: list[Any], null: Any) -> list[Any]:
    """What the tensor must hold of values, as `to_pylist` gives them."""
    typed = TYPED[name]
    return [_comparable(null if value is None else typed.expected(value)) for value in values]


def _comparable(value: Any) -> Any:
    return repr(value) if isinstance(value, float) else value
