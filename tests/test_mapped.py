"""Blocks on disk: what damage, a full disk, a limit and other readers do to them. Never wrong rows."""

import re
from pathlib import Path

import pytest

from fileset_integrations import FileSet, FileSetReader
from fileset_integrations.errors import FileSetCorruptError, FileSetLocationError, SpecError
from fileset_integrations.storage.lru import LruFiles
from tests.support import count
from tests.support.data import ids, numbered
from tests.support.disks import disk_of

FILE_ROWS = [30, 0, 12, 25, 30, 5]
ORDER = {"batch_size": 6, "shuffle": True, "streams": 2, "drop_last_batch": False, "seed": 4}


@pytest.fixture
def fs(tmp_path):
    return numbered(tmp_path / "data", FILE_ROWS)


@pytest.fixture
def decoded(monkeypatch):
    """The files that were decoded, by index."""
    files, iter_file = [], FileSet.iter_file

    def noted(self, file, *args, **kwargs):
        files.append(file)
        return iter_file(self, file, *args, **kwargs)

    monkeypatch.setattr(FileSet, "iter_file", noted)
    return files


def a_reader(fs, tmp_path, **options) -> FileSetReader:
    return FileSetReader(fs, **{**ORDER, "blocks": "disk", "cache_dir": tmp_path / "cache", **options})


def in_order(reader) -> list[list[int]]:
    return ids(reader.iter_batches(1))


def by_index(reader) -> list[list[int]]:
    return ids(reader.batch(index, 1) for index in reversed(range(len(reader))))[::-1]


WAYS = [in_order, by_index]


def block_paths(tmp_path) -> dict[int, Path]:
    """The file of each block."""
    return {int(path.name.split("-")[1]): path for path in (tmp_path / "cache" / "files").glob("??/*-*")}


def least_bytes(fs, tmp_path) -> int:
    """The least `cache_bytes` that do, as the error says them."""
    with pytest.raises(SpecError) as raised:
        a_reader(fs, tmp_path, cache_bytes=1)
    return int(re.search(r"take (\d+) bytes", str(raised.value))[1])


# --- damage ----------------------------------------------------------------------------------------------------------


def flipped(place):
    def flip(path):
        data = bytearray(path.read_bytes())
        data[int(place * (len(data) - 1))] ^= 0x10
        path.write_bytes(data)

    return flip


DAMAGE = {
    "nothing left": lambda path: path.write_bytes(b""),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-70]),
    "longer": lambda path: path.write_bytes(path.read_bytes() + bytes(64)),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "another block's": lambda path: path.write_bytes(max(path.parent.parent.glob("??/*-0")).read_bytes()),
    "gone": Path.unlink,
    **{f"altered at {place}": flipped(place) for place in (0, 0.05, 0.3, 0.6, 0.9)},
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_block_is_made_again_and_never_gives_wrong_rows(fs, tmp_path, decoded, damage, way):
    expected = way(a_reader(fs, tmp_path, blocks="stream"))
    assert way(a_reader(fs, tmp_path)) == expected
    decoded.clear()

    DAMAGE[damage](block_paths(tmp_path)[3])

    for _ in range(2):
        assert way(a_reader(fs, tmp_path)) == expected
    assert decoded == [3]


@pytest.mark.parametrize("way", WAYS)
def test_a_byte_altered_anywhere_never_gives_wrong_rows(fs, tmp_path, way):
    expected = way(a_reader(fs, tmp_path))
    path = block_paths(tmp_path)[5]
    size = path.stat().st_size

    for at in range(0, size, count(29, 1)):
        data = bytearray(path.read_bytes())
        data[at] ^= 0xFF
        path.write_bytes(data)

        assert way(a_reader(fs, tmp_path)) == expected


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_does_not_keep_what_is_written_is_an_error_after_one_more_try(fs, tmp_path, way, monkeypatch):
    add = LruFiles.add

    def unsound(self, name, num_bytes, write):
        file = add(self, name, num_bytes, write)
        flipped(0.1)(Path(file.name))
        return file

    monkeypatch.setattr(LruFiles, "add", unsound)
    reader = a_reader(fs, tmp_path)

    with pytest.raises(FileSetCorruptError, match=r"cache/files: .* twice.*cache_dir="):
        for _ in range(3):  # while a block is made, its rows are at hand
            assert sorted(row for batch in way(reader) for row in batch) == list(range(sum(FILE_ROWS)))


