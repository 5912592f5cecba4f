"""Where FileSets live: one contract over directories and buckets, and Parquet files that others wrote."""

import multiprocessing
import pickle
import shutil
import uuid

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fsspec.implementations.asyn_wrapper import AsyncFileSystemWrapper
from fsspec.implementations.local import LocalFileSystem

from fileset_integrations import FileSet, FileSetReader
from fileset_integrations.errors import (
    FileSetCannotDeleteError,
    FileSetCorruptError,
    FileSetExistsError,
    FileSetLocationError,
    FileSetNotFoundError,
    SchemaMismatchError,
)
from fileset_integrations.storage.bucket import BucketStorage
from fileset_integrations.storage.directory import LocalStorage
from fileset_integrations.storage.opening import holds_credentials, open_storage, refuse_credentials
from tests.support.data import fileset_of, numbered, numbered_tables, write_parquet

QUERY = "SELECT i AS id, 'row ' || i AS name FROM range(5000) r(i)"


@pytest.fixture(params=["directory", "bucket", "s3"])
def location(request, tmp_path):
    """A place that each storage can write to."""
    if request.param == "directory":
        yield str(tmp_path / "filesets")
        return
    if request.param == "s3":
        pytest.importorskip("s3fs")
        yield request.getfixturevalue("s3").make_bucket("filesets") + "/sets"
        return
    url = f"memory://{uuid.uuid4()}/filesets"
    yield url
    fsspec.filesystem("memory").store.clear()


def make(location, name="flights", query=QUERY, **options) -> FileSet:
    return FileSet.make(target_stage_loc=location, name=name, query=query, **options)


def everything_at(location) -> list[str]:
    """Paths of all files at a location, lock files of makes left out."""
    filesystem, root = fsspec.core.url_to_fs(location)
    found = (path.removeprefix(root).lstrip("/") for path in filesystem.find(root))
    return sorted(path for path in found if not path.endswith(".lock"))


# --- the contract of every storage -----------------------------------------------------------------------------------


def test_what_is_made_opens_reads_and_verifies(location):
    made = make(location, max_file_bytes=10_000)
    opened = FileSet(target_stage_loc=location, name="flights")

    assert opened.snapshot_id == made.snapshot_id
    assert opened.files() == made.files()
    assert opened.to_arrow()["id"].to_pylist() == list(range(5000))
    assert sum(table.num_rows for table in opened.scan(["id"])) == 5000
    opened.verify()
    for path in opened.files():
        with fsspec.open(path) as file:
            assert pq.read_metadata(file).num_rows > 0


def test_a_taken_name_stays_as_it_is_and_nothing_else_is_left(location):
    made = make(location)
    before = everything_at(location)

    with pytest.raises(FileSetExistsError):
        make(location, query="SELECT 1")

    assert make(location, if_exists="open").snapshot_id == made.snapshot_id
    assert everything_at(location) == before


def test_who_finds_the_name_taken_at_the_last_moment_removes_its_own_files(location, tmp_path):
    made = make(location)
    before = everything_at(location)
    storage = open_storage(location)
    staged = storage.stage("flights")
    (staged / "data_0.parquet").write_bytes(b"PAR1")

    with pytest.raises(FileSetExistsError):
        storage.publish(staged, "flights", ["data_0.parquet"], b"another manifest")

    assert not staged.exists()
    assert everything_at(location) == before
    assert FileSet(target_stage_loc=location, name="flights").snapshot_id == made.snapshot_id


