"""Files of decoded blocks: what is packed is read back to the bit, and a file that is anything else is told."""

from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fileset_integrations.block_files import BlockFileError, BlockFormat
from fileset_integrations.decoder import TensorSpec, empty_arrays
from tests.support import count

SPECS = (
    TensorSpec("x", (3,), np.dtype(np.float32)),
    TensorSpec("id", (), np.dtype(np.int64)),
    TensorSpec("flag", (), np.dtype(np.bool_)),
    TensorSpec("pixels", (2, 2), np.dtype(np.uint8)),
    TensorSpec("name", (), np.dtype(object)),
)
IDENTITY = [3, 100, 7, 5]


def some_values(specs, rows):
    draws = np.random.default_rng(rows)
    values = {
        name: draws.integers(0, 2, array.shape).astype(array.dtype) for name, array in empty_arrays(specs, rows).items()
    }
    values |= {one.name: pa.array([f"ä{row}" for row in range(rows)]) for one in specs if one.dtype.kind == "O"}
    return {one.name: values[one.name] for one in specs}


def packed(specs, rows, identity=IDENTITY):
    return b"".join(BlockFormat(specs).pack(identity, some_values(specs, rows)))


def plain(values):
    return {
        name: (value.type if isinstance(value, pa.Array) else value.dtype, value.tolist())
        for name, value in values.items()
    }


@given(chosen=st.lists(st.sampled_from(SPECS), unique=True), rows=st.integers(0, 40), verify=st.booleans())
def test_what_is_packed_is_read_and_viewed_to_the_bit(tmp_path_factory, chosen, rows, verify):
    format_, path = BlockFormat(chosen), tmp_path_factory.mktemp("blocks") / "block"
    data = packed(chosen, rows)
    path.write_bytes(data)
    out = empty_arrays(chosen, rows)

    with path.open("rb") as file:
        read = format_.read(file, IDENTITY, out, verify)
    viewed = format_.view(pa.py_buffer(data), IDENTITY, rows, verify)

    assert plain(read) == plain(viewed) == plain(some_values(chosen, rows))
    assert all(read[name] is array for name, array in out.items())
    assert not any(value.flags.writeable for value in viewed.values() if isinstance(value, np.ndarray))
    if not any(one.dtype.kind == "O" for one in chosen):
        assert format_.num_bytes(np.array([rows, 0])).tolist()[0] == len(data)


@pytest.mark.parametrize("at", [*range(0, 4), 10, 100, -70, -65, -200, -300])
def test_a_bit_that_flipped_is_told_wherever_it_is(tmp_path, at):
    data = bytearray(packed(SPECS, 5))
    whole = BlockFormat(SPECS).view(pa.py_buffer(bytes(data)), IDENTITY, 5, verify=True)
    data[at] ^= 1
    (tmp_path / "block").write_bytes(data)

    try:
        found = BlockFormat(SPECS).view(pa.py_buffer(bytes(data)), IDENTITY, 5, verify=True)
    except BlockFileError:
        with (tmp_path / "block").open("rb") as file, pytest.raises(BlockFileError):
            BlockFormat(SPECS).read(file, IDENTITY, empty_arrays(SPECS, 5), verify=True)
    else:
        assert plain(found) == plain(whole)  # it was padding, which nobody reads


def test_a_file_of_any_other_length_is_told_without_a_look_at_its_rows(tmp_path):
    data = packed(SPECS, 5)

    stops = {*range(0, len(data), count(11, 1)), len(data) - 64, len(data) - 1}
    for other in (*(data[:stop] for stop in stops), data + b"\0"):
        with pytest.raises(BlockFileError):
            BlockFormat(SPECS).view(pa.py_buffer(other), IDENTITY, 5, verify=False)
        (tmp_path / "block").write_bytes(other)
        with (tmp_path / "block").open("rb") as file, pytest.raises(BlockFileError):
            BlockFormat(SPECS).read(file, IDENTITY, empty_arrays(SPECS, 5), verify=False)


@pytest.mark.parametrize(
    "other",
    [
        packed(SPECS, 5, [3, 100, 7, 6]),
        packed((*SPECS[:-1], TensorSpec("nome", (), np.dtype(object))), 5),
        packed((TensorSpec("x", (3,), np.dtype(np.int32)), *SPECS[1:]), 5),
        packed(SPECS[:-1], 5),
        bytes(4000),
    ],
    ids=["another block", "another name", "another type", "fewer tensors", "zeros"],
)
def test_another_block_is_told(other):
    with pytest.raises(BlockFileError):
        BlockFormat(SPECS).view(pa.py_buffer(other), IDENTITY, 5, verify=False)


def test_a_file_that_is_cut_off_while_it_is_read_is_told(tmp_path, monkeypatch):
    data = packed(SPECS, 5)
    (tmp_path / "block").write_bytes(data[:-400])
    with (tmp_path / "block").open("rb") as file:
        before = SimpleNamespace(st_size=len(data))
        monkeypatch.setattr("os.fstat", lambda descriptor: before)

        with pytest.raises(BlockFileError, match="cut off"):
            BlockFormat(SPECS).read(file, IDENTITY, empty_arrays(SPECS, 5), verify=False)