# --- the limit -------------------------------------------------------------------------------------------------------


def test_blocks_of_other_snapshots_make_room_within_the_limit(tmp_path):
    first, second = (numbered(tmp_path / name, [rows] * 8) for name, rows in (("first", 40), ("second", 41)))
    limit = least_bytes(second, tmp_path) * 5 // 4
    blocks = LruFiles(tmp_path / "cache" / "files")

    for fs in (first, second, second, first):
        reader = a_reader(fs, tmp_path, cache_bytes=limit)
        for epoch in range(2):
            assert sorted(row for batch in ids(reader.iter_batches(epoch)) for row in batch) == list(range(fs.num_rows))
            assert sum(entry.num_bytes for entry in blocks.entries()) <= limit

    assert all(entry.complete for entry in blocks.entries())


@pytest.mark.parametrize("way", WAYS)
def test_a_reader_whose_blocks_had_to_go_makes_them_again(tmp_path, way, decoded):
    first, second = (numbered(tmp_path / name, [rows] * 8) for name, rows in (("first", 40), ("second", 41)))
    limit = least_bytes(second, tmp_path)
    one, two = (a_reader(fs, tmp_path, cache_bytes=limit) for fs in (first, second))
    expected = [way(a_reader(fs, tmp_path, blocks="stream")) for fs in (first, second)]
    decoded.clear()

    seen = [(way(one), way(two)) for _ in range(3)]

    assert seen == [tuple(expected)] * 3
    assert len(decoded) >= 16  # each block at least once


def test_two_readers_that_take_turns_within_too_small_a_limit_both_get_their_rows(tmp_path):
    first, second = (numbered(tmp_path / name, [rows] * 8) for name, rows in (("first", 40), ("second", 41)))
    limit = least_bytes(second, tmp_path)
    readers = [a_reader(fs, tmp_path, cache_bytes=limit) for fs in (first, second)]
    expected = [in_order(a_reader(fs, tmp_path, blocks="stream")) for fs in (first, second)]

    pairs = list(zip(*(reader.iter_batches(1) for reader in readers), strict=False))

    for seen, wanted in zip(zip(*pairs, strict=True), expected, strict=True):
        assert ids(seen) == wanted[: len(pairs)]


def test_a_limit_below_what_is_there_is_kept_from_the_start(tmp_path):
    first, second = (numbered(tmp_path / name, rows) for name, rows in (("first", [400] * 8), ("second", [10])))
    in_order(a_reader(first, tmp_path))
    limit = least_bytes(second, tmp_path)

    a_reader(second, tmp_path, cache_bytes=limit)

    assert sum(entry.num_bytes for entry in LruFiles(tmp_path / "cache" / "files").entries()) <= limit


# --- a full disk -----------------------------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of 256 KiB."""
    with disk_of("256k", tmp_path / "disk") as folder:
        yield folder


@pytest.mark.parametrize("way", WAYS)
def test_a_disk_that_fills_up_is_a_clear_error_that_leaves_nothing_half_written(tmp_path, small_disk, way):
    fs = numbered(tmp_path / "data", [400] * 6)  # some 25 KB each
    expected = way(a_reader(fs, tmp_path, blocks="stream"))
    reader = a_reader(fs, tmp_path, cache_dir=small_disk)
    filler = small_disk / "filler"
    with pytest.raises(OSError, match="No space left"), filler.open("wb", buffering=0) as file:
        while file.write(bytes(4096)):
            pass

    for _ in range(2):
        with pytest.raises(FileSetLocationError, match=r"the disk is full; \d+ bytes more .* cache_dir="):
            way(reader)
    assert [entry for entry in LruFiles(small_disk / "files").entries() if not entry.complete] == []

    filler.unlink()
    assert way(reader) == expected


def test_a_disk_that_is_too_small_is_refused_before_anything_is_written(tmp_path, small_disk):
    fs = numbered(tmp_path / "data", [400] * 20)

    with pytest.raises(FileSetLocationError, match=r"take \d+ bytes, \d+ are free.*cache_dir=.*'stream'"):
        a_reader(fs, tmp_path, cache_dir=small_disk)