@pytest.mark.parametrize("if_exists", ["error", "open"])
def test_a_name_taken_while_the_query_runs_is_found_out_at_the_end(location, monkeypatch, if_exists):
    storage_class = LocalStorage if isinstance(open_storage(location), LocalStorage) else BucketStorage
    publish = storage_class.publish
    others = []

    def late(self, staged, name, files, manifest, done):
        if not others:
            others.append(None)
            monkeypatch.setattr(storage_class, "making", lambda self, name: __import__("contextlib").nullcontext())
            others.append(make(location))
        publish(self, staged, name, files, manifest, done)

    monkeypatch.setattr(storage_class, "publish", late)

    if if_exists == "open":
        assert make(location, if_exists="open").snapshot_id == others[1].snapshot_id
    else:
        with pytest.raises(FileSetExistsError):
            make(location)
    left = set(everything_at(location))
    assert left == {"flights/manifest", *(f"flights/{path}" for path in others[1].manifest.paths)}


def test_without_its_manifest_nothing_opens(location):
    fs = make(location)
    filesystem, path = fsspec.core.url_to_fs(f"{location}/flights/manifest")
    filesystem.rm_file(path)

    with pytest.raises(FileSetNotFoundError, match="no complete FileSet"):
        FileSet(target_stage_loc=location, name="flights")
    fs.verify()  # the files themselves are there


def test_verify_names_what_is_missing_or_cut(location, cache):
    fs = make(location, max_file_bytes=10_000)
    filesystem, _ = fsspec.core.url_to_fs(location)
    filesystem.rm_file(fs.files()[0])
    filesystem.pipe_file(fs.files()[1], filesystem.cat_file(fs.files()[1])[:-1])

    with pytest.raises(FileSetCorruptError, match=r"data_0\.parquet: missing(.|\n)*data_1\.parquet: \d+ bytes"):
        fs.verify()
    with pytest.raises(FileSetCorruptError, match=r"data_0\.parquet"):
        fs.to_arrow()


def test_delete_removes_what_was_made_and_no_more(location):
    fs, other = make(location), make(location, "other")
    theirs = f"{location}/flights/theirs.txt"
    with fsspec.open(theirs, "w") as file:
        file.write("precious")

    fs.delete()

    assert everything_at(location) == sorted(
        ["flights/theirs.txt", "other/manifest", *(f"other/{path}" for path in other.manifest.paths)]
    )
    other.verify()


def test_names_lists_the_complete_filesets_only(location):
    storage = open_storage(location)
    assert storage.names() == []
    make(location, "b")
    make(location, "a")
    with fsspec.open(f"{location}/torn/run-1/data_0.parquet", "wb", auto_mkdir=True) as file:
        file.write(b"PAR1")

    assert storage.names() == ["a", "b"]


def test_orphans_of_crashed_makes_are_removed_and_nothing_else(location):
    kept = make(location)
    storage = open_storage(location)
    if isinstance(storage, LocalStorage):
        orphan = storage.stage("other")
        (orphan / "data_0.parquet").write_bytes(b"PAR1")
    else:
        with fsspec.open(f"{location}/other/run-1/data_0.parquet", "wb") as file:
            file.write(b"PAR1")
    with fsspec.open(f"{location}/theirs/notes.txt", "w", auto_mkdir=True) as file:
        file.write("precious")

    removed = storage.remove_orphans()

    assert len(removed) == 1
    assert "other" in removed[0]
    assert "theirs/notes.txt" in everything_at(location)
    kept.verify()
    assert storage.remove_orphans() == []


def test_a_make_under_way_is_no_orphan(tmp_path):
    storage = open_storage(tmp_path)

    with storage.making("flights"):
        staged = storage.stage("flights")
        assert open_storage(tmp_path).remove_orphans() == []
        assert staged.exists()


def test_zero_rows_are_valid(location):
    make(location, query="SELECT 1 AS x WHERE false")

    fs = FileSet(target_stage_loc=location, name="flights")

    assert fs.num_rows == 0
    assert fs.to_arrow().schema.names == ["x"]
    fs.verify()


# --- secrets of a storage --------------------------------------------------------------------------------------------


