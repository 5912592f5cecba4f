"""The way from a file's table to a block's arrays, for tensors whose columns and types are known."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.tensors import Fill, codes, interleave, is_text, numbers, put_lists, rows_with_nulls, whole

STRING_BYTES = 32  # what a string is guessed to take

Value = Any  # a block's column: numbers as a NumPy array, strings and bytes as an Arrow array


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a batch.

    Attributes:
        name: Its name in the batch.
        shape: Shape of one row; a batch has one more axis in front.
        dtype: Its dtype; `object` for strings and bytes, which come as lists.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]


@dataclass(frozen=True, slots=True)
class BoundTensor:
    """One tensor of a batch, bound to columns whose types are known."""

    spec: TensorSpec
    columns: tuple[str, ...]
    kind: Literal["numbers", "lists", "codes", "values"]  # values: strings and bytes, which stay in Arrow

    @property
    def size(self) -> int:
        return math.prod(self.spec.shape)


def empty_arrays(tensors: Sequence[TensorSpec], rows: int) -> dict[str, NDArray[Any]]:
    """An array for so many rows of each tensor of numbers."""
    return {one.name: np.empty((rows, *one.shape), one.dtype) for one in tensors if one.dtype.kind != "O"}


def _holds_nulls(tensor: BoundTensor) -> bool:
    """Whether nulls have a form in the tensor: NaN in floats, None in lists of strings."""
    return tensor.kind == "values" or (tensor.kind == "numbers" and tensor.spec.dtype.kind == "f")


class Decoder:
    """The way from a file's table to a block's arrays, checked against a schema.

    Attributes:
        columns: Columns to read, in the schema's order.
        dictionaries: Those of them to read as dictionaries.
        tensors: What a batch consists of.
        no_nulls: Columns whose nulls are an error.
        dropping: Columns whose nulls drop the row.
        row_bytes: Bytes that a decoded row takes, strings guessed.
    """

    def __init__(
        self,
        schema: pa.Schema,
        tensors: Sequence[BoundTensor],
        policies: Mapping[str, Fill],
        vocabularies: Mapping[str, pa.Array],
        nan_for_null: bool,
    ) -> None:
        self._tensors, self._policies, self._vocabularies = tuple(tensors), dict(policies), dict(vocabularies)
        self._nan_for_null = nan_for_null
        used = {name for tensor in tensors for name in tensor.columns}
        self.columns = [name for name in schema.names if name in used]
        texts = {name for tensor in tensors if tensor.kind == "codes" for name in tensor.columns}
        self.dictionaries = [name for name in self.columns if name in texts and is_text(schema.field(name).type)]
        self.tensors = tuple(tensor.spec for tensor in tensors)
        self.no_nulls = [name for name in self.columns if self._policies.get(name) == "error"]
        if nan_for_null:
            self.no_nulls = [tensor.columns[0] for tensor in tensors if not _holds_nulls(tensor)]
        self.dropping = [name for name in self.columns if self._policies.get(name) == "drop"]
        self.row_bytes = sum(
            STRING_BYTES if tensor.kind == "values" else tensor.size * tensor.spec.dtype.itemsize for tensor in tensors
        )

    def decode(self, table: pa.Table, out: Mapping[str, NDArray[Any]] | None = None) -> dict[str, Value]:
        """Arrays of all rows of a table: C-contiguous and writable.

        Args:
            table: The rows.
            out: Arrays to write numbers into, by tensor, each C-contiguous of shape (rows, ...); None: new ones.

        Raises:
            NullValueError: Nulls where the policy is "error".
            ColumnError: Values that have no tensor as asked for.
        """
        new = empty_arrays(self.tensors, table.num_rows) if out is None else out
        for tensor in self._tensors:
            if tensor.kind != "values":
                self._put(tensor, table, new[tensor.spec.name])
        return {
            tensor.spec.name: whole(table[tensor.columns[0]]) if tensor.kind == "values" else new[tensor.spec.name]
            for tensor in self._tensors
        }

    def _put(self, tensor: BoundTensor, table: pa.Table, out: NDArray[Any]) -> None:
        name = tensor.columns[0]
        if tensor.kind == "codes":
            out[...] = codes(table[name], self._vocabularies[name], self._fill(name))
            return
        flat = out.reshape(table.num_rows, tensor.size)
        if tensor.kind == "lists":
            put_lists(flat, table[name], name, self._fill(name))
        else:
            nan_for_null = self._nan_for_null and out.dtype.kind == "f"
            interleave(flat, [numbers(table[name], name, self._fill(name), nan_for_null) for name in tensor.columns])

    def _fill(self, column: str) -> Fill:
        policy = self._policies.get(column)
        return None if policy in ("error", "drop") else policy

    def kept_rows(self, table: pa.Table) -> NDArray[np.bool_]:
        """Which rows of a table the "drop" policy keeps, shape (rows,); columns without nulls may be left out of it."""
        kept = np.ones(table.num_rows, np.bool_)
        for name in self.dropping:
            if name in table.column_names:
                kept &= ~rows_with_nulls(table[name])
        return kept
