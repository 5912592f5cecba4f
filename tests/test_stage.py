"""Stages as homes of FileSets, over the genuine connector."""

import gc
import http.client
import io
import json
import pickle
import re
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import numpy as np
import pyarrow.parquet as pq
import pytest
from omegaconf import OmegaConf, open_dict
from typer.testing import CliRunner

from fileset_integrations import Columns, FileSet, FileSetReader, cli, train
from fileset_integrations.errors import (
    FileSetAlreadyDeletedError,
    FileSetCorruptError,
    FileSetExistsError,
    FileSetNotFoundError,
    SpecError,
)
from fileset_integrations.runs.filesets import make_filesets
from tests.support import ROOT
from tests.support.data import numbered, plain
from tests.support.snowflake_server import MARK
from tests.support.staged import PROFILE, STAGE, load_numbers, make_stage, staged_numbers
from tests.test_train import small

PLACE = {"target_stage_loc": f"{STAGE}/sets", "name": "numbers"}


def files(server) -> list[str]:
    return [file.path for file in server.files(f"{STAGE}/")]


def test_a_query_becomes_a_fileset_in_a_stage(snowflake_server, stage, snowflake_profile, cache):
    load_numbers(snowflake_server, 1000)

    made = FileSet.make(
        target_stage_loc=f"{stage}/sets",
        name="numbers",
        connection_name=snowflake_profile,
        query="SELECT * FROM DB1.S1.NUMBERS",
        max_file_bytes=5000,
    )

    opened = FileSet(target_stage_loc=f"{stage}/sets", name="numbers", connection_name=snowflake_profile)
    assert opened.snapshot_id == made.snapshot_id
    assert len(opened.files()) > 1
    assert sorted(opened.to_arrow()["ID"].to_pylist()) == list(range(1000))
    opened.verify()


@pytest.mark.parametrize("blocks", ["stream", "memory", "disk"])
def test_its_batches_are_those_of_the_same_files_in_a_directory(blocks, snowflake_server, stage, tmp_path, cache):
    there = staged_numbers(snowflake_server, [30, 7, 50, 1, 20])
    here = there.copy_to(tmp_path / "copy")

    assert here.snapshot_id == there.snapshot_id
    readers = [FileSetReader(fs, batch_size=8, shuffle=True, seed=3, blocks=blocks) for fs in (here, there)]
    for epoch in range(2):
        batches = [[plain(batch) for batch in reader.iter_batches(epoch)] for reader in readers]
        assert batches[0] == batches[1]
    assert plain(readers[0].batch(5, 1)) == plain(readers[1].batch(5, 1))


def test_columns_are_fitted_on_fetched_files(snowflake_server, stage, tmp_path, cache):
    there = staged_numbers(snowflake_server, [30, 30])
    columns = Columns({"x": ["x", "y"]}, label="id")

    batch = FileSetReader(there, columns=columns, batch_size=60).batch(0)

    assert batch["label"].tolist() == list(range(60))
    assert batch["x"].shape == (60, 2)


def test_a_fileset_travels_by_the_name_of_its_profile(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, [5, 5])

    other = pickle.loads(pickle.dumps(fs))

    assert other.to_arrow().equals(fs.to_arrow())


def test_files_are_named_by_the_place_where_they_are(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, [5])

    assert repr(fs) == "FileSet(target_stage_loc='@DB1.S1.FS/sets', name='numbers')"
    assert fs.files() == [f"@DB1.S1.FS/sets/numbers/{path}" for path in fs.manifest.paths]
    assert FileSet(target_stage_loc="sfc://@DB1.S1.FS/sets/", name="numbers", connection_name=PROFILE).num_rows == 5
    assert FileSet(target_stage_loc="@db1.s1.fs/sets", name="numbers", connection_name=PROFILE).num_rows == 5


def test_parts_and_lists_are_read_from_a_stage_too(snowflake_server, stage, tmp_path, cache):
    there = [staged_numbers(snowflake_server, rows, name) for rows, name in (([30, 30, 9], "a"), ([20, 5], "b"))]
    here = [fs.copy_to(tmp_path / "copies") for fs in there]

    for views in ([fs.split(train=0.7, val=0.3)["train"] for fs in (there[0], here[0])], (there, here)):
        readers = [FileSetReader(view, batch_size=10, shuffle=True, cache_dir=tmp_path / "other") for view in views]
        batches = [[plain(batch) for batch in reader.iter_batches(1)] for reader in readers]
        assert batches[0] == batches[1]
        assert plain(readers[0].batch(2)) == plain(readers[1].batch(2))
        readers[0].fileset.pull()
    assert (tmp_path / "other" / "files" / "parts").exists()
    with pytest.raises(SpecError, match="is a view, which is not copied"):
        there[0].split(train=0.7, val=0.3)["train"].copy_to(tmp_path)