def test_storage_options_show_up_nowhere(monkeypatch):
    location = f"memory://{uuid.uuid4()}"
    options = {"password": "hunter2", "skip_instance_cache": True}

    fs = make(location, storage_options=options)
    shown = [repr(fs), str(fs), str(vars(fs)), str(fs.manifest), str(fs.files())]

    assert not [text for text in shown if "hunter2" in text]
    assert b"hunter2" not in pickle.dumps(fs)
    for path in fsspec.filesystem("memory").find(location):
        assert b"hunter2" not in fsspec.filesystem("memory").cat_file(path)
    with pytest.raises(FileSetNotFoundError) as raised:
        FileSet(target_stage_loc=location, name="nothing", storage_options=options)
    assert "hunter2" not in str(raised.value)


WITH_CREDENTIALS = [
    "s3://AKIAKEY:hunter2/+x@bucket/sets/flights",
    "https://me:hunter2@host:8443/sets/flights",
    "https://host/sets/flights?X-Amz-Signature=hunter2",
    "s3://bucket/flights?token=hunter2",
    "gs://bucket/a?b=hunter2/flights",
]


@pytest.mark.parametrize("where", WITH_CREDENTIALS)
def test_credentials_in_a_url_are_refused_and_never_shown(where, tmp_path):
    location, name = where.rsplit("/", 1)
    fs = make(tmp_path)
    uses = [
        lambda: FileSet.open(where),
        lambda: FileSet.from_parquet(where),
        lambda: make(where, "flights"),
        lambda: fs.copy_to(where),
        lambda: FileSetReader(where, batch_size=4),
        lambda: FileSetReader([fs, where], batch_size=4),
    ]
    if "hunter2" in location:
        uses += [lambda: FileSet(target_stage_loc=location, name=name), lambda: make(location, name)]

    for use in uses:
        with pytest.raises(FileSetLocationError, match=r"in the URL.*environment.*storage_options=") as raised:
            use()
        assert str(raised.value).startswith(where.partition("://")[0] + "://")


@pytest.mark.parametrize(
    "where",
    [
        "s3://bucket/a@b/x",
        "https://host:443/a@b/x",
        "abfs://files@account.dfs/x",
        "github://org:repo@main/x",
        "a?b=c/x",
    ],
)
def test_what_only_looks_like_credentials_is_taken(where):
    refuse_credentials(where)
    assert not holds_credentials(where)


def test_a_url_without_a_driver_says_what_to_install():
    with pytest.raises(FileSetLocationError, match="nosuch"):
        FileSet(target_stage_loc="nosuch://bucket", name="flights")


def test_a_store_that_cannot_be_reached_is_an_error_of_ours():
    class NoCredentialsError(Exception):
        """As botocore has it: neither an OSError nor one that fsspec knows."""

    class Silent(LocalFileSystem):
        protocol = "silent"

        def cat_file(self, path, start=None, end=None, **options):
            raise NoCredentialsError("Unable to locate credentials")

    fsspec.register_implementation("silent", Silent, clobber=True)

    with pytest.raises(FileSetLocationError, match=r"silent://.* cannot be read \(NoCredentialsError: Unable"):
        FileSet(target_stage_loc="silent://bucket/sets", name="flights")


def test_an_upload_that_is_interrupted_leaves_nothing(tmp_path):
    fs = make(tmp_path)

    def stop(size):
        raise KeyboardInterrupt

    storage = open_storage("memory://interrupted/sets")
    staged = storage.stage("flights")
    shutil.copytree(tmp_path / "flights", staged, dirs_exist_ok=True)
    with pytest.raises(KeyboardInterrupt):
        storage.publish(staged, "flights", fs.manifest.paths, b"a manifest", stop)

    assert fsspec.filesystem("memory").find("memory://interrupted") == []
    assert not staged.exists()


def test_a_copy_that_is_interrupted_once_its_manifest_came_through_stays_whole(tmp_path, monkeypatch):
    fs = make(tmp_path)
    memory = type(fsspec.filesystem("memory"))
    pipe_file = memory.pipe_file

    def interrupted(self, *arguments, **options):
        pipe_file(self, *arguments, **options)
        raise KeyboardInterrupt

    monkeypatch.setattr(memory, "pipe_file", interrupted)
    with pytest.raises(KeyboardInterrupt):
        fs.copy_to("memory://late/sets")

    FileSet(target_stage_loc="memory://late/sets", name="flights").verify()


