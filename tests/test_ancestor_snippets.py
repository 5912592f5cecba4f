"""The snippets of the ancestor's documentation, with only the import changed.

They are those of Snowpark ML's FileSet. The embedded engine runs the same calls on a directory.
"""

import io

import pyarrow.parquet as pq
import pytest

from fileset_integrations import FileSet
from fileset_integrations.errors import (
    FileSetAlreadyDeletedError,
    FileSetExistError,
    FileSetExistsError,
    FileSetLocationError,
    FileSetNotFoundError,
    MoreThanOneQuerySourceError,
)
from tests.support.data import numbered_tables
from tests.support.staged import STAGE, load_numbers

ROWS, BATCH = 23, 4
QUERY = f"""
    SELECT i::BIGINT AS "ID", i / 2 AS "HALF", i % 3 = 0 AS "THIRD", 'row ' || i AS "NAME" FROM range({ROWS}) AS r(i)
"""


@pytest.fixture(scope="module")
def location(tmp_path_factory):
    return str(tmp_path_factory.mktemp("stage"))


@pytest.fixture(scope="module")
def made(location):
    return FileSet.make(target_stage_loc=location, name="train", query=QUERY, shuffle=True)


def test_make_then_open_by_name(location, made):
    fileset = FileSet(target_stage_loc=location, name="train")

    assert fileset.name == "train"
    assert fileset.files() == made.files() != []
    assert all(file.startswith(f"{location}/train/") and file.endswith(".parquet") for file in fileset.files())


def test_make_twice_is_refused(location, made):
    with pytest.raises(FileSetExistsError):
        FileSet.make(target_stage_loc=location, name="train", query=QUERY, shuffle=True)


def test_what_was_never_made_does_not_open(location):
    with pytest.raises(FileSetNotFoundError):
        FileSet(target_stage_loc=location, name="never")


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last_batch", [True, False])
def test_feed_a_pytorch_datapipe(shuffle, drop_last_batch, made):
    torch = pytest.importorskip("torch")
    from torch.utils.data import DataLoader

    pipe = made.to_torch_datapipe(batch_size=BATCH, shuffle=shuffle, drop_last_batch=drop_last_batch)

    rows, sizes = [], []
    for batch in DataLoader(pipe, batch_size=None, num_workers=0):
        assert {name: value.dtype for name, value in batch.items() if name != "NAME"} == {
            "ID": torch.int64,
            "HALF": torch.float64,
            "THIRD": torch.bool,
        }
        assert all(value.ndim == 1 for name, value in batch.items() if name != "NAME")
        assert batch["NAME"] == [f"row {row}" for row in batch["ID"].tolist()]
        rows += batch["ID"].tolist()
        sizes.append(len(batch["ID"]))
    check_rows(rows, sizes, drop_last_batch)


@pytest.mark.parametrize("shuffle", [True, False])
@pytest.mark.parametrize("drop_last_batch", [True, False])
def test_feed_a_tensorflow_dataset(shuffle, drop_last_batch, made):
    pytest.importorskip("tensorflow")

    dataset = made.to_tf_dataset(batch_size=BATCH, shuffle=shuffle, drop_last_batch=drop_last_batch)

    rows, sizes = [], []
    for batch in dataset:
        assert {name: value.dtype.name for name, value in batch.items()} == {
            "ID": "int64",
            "HALF": "float64",
            "THIRD": "bool",
            "NAME": "string",
        }
        assert all(value.shape.rank == 1 for value in batch.values())
        assert batch["NAME"].numpy().tolist() == [f"row {row}".encode() for row in batch["ID"].numpy()]
        rows += batch["ID"].numpy().tolist()
        sizes.append(len(batch["ID"]))
    check_rows(rows, sizes, drop_last_batch)


def check_rows(rows, sizes, drop_last_batch):
    """The ancestor's own checks: which rows came, and in batches of which sizes."""
    full, rest = divmod(ROWS, BATCH)
    assert sizes == [BATCH] * full + ([] if drop_last_batch else [rest])
    assert len(set(rows)) == len(rows) == sum(sizes)
    assert set(rows) <= set(range(ROWS))


