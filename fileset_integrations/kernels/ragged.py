"""Lists of different lengths to one padded array, and how long each one was."""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.errors import ColumnError, NullValueError, SpecError

_BLOCK_VALUES = 2**16  # the rows that are written at a time have about so many places, and stay in the cache


def pad(
    column: pa.ChunkedArray,
    length: int,
    fill: bool | int | float,
    dtype: np.dtype[Any],
    truncate: Literal["left", "right"] = "right",
    null: bool | int | float | None = None,
    name: str = "",
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Lists of numbers, each from the row's first place on, and what follows filled up.

    `[1, 2, 3], null, [4]` with length 2 and fill 0: `[[1, 2], [0, 0], [4, 0]]` and lengths `[2, 0, 1]`; with
    truncate="left" the first row is `[2, 3]`.

    Args:
        column: Lists, large lists, fixed-size lists or list views of integers, floats or booleans.
        length: Places of a row, at least 1.
        fill: What fills the places after a list; a value of `dtype`.
        dtype: That of the result. Floats are rounded to it; integers that it cannot hold are an error.
        truncate: The side on which a list that is too long loses values.
        null: What stands for a null inside a list, a value of `dtype`; None makes such a null an error.
        name: The column's name, for the message of an error.

    Returns:
        The values, shape (rows, length), C-contiguous; and the number of values of each row, int64, shape (rows,),
        after truncation, which is 0 for empty lists and for null.

    Raises:
        ColumnError: The column is no list of numbers that `dtype` can hold.
        NullValueError: A list holds a null, and `null` is None.
        SpecError: `length`, `fill`, `null` or `truncate` make no sense.
    """
    dtype = np.dtype(dtype)
    _check(column.type, dtype, name)
    if length < 1:
        raise SpecError(f"length={length}: a padded row has at least one place.")
    if truncate not in ("left", "right"):
        raise SpecError(f"truncate={truncate!r}: lists lose values on the 'left' or on the 'right'.")
    filling = _held("fill", fill, dtype)
    values = np.empty((len(column), length), dtype)
    lengths = np.empty(len(column), np.int64)
    at = 0
    for chunk in column.chunks:
        rows = slice(at, at + len(chunk))
        at += len(chunk)
        lists = _lists(chunk)
        kept = np.minimum(lists.sizes, length)
        starts = lists.starts if truncate == "right" else lists.starts + (lists.sizes - kept)
        lengths[rows] = kept
        numbers, first = _numbers(chunk, lists, dtype, null, name)
        _put(values[rows], numbers, starts - first, kept, filling)
    return values, lengths


def inner_nulls(column: pa.ChunkedArray, name: str = "") -> int:
    """How many nulls the lists of a column hold; lists that are null themselves hold none.

    Raises:
        ColumnError: The column is no list.
    """
    if _item(column.type) is None:
        raise _no_list(column.type, name)
    return sum(_inner_nulls(chunk, _lists(chunk)) for chunk in column.chunks)


class _Lists(NamedTuple):
    starts: NDArray[np.int64]  # of each list's values in `chunk.values`
    sizes: NDArray[np.int64]  # 0 for null


def _item(type_: pa.DataType) -> pa.DataType | None:
    """The type of the values of a type of lists; None for types that are no lists."""
    kinds = (
        *(pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list),
        *(pa.types.is_list_view, pa.types.is_large_list_view),
    )
    return type_.value_type if any(kind(type_) for kind in kinds) else None


def _check(type_: pa.DataType, dtype: np.dtype[Any], name: str) -> None:
    item = _item(type_)
    if item is None:
        raise _no_list(type_, name)
    if not (pa.types.is_integer(item) or pa.types.is_floating(item) or pa.types.is_boolean(item)):
        raise ColumnError(
            f"Column {name!r} is {type_}, and lists of numbers can be padded. CAST({name} AS DOUBLE[]) in the query "
            "makes it one, where its values are numbers."
        )
    if dtype.kind not in "iufb":
        raise SpecError(f"dtype={dtype}: a padded tensor is one of numbers.")
    if (pa.types.is_floating(item) and dtype.kind != "f") or (dtype.kind == "b" and not pa.types.is_boolean(item)):
        raise ColumnError(
            f"Column {name!r} is {type_}, whose values {dtype} does not hold. Take dtype='float32', or CAST it in the "
            "query."
        )


def _no_list(type_: pa.DataType, name: str) -> ColumnError:
    return ColumnError(f"Column {name!r} is {type_}, which is no list: Ragged takes lists. Name the column as it is.")


def _held(argument: str, value: Any, dtype: np.dtype[Any]) -> Any:
    try:
        whole = int(value) if dtype.kind in "iu" and value == value // 1 else value
        held = np.asarray(whole, dtype)
    except (OverflowError, TypeError, ValueError) as error:
        raise SpecError(f"{argument}={value!r} is no value of {dtype}: {error}.") from error
    # Floats are rounded to the dtype, as the column's own values are.
    if dtype.kind != "f" and held != value:
        raise SpecError(f"{argument}={value!r} is no value of {dtype}.")
    return held


def _lists(chunk: pa.Array) -> _Lists:
    type_ = chunk.type
    if pa.types.is_fixed_size_list(type_):
        starts = np.arange(chunk.offset, chunk.offset + len(chunk), dtype=np.int64) * type_.list_size
        sizes = np.full(len(chunk), type_.list_size, np.int64)
    elif pa.types.is_list_view(type_) or pa.types.is_large_list_view(type_):
        starts = chunk.offsets.to_numpy().astype(np.int64)
        sizes = chunk.sizes.to_numpy().astype(np.int64)
    else:
        offsets = chunk.offsets.to_numpy().astype(np.int64)
        starts, sizes = offsets[:-1], np.diff(offsets)
    if chunk.null_count:
        # Null lists may have places of their own all the same.
        sizes[chunk.is_null().to_numpy(zero_copy_only=False)] = 0
    return _Lists(starts, sizes)


def _inner_nulls(chunk: pa.Array, lists: _Lists) -> int:
    if not chunk.values.null_count:
        return 0
    before = np.zeros(len(chunk.values) + 1, np.int64)
    np.cumsum(chunk.values.is_null().to_numpy(zero_copy_only=False), out=before[1:])
    some = lists.sizes > 0
    starts = lists.starts[some]
    return int((before[starts + lists.sizes[some]] - before[starts]).sum())


def _numbers(chunk: pa.Array, lists: _Lists, dtype: np.dtype[Any], null: Any, name: str) -> tuple[NDArray[Any], int]:
    """The values between a chunk's first and last list, in `dtype`, and the place of the first of them."""
    some = lists.sizes > 0
    if not some.any():
        return np.empty(0, dtype), 0
    first = int(lists.starts[some].min())
    last = int((lists.starts + lists.sizes)[some].max())
    items = chunk.values.slice(first, last - first)
    missing = None
    if items.null_count:
        found = _inner_nulls(chunk, lists) if null is None else 0
        if found:
            raise NullValueError(
                f"Column {name!r} ({chunk.type}) has lists that hold nulls, {found} in one part of it. Say what stands "
                f"for them with a fill value: nulls={{{name!r}: 0}}."
            )
        missing = items.is_null().to_numpy(zero_copy_only=False)
        items = items.fill_null(False if pa.types.is_boolean(items.type) else pa.scalar(0, items.type))
    held = items.to_numpy(zero_copy_only=False)
    numbers = held.astype(dtype, copy=False)
    narrower = dtype.kind in "iu" and held.dtype.kind in "iu" and not np.can_cast(held.dtype, dtype)
    # What lies between lists, under null ones for instance, is nobody's value: a second look leaves it out.
    if narrower and _beyond(held, dtype) and _beyond(held[_places(lists.starts - first, lists.sizes)], dtype):
        raise ColumnError(
            f"Column {name!r} ({chunk.type}) holds integers that {dtype} does not. Take "
            f"dtype={str(held.dtype)!r}, in which they are held."
        )
    if missing is not None and null is not None:
        numbers = numbers.copy()
        numbers[missing] = _held("null", null, dtype)
    return numbers, first


def _beyond(numbers: NDArray[Any], dtype: np.dtype[Any]) -> bool:
    limits = np.iinfo(dtype)
    return int(numbers.min()) < limits.min or int(numbers.max()) > limits.max


def _places(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the values of lists lie, one list after the other."""
    ends = np.cumsum(sizes)
    places: NDArray[np.int64] = np.repeat(starts - (ends - sizes), sizes) + np.arange(int(ends[-1]))
    return places


def _put(
    out: NDArray[Any], numbers: NDArray[Any], starts: NDArray[np.int64], sizes: NDArray[np.int64], fill: Any
) -> None:
    """Write `sizes` numbers from `starts` on into each row of `out`, and fill the rest."""
    length = out.shape[1]
    if len(sizes) and int(sizes.min()) == length and _one_after_the_other(starts, sizes):
        out[...] = numbers[starts[0] : starts[0] + out.size].reshape(out.shape)
        return
    places = np.arange(length)
    step = max(1, _BLOCK_VALUES // length)
    for row in range(0, len(out), step):
        rows, begin, size = out[row : row + step], starts[row : row + step], sizes[row : row + step]
        taken = places < size[:, None]
        if _one_after_the_other(begin, size):
            source = numbers[begin[0] : begin[0] + int(size.sum())]
        else:
            source = numbers[_places(begin, size)]
        rows[...] = fill
        rows[taken] = source


def _one_after_the_other(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> bool:
    return bool((starts[1:] == starts[:-1] + sizes[:-1]).all())
