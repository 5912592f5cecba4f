"""Hashes of values: XXH64 as published, and the buckets that they fall into."""

import uuid
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fileset_integrations.errors import ColumnError, NullValueError, SpecError
from fileset_integrations.kernels.hashing import buckets, hash_values

MOST = 2**64 - 1
SEEDS = st.sampled_from([0, 1, 0x9E3779B1, MOST])
PRIMES = 0x9E3779B185EBCA87, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x85EBCA77C2B2AE63, 0x27D4EB2F165667C5


def xxh64(data: bytes, seed: int = 0) -> int:
    """XXH64 as its specification reads, byte string by byte string."""
    p1, p2, p3, p4, p5 = PRIMES

    def rotate(number: int, bits: int) -> int:
        return (number << bits | number >> (64 - bits)) & MOST

    def mix(total: int, lane: int) -> int:
        return rotate((total + lane * p2) & MOST, 31) * p1 & MOST

    def word(at: int, size: int) -> int:
        return int.from_bytes(data[at : at + size], "little")

    at = 0
    if len(data) < 32:
        total = seed + p5
    else:
        sums = [(seed + start) & MOST for start in (p1 + p2, p2, 0, -p1)]
        while at + 32 <= len(data):
            sums = [mix(sum_, word(at + 8 * place, 8)) for place, sum_ in enumerate(sums)]
            at += 32
        total = sum(map(rotate, sums, (1, 7, 12, 18)))
        for sum_ in sums:
            total = (total & MOST ^ mix(0, sum_)) * p1 + p4
    total = (total + len(data)) & MOST
    while at + 8 <= len(data):
        total = rotate(total ^ mix(0, word(at, 8)), 27) * p1 + p4 & MOST
        at += 8
    if at + 4 <= len(data):
        total = rotate(total ^ word(at, 4) * p1 & MOST, 23) * p2 + p3 & MOST
        at += 4
    for byte in data[at:]:
        total = rotate(total ^ byte * p5 & MOST, 11) * p1 & MOST
    total = (total ^ total >> 33) * p2 & MOST
    total = (total ^ total >> 29) * p3 & MOST
    return total ^ total >> 32


def hashes(values, type_=None, seed=0) -> list[int]:
    return hash_values(pa.array(values, type_), seed).tolist()


def test_hashes_are_the_published_ones():
    # The buffer and the sums of xxHash's own sanity check (tests/sanity_test.c, tests/sanity_test_vectors.h).
    buffer, state = bytearray(), 2654435761
    for _ in range(222):
        buffer.append(state >> 56)
        state = state * 11400714785074694797 & MOST
    published = {
        (0, 0): 0xEF46DB3751D8E999,
        (0, 2654435761): 0xAC75FDA2929B17EF,
        (1, 0): 0xE934A84ADB052768,
        (1, 2654435761): 0x5014607643A9B4C3,
        (4, 0): 0x9136A0DCA57457EE,
        (14, 0): 0x8282DCC4994E35C8,
        (14, 2654435761): 0xC3BD6BF63DEB6DF0,
        (222, 0): 0xB641AE8CB691C174,
        (222, 2654435761): 0x20CB8AB7AE10C14A,
    }

    for (length, seed), known in published.items():
        assert hashes([bytes(buffer[:length])], pa.binary(), seed) == [known]
        assert xxh64(bytes(buffer[:length]), seed) == known
    assert hashes(["", "a", "abc"]) == [0xEF46DB3751D8E999, 0xD24EC4F1A98C6E5B, 0x44BC2CF5AD770999]


@given(values=st.lists(st.binary(max_size=140), max_size=12), seed=SEEDS)
def test_bytes_of_any_length_have_the_hash_of_the_specification(values, seed):
    assert hashes(values, pa.binary(), seed) == [xxh64(value, seed) for value in values]


def test_every_length_has_the_hash_of_the_specification():
    data = np.random.default_rng(3).integers(0, 256, 5_000, dtype=np.uint8).tobytes()
    values = [data[length : 2 * length] for length in (*range(140), 255, 256, 1_000, 2_400)]

    assert hashes(values, pa.large_binary(), 7) == [xxh64(value, 7) for value in values]


@given(values=st.lists(st.none() | st.text(max_size=40), max_size=12), seed=SEEDS)
def test_equal_strings_have_equal_hashes_in_every_string_type(values, seed):
    known = [0 if value is None else xxh64(value.encode(), seed) for value in values]

    for type_ in (pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int16(), pa.string())):
        assert hashes(values, type_, seed) == known
    encoded = [None if value is None else value.encode() for value in values]
    for type_ in (pa.binary(), pa.large_binary(), pa.binary_view()):
        assert hashes(encoded, type_, seed) == known


INTEGERS = {
    **{getattr(pa, f"int{bits}")(): (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) for bits in (8, 16, 32, 64)},
    **{getattr(pa, f"uint{bits}")(): (0, 2**bits - 1) for bits in (8, 16, 32, 64)},
    **{pa.decimal128(digits, 0): (1 - 10**digits, 10**digits - 1) for digits in (3, 19, 38)},
    pa.decimal256(76, 0): (1 - 10**76, 10**76 - 1),
    pa.dictionary(pa.int8(), pa.int32()): (-(2**31), 2**31 - 1),
}