def test_connections_are_closed_as_soon_as_nobody_holds_the_fileset(snowflake_server, stage, cache, monkeypatch):
    opened, connect = [], http.client.HTTPConnection.connect

    def noted(connection):
        connect(connection)
        opened.append(connection)

    monkeypatch.setattr(http.client.HTTPConnection, "connect", noted)
    fs = staged_numbers(snowflake_server, [20] * 6)
    of_others = len(opened)
    reader = FileSetReader(fs, batch_size=20)
    for _ in reader.iter_batches():
        pass
    assert {connection.sock is None for connection in opened[of_others:]} == {False}

    gc.disable()
    try:
        del fs, reader
        until = time.monotonic() + 10  # threads that fetched may hold it for a moment
        while any(connection.sock is not None for connection in opened[of_others:]) and time.monotonic() < until:
            time.sleep(0.01)
        assert {connection.sock is None for connection in opened[of_others:]} == {True}
    finally:
        gc.enable()


# --- copies ----------------------------------------------------------------------------------------------------------


def test_a_directorys_fileset_goes_to_a_stage_and_back(snowflake_server, stage, tmp_path, cache):
    made = FileSet.make(
        target_stage_loc=tmp_path,
        name="squares",
        query="SELECT i, i * i AS square FROM range(9000) t(i)",
        max_file_bytes=9000,
    )

    there = made.copy_to(f"{stage}/sets", connection_name=PROFILE)
    back = there.copy_to(tmp_path / "back", name="again")

    assert made.snapshot_id == there.snapshot_id == back.snapshot_id
    assert there.manifest.files["sha256"] == made.manifest.files["sha256"] == back.manifest.files["sha256"]
    assert back.name == "again"
    for copy in (there, back):
        copy.verify()
        assert copy.to_arrow().equals(made.to_arrow())


def test_files_that_others_wrote_are_copied_under_their_digest(snowflake_server, stage, tmp_path, cache):
    theirs = numbered(tmp_path / "theirs", [10, 20])

    there = theirs.copy_to(f"{stage}/sets", name="theirs", connection_name=PROFILE)

    opened = FileSet(target_stage_loc=f"{stage}/sets", name="theirs", connection_name=PROFILE)
    assert opened.snapshot_id == there.snapshot_id == theirs.snapshot_id
    assert opened.to_arrow().equals(theirs.to_arrow())


def test_parquet_in_a_stage_opens_without_a_manifest(snowflake_server, stage, tmp_path, cache):
    for path in numbered(tmp_path / "theirs", [10, 20]).files():
        snowflake_server.put(f"{STAGE}/theirs/{Path(path).name}", Path(path).read_bytes())

    fs = FileSet.from_parquet(f"{STAGE}/theirs", connection_name=PROFILE)

    assert fs.to_arrow()["id"].to_pylist() == list(range(30))


def test_a_name_that_is_taken_is_not_copied_over(snowflake_server, stage, tmp_path, cache):
    fs = staged_numbers(snowflake_server, [5])
    before = files(snowflake_server)

    with pytest.raises(FileSetExistsError):
        fs.copy_to(f"{stage}/sets", connection_name=PROFILE)
    fs.copy_to(tmp_path)
    with pytest.raises(FileSetExistsError):
        fs.copy_to(tmp_path)

    assert files(snowflake_server) == before


def test_a_file_that_was_altered_is_not_copied(snowflake_server, stage, tmp_path, cache):
    made = FileSet.make(target_stage_loc=tmp_path, name="squares", query="SELECT i FROM range(900) t(i)")
    with Path(made.files()[0]).open("r+b") as file:
        file.seek(200)
        file.write(b"!")

    with pytest.raises(FileSetCorruptError, match="another sha256"):
        made.copy_to(f"{stage}/sets", connection_name=PROFILE)

    assert files(snowflake_server) == []


def test_what_is_altered_in_the_stage_is_found_by_verify(snowflake_server, stage, cache):
    fs = staged_numbers(snowflake_server, [40, 40], digests=True)
    stored = snowflake_server.files(f"{STAGE}/sets/numbers/run-")[0]
    data = bytearray(stored.read())
    data[100] ^= 1
    snowflake_server.put(f"{STAGE}/{stored.path}", bytes(data))

    with pytest.raises(FileSetCorruptError, match="1 of 2 files"):
        fs.verify()

    snowflake_server.remove(f"{STAGE}/{stored.path}")
    with pytest.raises(FileSetCorruptError, match=r"data_0_0_0.*missing"):
        fs.verify()


# --- removing --------------------------------------------------------------------------------------------------------


