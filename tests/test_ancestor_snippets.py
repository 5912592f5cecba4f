"""The snippets of the ancestor's documentation, with only the import changed.

They are those of Snowpark ML's FileSet. Where they read from Snowflake they are refused for now, with a typed error;
the embedded engine runs the same calls on a directory.
"""

import pytest

from fileset_integrations import FileSet
from fileset_integrations.errors import (
    FileSetAlreadyDeletedError,
    FileSetExistsError,
    FileSetLocationError,
    FileSetNotFoundError,
)

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


class Connection:
    """Stands for a snowflake.connector connection; whoever uses it fails."""

    def cursor(self):
        raise AssertionError("this version asks Snowflake for nothing")


def test_snowflake_is_refused_by_a_typed_error_for_now():
    calls = (
        lambda: FileSet.make(
            target_stage_loc="@mydb.myschema.mystage/mydir",
            name="helloworld",
            sf_connection=Connection(),
            query="SELECT * FROM mytable",
            shuffle=True,
        ),
        lambda: FileSet(sf_connection=Connection(), target_stage_loc="@mydb.myschema.mystage/mydir", name="helloworld"),
        lambda: FileSet(target_stage_loc="@mydb.myschema.mystage/mydir", name="helloworld"),
    )

    for call in calls:
        with pytest.raises(FileSetLocationError, match=r"(?i)snowflake|stage"):
            call()
