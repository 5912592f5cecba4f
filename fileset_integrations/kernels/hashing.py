"""Stable hashes of values, and the buckets they fall into: XXH64, over a whole Arrow array at once.

The hash is that of the xxHash specification (Y. Collet, "xxHash fast digest algorithm", XXH64), of these bytes:

| values | bytes |
|---|---|
| strings of all string types | UTF-8, as they are: nothing is normalised |
| byte strings, of fixed size or not; UUIDs | as they are |
| integers of all widths, booleans, decimals of scale 0 or less | two's complement, lowest byte first: 8, 16 or 32 |
| a dictionary of any of these | those of the value |

So equal values of like types have equal hashes in every file, on every platform and in every release, and anybody's
XXH64 finds the same.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.errors import ColumnError, NullValueError, SpecError

_PRIME_1 = 0x9E3779B185EBCA87
_PRIME_2 = 0xC2B2AE3D27D4EB4F
_PRIME_3 = 0x165667B19E3779F9
_PRIME_4 = 0x85EBCA77C2B2AE63
_PRIME_5 = 0x27D4EB2F165667C5
_BITS = 2**64 - 1
_STRIPE = 32  # bytes that the four accumulators take at a time
_LANE = 8
_MOST_DIGITS = 76  # of the widest decimal that Arrow has
_BLOCK_ROWS = 2**14  # the dozen arrays of a block stay in the processor's cache

_Hashes = NDArray[np.uint64]


def hash_values(values: pa.Array, seed: int = 0, name: str = "") -> _Hashes:
    """XXH64 of each value, shape (rows,), uint64; what a null gets is 0, which says nothing.

    Args:
        values: Strings, byte strings, integers, booleans, decimals without digits after the point, or a dictionary.
        seed: In [0, 2**64): other seeds give independent hashes.
        name: The column's name, for the message of an error.

    Raises:
        ColumnError: The type is another.
        SpecError: The seed is no such integer.
    """
    if not 0 <= seed <= _BITS:
        raise SpecError(f"seed={seed}: a hash takes a seed in [0, 2**64).")
    _check(values.type, name)
    if isinstance(values.type, pa.BaseExtensionType):
        values = values.storage
    if pa.types.is_dictionary(values.type):
        of_value = np.append(hash_values(values.dictionary, seed, name), np.uint64(0))
        places = values.indices.fill_null(len(values.dictionary)) if values.indices.null_count else values.indices
        found: _Hashes = of_value[places.to_numpy()]
        return found
    data, starts, lengths = _bytes(values)
    present = values.is_valid().to_numpy(zero_copy_only=False) if values.null_count else None
    if present is not None:
        lengths = np.where(present, lengths, 0)
    hashes = np.empty(len(values), np.uint64)
    for start in range(0, len(values), _BLOCK_ROWS):
        rows = slice(start, start + _BLOCK_ROWS)
        hashes[rows] = _xxh64(data, starts[rows], lengths[rows], seed)
    if present is not None:
        hashes[~present] = 0
    return hashes


def buckets(
    values: pa.ChunkedArray, num_buckets: int, seed: int = 0, null_bucket: int | None = 0, name: str = ""
) -> NDArray[np.int64]:
    """The bucket of each value, shape (rows,), int64, in [0, num_buckets).

    `null_bucket` is for nulls alone: a value falls into place `hash % (num_buckets - 1)` of the others. Where it is
    None, nulls are an error and values fall into bucket `hash % num_buckets`.

    Args:
        values: As `hash_values` takes them.
        num_buckets: How many buckets there are, that of nulls among them.
        seed: As `hash_values` takes it.
        null_bucket: The bucket of nulls, or None.
        name: The column's name, for the message of an error.

    Raises:
        ColumnError: The type has no hash.
        NullValueError: There are nulls, and no bucket for them.
        SpecError: There is no bucket for values, `null_bucket` is none of them, or the seed is no such integer.
    """
    for_values = num_buckets - (null_bucket is not None)
    if for_values < 1:
        raise SpecError(
            f"num_buckets={num_buckets} leaves no bucket for values. Take more: collisions halve as they double."
        )
    if null_bucket is not None and not 0 <= null_bucket < num_buckets:
        raise SpecError(f"null_bucket={null_bucket} must lie in [0, num_buckets={num_buckets}), or be None.")
    if null_bucket is None and values.null_count:
        raise NullValueError(
            f"Column {name!r} ({values.type}) holds nulls, and no bucket is theirs. Name one with null_bucket=0, or "
            f"leave such rows out with nulls={{{name!r}: 'drop'}}."
        )
    _check(values.type, name)
    out = np.empty(len(values), np.int64)
    at = 0
    for chunk in values.chunks:
        rows = out[at : at + len(chunk)]
        at += len(chunk)
        rows[...] = hash_values(chunk, seed, name) % np.uint64(for_values)
        if null_bucket is not None:
            rows += rows >= null_bucket
            if chunk.null_count:
                rows[chunk.is_null().to_numpy(zero_copy_only=False)] = null_bucket
    return out


def _check(type_: pa.DataType, name: str) -> None:
    held = type_
    if isinstance(held, pa.BaseExtensionType):
        held = held.storage_type
    if pa.types.is_dictionary(held):
        held = held.value_type
    kinds = (
        *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_boolean),
        *(pa.types.is_binary, pa.types.is_large_binary, pa.types.is_binary_view, pa.types.is_fixed_size_binary),
        *(pa.types.is_integer, pa.types.is_null),
    )
    whole = pa.types.is_decimal(held) and held.scale <= 0 and held.precision - held.scale <= _MOST_DIGITS
    if not whole and not any(kind(held) for kind in kinds):
        raise ColumnError(
            f"Column {name!r} is {type_}, whose values have no one form in bytes to hash. CAST({name} AS VARCHAR) or "
            f"CAST({name} AS BIGINT) in the query gives them one."
        )


def _bytes(values: pa.Array) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.int64]]:
    """The bytes to hash: one buffer, where in it each value starts, and how many bytes it has."""
    type_ = values.type
    if pa.types.is_string_view(type_) or pa.types.is_binary_view(type_):
        values = values.cast(pa.large_string() if pa.types.is_string_view(type_) else pa.large_binary())
        type_ = values.type
    if pa.types.is_null(type_):
        return np.empty(0, np.uint8), np.zeros(len(values), np.int64), np.zeros(len(values), np.int64)
    if pa.types.is_fixed_size_binary(type_) and not pa.types.is_decimal(type_):
        starts = np.arange(values.offset, values.offset + len(values), dtype=np.int64) * type_.byte_width
        return _buffer(values, 1), starts, np.full(len(values), type_.byte_width, np.int64)
    if pa.types.is_boolean(type_) or pa.types.is_integer(type_) or pa.types.is_decimal(type_):
        words = _words(values)
        data = np.ascontiguousarray(words, "<i8").reshape(-1).view(np.uint8)
        return data, np.arange(len(words), dtype=np.int64) * (_LANE * words.shape[1]), _needed(words)
    # What is left has offsets.
    large = pa.types.is_large_string(type_) or pa.types.is_large_binary(type_)
    held = np.frombuffer(values.buffers()[1] or b"", np.int64 if large else np.int32)
    offsets: NDArray[np.int64] = held[values.offset : values.offset + len(values) + 1].astype(np.int64, copy=False)
    return _buffer(values, 2), offsets[:-1], np.diff(offsets)


def _buffer(values: pa.Array, place: int) -> NDArray[np.uint8]:
    return np.frombuffer(values.buffers()[place] or b"", np.uint8)


def _words(values: pa.Array) -> NDArray[np.int64]:
    """Integers in words of 64 bits, shape (rows, words), the lowest first; what stands for nulls does not matter."""
    type_ = values.type
    if pa.types.is_decimal(type_):
        # As many words as any number of the type needs; and digits that a negative scale leaves out.
        wide = pa.decimal256(_MOST_DIGITS, 0) if type_.precision - type_.scale > 38 else pa.decimal128(38, 0)
        values = values.cast(wide)
        words = np.frombuffer(values.buffers()[1], np.int64).reshape(-1, wide.bit_width // 64)
        words = words[values.offset : values.offset + len(values)]
        return words if sys.byteorder == "little" else words[:, ::-1]
    if pa.types.is_uint64(type_):
        low = np.frombuffer(values.buffers()[1] or b"", np.int64)[values.offset : values.offset + len(values)]
        return np.stack([low, np.zeros_like(low)], axis=1) if (low < 0).any() else low.reshape(-1, 1)
    values = values.cast(pa.int64())
    numbers = np.frombuffer(values.buffers()[1] or b"", np.int64)[values.offset : values.offset + len(values)]
    return numbers.reshape(-1, 1)


def _needed(words: NDArray[np.int64]) -> NDArray[np.int64]:
    """Bytes that each integer needs: 8, 16 or 32."""
    needed = np.full(len(words), _LANE, np.int64)
    have = 1
    while have < words.shape[1]:
        sign = words[:, have - 1] >> 63
        beyond = (words[:, have:] != sign[:, None]).any(axis=1)
        have *= 2
        needed[beyond] = _LANE * have
    return needed


def _xxh64(data: NDArray[np.uint8], starts: NDArray[np.int64], lengths: NDArray[np.int64], seed: int) -> _Hashes:
    # Words of 8 and 4 bytes at any place, as views of the bytes.
    lanes: NDArray[Any] = np.ndarray(max(0, len(data) - 7), "<u8", data, strides=(1,))
    halves: NDArray[Any] = np.ndarray(max(0, len(data) - 3), "<u4", data, strides=(1,))
    hashes = np.full(len(starts), (seed + _PRIME_5) & _BITS, np.uint64)
    stripes = lengths // _STRIPE
    if stripes.any():
        long = np.flatnonzero(stripes)
        hashes[long] = _of_stripes(lanes, starts[long], stripes[long], seed)
    hashes += lengths.astype(np.uint64)
    left = lengths % _STRIPE
    at = starts + (lengths - left)
    for lane in range(_STRIPE // _LANE - 1):
        some = _where(left >= _LANE * (lane + 1))
        if some is None:
            break
        mixed = hashes[some] ^ _round(0, lanes[at[some] + _LANE * lane])
        hashes[some] = _rotate(mixed, 27) * _PRIME_1 + _PRIME_4
    if (some := _where(left & 4 != 0)) is not None:
        mixed = hashes[some] ^ (halves[at[some] + (left[some] & ~7)].astype(np.uint64) * _PRIME_1)
        hashes[some] = _rotate(mixed, 23) * _PRIME_2 + _PRIME_3
    for byte in range(3):
        if (some := _where(left & 3 > byte)) is None:
            break
        mixed = hashes[some] ^ (data[at[some] + (left[some] & ~3) + byte].astype(np.uint64) * _PRIME_5)
        hashes[some] = _rotate(mixed, 11) * _PRIME_1
    hashes ^= hashes >> 33
    hashes *= _PRIME_2
    hashes ^= hashes >> 29
    hashes *= _PRIME_3
    hashes ^= hashes >> 32
    return hashes


def _where(chosen: NDArray[np.bool_]) -> slice | NDArray[np.intp] | None:
    """The chosen places; all as a slice, which copies nothing; None without any."""
    places = np.flatnonzero(chosen)
    if len(places) == len(chosen):
        return slice(None) if len(places) else None
    return places if len(places) else None


def _of_stripes(lanes: NDArray[Any], starts: NDArray[np.int64], stripes: NDArray[np.int64], seed: int) -> _Hashes:
    """What the accumulators come to for values of 32 bytes and more, of which each has so many whole stripes."""
    beginnings = (seed + _PRIME_1 + _PRIME_2, seed + _PRIME_2, seed, seed - _PRIME_1)
    sums = [np.full(len(starts), beginning & _BITS, np.uint64) for beginning in beginnings]
    for stripe in range(int(stripes.max())):
        some = _where(stripes > stripe)
        at = starts[some] + _STRIPE * stripe
        for place, sum_ in enumerate(sums):
            sum_[some] = _round(sum_[some], lanes[at + _LANE * place])
    hashes = np.zeros(len(starts), np.uint64)
    for sum_, bits in zip(sums, (1, 7, 12, 18), strict=True):
        hashes += _rotate(sum_, bits)
    for sum_ in sums:
        hashes ^= _round(0, sum_)
        hashes = hashes * _PRIME_1 + _PRIME_4
    return hashes


def _round(sum_: int | _Hashes, lane: _Hashes) -> _Hashes:
    mixed: _Hashes = _rotate(sum_ + lane * _PRIME_2, 31) * _PRIME_1
    return mixed


def _rotate(number: _Hashes, bits: int) -> _Hashes:
    return (number << np.uint64(bits)) | (number >> np.uint64(64 - bits))