def test_the_arguments_have_the_ancestors_defaults(made):
    pytest.importorskip("torch")

    pipe = made.to_torch_datapipe(batch_size=BATCH)

    stored = made.to_arrow(["ID"])["ID"].to_pylist()
    rows = [row for batch in pipe for row in batch["ID"].tolist()]
    assert rows == stored[: ROWS // BATCH * BATCH]  # not shuffled anew, the last batch dropped


def test_delete_and_every_later_use(location):
    fileset = FileSet.make(target_stage_loc=location, name="short-lived", query=QUERY)

    fileset.delete()

    for use in (fileset.files, fileset.delete, lambda: fileset.to_torch_datapipe(batch_size=BATCH)):
        with pytest.raises(FileSetAlreadyDeletedError):
            use()
    with pytest.raises(FileSetNotFoundError):
        FileSet(target_stage_loc=location, name="short-lived")


# --- in a stage, over the genuine connector ---


def test_the_ancestors_snippets_run_in_a_stage(snowflake_server, stage, snowflake_connection, cache):
    torch_data = pytest.importorskip("torch.utils.data")
    load_numbers(snowflake_server, ROWS, "DB1.S1.MYTABLE")

    fileset_df = FileSet.make(
        target_stage_loc="@DB1.S1.FS/mydir",
        name="helloworld",
        sf_connection=snowflake_connection,
        query="SELECT * FROM MYTABLE",
        shuffle=True,
    )
    fileset = FileSet(sf_connection=snowflake_connection, target_stage_loc="@DB1.S1.FS/mydir", name="helloworld")

    assert fileset.files() == fileset_df.files() and len(fileset.files()) > 0
    pipe = fileset.to_torch_datapipe(batch_size=BATCH, shuffle=True, drop_last_batch=True)
    batches = list(torch_data.DataLoader(pipe, batch_size=None, num_workers=0))
    assert len(batches) == ROWS // BATCH
    assert {len(batch["ID"]) for batch in batches} == {BATCH}
    fileset.delete()
    with pytest.raises(FileSetAlreadyDeletedError):
        fileset.files()
    assert snowflake_server.files("@DB1.S1.FS/mydir/") == []


QUERY_ID = "01b2c3d4-0000-1111-2222-3333{:08x}"


def put_as_the_ancestor_does(server, name: str, number: int = 1, rows: tuple[int, ...] = (20, 30)) -> None:
    for part, table in enumerate(numbered_tables(rows)):
        sink = io.BytesIO()
        pq.write_table(table, sink)
        server.put(f"{STAGE}/mydir/{name}/data_{QUERY_ID.format(number)}_0{part}_0_0.snappy.parquet", sink.getvalue())


def test_filesets_that_the_ancestor_made_open_and_are_deleted(snowflake_server, stage, snowflake_connection, cache):
    put_as_the_ancestor_does(snowflake_server, "old")
    place = {"target_stage_loc": "@DB1.S1.FS/mydir/", "name": "old", "sf_connection": snowflake_connection}

    first, second = FileSet(**place), FileSet(**place)

    assert first.to_arrow()["id"].to_pylist() == list(range(50))
    assert (first.snapshot_id, first.files()) == (second.snapshot_id, second.files())
    with pytest.raises(FileSetExistError):
        FileSet.make(query="SELECT 1 AS A", **place)
    second.delete()
    assert snowflake_server.files("@DB1.S1.FS/mydir/") == []


def test_files_of_two_queries_are_refused(snowflake_server, stage, snowflake_connection, cache):
    put_as_the_ancestor_does(snowflake_server, "old", 1)
    put_as_the_ancestor_does(snowflake_server, "old", 2)

    with pytest.raises(MoreThanOneQuerySourceError, match="files of 2 queries"):
        FileSet(target_stage_loc="@DB1.S1.FS/mydir", name="old", sf_connection=snowflake_connection)


def test_a_file_that_no_fileset_wrote_is_refused(snowflake_server, stage, snowflake_connection, cache):
    put_as_the_ancestor_does(snowflake_server, "old")
    snowflake_server.put(f"{STAGE}/mydir/old/notes.csv", b"a,b")

    with pytest.raises(FileSetLocationError, match=r"notes\.csv.*no FileSet wrote"):
        FileSet(target_stage_loc="@DB1.S1.FS/mydir", name="old", sf_connection=snowflake_connection)


def test_a_name_where_nothing_is_does_not_open(snowflake_server, stage, snowflake_connection, cache):
    with pytest.raises(FileSetNotFoundError, match="no complete FileSet"):
        FileSet(target_stage_loc="@DB1.S1.FS/mydir", name="none", sf_connection=snowflake_connection)
