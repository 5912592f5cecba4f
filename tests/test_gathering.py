"""Memory for gathered batches is used again, and never while somebody holds an array on it."""

import gc

import numpy as np

from fileset_integrations.gathering import Room
from fileset_integrations.reader import FileSetReader
from tests.support.data import numbered


def test_room_is_used_again_once_nobody_holds_an_array_on_it():
    room = Room(spares=2)
    array = room.empty((4, 3), np.dtype(np.float32))
    memory, view = array.ctypes.data, array[1:]

    del array
    gc.collect()
    other = room.empty((4, 3), np.dtype(np.float32))
    del view
    gc.collect()
    again = room.empty((12,), np.dtype(np.int16))

    assert other.ctypes.data != memory
    assert again.ctypes.data == memory
    assert again.flags.writeable and again.flags.c_contiguous


def test_room_that_is_too_small_is_not_used_again():
    room = Room(spares=2)
    room.empty((2,), np.dtype(np.int64))[:] = 1

    large = room.empty((1000,), np.dtype(np.int64))
    large[:] = 7

    assert large.shape == (1000,) and large.sum() == 7000


def test_batches_that_are_kept_are_never_written_over(tmp_path):
    reader = FileSetReader(numbered(tmp_path, [3000] * 3), batch_size=8, shuffle=True, blocks="stream")

    kept = list(reader.iter_batches())

    assert sorted(row for batch in kept for row in batch["id"].tolist()) == list(range(9000))
