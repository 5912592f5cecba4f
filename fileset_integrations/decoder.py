"""The way from a file's table to a block's arrays, for tensors whose columns and types are known."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fileset_integrations.errors import ColumnError
from fileset_integrations.nulls import Rule
from fileset_integrations.tensors import is_bytes, is_list, is_text, rows_with_nulls, whole

STRING_BYTES = 32  # what a string is guessed to take

Value = Any  # a block's column: numbers as a NumPy array, strings and bytes as an Arrow array
# Many of Arrow's functions take no views, and value_counts takes them wrongly (Arrow 26).
_WITHOUT_VIEWS = {pa.string_view(): pa.large_string(), pa.binary_view(): pa.large_binary()}


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """One tensor of a batch.

    Attributes:
        name: Its name in the batch.
        shape: Shape of one row; a batch has one more axis in front.
        dtype: Its dtype; `object` for strings and bytes, which come as lists.
        vocabulary_size: Where it holds codes: they lie in [0, vocabulary_size), special codes below 0 aside. None for
            what are no codes, or where a vocabulary is still to be learned.
    """

    name: str
    shape: tuple[int, ...]
    dtype: np.dtype[Any]
    vocabulary_size: int | None = None


def empty_arrays(tensors: Sequence[TensorSpec], rows: int) -> dict[str, NDArray[Any]]:
    """An array for so many rows of each tensor of numbers."""
    return {one.name: np.empty((rows, *one.shape), one.dtype) for one in tensors if one.dtype.kind != "O"}


def storage_type(type_: pa.DataType) -> pa.DataType:
    """The type that tensors are made of: no extension, no view, and no dictionary but that of strings."""
    if isinstance(type_, pa.BaseExtensionType):
        return storage_type(type_.storage_type)
    if pa.types.is_dictionary(type_) and not is_text(type_):
        return storage_type(type_.value_type)
    if pa.types.is_list_view(type_) or pa.types.is_large_list_view(type_):
        return pa.large_list(type_.value_type)
    return _WITHOUT_VIEWS.get(type_, type_)


def find_type(schema: pa.Schema, name: str) -> pa.DataType:
    """The type of a column, or of a field of a struct by its path, such as "address.city".

    Raises:
        ColumnError: There is none of that name, or two.
    """
    if name in schema.names:
        if schema.names.count(name) > 1:
            raise ColumnError(f"Two columns are named {name!r}. Give one an alias in the query.")
        return schema.field(name).type
    parent, _, child = name.rpartition(".")
    if parent:
        try:
            type_ = find_type(schema, parent)
        except ColumnError:
            type_ = None
        if type_ is not None and pa.types.is_struct(type_):
            fields = [field.name for field in type_]
            if fields.count(child) == 1:
                return type_.field(child).type
            raise ColumnError(
                f"There is no column {name!r}: {parent!r} is {type_}. Its fields: "
                f"{', '.join(f'{parent}.{field}' for field in fields)}."
            )
    raise _no_column(name, schema)


def check_columns(names: Iterable[str], schema: pa.Schema) -> None:
    """Refuse names that are no columns.

    Raises:
        ColumnError: Names the first one, and the columns that there are.
    """
    for name in names:
        if name not in schema.names:
            raise _no_column(name, schema)


def _no_column(name: str, schema: pa.Schema) -> ColumnError:
    return ColumnError(f"There is no column {name!r}. Columns: {', '.join(schema.names)}.")


def root_column(path: str, names: Collection[str]) -> str:
    """The column that a field of a struct is in, by its path; a column's own name may hold points too."""
    while path not in names and "." in path:
        path = path.rpartition(".")[0]
    return path