def test_a_forked_process_reads_through_a_driver_of_its_own(tmp_path):
    class Looping(AsyncFileSystemWrapper):
        """Files of this machine by an event loop in a thread, as s3fs has one."""

        protocol = "looping"

        def __init__(self, **options):
            super().__init__(LocalFileSystem(), **options)

    fsspec.register_implementation("looping", Looping, clobber=True)
    make(tmp_path)
    fs = FileSet(target_stage_loc=f"looping://{tmp_path}", name="flights")
    child = multiprocessing.get_context("fork").Process(target=fs.verify)

    child.start()
    child.join(60)

    assert child.exitcode == 0


def test_a_file_url_is_a_directory(tmp_path):
    make(tmp_path)

    assert FileSet(target_stage_loc=f"file://{tmp_path}", name="flights").num_rows == 5000


def test_a_relative_location_stays_where_it_was_when_the_working_directory_changes(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    fs = make("filesets")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    fs.verify()
    assert pickle.loads(pickle.dumps(fs)).to_arrow().num_rows == 5000


# --- Parquet files that others wrote ---------------------------------------------------------------------------------


def test_files_of_others_come_in_numeric_order_without_hidden_ones(location, tmp_path):
    names = ["b_10.parquet", "b_9.parquet", "sub/x.PARQUET", "a.pq", "b_9.parquet.crc", "_SUCCESS", "readme.txt"]
    hidden = ["_tmp/a.parquet", ".hidden/a.parquet", "_a.parquet", ".a.parquet", "sub/_x.parquet"]
    for number, name in enumerate([*names, *hidden]):
        with fsspec.open(f"{location}/{name}", "wb", auto_mkdir=True) as file:
            pq.write_table(pa.table({"n": [number]}), file)

    fs = FileSet.from_parquet(location)

    assert fs.manifest.paths == ["a.pq", "b_9.parquet", "b_10.parquet", "sub/x.PARQUET"]
    assert fs.to_arrow()["n"].to_pylist() == [3, 1, 0, 2]
    fs.verify()


def test_files_whose_names_continue_each_other_can_be_ordered(tmp_path):
    for name in ("data.parquet", "data.parquet2.parquet", "data1.parquet"):
        pq.write_table(pa.table({"n": [1]}), tmp_path / name)

    assert len(FileSet.from_parquet(tmp_path).files()) == 3


def test_the_identity_of_others_files_is_stable_and_sensitive(tmp_path):
    first = numbered(tmp_path / "a", [3, 4])
    assert numbered(tmp_path / "b", [3, 4]).snapshot_id == first.snapshot_id
    assert FileSet.from_parquet(f"{tmp_path}/a/").snapshot_id == first.snapshot_id
    assert len(first.snapshot_id) == 64

    tables = numbered_tables([3, 4])
    others = [
        numbered(tmp_path / "rows", [4, 3]),
        numbered(tmp_path / "files", [7]),
        fileset_of(tmp_path / "columns", *(table.drop_columns(["y"]) for table in tables)),
        fileset_of(tmp_path / "values", tables[0], tables[1].set_column(0, "id", [[9, 9, 9, 9]])),
        fileset_of(tmp_path / "codec", *tables, compression="zstd"),
    ]
    (tmp_path / "a" / "data_1.parquet").rename(tmp_path / "a" / "data_2.parquet")
    others.append(FileSet.from_parquet(tmp_path / "a"))

    assert len({fs.snapshot_id for fs in (first, *others)}) == 7


def test_a_file_of_another_schema_is_named_with_the_column(tmp_path):
    base = pa.table({"a": [1], "b": ["x"]})
    cases = {
        "type": (pa.table({"a": [1.5], "b": ["x"]}), "column 'a' is double, but int64"),
        "missing": (pa.table({"a": [1]}), "no column 'b'"),
        "extra": (pa.table({"a": [1], "b": ["x"], "c": [1]}), "a column 'c'"),
        "order": (pa.table({"b": ["x"], "a": [1]}), "another order"),
    }

    for name, (other, said) in cases.items():
        with pytest.raises(SchemaMismatchError, match=rf"data_1\.parquet: .*{said}.*data_0\.parquet"):
            fileset_of(tmp_path / name, base, other)


def test_files_that_differ_in_metadata_or_in_what_they_say_of_nulls_share_a_schema(tmp_path):
    strict = pa.table({"a": [1, 2]}, schema=pa.schema([pa.field("a", pa.int64(), nullable=False)]))
    noted = pa.table({"a": [3, None]}).replace_schema_metadata({"who": "me"})

    fs = fileset_of(tmp_path, strict, noted)

    assert fs.to_arrow()["a"].to_pylist() == [1, 2, 3, None]
    fs.verify()


def test_hive_directories_are_refused_with_the_way_to_read_them(tmp_path):
    write_parquet(tmp_path / "year=2013", numbered_tables([3]))

    with pytest.raises(FileSetLocationError, match=r"year=2013/data_0\.parquet.*hive_partitioning=true"):
        FileSet.from_parquet(tmp_path)

    # ... and that way works.
    query = f"FROM read_parquet('{tmp_path}/**/*.parquet', hive_partitioning=true)"
    assert make(tmp_path / "made", query=query).schema.names[-1] == "year"


@pytest.mark.parametrize("place", ["nowhere", "empty", "file.parquet"])
def test_a_place_without_parquet_files_is_an_error_that_names_it(tmp_path, place):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.parquet").write_bytes(b"")

    with pytest.raises(FileSetNotFoundError, match=f"{place}: no Parquet files"):
        FileSet.from_parquet(tmp_path / place)


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1PAR1", b"x" * 1000])
def test_a_broken_file_of_others_is_named(tmp_path, data):
    write_parquet(tmp_path, numbered_tables([3, 3]))
    (tmp_path / "data_1.parquet").write_bytes(data)

    with pytest.raises(FileSetCorruptError, match=r"data_1\.parquet: the file is missing or not a whole Parquet"):
        FileSet.from_parquet(tmp_path)


def test_files_of_others_are_never_deleted(tmp_path):
    fs = numbered(tmp_path, [3])

    with pytest.raises(FileSetCannotDeleteError, match="written by others"):
        fs.delete()

    fs.verify()


def test_files_of_others_pickle_and_print_as_the_call_that_opens_them(tmp_path):
    fs = numbered(tmp_path, [3, 0, 2])

    assert eval(repr(fs)).snapshot_id == pickle.loads(pickle.dumps(fs)).snapshot_id == fs.snapshot_id


def test_the_files_of_a_fileset_open_as_parquet_files_too(tmp_path):
    made = make(tmp_path)

    assert FileSet.from_parquet(tmp_path / "flights").to_arrow() == made.to_arrow()


def test_null_counts_come_from_footers_where_these_have_them(tmp_path):
    table = pa.table({"a": [1, None, None], "l": [[1, None], None, [2]], "s": [{"x": 1, "y": None}] * 3})

    assert fileset_of(tmp_path / "with", table, table).manifest.null_counts["a"] == 4
    assert fileset_of(tmp_path / "with", table, table).manifest.null_counts["l"] == 4
    assert fileset_of(tmp_path / "without", table, write_statistics=False).manifest.null_counts == {}
    write_parquet(tmp_path / "some", [table])
    shutil.copy(tmp_path / "without" / "data_0.parquet", tmp_path / "some" / "data_1.parquet")
    assert FileSet.from_parquet(tmp_path / "some").manifest.null_counts == {}
