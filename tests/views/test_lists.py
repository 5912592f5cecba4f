"""Several FileSets as one: a list of them, wherever each lies."""

import time

import pyarrow as pa
import pytest

from fileset_integrations import FileSet, FileSetReader
from fileset_integrations.errors import SchemaMismatchError
from fileset_integrations.views import as_fileset
from tests.support.data import fileset_of, ids, numbered
from tests.support.staged import staged_numbers
from tests.support.views import ORDER, ROWS, ids_of


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