class Rows:
    """Columns of a table by name, in the types that tensors were bound to.

    Args:
        table: The rows. A struct may lack the fields that nobody asks for.
        types: Types of the columns, as `storage_type` gives them.
        nan_is_null: Columns of floats whose NaN count as nulls.
    """

    def __init__(self, table: pa.Table, types: Mapping[str, pa.DataType], nan_is_null: frozenset[str]) -> None:
        self.num_rows = table.num_rows
        self._table, self._types, self._nan_is_null = table, types, nan_is_null
        self._names = frozenset(table.column_names)
        self._made: dict[str, pa.ChunkedArray] = {}

    def __getitem__(self, name: str) -> pa.ChunkedArray:
        if name not in self._made:
            self._made[name] = self._as_bound(self.as_found(name), name)
        return self._made[name]

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def as_found(self, name: str) -> pa.ChunkedArray:
        """A column in its own type, which may be another than that of the training data."""
        column = self._find(name)
        if column is None:
            raise _no_column(name, self._table.schema)
        if isinstance(column.type, pa.BaseExtensionType):
            column = pa.chunked_array([chunk.storage for chunk in column.chunks], storage_type(column.type))
        stored = storage_type(column.type)
        if pa.types.is_list_view(column.type) or pa.types.is_large_list_view(column.type):
            return pa.chunked_array([_without_view(chunk) for chunk in column.chunks], stored)
        return column if column.type == stored else column.cast(stored)

    def _find(self, name: str) -> pa.ChunkedArray | None:
        if name in self._names:
            return self._table[name]
        parent, _, child = name.rpartition(".")
        column = self._find(parent) if parent else None
        if column is None or not pa.types.is_struct(column.type):
            return None
        fields = [field.name for field in column.type]
        # struct_field: a field of a null struct is null.
        return pc.struct_field(column, fields.index(child)) if child in fields else None

    def _as_bound(self, column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
        type_ = self._types[name]
        if pa.types.is_dictionary(type_):  # of strings, which come with or without one
            type_ = type_.value_type
        if column.type != type_ and not (is_text(column.type) and is_text(type_)):
            column = _cast(column, type_, name)
        if name in self._nan_is_null:
            column = pc.if_else(pc.is_nan(column), pa.scalar(None, column.type), column)
        return column


def _without_view(lists: pa.Array) -> pa.Array:
    # By hand: the cast of Arrow 26 makes lists of negative lengths.
    lengths = pc.list_value_length(lists).fill_null(0).to_numpy(zero_copy_only=False)
    offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
    return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), lists.flatten(), mask=lists.is_null())


def _cast(column: pa.ChunkedArray, type_: pa.DataType, name: str) -> pa.ChunkedArray:
    if like(column.type, type_):
        try:
            return column.cast(type_)
        except pa.ArrowException as error:
            raise unlike(name, column.type, type_) from error
    raise unlike(name, column.type, type_)


def unlike(name: str, found: pa.DataType, wanted: pa.DataType) -> ColumnError:
    """The error of a column that cannot have the type it had in the training data."""
    return ColumnError(
        f"Column {name!r} is {found}, the columns were fitted where it is {wanted}, and not every value is one of "
        f"those. Pass values of that type, CAST({name} AS ...) in the query, or fit the columns again."
    )


def like(found: pa.DataType, wanted: pa.DataType) -> bool:
    """Whether values of one type can become those of another without being read as something else."""
    found, wanted = storage_type(found), storage_type(wanted)
    if pa.types.is_null(found) or found == wanted:
        return True
    if is_list(found) and is_list(wanted):
        return like(found.value_type, wanted.value_type)
    kinds = (
        *(is_text, is_bytes, is_list, pa.types.is_boolean),
        *(pa.types.is_temporal, pa.types.is_struct, pa.types.is_map),
    )
    return [kind(found) for kind in kinds] == [kind(wanted) for kind in kinds] and (
        not pa.types.is_temporal(found) or _clock(found) == _clock(wanted)
    )


def _clock(type_: pa.DataType) -> str:
    if pa.types.is_timestamp(type_):
        return "instant" if type_.tz else "local"
    return "date" if pa.types.is_date(type_) else "time" if pa.types.is_time(type_) else str(type_.id)


class Bound(ABC):
    """Tensors of one spec, bound to columns whose types are known.

    Attributes:
        tensors: The tensors that it gives.
        columns: The columns that it reads.
        dictionaries: Those of them that it takes as dictionaries.
        empty_is_null: Whether an empty list is a null to it: there is no tensor of it.
    """

    tensors: tuple[TensorSpec, ...]
    columns: tuple[str, ...]
    dictionaries: tuple[str, ...] = ()
    empty_is_null: bool = True

    @abstractmethod
    def put(self, rows: Rows, out: Mapping[str, NDArray[Any]]) -> None:
        """Write its tensors of all rows into arrays, by tensor, each C-contiguous of shape (rows, ...)."""

    def null_rows(self, rows: Rows, column: str) -> NDArray[np.bool_]:
        """Which rows its null policy of one of its columns is about, shape (rows,)."""
        return rows_with_nulls(rows[column], self.empty_is_null)


