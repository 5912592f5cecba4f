"""Lists of unequal lengths as padded tensors: of numbers (`Ragged`), of tokens (`Tokens`)."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from itertools import chain
from typing import Any, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fileset_integrations.column_specs.base import (
    Binding,
    Spec,
    check_choice,
    check_column,
    check_dtype,
    check_whole,
    lengths_name,
    mask_name,
    spec,
)
from fileset_integrations.decoder import Bound, Rows, TensorSpec
from fileset_integrations.errors import ColumnError
from fileset_integrations.kernels.ragged import inner_nulls, pad
from fileset_integrations.tensors import (
    fill_scalar,
    is_text,
    list_levels,
    nulls_found,
    numbers,
    plain_dtype,
)

Side = Literal["left", "right"]
Beside = Literal["lengths", "mask"]
Tokenizer = Callable[[list[str]], Sequence[Sequence[int]]]


class _Padded(Spec):
    """What both specs of this module share; their fields have the same names."""

    __slots__ = ()

    column: str
    length: int
    padding: Any
    truncate: Side
    beside: Beside

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.column,)

    def _check(self) -> None:
        check_column(self, self.column)
        check_whole(self, "length", self.length, 1)
        check_choice(self, "truncate", self.truncate, ("left", "right"))
        check_choice(self, "beside", self.beside, ("lengths", "mask"))


@spec("ragged")
@dataclass(frozen=True, slots=True)
class Ragged(_Padded):
    """A column of lists of numbers, of unequal lengths, as one tensor padded behind; shape (batch, length).

    Beside it stands "<name>_lengths", int64, shape (batch,): values of each row that are there; or "<name>_mask", bool,
    shape (batch, length): True where one is. Of a list that is too long, the rest is cut off.

    A null list and a null in a list follow the column's null policy. A fill value stands in for nulls in lists; a null
    list is an empty one then. "mask" asks for the mask, where nulls in lists are False too.

    Attributes:
        column: Name of the column.
        length: Values of a row of the tensor.
        padding: Value behind those that are there.
        truncate: Side on which what is too long is cut: "right" keeps the first values, "left" the last.
        beside: "lengths" or "mask".
        dtype: NumPy name of the tensor's dtype; None: that of the values.
    """

    column: str
    length: int
    padding: bool | int | float = 0
    truncate: Side = "right"
    beside: Beside = "lengths"
    dtype: str | None = None

    def __post_init__(self) -> None:
        self._check()
        if isinstance(self.padding, bool | int | float) is False:
            raise ColumnError(f"Ragged({self.column!r}, padding={self.padding!r}): pass a number.")
        if self.dtype is not None:
            object.__setattr__(self, "dtype", check_dtype(self, self.dtype))

    def bind(self, binding: Binding) -> Bound:
        column, type_ = self.column, binding.type(self.column)
        lengths, leaf = list_levels(type_)
        number = plain_dtype(leaf)
        if not lengths:
            raise ColumnError(
                f"Ragged({column!r}): the column is {binding.types[column]}, no list. Name it alone if it is a number; "
                f"Tokens({column!r}, ...) makes lists of text."
            )
        if len(lengths) > 1 or number is None:
            raise ColumnError(
                f"Ragged({column!r}): the column is {binding.types[column]}; lists of numbers are padded. "
                + (
                    f"Say the shape of nested ones, Stack({column!r}, shape=(...)), or flatten() them in the query."
                    if number is not None
                    else "CAST their values to numbers in the query."
                )
            )
        dtype = number if self.dtype is None else np.dtype(self.dtype)
        if dtype.kind != "f" and not np.can_cast(number, dtype, "safe"):
            raise ColumnError(
                f"Ragged({column!r}, dtype={dtype.name!r}): the column is {binding.types[column]}, and {dtype.name} "
                "lacks some of its values. Leave dtype out, or ask for 'float32'."
            )
        rule = binding.rule(column, "fill", "mask")
        if rule.kind == "fill":
            fill_scalar(rule.fill, leaf, column)
        return BoundLists(binding, self, dtype, None)


@spec("tokens")
@dataclass(frozen=True, slots=True)
class Tokens(_Padded):
    """Lists of integers, or text through a tokenizer of yours, as padded token ids: int64, shape (batch, length).

    Beside it stands "<name>_mask", bool, shape (batch, length): True where a token is; or "<name>_lengths". Nulls as in
    `Ragged`; a text's fill value is a text.

    Attributes:
        column: Name of the column.
        length: Tokens of a row of the tensor.
        tokenizer: Where a function from a list of texts to a list of lists of integers is found: "package.module:name",
            with dots in the name for an attribute. It is called for the texts of a block of rows at a time, on several
            threads, and in serving: the same text must always give the same tokens. None: the column holds integers.
        vocabulary_size: Tokens lie in [0, vocabulary_size), for `input_spec`; others are an error then. None: unknown.
        padding: Token behind those that are there.
        truncate: Side on which what is too long is cut: "right" keeps the first tokens, "left" the last.
        beside: "mask" or "lengths".
    """

    column: str
    length: int
    tokenizer: str | None = None
    vocabulary_size: int | None = None
    padding: int = 0
    truncate: Side = "right"
    beside: Beside = "mask"

    def __post_init__(self) -> None:
        self._check()
        check_whole(self, "padding", self.padding, -(2**63))
        if self.vocabulary_size is not None:
            check_whole(self, "vocabulary_size", self.vocabulary_size, 1)
        if self.tokenizer is not None and not (isinstance(self.tokenizer, str) and self.tokenizer.count(":") == 1):
            raise ColumnError(
                f"Tokens({self.column!r}, tokenizer={self.tokenizer!r}): pass where to import it from, as in "
                "'package.module:function'."
            )

    def bind(self, binding: Binding) -> Bound:
        column, type_ = self.column, binding.type(self.column)
        rule = binding.rule(column, "fill", "mask")
        lengths, leaf = list_levels(type_)
        if is_text(type_):
            if self.tokenizer is None:
                raise ColumnError(
                    f"Tokens({column!r}): the column is {binding.types[column]}. Say what makes tokens of it: "
                    f"Tokens({column!r}, ..., tokenizer='package.module:function')."
                )
            if rule.kind == "fill":
                fill_scalar(rule.fill, type_, column)
            return BoundLists(binding, self, np.dtype(np.int64), find(self.tokenizer, column))
        if len(lengths) != 1 or not pa.types.is_integer(leaf) or pa.types.is_uint64(leaf):
            if not lengths or self.tokenizer is not None:
                instead = f"CAST({column} AS VARCHAR) in the query makes text of it"
            else:
                instead = f"Ragged({column!r}, ...) pads lists of other numbers"
            raise ColumnError(
                f"Tokens({column!r}): the column is {binding.types[column]}; text and lists of integers are tokens. "
                f"{instead}."
            )
        if self.tokenizer is not None:
            raise ColumnError(
                f"Tokens({column!r}, tokenizer={self.tokenizer!r}): the column is {binding.types[column]}, whose lists "
                "are tokens already. Leave the tokenizer out."
            )
        if rule.kind == "fill":
            fill_scalar(rule.fill, leaf, column)
        return BoundLists(binding, self, np.dtype(np.int64), None)


def find(tokenizer: str, column: str) -> Tokenizer:
    """The function under an import path.

    Raises:
        ColumnError: There is none.
    """
    module, _, name = tokenizer.partition(":")
    try:
        found = functools.reduce(getattr, name.split("."), import_module(module))
    except (ImportError, AttributeError, ValueError) as error:
        raise ColumnError(
            f"Tokens({column!r}, tokenizer={tokenizer!r}): cannot be imported ({error}). Pass "
            "'package.module:function' of an installed package, or of a module in PYTHONPATH."
        ) from error
    if not callable(found):
        raise ColumnError(
            f"Tokens({column!r}, tokenizer={tokenizer!r}) is {type(found).__name__}, no function. Pass one that takes "
            "a list of texts."
        )
    return found


class BoundLists(Bound):
    """A column of lists, or of texts that become lists, as a padded tensor and its lengths or mask."""

    empty_is_null = False

    def __init__(
        self, binding: Binding, padded: Ragged | Tokens, dtype: np.dtype[Any], tokenizer: Tokenizer | None
    ) -> None:
        self._spec, self._tokenizer, self._rule = padded, tokenizer, binding.rules[padded.column]
        self._codes = padded.vocabulary_size if isinstance(padded, Tokens) else None
        self.columns = (padded.column,)
        try:
            self._padding = np.array([padded.padding]).astype(dtype)[0]
            fits = bool(self._padding == padded.padding or padded.padding != padded.padding)
        except (OverflowError, ValueError):
            fits = False
        if not fits:
            raise ColumnError(
                f"{type(padded).__name__}({padded.column!r}, padding={padded.padding!r}): the tensor is {dtype.name}, "
                "which lacks that value. Pass another, or another dtype."
            )
        values = TensorSpec(binding.name, (padded.length,), dtype, self._codes)
        masked = padded.beside == "mask" or self._rule.kind == "mask"
        mask = TensorSpec(mask_name(binding.name), (padded.length,), np.dtype(np.bool_))
        lengths = TensorSpec(lengths_name(binding.name), (), np.dtype(np.int64))
        self._mask = mask.name if masked else None
        self._lengths = lengths.name if padded.beside == "lengths" else None
        self.tensors = (values, *((lengths,) if self._lengths else ()), *((mask,) if self._mask else ()))

    def put(self, rows: Rows, out: Mapping[str, NDArray[Any]]) -> None:
        name, padded = self.columns[0], self._spec
        column = rows[name]
        if self._rule.kind in ("error", "drop") and self.null_rows(rows, name).any():
            raise nulls_found(name, column.type)
        if self._tokenizer is not None:
            column = self._tokens(column)
        if self._codes is not None:
            self._check_codes(column)
        target, null = out[self.tensors[0].name], self._padding
        if self._rule.kind == "fill" and self._tokenizer is None:
            null = self._rule.fill
        values, lengths = pad(
            _as_numbers(column, name), padded.length, self._padding, target.dtype, padded.truncate, null
        )
        target[...] = values
        if self._lengths is not None:
            out[self._lengths][...] = lengths
        if self._mask is not None:
            mask = out[self._mask]
            if self._rule.kind == "mask" and inner_nulls(column, name):
                there = _each_list(column, lambda values: values.is_valid())
                mask[...] = pad(there, padded.length, False, np.dtype(np.bool_), padded.truncate)[0]
            else:
                np.less(np.arange(padded.length), lengths[:, None], out=mask)

    def _tokens(self, column: pa.ChunkedArray) -> pa.ChunkedArray:
        assert self._tokenizer is not None
        name = self.columns[0]
        if self._rule.kind == "fill":
            column = column.cast(pa.large_string()).fill_null(str(self._rule.fill))
        texts = column.to_pylist()
        present = [text for text in texts if text is not None]
        made = list(self._tokenizer(present)) if present else []
        if len(made) != len(present):
            raise ColumnError(
                f"Tokens({name!r}): the tokenizer was given {len(present)} texts and returned {len(made)} lists. It "
                "must return one list of integers for each text, in their order."
            )
        try:
            lengths = iter([len(tokens) for tokens in made])
            flat = np.array(list(chain.from_iterable(made)))
            if len(flat) and (flat.dtype.kind not in "iu" or flat.ndim != 1):
                raise TypeError("no integers")
            offsets = np.cumsum([0, *(0 if text is None else next(lengths) for text in texts)], dtype=np.int64)
            lists = pa.LargeListArray.from_arrays(pa.array(offsets), pa.array(flat.astype(np.int64)))
            return pa.chunked_array([lists])
        except (TypeError, ValueError, pa.ArrowException) as error:
            raise ColumnError(
                f"Tokens({name!r}): the tokenizer returned something else than a list of integers for each text."
            ) from error

    def _check_codes(self, column: pa.ChunkedArray) -> None:
        for chunk in column.chunks:
            extremes = pc.min_max(chunk.flatten()).as_py()
            if extremes["max"] is not None and not 0 <= extremes["min"] <= extremes["max"] < (self._codes or 0):
                raise ColumnError(
                    f"Tokens({self.columns[0]!r}, vocabulary_size={self._codes}): the column holds tokens outside "
                    f"[0, {self._codes}). Pass a larger size, or None."
                )


def _as_numbers(column: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Lists of decimals, dates or times as lists of the numbers that they become."""
    leaf = column.type.value_type
    if not (pa.types.is_decimal(leaf) or pa.types.is_temporal(leaf)):
        return column

    def convert(values: pa.Array) -> pa.Array:
        nulls = values.is_null().to_numpy(zero_copy_only=False)
        return pa.array(numbers(pa.chunked_array([values]), name, 0), mask=nulls)

    return _each_list(column, convert)


def _each_list(column: pa.ChunkedArray, convert: Callable[[pa.Array], pa.Array]) -> pa.ChunkedArray:
    """Lists of the same lengths, null ones empty, whose values are converted all at once."""
    made = []
    for chunk in column.chunks:
        lengths = pc.list_value_length(chunk).fill_null(0).to_numpy(zero_copy_only=False)
        offsets = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        made.append(pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), convert(chunk.flatten())))
    return pa.chunked_array(made, None if made else pa.large_list(convert(pa.array([], column.type.value_type)).type))
