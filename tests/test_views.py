"""Views: parts of a split, and several FileSets as one, wherever a FileSet is taken."""

import pickle
import time

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fileset_integrations import Columns, FileSet, FileSetReader, Shard
from fileset_integrations.columns import Category
from fileset_integrations.errors import (
    ColumnError,
    FileSetAlreadyDeletedError,
    FileSetCannotDeleteError,
    FileSetCorruptError,
    FileSetNotFoundError,
    NullValueError,
    SchemaMismatchError,
    SpecError,
    StateMismatchError,
)
from fileset_integrations.views import as_fileset
from tests.support.data import fileset_of, ids, numbered
from tests.support.reference import epoch_order
from tests.support.staged import staged_numbers

FILE_ROWS = (7, 0, 1, 12, 9, 1, 1)
ROWS = sum(FILE_ROWS)  # 31
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
ORDER = {"batch_size": 4, "shuffle": True, "seed": 3, "drop_last_batch": False}


@pytest.fixture(scope="module")
def fs(tmp_path_factory) -> FileSet:
    return numbered(tmp_path_factory.mktemp("numbered"), FILE_ROWS)


@pytest.fixture(scope="module")
def parts(fs) -> dict[str, FileSet]:
    return fs.split(**SHARES, seed=5)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> FileSet:
    return numbered(tmp_path_factory.mktemp("other"), (2, 5))


@pytest.fixture(scope="module", params=["part", "concatenation"])
def view(request, parts, other) -> FileSet:
    return parts["train"] if request.param == "part" else as_fileset([other, parts["train"], parts["val"]])


def ids_of(fs: FileSet) -> list[int]:
    return fs.to_arrow(["id"])["id"].to_pylist()


def expected_batches(view: FileSet, epoch: int, batch_size: int = 4, seed: int = 3) -> list[list[int]]:
    """What the order contract says of a view whose files hold as many rows as the view has of them."""
    by_file = [pa.table(one)["id"].to_pylist() for one in file_tables(view)]
    order = epoch_order([len(rows) for rows in by_file], shuffle=True, seed=seed, epoch=epoch, streams=8)
    found = [by_file[file][row] for file, row in order]
    return [found[at : at + batch_size] for at in range(0, len(found), batch_size)]


def file_tables(view: FileSet) -> list[pa.Table]:
    """The rows that a view has of each file, found without the reader."""
    tables = []
    for file in range(len(view.files())):
        table, mask = view.read_file(file, ["id"]), view.selection.mask(file)
        tables.append(table if mask is None else table.filter(pa.array(mask)))
    return tables


# --- parts -----------------------------------------------------------------------------------------------------------


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


# --- readers ---------------------------------------------------------------------------------------------------------


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


# --- nulls and fits --------------------------------------------------------------------------------------------------


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


# --- concatenations --------------------------------------------------------------------------------------------------


def test_a_list_is_the_rows_of_its_filesets_one_after_another(fs, parts, other):
    both = as_fileset([other, parts["val"], fs])

    assert ids_of(both) == [*range(7), *ids_of(parts["val"]), *range(ROWS)]
    assert both.num_rows == 7 + 6 + ROWS
    assert both.files() == [*other.files(), *fs.files(), *fs.files()]
    assert both.schema == fs.schema and both.name == f"{other.name}+{fs.name}+{fs.name}"
    assert [row for table in both.scan(["id"]) for row in table["id"].to_pylist()] == ids_of(both)
    both.verify()


def test_a_list_of_one_is_that_one(fs):
    assert as_fileset([fs]) is as_fileset(fs) is fs


def test_the_identity_of_a_list_follows_from_its_parts_and_their_order(fs, parts, other):
    lists = [[fs, other], [other, fs], [fs, fs], [parts["train"], other], [fs, other, other]]

    identities = {as_fileset(one).snapshot_id for one in lists}

    assert len(identities) == len(lists)
    assert as_fileset([fs, other]).snapshot_id in identities
    assert all(len(identity) < 100 for identity in identities)


