"""What is learned of a snapshot once: kept in the cache directory, never beside the data."""

import stat

import numpy as np
import pyarrow as pa
import pytest

from fileset_integrations import Columns, FileSet, FileSetReader
from fileset_integrations.columns import Category
from fileset_integrations.errors import FileSetLocationError
from fileset_integrations.storage.cache import cache_root, write_atomically
from tests.support.data import fileset_of

COLUMNS = Columns({"c": Category("c"), "n": "n"}, nulls="drop")


def letters(folder, rows=("b", "a", None, "b")) -> FileSet:
    numbers = [None if row == 1 else row for row in range(len(rows))]
    return fileset_of(folder, pa.table({"c": pa.array(rows, pa.string()), "n": pa.array(numbers, pa.int64())}))


def tree(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def read_nothing(monkeypatch):
    """From here on, reading a row is an error."""

    def refuse(*args, **kwargs):
        raise AssertionError("a file was read")

    monkeypatch.setattr(FileSet, "read_file", refuse)


def reader(fs, cache_dir=None, columns=COLUMNS) -> FileSetReader:
    return FileSetReader(fs, columns=columns, batch_size=1, cache_dir=cache_dir)


def test_a_fit_and_the_rows_that_nulls_leave_are_computed_once_per_snapshot_and_spec(tmp_path, monkeypatch):
    fs = letters(tmp_path / "data")
    first = reader(fs, tmp_path / "cache")
    read_nothing(monkeypatch)

    again = reader(FileSet.from_parquet(tmp_path / "data"), tmp_path / "cache")

    assert again.columns.vocabularies == first.columns.vocabularies == {"c": ("b", "a")}
    assert again.columns.to_json() == first.columns.to_json()
    assert len(again) == len(first) == 3
    with pytest.raises(AssertionError, match="a file was read"):
        reader(fs, tmp_path / "cache", Columns({"c": Category("c")}))


def test_another_snapshot_is_fitted_anew(tmp_path):
    first = reader(letters(tmp_path / "one"), tmp_path / "cache")

    other = reader(letters(tmp_path / "other", ("z", "z", "z")), tmp_path / "cache")

    assert first.columns.vocabularies != other.columns.vocabularies == {"c": ("z",)}


@pytest.mark.parametrize("by", ["argument", "environment"])
def test_everything_is_kept_in_the_cache_directory_and_nothing_beside_the_data(tmp_path, monkeypatch, by):
    fs = letters(tmp_path / "data")
    before = tree(tmp_path / "data")
    cache = tmp_path / "cache"
    if by == "environment":
        monkeypatch.setenv("FILESET_CACHE_DIR", str(cache))

    one = FileSetReader(fs, columns=COLUMNS, batch_size=1, blocks="disk", cache_dir=cache if by == "argument" else None)
    list(one)

    assert tree(tmp_path / "data") == before
    assert {name.split("/")[0] for name in tree(cache)} == {"columns", "kept", "files"}
    assert stat.S_IMODE(cache.stat().st_mode) == 0o700
    assert not [name for name in tree(cache) if name.endswith((".pkl", ".pickle"))]


@pytest.mark.parametrize("damage", [b"", b"{}", b"not what was written"])
def test_a_damaged_cache_is_computed_anew(tmp_path, damage):
    fs = letters(tmp_path / "data")
    expected = [batch["n"].tolist() for batch in reader(fs, tmp_path / "cache")]
    for path in (tmp_path / "cache").rglob("*"):
        if path.is_file():
            path.write_bytes(damage)

    assert [batch["n"].tolist() for batch in reader(fs, tmp_path / "cache")] == expected == [[0], [2], [3]]


def test_null_counts_of_the_footers_spare_a_pass_over_the_rows(tmp_path, monkeypatch):
    fs = fileset_of(tmp_path, pa.table({"n": [1, 2, 3]}))
    read_nothing(monkeypatch)

    for nulls in ("error", "drop"):
        assert len(reader(fs, tmp_path / "cache", Columns({"n": "n"}, nulls=nulls))) == 3


def test_rows_left_by_nulls_are_those_of_the_row_group_that_a_block_is(tmp_path, monkeypatch):
    monkeypatch.setattr("fileset_integrations.manifest.Manifest.blocks.__defaults__", (8,))
    values = [None if row % 5 == 0 else row for row in range(40)]
    fs = fileset_of(tmp_path, pa.table({"n": values[:30]}), pa.table({"n": values[30:]}), row_group_size=4)

    read = reader(fs, tmp_path / "cache", Columns({"n": "n"}, nulls="drop"))

    assert np.concatenate([batch["n"] for batch in read]).tolist() == [row for row in values if row is not None]


def test_a_cache_directory_that_cannot_be_made_is_an_error_that_says_what_to_pass(tmp_path):
    (tmp_path / "file").write_text("x")

    with pytest.raises(FileSetLocationError, match=r"file/below: cannot make the cache directory.*FILESET_CACHE_DIR"):
        reader(letters(tmp_path / "data"), tmp_path / "file" / "below")


def test_the_cache_directory_is_by_default_the_users(tmp_path, monkeypatch):
    monkeypatch.delenv("FILESET_CACHE_DIR")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.setenv("HOME", str(tmp_path / "home"))

    assert cache_root() == tmp_path / "xdg" / "fileset_integrations"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_root() == tmp_path / "home" / ".cache" / "fileset_integrations"


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "folder" / "file"
    write_atomically(path, b"old")
    monkeypatch.setattr("pathlib.Path.replace", lambda self, target: (_ for _ in ()).throw(OSError("disk")))

    with pytest.raises(OSError, match="disk"):
        write_atomically(path, b"new")

    assert tree(tmp_path) == ["folder", "folder/file"]
    assert path.read_bytes() == b"old"
