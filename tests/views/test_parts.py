"""Parts of a split: read like a FileSet, told apart by their identity, and with no files of their own."""

import pickle

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fileset_integrations import FileSet, FileSetReader
from fileset_integrations.errors import (
    ColumnError,
    FileSetAlreadyDeletedError,
    FileSetCannotDeleteError,
    FileSetCorruptError,
    SpecError,
)
from fileset_integrations.views import as_fileset
from tests.support.data import ids, numbered
from tests.support.views import ORDER, ROWS, SHARES, ids_of


def test_a_part_is_read_like_a_fileset(fs, parts):
    rows = {name: ids_of(part) for name, part in parts.items()}

    assert list(parts) == list(SHARES)
    assert sorted(row for part in rows.values() for row in part) == list(range(ROWS))
    for name, part in parts.items():
        assert isinstance(part, FileSet)
        assert len(part) == part.num_rows == len(rows[name]) == {"train": 18, "val": 6, "test": 7}[name]
        assert rows[name] == sorted(rows[name]), "in the order of the files"
        assert part.schema == fs.schema and part.files() == fs.files() and part.name == fs.name
        assert part.to_arrow() == fs.to_arrow().filter(pa.array(np.isin(np.arange(ROWS), rows[name])))
        assert part.to_arrow(["x"], limit=3)["x"].to_pylist() == [row + 0.25 for row in rows[name][:3]]
        assert [row for table in part.scan(["id"]) for row in table["id"].to_pylist()] == rows[name]
        part.verify()


@given(file_rows=st.lists(st.integers(0, 3), min_size=1, max_size=5), seed=st.integers(0, 99))
def test_readers_of_all_parts_read_every_row_once(file_rows, seed, tmp_path_factory):
    fs = numbered(tmp_path_factory.mktemp("files"), file_rows)
    parts = fs.split(a=0.5, b=0.2, c=0.3, seed=seed)

    found = [row for part in parts.values() for batch in FileSetReader(part, **ORDER) for row in batch["id"].tolist()]

    assert sorted(found) == list(range(sum(file_rows)))


def test_splits_are_the_same_on_every_opening_and_differ_by_seed(fs, parts):
    again = FileSet.from_parquet(fs.files()[0].rpartition("/")[0]).split(**SHARES, seed=5)

    assert {name: ids_of(part) for name, part in again.items()} == {name: ids_of(part) for name, part in parts.items()}
    assert ids_of(fs.split(**SHARES, seed=6)["train"]) != ids_of(parts["train"])


def test_the_identity_of_a_part_says_which_part_of_which_split(fs, parts):
    views = [*parts.values(), *fs.split(**SHARES, seed=6).values(), *fs.split(train="0.5", val=0.5).values()]

    assert len({view.snapshot_id for view in [fs, *views]}) == len(views) + 1
    assert parts["val"].snapshot_id == f"{fs.snapshot_id}/val of train=0.6, val=0.2, test=0.2, seed=5"
    assert parts["val"].snapshot_id == fs.split(train="3/5", val="0.20", test="1/5", seed=5)["val"].snapshot_id
    long = fs.split(**{f"fold_{'x' * 40}_{number}": "1/20" for number in range(20)})
    assert len({part.snapshot_id for part in long.values()}) == 20
    assert all(len(part.snapshot_id) < 200 for part in long.values())


def test_a_part_prints_as_the_call_that_makes_it(fs, parts):
    assert repr(parts["val"]) == f"{fs!r}.split(train=0.6, val=0.2, test=0.2, seed=5)['val']"
    thirds = fs.split(a="1/3", b="2/3")
    assert repr(thirds["a"]) == f"{fs!r}.split(a='1/3', b='2/3', seed=0)['a']"


def test_a_view_travels_between_processes(view):
    there = pickle.loads(pickle.dumps(view))

    assert there.snapshot_id == view.snapshot_id
    assert ids_of(there) == ids_of(view)
    reader = FileSetReader(view, **ORDER)
    assert ids(pickle.loads(pickle.dumps(reader))) == ids(reader)


def test_views_are_not_deleted(tmp_path):
    fs = FileSet.make(target_stage_loc=tmp_path, name="a", query="SELECT i AS id FROM range(10) t(i)")
    part = fs.split(train=0.5, val=0.5)["train"]

    for view in (part, as_fileset([part, fs])):
        with pytest.raises(FileSetCannotDeleteError, match=r"is a view.*Delete the FileSet"):
            view.delete()
    assert fs.num_rows == 10 and FileSet.open(f"{tmp_path}/a").num_rows == 10


def test_views_of_a_deleted_fileset_refuse_every_use(tmp_path):
    fs = FileSet.make(target_stage_loc=tmp_path, name="a", query="SELECT i AS id FROM range(10) t(i)")
    part = fs.split(train=0.5, val=0.5)["train"]
    fs.delete()

    for use in (part.to_arrow, part.files, lambda: part.snapshot_id, lambda: FileSetReader(part, batch_size=1)):
        with pytest.raises(FileSetAlreadyDeletedError, match="was deleted"):
            use()
    with pytest.raises(FileSetAlreadyDeletedError, match="was deleted"):
        fs.split(train=0.5, val=0.5)


def test_views_are_not_split_again(view):
    with pytest.raises(SpecError, match=r"is a view.*all parts at once.*test=0\.2"):
        view.split(a=0.5, b=0.5)


def test_shares_are_checked_when_the_split_is_asked_for(fs):
    with pytest.raises(SpecError, match=r"sum to 0\.9"):
        fs.split(train=0.8, val=0.1)


def test_columns_that_a_view_lacks_are_named(view):
    with pytest.raises(ColumnError, match=r"no column 'nope'.*id, x, y, name"):
        view.to_arrow(["nope"])


def test_a_damaged_file_is_named(tmp_path):
    fs = numbered(tmp_path, (3, 3))
    part = fs.split(a=0.5, b=0.5)["a"]
    (tmp_path / "data_1.parquet").write_bytes(b"nothing")

    for view in (part, as_fileset([part, part])):
        with pytest.raises(FileSetCorruptError, match="data_1"):
            view.verify()
        with pytest.raises(FileSetCorruptError, match="data_1"):
            view.to_arrow()


def test_files_of_which_a_part_has_no_row_are_not_opened(tmp_path):
    fs = numbered(tmp_path, (1,) * 10)
    few = fs.split(few=0.1, rest=0.9)["few"]
    [(file, _)] = FileSetReader(few, batch_size=1).rows(0).tolist()
    for path in tmp_path.glob("*.parquet"):
        if path.name != f"data_{file}.parquet":
            path.write_bytes(b"nothing")

    assert ids_of(few) == [file] and ids(FileSetReader(few, **ORDER)) == [[file]]