def test_lists_of_another_schema_are_refused_by_column_and_fileset(tmp_path):
    base = fileset_of(tmp_path / "base", pa.table({"a": [1], "b": ["x"]}))
    floats = fileset_of(tmp_path / "floats", pa.table({"a": [1.5], "b": ["x"]}))
    fewer = fileset_of(tmp_path / "fewer", pa.table({"a": [1]}))
    turned = fileset_of(tmp_path / "turned", pa.table({"b": ["x"], "a": [1]}))

    with pytest.raises(SchemaMismatchError, match=r"Column 'a' is int64 in .*base'\), but double in .*floats'\)"):
        as_fileset([base, base, floats])
    with pytest.raises(SchemaMismatchError, match=r"Column 'b' is string in .*base'\), but missing in .*fewer'\)"):
        FileSetReader([base, fewer], batch_size=1)
    with pytest.raises(SchemaMismatchError, match=r"columns of .*turned'\) come in another order than those of .*base"):
        as_fileset([base, turned])


# --- in stages -------------------------------------------------------------------------------------------------------


def in_several_places(server, tmp_path) -> list[FileSet]:
    """FileSets of 2 files each: in the stage, in a directory, in the stage again."""
    return [
        staged_numbers(server, [20, 20], "first"),
        numbered(tmp_path / "here", [20, 20]),
        staged_numbers(server, [20, 20], "last"),
    ]


def fetched(server) -> list[str]:
    """The data files whose bytes were asked for, each as often as it was, in order."""
    seen = [one["file"] for one in server.requests() if one["method"] == "GET" and "data_" in (one["file"] or "")]
    return [f"{file.split('/')[1]} {file.rsplit('data_0_')[1][0]}" for file in seen]


@pytest.mark.parametrize("nested", [False, True])
def test_files_of_a_list_are_fetched_ahead_across_its_filesets(
    snowflake_server, stage, cache, tmp_path, monkeypatch, nested
):
    monkeypatch.setattr("fileset_integrations.storage.fetching._FILES_AHEAD", 3)
    first, here, last = in_several_places(snowflake_server, tmp_path)
    both = as_fileset([[first, here], last] if nested else [first, here, last])
    snowflake_server.clear_logs()

    def comes_to(files: list[str]) -> bool:
        until = time.monotonic() + 30
        while sorted(fetched(snowflake_server)) != files and time.monotonic() < until:
            time.sleep(0.01)
        return sorted(fetched(snowflake_server)) == files

    ahead = both.read_ahead(iter(range(6)))
    try:
        assert comes_to(["first 0", "first 1", "last 0"])  # those between need no fetching
        both.read_file(0, ["id"])
        assert comes_to(["first 0", "first 1", "last 0", "last 1"])
    finally:
        ahead.close()

    rows = [row for batch in FileSetReader(both, batch_size=10).iter_batches() for row in batch["id"].tolist()]
    assert rows == [*range(40)] * 3
    assert len(fetched(snowflake_server)) == 4


def test_a_shuffled_list_and_a_part_come_from_stages_as_from_directories(snowflake_server, stage, cache, tmp_path):
    first, here, last = in_several_places(snowflake_server, tmp_path)
    part = last.split(train=0.5, val=0.5)["train"]
    copies = [numbered(tmp_path / "a", [20, 20]), here, numbered(tmp_path / "b", [20, 20]).split(train=0.5, val=0.5)]

    there = FileSetReader([first, here, part], **ORDER, streams=2)
    expected = FileSetReader([copies[0], here, copies[2]["train"]], **ORDER, streams=2)

    for epoch in range(2):
        assert ids(there.iter_batches(epoch)) == ids(expected.iter_batches(epoch))
    files = fetched(snowflake_server)
    assert sorted(set(files)) == sorted(files) == ["first 0", "first 1", "last 0", "last 1"]
