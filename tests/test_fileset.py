"""FileSet: made whole or not at all, opened, verified, read and deleted."""

import pickle
import re
from pathlib import Path

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from fileset_integrations import FileSet, FileSetReader
from fileset_integrations.errors import (
    ColumnError,
    FileSetAlreadyDeletedError,
    FileSetCannotDeleteError,
    FileSetCorruptError,
    FileSetError,
    FileSetExistsError,
    FileSetLocationError,
    FileSetNotFoundError,
    SpecError,
)
from tests.support.data import numbered

QUERY = "SELECT i AS id, 'row ' || i AS name FROM range(5000) r(i)"


def make(location, name="flights", query=QUERY, **options) -> FileSet:
    return FileSet.make(target_stage_loc=location, name=name, query=query, **options)


def visible(folder: Path) -> list[str]:
    """What stands at a location, lock files of makes left out."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


# --- make and open ---------------------------------------------------------------------------------------------------


def test_a_fileset_is_a_querys_result_under_a_name(tmp_path):
    made = make(tmp_path, max_file_bytes=10_000)
    opened = FileSet(target_stage_loc=tmp_path, name="flights")

    for fs in (made, opened, FileSet.open(f"{tmp_path}/flights")):
        assert fs.num_rows == len(fs) == 5000
        assert fs.schema == pa.schema([("id", pa.int64()), ("name", pa.string())])
        assert fs.files() == [str(tmp_path / "flights" / f"data_{file}.parquet") for file in range(5)]
        assert fs.snapshot_id == made.snapshot_id
        assert fs.to_arrow()["id"].to_pylist() == list(range(5000))
        fs.verify()
    assert visible(tmp_path) == ["flights"]
    assert opened.manifest.query == QUERY
    assert (opened.manifest.engine, opened.manifest.engine_version) == ("duckdb", duckdb.__version__)


def test_two_snapshots_of_one_query_have_identities_of_their_own(tmp_path):
    assert make(tmp_path, "one").snapshot_id != make(tmp_path, "other").snapshot_id


def test_a_copied_fileset_keeps_its_identity(tmp_path):
    made = make(tmp_path)
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "flights").rename(tmp_path / "elsewhere" / "copy")

    copy = FileSet(target_stage_loc=tmp_path / "elsewhere", name="copy")

    assert copy.snapshot_id == made.snapshot_id
    copy.verify()


def test_a_missing_location_is_made(tmp_path):
    assert make(tmp_path / "a" / "b").num_rows == 5000


def test_an_empty_directory_is_not_in_the_way(tmp_path):
    (tmp_path / "flights").mkdir()

    assert make(tmp_path).num_rows == 5000


def test_zero_rows_are_a_valid_snapshot(tmp_path):
    fs = make(tmp_path, query="SELECT 1 AS x WHERE false")

    assert FileSet(target_stage_loc=tmp_path, name="flights").num_rows == 0
    assert fs  # and no false value
    assert fs.to_arrow().num_rows == 0


@pytest.mark.parametrize("name", ["a", "A1", "flights_2013", "year=2013", "a.b-c", "0", "x" * 100])
def test_names_begin_with_a_letter_or_digit(tmp_path, name):
    assert make(tmp_path, name).name == name


@pytest.mark.parametrize("name", ["", ".a", "_a", "-a", "a/b", "..", "a b", "ä", "a\n", "a\0", None, 3])
def test_other_names_are_refused(tmp_path, name):
    for use in (make, lambda location, name: FileSet(target_stage_loc=location, name=name)):
        with pytest.raises(FileSetLocationError, match=r"cannot name a FileSet.*letter or digit"):
            use(tmp_path, name)

    assert not list(tmp_path.iterdir())


def test_what_is_not_there_is_not_found_and_the_error_says_how_to_make_it(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")

    for name in ("nothing", "empty", "file"):
        with pytest.raises(FileSetNotFoundError, match=rf"{name}: there is no complete FileSet.*FileSet\.make"):
            FileSet(target_stage_loc=tmp_path, name=name)


@pytest.mark.parametrize("where", ["", "/", "a/..", "a/b c"])
def test_a_text_that_is_not_location_and_name_is_refused(where):
    with pytest.raises(FileSetLocationError, match=r"LOCATION/NAME|letter or digit"):
        FileSet.open(where)


# --- wrong arguments -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"if_exists": "replace"}, SpecError, "'replace'.*'error' or 'open'"),
        ({"seed": -1}, SpecError, "seed=-1"),
        ({"seed": 2**63}, SpecError, "63"),
        ({"seed": "7"}, SpecError, "seed='7'"),
        ({"max_file_bytes": 0}, SpecError, "max_file_bytes=0"),
        ({"max_file_bytes": 1.5}, SpecError, "max_file_bytes=1.5"),
        ({"shuffle_key": "id"}, SpecError, "shuffle_key='id' is for shuffle=True"),
        ({"connection_name": "prod"}, FileSetLocationError, "no place in a Snowflake stage"),
        ({"connection_name": 3}, SpecError, "connection_name is a int"),
        ({"sf_connection": object()}, SpecError, "sf_connection is a object"),
        ({"digest": "md5"}, SpecError, "digest='md5'.*readback"),
        ({"storage_options": {"key": "hunter2"}}, FileSetLocationError, "storage_options"),
    ],
)
def test_wrong_arguments_are_refused_before_anything_is_written(tmp_path, options, error, message):
    with pytest.raises(error, match=message) as raised:
        make(tmp_path, **options)

    assert isinstance(raised.value, FileSetError)
    assert "hunter2" not in str(raised.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("location", ["", "  ", "@db.schema.stage/dir", "nosuchscheme://bucket/x"])
def test_locations_that_cannot_be_used_are_refused(location):
    for use in (make, lambda location: FileSet(target_stage_loc=location, name="flights")):
        with pytest.raises(FileSetLocationError):
            use(location)


def test_a_directory_that_cannot_be_written_is_an_error_that_names_it(tmp_path):
    (tmp_path / "file").write_text("precious")

    for location in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(
            FileSetLocationError, match=rf"{re.escape(str(location))}: cannot .*Pass a target_stage_loc"
        ):
            make(location)

    assert (tmp_path / "file").read_text() == "precious"


def test_a_name_too_long_for_the_file_system_is_an_error_of_ours(tmp_path):
    for use in (make, lambda location, name: FileSet(target_stage_loc=location, name=name)):
        with pytest.raises(FileSetLocationError):
            use(tmp_path, "x" * 300)


# --- damage ----------------------------------------------------------------------------------------------------------


def flip(path: Path, place: int) -> None:
    data = bytearray(path.read_bytes())
    data[place] ^= 1
    path.write_bytes(bytes(data))


DAMAGES = {
    "missing": lambda path: path.unlink(),
    "bytes, .* were written": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    r"bytes, \d+ were written": lambda path: path.write_bytes(b""),
    "altered .another sha256": lambda path: flip(path, path.stat().st_size // 3),
    "no whole Parquet file": lambda path: flip(path, -1),
}


@pytest.mark.parametrize("said", DAMAGES)
def test_verify_names_each_damaged_file_and_how(tmp_path, said):
    fs = make(tmp_path, max_file_bytes=10_000)
    DAMAGES[said](tmp_path / "flights" / "data_1.parquet")
    DAMAGES[said](tmp_path / "flights" / "data_3.parquet")

    with pytest.raises(FileSetCorruptError, match=said) as raised:
        fs.verify()

    named = re.findall(r"data_\d", str(raised.value))
    assert set(named) == {"data_1", "data_3"}
    assert "2 of 5 files" in str(raised.value)


def test_an_altered_manifest_is_refused_on_open(tmp_path):
    make(tmp_path)
    path = tmp_path / "flights" / "manifest"
    whole = path.read_bytes()

    for data in (b"", whole[:-1], whole[: len(whole) // 2], whole.replace(b"duckdb", b"dickdb")):
        path.write_bytes(data)
        with pytest.raises(FileSetCorruptError, match="flights: the manifest cannot be read"):
            FileSet(target_stage_loc=tmp_path, name="flights")


@pytest.mark.parametrize("rows", [999, 1001])
def test_a_file_replaced_by_another_is_never_read_as_if_it_were_the_snapshots(tmp_path, rows):
    fs = make(tmp_path, max_file_bytes=10_000)
    table = fs.to_arrow().slice(0, rows)
    pq.write_table(table, tmp_path / "flights" / "data_2.parquet")

    with pytest.raises(FileSetCorruptError, match=r"data_2\.parquet.*rows"):
        fs.to_arrow()


def test_a_file_replaced_by_one_of_another_schema_is_named(tmp_path):
    fs = make(tmp_path, max_file_bytes=10_000)
    first = pq.read_table(fs.files()[2])
    pq.write_table(first.set_column(0, "id", first["id"].cast("int32")), fs.files()[2])

    with pytest.raises(FileSetCorruptError, match=r"data_2\.parquet.*schema"):
        fs.to_arrow(["id"])


# --- reading ---------------------------------------------------------------------------------------------------------


def test_to_arrow_takes_columns_and_a_limit(tmp_path):
    fs = numbered(tmp_path, [3, 0, 4])

    assert fs.to_arrow(["y", "id"]).column_names == ["y", "id"]
    assert fs.to_arrow(["id"], limit=4)["id"].to_pylist() == [0, 1, 2, 3]
    assert fs.to_arrow(limit=0).schema == fs.schema
    assert fs.to_arrow(limit=100).num_rows == 7
    with pytest.raises(ColumnError, match=r"no column 'z'. Columns: id, x, y, name"):
        fs.to_arrow(["z"])
    with pytest.raises(SpecError, match="limit='3'"):
        fs.to_arrow(limit="3")


def test_a_limit_reads_no_file_beyond_it(tmp_path):
    fs = numbered(tmp_path, [3, 3, 3])
    (tmp_path / "data_2.parquet").unlink()

    assert fs.to_arrow(limit=6).num_rows == 6


# --- delete ----------------------------------------------------------------------------------------------------------


def test_delete_removes_exactly_what_was_made(tmp_path):
    fs, other = make(tmp_path), make(tmp_path, "other")

    fs.delete()

    assert visible(tmp_path) == ["other"]
    other.verify()
    assert make(tmp_path).num_rows == 5000  # the name is free again


def test_delete_leaves_what_others_put_there(tmp_path):
    fs = make(tmp_path)
    (tmp_path / "flights" / "notes.txt").write_text("precious")
    (tmp_path / "flights" / "data_99.parquet").write_text("precious")

    fs.delete()

    assert sorted(path.name for path in (tmp_path / "flights").iterdir()) == ["data_99.parquet", "notes.txt"]
    with pytest.raises(FileSetNotFoundError):
        FileSet(target_stage_loc=tmp_path, name="flights")


def test_delete_does_not_touch_a_snapshot_that_took_the_name_since(tmp_path):
    old, again = make(tmp_path), FileSet(target_stage_loc=tmp_path, name="flights")
    again.delete()
    new = make(tmp_path)

    with pytest.raises(FileSetCannotDeleteError, match="another snapshot"):
        old.delete()

    new.verify()


def test_what_was_deleted_refuses_every_use(tmp_path):
    fs = make(tmp_path)
    fs.delete()
    uses = [
        lambda: fs.files(),
        lambda: fs.num_rows,
        lambda: len(fs),
        lambda: fs.schema,
        lambda: fs.snapshot_id,
        lambda: fs.manifest,
        lambda: fs.verify(),
        lambda: fs.delete(),
        lambda: fs.to_arrow(),
        lambda: list(fs.scan(["id"])),
        lambda: FileSetReader(fs, batch_size=4),
    ]

    for use in uses:
        with pytest.raises(FileSetAlreadyDeletedError, match="flights was deleted"):
            use()
    assert "flights" in repr(fs)


def test_a_fileset_pickles_and_prints_as_the_call_that_opens_it(tmp_path):
    fs = make(tmp_path)

    again = pickle.loads(pickle.dumps(fs))

    assert again.snapshot_id == eval(repr(fs)).snapshot_id == fs.snapshot_id
    assert again.to_arrow() == fs.to_arrow()
    again.delete()
    assert not (tmp_path / "flights").exists()


# --- secrets ---------------------------------------------------------------------------------------------------------


def test_secrets_of_a_query_stay_out_of_the_manifest_and_its_exact_text_is_still_told_apart(tmp_path):
    query = "SELECT 1 AS x WHERE 'a' != 'b' OR password = '{}'".replace("password", "'password'")

    made = make(tmp_path, query=query.format("hunter2"), if_exists="open")

    assert b"hunter2" not in (tmp_path / "flights" / "manifest").read_bytes()
    assert "***" in made.manifest.query
    with pytest.raises(FileSetExistsError, match="another query"):
        make(tmp_path, query=query.format("hunter3"), if_exists="open")


def test_the_query_is_left_out_where_asked(tmp_path):
    made = make(tmp_path, store_query=False)

    assert made.manifest.query is None
    assert re.fullmatch("[0-9a-f]{64}", made.manifest.query_sha256)
    assert b"range" not in (tmp_path / "flights" / "manifest").read_bytes()