class BoundValues(Bound):
    """Strings or bytes that stay in Arrow."""

    def __init__(self, name: str, column: str) -> None:
        self.tensors = (TensorSpec(name, (), np.dtype(object)),)
        self.columns = (column,)

    def put(self, rows: Rows, out: Mapping[str, NDArray[Any]]) -> None:
        """Write nothing: `values` gives them."""

    def values(self, rows: Rows) -> pa.Array:
        """The values of all rows."""
        return whole(rows[self.columns[0]])


class Decoder:
    """The way from a file's table to a block's arrays, checked against a schema.

    Args:
        schema: Schema of the files.
        bounds: What gives the tensors.
        types: Type of each column that is used, as tensors are made of it.
        rules: What becomes of the nulls of each.
        nan_is_null: Columns of floats whose NaN count as nulls.

    Attributes:
        columns: Columns to read, fields of structs by their path, in the schema's order.
        dictionaries: Those of them to read as dictionaries.
        tensors: What a batch consists of.
        no_nulls: Columns whose nulls are an error.
        dropping: Columns whose nulls drop the row.
        nan_is_null: Columns of floats whose NaN count as nulls.
        row_bytes: Bytes that a decoded row takes, strings guessed.
    """

    def __init__(
        self,
        schema: pa.Schema,
        bounds: Sequence[Bound],
        types: Mapping[str, pa.DataType],
        rules: Mapping[str, Rule],
        nan_is_null: frozenset[str] = frozenset(),
    ) -> None:
        self._bounds, self._types, self.nan_is_null = tuple(bounds), dict(types), nan_is_null
        used = dict.fromkeys(name for bound in bounds for name in bound.columns)
        places = {name: place for place, name in enumerate(schema.names)}
        self.columns = sorted(used, key=lambda name: places.get(root_column(name, places), len(places)))
        plain = {name for bound in bounds for name in bound.columns if name not in bound.dictionaries}
        texts = {name for bound in bounds for name in bound.dictionaries}
        self.dictionaries = [name for name in self.columns if name in texts - plain and name in places]
        self.tensors = tuple(tensor for bound in bounds for tensor in bound.tensors)
        self.no_nulls = [name for name in self.columns if rules[name].kind == "error"]
        self.dropping = [name for name in self.columns if rules[name].kind == "drop"]
        self.row_bytes = sum(
            STRING_BYTES if tensor.dtype.kind == "O" else math.prod(tensor.shape) * tensor.dtype.itemsize
            for tensor in self.tensors
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
        rows = Rows(table, self._types, self.nan_is_null)
        decoded: dict[str, Value] = {}
        for bound in self._bounds:
            if isinstance(bound, BoundValues):
                decoded[bound.tensors[0].name] = bound.values(rows)
            else:
                bound.put(rows, new)
                decoded |= {tensor.name: new[tensor.name] for tensor in bound.tensors}
        return decoded

    def null_rows(self, table: pa.Table, column: str) -> NDArray[np.bool_]:
        """Which rows of a table the null policy of a column is about, shape (rows,)."""
        rows = Rows(table, self._types, self.nan_is_null)
        found = np.zeros(table.num_rows, np.bool_)
        for bound in self._bounds:
            if column in bound.columns:
                found |= bound.null_rows(rows, column)
        return found

    def empty_is_null(self, column: str) -> bool:
        """Whether an empty list counts as a null of a column."""
        return any(bound.empty_is_null for bound in self._bounds if column in bound.columns)

    @property
    def dropped(self) -> list[str]:
        """The columns whose nulls drop the row, each with what else counts as a null there or does not."""
        nan = dict.fromkeys(self.nan_is_null, " or NaN")
        return [
            name + nan.get(name, "") + ("" if self.empty_is_null(name) else ", empty lists kept")
            for name in self.dropping
        ]

    def kept_rows(self, table: pa.Table) -> NDArray[np.bool_]:
        """Which rows of a table the "drop" policy keeps, shape (rows,); columns without nulls may be left out of it."""
        rows = Rows(table, self._types, self.nan_is_null)
        kept = np.ones(table.num_rows, np.bool_)
        for name in self.dropping:
            if name in rows:
                kept &= ~self.null_rows(table, name)
        return kept