@given(number=st.integers(-200, 200) | st.integers(-(2**65), 2**65) | st.integers(1 - 10**76, 10**76 - 1), seed=SEEDS)
def test_equal_integers_have_equal_hashes_in_every_type_that_holds_them(number, seed):
    size = next(size for size in (8, 16, 32) if -(2 ** (8 * size - 1)) <= number < 2 ** (8 * size - 1))
    known = xxh64(number.to_bytes(size, "little", signed=True), seed)

    found = {
        type_: hashes([None, number, 1], type_, seed)
        for type_, (least, most) in INTEGERS.items()
        if least <= number <= most
    }

    assert {str(type_): values[:2] for type_, values in found.items()} == {str(type_): [0, known] for type_ in found}
    assert len({values[2] for values in found.values()}) == 1


def test_what_is_held_otherwise_has_the_hash_of_its_value():
    one = xxh64((1).to_bytes(8, "little"))
    key = uuid.UUID(int=5)

    assert hashes([True, False, None]) == [one, xxh64(bytes(8)), 0]
    assert hashes([Decimal(100)], pa.decimal128(3, -2)) == [xxh64((100).to_bytes(8, "little"))]
    assert hashes([b"abc", None], pa.binary(3)) == [xxh64(b"abc"), 0]
    assert hashes([key.bytes], pa.uuid()) == [xxh64(key.bytes)]
    assert hashes([None], pa.null()) == [0]


@pytest.mark.parametrize(
    "array",
    [
        pa.array(["", "ab", None, "c" * 40, "déjà", "🙂", "x"]),
        pa.array(["", "ab", None, "c" * 40, "déjà", "🙂", "x"], pa.string_view()),
        pa.array(["a", "b", None, "a", "b", "a", "c"]).dictionary_encode(),
        pa.array([b"1234", b"abcd", None, b"....", b"\0\0\0\0", b"1234", b"zzzz"], pa.binary(4)),
        pa.array([1, -1, None, 300, 5, 6, 7], pa.int16()),
        pa.array([1, 2**64 - 1, None, 300, 5, 6, 7], pa.uint64()),
        pa.array([1, -1, None, 10**30, 5, 6, 7], pa.decimal128(38, 0)),
        pa.array([True, False, None, True, True, False, False]),
    ],
    ids=lambda array: str(array.type),
)
def test_chunks_and_slices_change_no_hash(array):
    known = hash_values(array).tolist()

    for start in range(len(array)):
        for stop in range(start, len(array) + 1):
            assert hash_values(array.slice(start, stop - start)).tolist() == known[start:stop]
    chunks = pa.chunked_array([array[:1], array[1:1], array[1:4], array[4:]])
    assert buckets(chunks, 5).tolist() == buckets(pa.chunked_array([array]), 5).tolist()


def test_many_rows_have_the_hash_of_each():
    values = [str(number) * (number % 11) for number in range(2**14 + 3)]

    assert hashes(values) == [xxh64(value.encode()) for value in values]


@given(
    values=st.lists(st.none() | st.sampled_from(["", "a", "b", "null", "0"]) | st.text(max_size=3), max_size=20),
    num_buckets=st.integers(2, 50),
    seed=SEEDS,
    data=st.data(),
)
def test_nulls_have_a_bucket_to_themselves(values, num_buckets, seed, data):
    of_null = data.draw(st.integers(0, num_buckets - 1))
    others = [bucket for bucket in range(num_buckets) if bucket != of_null]

    found = buckets(pa.chunked_array([pa.array(values, pa.string())]), num_buckets, seed, of_null)

    assert found.dtype == np.int64
    assert found.tolist() == [
        of_null if value is None else others[xxh64(value.encode(), seed) % (num_buckets - 1)] for value in values
    ]


def test_without_a_bucket_for_nulls_values_have_all_and_nulls_are_refused():
    column = pa.chunked_array([["a", "b"], ["c"]])

    assert buckets(column, 7, null_bucket=None).tolist() == [xxh64(value) % 7 for value in (b"a", b"b", b"c")]
    assert buckets(pa.chunked_array([], pa.string()), 7).tolist() == []
    with pytest.raises(NullValueError, match=r"'word' \(string\) holds nulls.*null_bucket=0"):
        buckets(pa.chunked_array([["a", None]]), 7, null_bucket=None, name="word")


def test_values_spread_evenly():
    found = buckets(pa.chunked_array([pa.array(range(100_000))]), 101)

    counts = np.bincount(found, minlength=101)
    assert counts[0] == 0
    # 1,000 in each by expectation, with a standard deviation of 31.5.
    assert abs(counts[1:] - 1_000).max() < 5 * 31.5


@pytest.mark.parametrize(
    "type_", [pa.float64(), pa.date32(), pa.decimal128(5, 2), pa.list_(pa.int8()), pa.decimal256(76, -1)], ids=str
)
def test_what_has_no_one_form_in_bytes_is_refused_by_name_and_type(type_):
    for column in (pa.chunked_array([], type_), pa.chunked_array([pa.array([None], type_)])):
        with pytest.raises(ColumnError, match=r"'word' is .*CAST\(word AS VARCHAR\)"):
            buckets(column, 5, name="word")


def test_arguments_that_make_no_sense_are_refused():
    column = pa.chunked_array([["a"]])

    with pytest.raises(SpecError, match="num_buckets=1 leaves no bucket"):
        buckets(column, 1)
    with pytest.raises(SpecError, match="num_buckets=0 leaves no bucket"):
        buckets(column, 0, null_bucket=None)
    with pytest.raises(SpecError, match="null_bucket=5"):
        buckets(column, 5, null_bucket=5)
    for seed in (-1, 2**64):
        with pytest.raises(SpecError, match=f"seed={seed}"):
            buckets(column, 5, seed)
