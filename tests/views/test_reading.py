"""Readers of views: the rows, the order and the state that the contracts say, with nulls and fits of the view's own."""

import numpy as np
import pyarrow as pa
import pytest

from fileset_integrations import Columns, FileSet, FileSetReader, Shard
from fileset_integrations.columns import Category
from fileset_integrations.errors import FileSetNotFoundError, NullValueError, SpecError, StateMismatchError
from fileset_integrations.views import as_fileset
from tests.support.data import fileset_of, ids, numbered
from tests.support.views import ORDER, SHARES, expected_batches, ids_of


@pytest.mark.parametrize("blocks", ["stream", "memory", "disk"])
def test_a_reader_of_a_view_yields_its_rows_in_the_order_of_the_contract(blocks, view, tmp_path):
    reader = FileSetReader(view, **ORDER, blocks=blocks, cache_dir=tmp_path)

    for epoch in (0, 1):
        expected = expected_batches(view, epoch)
        assert ids(reader.iter_batches(epoch)) == expected
        assert [reader.batch(index, epoch)["id"].tolist() for index in range(len(reader))] == expected


def test_rows_are_those_of_the_files(view):
    reader = FileSetReader(view, **ORDER)
    files = [view.read_file(file, ["id"])["id"].to_pylist() for file in range(len(view.files()))]

    for index, batch in enumerate(reader.iter_batches(epoch=1)):
        assert [files[file][row] for file, row in reader.rows(index, epoch=1).tolist()] == batch["id"].tolist()


def test_shards_of_a_view_are_disjoint_and_together_whole(view):
    for shuffle in (False, True):
        options = {"batch_size": 2, "shuffle": shuffle, "drop_last_batch": False}
        found = [
            row
            for rank in range(4)
            for batch in ids(FileSetReader(view, **options, shard=Shard(rank, 4)))
            for row in batch
        ]
        assert sorted(found) == sorted(ids_of(view))


def test_without_shuffling_rows_come_in_the_order_of_the_files(view):
    assert ids(FileSetReader(view, batch_size=1000, drop_last_batch=False)) == [ids_of(view)]


def test_a_state_of_one_part_is_refused_by_another(fs, parts):
    state = FileSetReader(parts["train"], **ORDER).iter_batches().state_dict()

    for other in (parts["val"], fs, fs.split(**SHARES, seed=6)["train"]):
        with pytest.raises(StateMismatchError, match=r"snapshot_id='.*train of train=0\.6"):
            FileSetReader(other, **ORDER).iter_batches().load_state_dict(state)


def test_an_epoch_over_a_view_goes_on_where_it_stood(view):
    first = FileSetReader(view, **ORDER).iter_batches(epoch=2)
    seen = [next(first)["id"].tolist() for _ in range(2)]

    rest = FileSetReader(view, **ORDER).iter_batches()
    rest.load_state_dict(first.state_dict())

    assert seen + ids(rest) == expected_batches(view, 2)


def test_files_cut_into_blocks_of_row_groups_are_split_as_whole_files(tmp_path, monkeypatch):
    whole, cut = (numbered(tmp_path / name, (30, 5, 41), row_group_size=4) for name in ("whole", "cut"))
    expected = ids_of(whole.split(a=0.3, b=0.7, seed=2)["a"])
    monkeypatch.setattr("fileset_integrations.manifest.Manifest.blocks.__defaults__", (8,))
    part = cut.split(a=0.3, b=0.7, seed=2)["a"]

    reader = FileSetReader(part, batch_size=5, drop_last_batch=False)
    shuffled = FileSetReader(part, **ORDER)

    assert len(reader._table) == 11
    assert [row for batch in ids(reader) for row in batch] == ids_of(part) == expected
    assert sorted(row for batch in ids(shuffled) for row in batch) == expected
    starts = (0, 30, 35)
    for index, batch in enumerate(shuffled):
        assert [starts[file] + row for file, row in shuffled.rows(index).tolist()] == batch["id"].tolist()


