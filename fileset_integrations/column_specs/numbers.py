"""Columns of numbers, and lists of equally many numbers, as tensors: a column's name, and `Stack`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.column_specs.base import (
    Binding,
    Learned,
    Learner,
    Spec,
    check_column,
    check_dtype,
    no_tensor,
    spec,
)
from fileset_integrations.column_specs.learning import Describe
from fileset_integrations.decoder import Bound, Rows, TensorSpec
from fileset_integrations.errors import ColumnError
from fileset_integrations.kernels.statistics import Statistics
from fileset_integrations.nulls import Rule
from fileset_integrations.tensors import (
    fill_scalar,
    interleave,
    is_list,
    list_levels,
    lists,
    nulls_found,
    number_dtype,
    numbers,
    plain_dtype,
    rows_with_nulls,
)


@spec("column")
@dataclass(frozen=True, slots=True)
class Column(Spec):
    """A column by its name: its own dtype, shape (batch,); a fixed-size list has the shape of its lists.

    Attributes:
        column: Name of the column.
    """

    column: str

    def __post_init__(self) -> None:
        check_column(self, self.column)

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.column,)

    def to_json(self) -> Any:
        return self.column

    def learners(self, binding: Binding) -> dict[str, Learner]:
        return mean_learners(binding)

    def learn(self, binding: Binding, found: Mapping[str, Any]) -> Learned:
        return learned_means(binding, found)

    def bind(self, binding: Binding) -> Bound:
        column, type_ = self.column, binding.type(self.column)
        dtype = plain_dtype(type_)
        if dtype is not None:
            return bind_numbers(binding, (column,), (), dtype)
        lengths, leaf = list_levels(type_)
        dtype = plain_dtype(leaf)
        if not lengths or dtype is None:
            raise no_tensor(column, binding.types[column])
        if min(lengths) < 0:
            padded = f"pad them: Ragged({column!r}, length=...)" if len(lengths) == 1 else "flatten() them in the query"
            raise ColumnError(
                f"Column {column!r} is {binding.types[column]}, whose lists may differ in length. Say their shape: "
                f"Stack({column!r}, shape=(...)); or {padded}; or leave it out."
            )
        return BoundLists(binding, column, lengths, dtype, lengths)


@spec("stack")
@dataclass(frozen=True, slots=True)
class Stack(Spec):
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
        object.__setattr__(self, "columns", names)
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "dtype", check_dtype(self, dtype))

    @property
    def sources(self) -> tuple[str, ...]:
        return self.columns

    def learners(self, binding: Binding) -> dict[str, Learner]:
        return mean_learners(binding)

    def learn(self, binding: Binding, found: Mapping[str, Any]) -> Learned:
        return learned_means(binding, found)

    def bind(self, binding: Binding) -> Bound:
        dtype = np.dtype(self.dtype)
        first = binding.type(self.columns[0])
        one_list = len(self.columns) == 1 and is_list(first)
        for column in self.columns:
            type_ = binding.type(column)
            number = number_dtype(list_levels(type_)[1] if one_list else type_)
            if number is None:
                raise no_tensor(column, binding.types[column])
            if dtype.kind != "f" and not np.can_cast(number, dtype, "safe"):
                raise ColumnError(
                    f"Stack of column {column!r} ({binding.types[column]}) cannot have dtype {dtype.name}, which lacks "
                    f"some of its values. Ask for dtype='float32', or CAST({column} AS ...) in the query."
                )
        if one_list:
            return self._bind_list(binding, first, dtype)
        shape = (len(self.columns),) if self.shape is None else self.shape
        if len(self.columns) == 1 and math.prod(shape) != 1:
            raise ColumnError(
                f"Stack({self.columns[0]!r}, shape={shape}): the column is {first}, one number a row. "
                "Leave the shape out, or name a list column."
            )
        return bind_numbers(binding, self.columns, shape, dtype)

    def _bind_list(self, binding: Binding, type_: pa.DataType, dtype: np.dtype[Any]) -> Bound:
        column, (lengths, _) = self.columns[0], list_levels(type_)
        if self.shape is None and min(lengths) < 0:
            raise ColumnError(
                f"Stack({column!r}): the column is {type_}, whose lists may differ in length. Say their shape, "
                f"such as Stack({column!r}, shape=(8, 8)); Ragged({column!r}, length=...) pads lists of numbers."
            )
        shape = lengths if self.shape is None else self.shape
        depth = len(lengths)
        # The outer lists are the outer axes; what is left of the shape is one run of values in the innermost list.
        wanted = (*shape[: depth - 1], math.prod(shape[depth - 1 :]))
        if len(shape) < depth or any(length not in (-1, size) for length, size in zip(lengths, wanted, strict=True)):
            known = math.prod(lengths) if min(lengths) >= 0 else type_
            raise ColumnError(
                f"Stack({column!r}, shape={shape}) holds {math.prod(shape)} values, the column's lists {known} "
                f"({type_}). Ask for a shape that begins with the lengths of the outer lists, or leave it out."
            )
        return BoundLists(binding, column, shape, dtype, wanted)


def bind_numbers(binding: Binding, columns: tuple[str, ...], shape: tuple[int, ...], dtype: np.dtype[Any]) -> Bound:
    """Columns of numbers as one tensor, with a mask beside it where one of them asks for it."""
    rules = []
    for column in columns:
        rule = binding.rule(column, "fill", "mean", "mask", "keep")
        if rule.kind == "fill":
            fill_scalar(rule.fill, binding.type(column), column)
        if rule.kind == "mean":
            check_mean(binding, column, dtype)
        rules.append(rule)
    tensor = TensorSpec(binding.name, shape, dtype)
    means = (binding.learned or {}).get("means", {})
    return BoundNumbers(tensor, columns, tuple(rules), means, binding.mask(rules, shape))


def check_mean(binding: Binding, column: str, dtype: np.dtype[Any]) -> None:
    """Refuse a mean of what is no number, or in a tensor that does not hold it."""
    type_ = binding.type(column)
    if number_dtype(type_) is None:
        raise ColumnError(
            f"nulls={{{column!r}: 'mean'}}: the column is {binding.types[column]}, which has no mean. Pass 'drop', "
            "'mask' or a value."
        )
    if dtype.kind != "f":
        raise ColumnError(
            f"nulls={{{column!r}: 'mean'}}: the column is {binding.types[column]}, and {dtype.name} does not hold its "
            f"mean. Ask for floats, Stack({column!r}, shape=(), dtype='float64'), or pass 'drop' or a value."
        )


def mean_learners(binding: Binding) -> dict[str, Learner]:
    """Statistics of the columns whose nulls become their mean."""
    return {column: Describe(column) for column, rule in binding.rules.items() if rule.kind == "mean"}


def learned_means(binding: Binding, found: Mapping[str, Statistics]) -> Learned:
    """Their means, of the values that are neither null nor NaN."""
    means = {}
    for column, statistics in found.items():
        mean = float(statistics.mean)
        if not math.isfinite(mean):
            raise ColumnError(
                f"nulls={{{column!r}: 'mean'}}: the training data's column ({binding.types[column]}) has no mean: it "
                "holds infinities, or no value at all. Pass 'drop' or a value, or leave the column out."
            )
        means[column] = mean
    return {"means": means} if means else {}


class BoundNumbers(Bound):
    """Columns of numbers in one tensor."""

    def __init__(
        self,
        tensor: TensorSpec,
        columns: tuple[str, ...],
        rules: tuple[Rule, ...],
        means: Mapping[str, float],
        mask: TensorSpec | None,
    ) -> None:
        self.tensors = (tensor,) if mask is None else (tensor, mask)
        self.columns = columns
        self._rules, self._means = rules, dict(means)
        self._masked = mask is not None

    def put(self, rows: Rows, out: Mapping[str, NDArray[Any]]) -> None:
        size = len(self.columns)
        flat = out[self.tensors[0].name].reshape(rows.num_rows, size)
        columns = [
            numbers(rows[name], name, 0 if rule.kind in ("mean", "mask") else rule.fill, rule.kind == "keep")
            for name, rule in zip(self.columns, self._rules, strict=True)
        ]
        interleave(flat, columns)
        mask = out[self.tensors[1].name].reshape(rows.num_rows, size) if self._masked else None
        if mask is not None:
            mask[...] = True
        for place, (name, rule) in enumerate(zip(self.columns, self._rules, strict=True)):
            if rule.kind in ("mean", "mask") and rows[name].null_count:
                nulls = rows_with_nulls(rows[name])
                if rule.kind == "mean":
                    flat[nulls, place] = self._means[name]
                elif mask is not None:
                    mask[nulls, place] = False


class BoundLists(Bound):
    """A column of lists of equally many numbers in one tensor."""

    def __init__(
        self, binding: Binding, column: str, shape: tuple[int, ...], dtype: np.dtype[Any], lengths: tuple[int, ...]
    ) -> None:
        self._rule = rule = binding.rule(column, "fill", "mask")
        if rule.kind == "fill":
            fill_scalar(rule.fill, list_levels(binding.type(column))[1], column)
        mask = binding.mask([rule], shape)
        tensor = TensorSpec(binding.name, shape, dtype)
        self.tensors = (tensor,) if mask is None else (tensor, mask)
        self.columns = (column,)
        self._lengths = lengths

    def put(self, rows: Rows, out: Mapping[str, NDArray[Any]]) -> None:
        name = self.columns[0]
        flat = out[self.tensors[0].name].reshape(rows.num_rows, math.prod(self._lengths))
        values, nulls = lists(rows[name], self._lengths, name)
        flat[...] = values
        if self._rule.kind == "mask":
            out[self.tensors[1].name].reshape(flat.shape)[...] = True if nulls is None else ~nulls
        elif nulls is not None and nulls.any():
            if self._rule.kind != "fill":
                raise nulls_found(name, rows[name].type)
            flat[nulls] = self._rule.fill
