"""How one tensor is made of columns: `Stack`, `Category`, or a column's name; and their check against a schema."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from fileset_integrations.decoder import BoundTensor, TensorSpec
from fileset_integrations.errors import ColumnError
from fileset_integrations.tensors import is_bytes, is_text, list_length, number_dtype


@dataclass(frozen=True, slots=True)
class Stack:
    """Several columns of numbers, or one list column, as one tensor.

    Attributes:
        columns: Names of scalar columns, or the name of one column.
        shape: Shape of a row. None: (number of columns,), or the length of a fixed-size list. `()` with one scalar
            column gives a tensor of shape (batch,).
        dtype: NumPy name of the tensor's dtype; float32 unless asked otherwise.
    """

    columns: tuple[str, ...]
    shape: tuple[int, ...] | None = None
    dtype: str = "float32"

    def __init__(
        self, columns: str | Sequence[str], shape: int | Sequence[int] | None = None, dtype: str = "float32"
    ) -> None:
        names = (columns,) if isinstance(columns, str) else tuple(columns)
        if not names or not all(isinstance(name, str) for name in names):
            raise ColumnError(f"Stack({columns!r}) names no columns. Pass a column's name, or a list of names.")
        if shape is not None:
            shape = tuple(int(size) for size in (shape if isinstance(shape, Sequence) else (shape,)))
            if any(size < 1 for size in shape):
                raise ColumnError(f"Stack({columns!r}, shape={shape}): every size must be at least 1.")
            if len(names) > 1 and math.prod(shape) != len(names):
                raise ColumnError(
                    f"Stack of {len(names)} columns cannot have shape {shape}, which holds {math.prod(shape)} values."
                )
        try:
            is_number = np.dtype(dtype).kind in "iufb"
        except TypeError:
            is_number = False
        if not is_number:
            raise ColumnError(
                f"Stack({columns!r}, dtype={dtype!r}): pass the name of a number's dtype, like 'float32'."
            )
        object.__setattr__(self, "columns", names)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "dtype", np.dtype(dtype).name)


@dataclass(frozen=True, slots=True)
class Category:
    """A column of strings, integers or booleans as codes, int64, shape (batch,).

    Code 0 is null, code 1 every value that the fitted vocabulary lacks, and the vocabulary follows from code 2 on: the
    most frequent value first, equal frequencies by value.

    Attributes:
        column: Name of the column.
    """

    column: str

    def __post_init__(self) -> None:
        if not isinstance(self.column, str):
            raise ColumnError(f"Category({self.column!r}): pass the name of one column.")


Spec = str | Stack | Category
SpecLike = str | Sequence[str] | Stack | Category


def as_spec(spec: SpecLike, name: str) -> Spec:
    """A spec as the user wrote it, in its one form: a list of columns is a `Stack`."""
    if isinstance(spec, str | Stack | Category):
        return spec
    if isinstance(spec, Sequence) and all(isinstance(column, str) for column in spec):
        return Stack(spec)
    raise ColumnError(f"{name}: {spec!r} is no spec. Pass a column's name, a list of names, a Stack or a Category.")


def sources(spec: Spec) -> tuple[str, ...]:
    """Columns that a spec reads."""
    if isinstance(spec, Stack):
        return spec.columns
    return (spec.column,) if isinstance(spec, Category) else (spec,)


def spec_to_json(spec: Spec) -> Any:
    """A spec as plain JSON."""
    if isinstance(spec, Category):
        return {"category": spec.column}
    if isinstance(spec, Stack):
        return {"stack": list(spec.columns), "shape": spec.shape and list(spec.shape), "dtype": spec.dtype}
    return spec


def spec_from_json(data: Any) -> Spec:
    """The spec that `spec_to_json` gave."""
    if isinstance(data, str):
        return data
    if "category" in data:
        return Category(data["category"])
    return Stack(data["stack"], data["shape"], data["dtype"])


def bind_spec(name: str, spec: Spec, schema: pa.Schema) -> BoundTensor:
    """The tensor that a spec gives with the columns of a schema.

    Raises:
        ColumnError: A column has no tensor form as asked; names it, its type and the way out.
    """
    if isinstance(spec, str):
        return bind_column(name, spec, schema, strings=False)
    if isinstance(spec, Category):
        type_ = schema.field(spec.column).type
        if not (is_text(type_) or pa.types.is_integer(type_) or pa.types.is_boolean(type_)):
            raise ColumnError(
                f"Category({spec.column!r}): the column is {type_}; categories are strings, integers or booleans. "
                f"CAST({spec.column} AS VARCHAR) in the query, or use it as a number."
            )
        return BoundTensor(TensorSpec(name, (), np.dtype(np.int64)), (spec.column,), "codes")
    return _bind_stack(name, spec, schema)


def _bind_stack(name: str, spec: Stack, schema: pa.Schema) -> BoundTensor:
    dtype = np.dtype(spec.dtype)
    first = schema.field(spec.columns[0]).type
    length = list_length(first) if len(spec.columns) == 1 else None
    for column in spec.columns:
        type_ = schema.field(column).type
        number = number_dtype(type_.value_type if length is not None else type_)
        if number is None:
            raise ColumnError(_no_number(column, type_))
        if dtype.kind != "f" and not np.can_cast(number, dtype, "safe"):
            raise ColumnError(
                f"Stack of column {column!r} ({type_}) cannot have dtype {dtype.name}, which lacks some of its values. "
                f"Ask for dtype='float32', or CAST({column} AS ...) in the query."
            )
    if length is None:
        shape = (len(spec.columns),) if spec.shape is None else spec.shape
        if len(spec.columns) == 1 and math.prod(shape) != 1:
            raise ColumnError(
                f"Stack({spec.columns[0]!r}, shape={shape}): the column is {first}, one number a row. "
                "Leave the shape out, or name a list column."
            )
        return BoundTensor(TensorSpec(name, shape, dtype), spec.columns, "numbers")
    if spec.shape is None and length < 0:
        raise ColumnError(
            f"Stack({spec.columns[0]!r}): the column is {first}, whose lists may differ in length. Say their shape, "
            f"such as Stack({spec.columns[0]!r}, shape=(8, 8))."
        )
    shape = (length,) if spec.shape is None else spec.shape
    if length >= 0 and math.prod(shape) != length:
        raise ColumnError(
            f"Stack({spec.columns[0]!r}, shape={shape}) holds {math.prod(shape)} values, the column's lists {length}."
        )
    return BoundTensor(TensorSpec(name, shape, dtype), spec.columns, "lists")


def bind_column(name: str, column: str, schema: pa.Schema, strings: bool) -> BoundTensor:
    """A column as a tensor of its own dtype, or, where `strings` allows it, as a list of strings."""
    type_ = schema.field(column).type
    number = number_dtype(type_)
    if number is not None:
        return BoundTensor(TensorSpec(name, (), number), (column,), "numbers")
    if strings and (is_text(type_) or is_bytes(type_)):
        return BoundTensor(TensorSpec(name, (), np.dtype(object)), (column,), "values")
    length = list_length(type_)
    if length is not None and number_dtype(type_.value_type) is not None:
        if length >= 0:
            dtype = number_dtype(type_.value_type)
            assert dtype is not None
            return BoundTensor(TensorSpec(name, (length,), dtype), (column,), "lists")
        raise ColumnError(
            f"Column {column!r} is {type_}, whose lists may differ in length. Say their shape: "
            f"Columns({{..., {column!r}: Stack({column!r}, shape=(...))}}), or leave the column out."
        )
    raise ColumnError(_no_number(column, type_))


def _no_number(column: str, type_: pa.DataType) -> str:
    if is_text(type_):
        return (
            f"Column {column!r} is {type_}, not a number. Make it categories with Category({column!r}), or "
            f"CAST({column} AS DOUBLE) in the query."
        )
    if pa.types.is_temporal(type_):
        return (
            f"Column {column!r} is {type_}, which has no tensor form. Take numbers from it in the query, such as "
            f"epoch({column}) or hour({column}), or name the columns you want with columns=Columns(...)."
        )
    return (
        f"Column {column!r} is {type_}, which has no tensor form. CAST it to a number or a list of numbers in the "
        "query, or name the columns you want with columns=Columns(...)."
    )


def type_for(
    spec: Spec, tensor: TensorSpec, type_: pa.DataType, vocabulary: Sequence[str | int | bool] | None
) -> pa.DataType:
    """The type to cast a column to that was not read from a FileSet, so that it gives the fitted tensor.

    Args:
        spec: The feature's spec.
        tensor: Its tensor.
        type_: The column's own type.
        vocabulary: The values of a category.
    """
    if vocabulary is not None:
        if not pa.types.is_null(type_):
            return type_
        kind = type(vocabulary[0]) if vocabulary else str
        return {str: pa.string(), bool: pa.bool_(), int: pa.int64()}[kind]
    number, length = pa.from_numpy_dtype(tensor.dtype), math.prod(tensor.shape)
    keeps = isinstance(spec, str) or tensor.dtype.kind != "f"  # the column had the tensor's own dtype
    if list_length(type_) is not None or (pa.types.is_null(type_) and tensor.shape and len(sources(spec)) == 1):
        inner = None if pa.types.is_null(type_) else type_.value_type
        if inner is None or pa.types.is_null(inner) or (keeps and number_dtype(inner) != tensor.dtype):
            inner = number
        return pa.list_(inner, length)
    if pa.types.is_null(type_) or (keeps and number_dtype(type_) not in (None, tensor.dtype)):
        return number
    return type_