def test_a_reader_takes_what_stands_for_a_fileset(tmp_path):
    query = "SELECT i AS id FROM range({}, {}) t(i)"
    for name, start, stop in (("a", 0, 3), ("b", 3, 5)):
        FileSet.make(target_stage_loc=tmp_path, name=name, query=query.format(start, stop))
    options = {"batch_size": 9, "drop_last_batch": False}

    assert ids(FileSetReader(f"{tmp_path}/a", **options)) == [[0, 1, 2]]
    assert ids(FileSetReader([f"{tmp_path}/b", FileSet.open(f"{tmp_path}/a")], **options)) == [[3, 4, 0, 1, 2]]
    assert ids(FileSetReader([[f"{tmp_path}/a"]], **options)) == [[0, 1, 2]]
    with pytest.raises(FileSetNotFoundError, match="nope"):
        FileSetReader([f"{tmp_path}/a", f"{tmp_path}/nope"], **options)


@pytest.mark.parametrize(("source", "message"), [(3, "3 is no FileSet"), ([], "empty list"), ([None], "None is no")])
def test_what_stands_for_no_fileset_is_refused(source, message):
    with pytest.raises(SpecError, match=message):
        FileSetReader(source, batch_size=1)


def nullable(folder) -> FileSet:
    """Rows 0 to 59 in files of 25, 0, 35; `n` is null in every third row of the last file, `c` is the row modulo 7."""
    rows = np.arange(60)
    nulls = (rows >= 25) & (rows % 3 == 0)
    whole = pa.table({"id": rows, "n": pa.array(rows, pa.int64(), mask=nulls), "c": [f"c{row % 7}" for row in rows]})
    return fileset_of(folder, whole.slice(0, 25), whole.slice(0, 0), whole.slice(25))


DROP = Columns({"id": "id", "n": "n"}, nulls={"n": "drop"})


@pytest.mark.parametrize("block_rows", [524_288, 8])
def test_rows_are_split_first_and_then_dropped_for_their_nulls(block_rows, tmp_path, monkeypatch):
    monkeypatch.setattr("fileset_integrations.manifest.Manifest.blocks.__defaults__", (block_rows,))
    fs = nullable(tmp_path / "data")
    parts = fs.split(train=0.5, val=0.5, seed=1)

    for part in parts.values():
        expected = [row for row in ids_of(part) if row < 25 or row % 3]
        for _ in range(2):  # computed, and from the cache directory
            reader = FileSetReader(
                part, columns=DROP, batch_size=7, drop_last_batch=False, cache_dir=tmp_path / "cache"
            )
            assert [row for batch in ids(reader) for row in batch] == expected
            assert [file for file, _ in reader.rows(0).tolist()] == [0] * 7
            assert reader.plan.num_rows == len(expected) < part.num_rows
    both = as_fileset(list(parts.values()))
    joined = FileSetReader(both, columns=DROP, batch_size=100, drop_last_batch=False)
    assert ids(joined) == [[row for row in ids_of(both) if row < 25 or row % 3]]


def test_nulls_are_an_error_in_the_part_that_has_them_only(tmp_path):
    rows = np.arange(10)
    fs = fileset_of(tmp_path, pa.table({"n": pa.array(rows, pa.int64(), mask=rows == 4)}))
    parts = fs.split(train=0.5, val=0.5)
    columns = Columns({"n": "n"})
    with_null, without = sorted(parts.values(), key=lambda part: part.to_arrow()["n"].null_count == 0)

    with pytest.raises(NullValueError, match=r"holds 1 nulls in 5 rows"):
        FileSetReader(with_null, columns=columns, batch_size=1)
    with pytest.raises(NullValueError, match=r"holds 1 nulls in 15 rows"):
        FileSetReader([without, fs], columns=columns, batch_size=1)
    assert len(FileSetReader(without, columns=columns, batch_size=1)) == 5
    assert len(FileSetReader([without, without], columns=columns, batch_size=1)) == 10


def test_columns_are_fitted_on_the_rows_of_the_part(tmp_path):
    fs = fileset_of(tmp_path / "data", pa.table({"c": [f"only {row}" for row in range(20)]}))
    parts = fs.split(train=0.5, val=0.5)
    columns = Columns({"c": Category("c")})

    for part in parts.values():
        seen = set(part.to_arrow()["c"].to_pylist())
        assert set(columns.fit(part).vocabularies["c"]) == seen
        # Fits are remembered, each under the identity of its own part.
        for _ in range(2):
            reader = FileSetReader(part, columns=columns, batch_size=1, cache_dir=tmp_path / "cache")
            assert set(reader.columns.vocabularies["c"]) == seen
    codes = FileSetReader(parts["val"], columns=columns.fit(parts["train"]), batch_size=10).batch(0)["c"]
    assert codes.tolist() == [1] * 10  # unseen in train