def test_delete_removes_its_own_files_and_no_others(snowflake_server, stage, cache):
    fs, other = staged_numbers(snowflake_server, [5, 5]), staged_numbers(snowflake_server, [5], "numbers2")
    snowflake_server.put(f"{STAGE}/sets/numbers/mine.txt", b"mine")
    run = fs.manifest.paths[0].rsplit("/", 1)[0]
    snowflake_server.put(f"{STAGE}/sets/numbers/{run}/data_0_0_0.snappy.parquet.bak", b"mine too")

    fs.delete()

    assert [path for path in files(snowflake_server) if path.startswith("sets/numbers/")] == [
        "sets/numbers/mine.txt",
        f"sets/numbers/{run}/data_0_0_0.snappy.parquet.bak",
    ]
    other.verify()
    with pytest.raises(FileSetAlreadyDeletedError):
        fs.to_arrow()
    with pytest.raises(FileSetNotFoundError):
        FileSet(connection_name=PROFILE, **PLACE)


@pytest.mark.slow
@pytest.mark.checkout
def test_the_suite_for_real_accounts_passes_against_the_local_snowflake(snowflake_server, snowflake_profile):
    done = subprocess.run(
        [
            *(sys.executable, "-m", "pytest", "-q", "-n0", "-m", "live"),
            *(f"--connection-name={snowflake_profile}", "tests/test_live.py"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.returncode == 0, done.stdout
    assert re.search(r"\d+ passed", done.stdout)
    assert not re.search(r"skipped|failed", done.stdout)


# --- the command line, and the recipes -------------------------------------------------------------------------------


def command(*arguments: str, stdin: str | None = None) -> str:
    done = CliRunner().invoke(cli.app, [*arguments], input=stdin, catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_the_command_makes_lists_pulls_copies_and_removes(snowflake_server, stage, tmp_path, cache):
    load_numbers(snowflake_server, 50)
    profile = ("--connection-name", PROFILE)

    made = json.loads(command("make", f"{STAGE}/sets", "n", "--json", *profile, stdin="SELECT ID FROM DB1.S1.NUMBERS"))
    assert (made["num_rows"], made["engine"]) == (50, "snowflake")
    assert [one["name"] for one in json.loads(command("ls", f"{STAGE}/sets", "--json", *profile))] == ["n"]
    assert "1 files are here" in command("pull", f"{STAGE}/sets/n", *profile)
    copied = json.loads(command("copy", f"{STAGE}/sets/n", str(tmp_path), "--json", *profile))
    assert copied["snapshot_id"] == made["snapshot_id"]
    assert "what was written" in command("verify", f"{STAGE}/sets/n", *profile)
    assert len(json.loads(command("head", f"{STAGE}/sets/n", "--json", "-n", "3", *profile))) == 3
    command("rm", f"{STAGE}/sets/n", "--yes", *profile)
    assert files(snowflake_server) == []


@pytest.mark.slow
@pytest.mark.checkout
def test_the_flights_recipe_runs_from_a_stage_as_from_a_directory(snowflake_server, stage, tmp_path, cache):
    pytest.importorskip("lightning")
    make_stage(snowflake_server, "RECIPES")
    values = {}
    for source in ("directory", "snowflake"):
        options = [f"source={source}", "trainer.max_epochs=1"]
        if source == "snowflake":
            options += ["source.location=@DB1.S1.RECIPES/sets", f"source.connection_name={PROFILE}"]
        config = small(tmp_path / source, *options, of=80)
        assert MARK not in OmegaConf.to_yaml(config, resolve=True)
        values[source] = train.run(config)
    here = FileSet(target_stage_loc=tmp_path / "directory" / "data" / "filesets", name="flights_train")
    there = FileSet(target_stage_loc="@DB1.S1.RECIPES/sets", name="flights_train", connection_name=PROFILE)

    assert values["snowflake"] == values["directory"] is not None
    assert there.manifest.files["sha256"] == here.manifest.files["sha256"]
    for epoch in range(2):
        batches = [
            [plain(batch) for batch in FileSetReader(fs, batch_size=64, shuffle=True).iter_batches(epoch)]
            for fs in (here, there)
        ]
        np.testing.assert_equal(batches[0], batches[1])  # under which nan is nan


def test_a_source_that_holds_a_credential_is_refused(snowflake_server, stage, tmp_path):
    config = small(tmp_path, "source=snowflake")
    with open_dict(config):
        config.source = {**config.source, "password": MARK}

    with pytest.raises(SpecError, match=r"source\.password.*connections\.toml") as caught:
        make_filesets(config)

    assert MARK not in str(caught.value)


def test_the_embedded_engines_files_are_uploaded_as_they_are(snowflake_server, stage, cache):
    fs = FileSet.make(
        query="SELECT i FROM range(5000) t(i)", connection_name=PROFILE, duckdb_connection=duckdb.connect(), **PLACE
    )

    stored = snowflake_server.files(f"{STAGE}/sets/numbers/run-")
    assert fs.manifest.engine == "duckdb"
    assert pq.read_table(io.BytesIO(stored[0].read())).num_rows == 5000
    assert FileSet(connection_name=PROFILE, **PLACE).to_arrow().equals(fs.to_arrow())
