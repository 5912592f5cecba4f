"""FileSets in a bucket of a real S3 protocol: what it costs, who reads it, what goes wrong.

The contract of every storage, over the same server, is in test_storage.
"""

import json
import multiprocessing
import os
import pickle
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from typer.testing import CliRunner

from fileset_integrations import FileSet, FileSetReader, Shard, cli
from fileset_integrations.errors import (
    FileSetCorruptError,
    FileSetError,
    FileSetExistsError,
    FileSetFetchError,
    FileSetLocationError,
    FileSetNotFoundError,
)
from fileset_integrations.storage.bucket import BucketStorage
from fileset_integrations.storage.drivers import Driver
from fileset_integrations.storage.opening import open_storage
from tests.support import ROOT
from tests.support.data import ids
from tests.support.s3_server import SECRET
from tests.support.staged import fetched_files

s3fs = pytest.importorskip("s3fs")

ROWS = 8 * 2048
QUERY = f"SELECT i AS id, random() AS x FROM range({ROWS}) r(i)"  # no two makes have a file in common


@pytest.fixture
def location(s3, cache) -> str:
    """A place in an empty bucket; the cache is empty too."""
    return s3.make_bucket("tests") + "/sets"


@pytest.fixture
def other_environment():
    """For tests that change it: fsspec keeps the drivers that were made in one."""
    s3fs.S3FileSystem.clear_instance_cache()
    yield
    s3fs.S3FileSystem.clear_instance_cache()


def make(location, name="numbers", **options) -> FileSet:
    options = {"query": QUERY, "max_file_bytes": 24_000, **options}
    return FileSet.make(target_stage_loc=location, name=name, **options)


@pytest.fixture
def made(location) -> FileSet:
    fs = make(location)
    assert fs.manifest.files.num_rows > 6
    return fs


def read(fs, epochs=1, **options):
    """Ids of all rows of each epoch, in the order of the batches."""
    reader = FileSetReader(fs, batch_size=128, shuffle=True, blocks="stream", drop_last_batch=False, **options)
    return [np.concatenate([batch["id"] for batch in reader.iter_batches(epoch)]) for epoch in range(epochs)]


# --- what it costs ---------------------------------------------------------------------------------------------------


def test_making_and_deleting_cost_a_request_a_file_and_opening_two(s3, location):
    s3.clear_log()
    made = make(location)
    files = [path.rsplit("/", 1)[-1] for path in made.files()]
    asked = [(request.method, request.path.rsplit("/", 1)[-1]) for request in s3.requests()]
    s3.clear_log()
    FileSet(target_stage_loc=location, name="numbers")
    to_open = [(request.method, request.path) for request in s3.requests()]
    s3.clear_log()
    made.delete()
    to_delete = [request.method for request in s3.requests()]

    puts = [name for method, name in asked if method == "PUT"]
    assert puts == [*files, "manifest"]
    assert len(asked) == len(puts) + 4  # whether the name is taken, at the beginning and at the end
    assert to_open == [("HEAD", "/tests/sets/numbers/manifest"), ("GET", "/tests/sets/numbers/manifest")]
    assert to_delete == ["HEAD", "GET", *["DELETE"] * len(puts)]


def test_each_file_is_fetched_once_whole_and_later_epochs_ask_for_nothing(s3, made):
    s3.clear_log()

    first, second = read(made, epochs=2)
    again = read(FileSet.open(made._root))[0]

    assert sorted(first) == sorted(second) == list(range(ROWS)) and (first != second).any()
    assert (again == first).all()
    asked = s3.fetches()
    assert asked.pop("sets/numbers/manifest") == 1
    assert asked == dict.fromkeys([f"sets/numbers/{path}" for path in made.manifest.paths], 1)
    assert not [request.range for request in s3.requests() if request.range]


def test_what_is_fetched_is_counted_and_lies_in_the_cache(made, cache):
    reader = FileSetReader(made, batch_size=128, blocks="stream")

    sum(1 for _ in reader.iter_batches())

    assert (reader.stats.files_fetched, reader.stats.fetched_bytes) == (len(made.files()), made.manifest.num_bytes)
    assert len(fetched_files(cache)) == len(made.files())


def test_the_ranks_of_a_machine_fetch_each_file_once(s3, made):
    s3.clear_log()

    with ThreadPoolExecutor(2) as pool:
        ranks = pool.map(lambda rank: read(FileSet.open(made._root), shard=Shard(rank, 2))[0], range(2))
    seen = [set(rank.tolist()) for rank in ranks]

    assert seen[0] | seen[1] == set(range(ROWS)) and not seen[0] & seen[1]
    assert set(s3.fetches().values()) == {1, 2} and s3.fetches()["sets/numbers/manifest"] == 2


def test_on_machines_of_their_own_two_ranks_fetch_what_their_plans_open(s3, made, tmp_path):
    opened = []
    for rank in range(2):
        own = {"shard": Shard(rank, 2), "cache_dir": tmp_path / str(rank)}
        reader = FileSetReader(made, batch_size=128, shuffle=True, streams=2, blocks="stream", **own)
        files = {visit.block for visit in reader.plan.epoch(0).visits()}  # a file is a block here
        s3.clear_log()
        sum(1 for _ in reader.iter_batches())
        opened.append((files, {made.manifest.paths.index(key.removeprefix("sets/numbers/")) for key in s3.fetches()}))

    assert all(planned == fetched for planned, fetched in opened)
    assert len(opened[0][0] & opened[1][0]) <= 1  # the file in which the boundary between them lies


def test_a_cache_smaller_than_the_fileset_holds_to_its_limit(s3, made, cache):
    limit = 3 * max(made.manifest.files["bytes"].to_pylist())
    s3.clear_log()

    seen = read(made, epochs=2, streams=1, cache_bytes=limit)

    assert [sorted(epoch) for epoch in seen] == [list(range(ROWS))] * 2
    assert sum(path.stat().st_size for path in fetched_files(cache)) <= limit
    assert sum(s3.fetches().values()) > len(made.files())


def test_pull_fetches_all_and_reading_asks_no_more(s3, made):
    made.pull(progress=False)
    s3.clear_log()

    assert made.to_arrow().num_rows == ROWS
    assert s3.requests() == []


def test_a_bucket_is_copied_into_a_directory_and_back(s3, made, location, tmp_path):
    here = made.copy_to(tmp_path / "here")
    there = here.copy_to(location, name="again")

    assert here.snapshot_id == there.snapshot_id == made.snapshot_id
    assert there.to_arrow() == made.to_arrow()
    there.verify()


def test_parquet_files_of_others_are_fetched_as_they_are(s3, made, cache):
    fs = FileSet.from_parquet(made._root)
    s3.clear_log()

    assert fs.to_arrow() == fs.to_arrow() == made.to_arrow()
    assert set(s3.fetches().values()) == {1}


# --- who reads it ----------------------------------------------------------------------------------------------------


def test_threads_read_at_once_what_one_reads_alone(s3, made):
    reader = FileSetReader(made, batch_size=128, shuffle=True)
    s3.clear_log()

    with ThreadPoolExecutor(8) as pool:
        batches = list(pool.map(reader.batch, reversed(range(len(reader)))))

    assert ids(batches[::-1]) == ids(reader.iter_batches())
    assert set(s3.fetches().values()) == {1}


def test_a_forked_process_fetches_by_a_driver_of_its_own(s3, made, location):
    fs = FileSet(target_stage_loc=location, name="numbers", storage_options=s3.options())
    s3.clear_log()
    child = multiprocessing.get_context("fork").Process(target=fs.to_arrow)

    child.start()
    child.join(60)

    assert child.exitcode == 0
    assert len(s3.fetches()) == len(made.files())
    assert fs.to_arrow().num_rows == ROWS and set(s3.fetches().values()) == {1}


def test_options_do_not_travel_and_an_error_says_where_to_put_them(s3, made, location, monkeypatch, other_environment):
    fs = FileSet(target_stage_loc=location, name="numbers", storage_options=s3.options())
    for name in s3.environment():
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    pickled = pickle.dumps(fs)
    s3fs.S3FileSystem.clear_instance_cache()

    assert SECRET.encode() not in pickled and s3.url.encode() not in pickled
    with pytest.raises(FileSetFetchError, match=r"data_0\.parquet: cannot be fetched \(.*storage_options="):
        pickle.loads(pickled).to_arrow(limit=1)
    fs.pull(progress=False)
    assert pickle.loads(pickled).to_arrow().num_rows == ROWS  # from the cache


WORKERS = """
import sys, torch
from torch.utils.data import DataLoader
from fileset_integrations import FileSet

if __name__ == "__main__":
    fs = FileSet.open(sys.argv[1])
    for method, workers in (("fork", 2), ("spawn", 1)):
        dataset = fs.to_torch_dataset(batch_size=128, shuffle=True, drop_last_batch=False)
        loader = DataLoader(dataset, batch_size=None, num_workers=workers, multiprocessing_context=method)
        print(method, torch.cat([batch["id"] for batch in loader]).sort().values.equal(torch.arange(int(sys.argv[2]))))
"""


@pytest.mark.slow
def test_workers_of_a_data_loader_read_forked_and_spawned(s3, made, tmp_path):
    script = tmp_path / "workers.py"
    script.write_text(WORKERS)
    s3.clear_log()

    done = subprocess.run(
        [sys.executable, script, made._root, str(ROWS)], capture_output=True, text=True, timeout=200, cwd=ROOT
    )

    assert done.stdout == "fork True\nspawn True\n", done.stderr
    assert s3.fetches().pop("sets/numbers/manifest") == 1
    assert all(count == 1 for key, count in s3.fetches().items() if not key.endswith("manifest"))


@pytest.mark.slow
def test_a_recipe_trains_from_a_bucket_as_from_a_directory(s3, location, tmp_path):
    pytest.importorskip("lightning")
    from hydra import compose, initialize_config_module

    from fileset_integrations import schemas, train
    from fileset_integrations.lightning import FileSetDataModule
    from tests.support.app import TINY

    schemas.register()
    sources = {
        "directory": ["source=directory"],
        "s3": ["source=s3", f"source.location={location}", f"source.storage_options.endpoint_url={s3.url}"],
    }
    values = {}
    for source, options in sources.items():
        root = tmp_path / source
        with initialize_config_module("fileset_integrations.conf", version_base="1.3"):
            paths = (f"paths.root_dir={root}", f"paths.output_dir={root}/run")
            values[source] = train.run(compose("train", [*TINY, *options, *paths]))
    here, there = FileSet.open(f"{tmp_path}/directory/data/filesets/query"), FileSet.open(f"{location}/query")

    assert values["s3"] == values["directory"] is not None
    assert there.manifest.files["sha256"] == here.manifest.files["sha256"]
    # What is fetched before training, into a cache that has nothing yet, is asked for no more.
    own = {"cache_dir": str(tmp_path / "own"), "batch_size": 64}
    dm = FileSetDataModule(train=f"{location}/query", pull=True, storage_options=s3.options(), **own)
    s3.clear_log()
    dm.prepare_data()
    assert len(s3.fetches()) == 1 + there.manifest.files.num_rows
    s3.clear_log()
    assert FileSetReader(there, **own).batch(0) and s3.requests() == []


# --- two at once, and crashes ----------------------------------------------------------------------------------------


def test_of_two_that_make_one_name_at_once_one_wins_and_the_other_leaves_nothing(s3, location, monkeypatch):
    # Neither sees the other, as when both look before either writes: the store alone decides.
    monkeypatch.setattr(BucketStorage, "exists", lambda self, name: False)

    def attempt(seed):
        try:
            return make(location, shuffle=True, seed=seed)
        except FileSetExistsError as error:
            return error

    with ThreadPoolExecutor(2) as pool:
        ended = list(pool.map(attempt, range(2)))

    [winner] = [one for one in ended if isinstance(one, FileSet)]
    [error] = [one for one in ended if isinstance(one, FileSetExistsError)]
    assert "already exists" in str(error)
    assert s3.keys("tests") == sorted(["sets/numbers/manifest", *(f"sets/numbers/{p}" for p in winner.manifest.paths)])
    FileSet.open(winner._root).verify()


def test_a_killed_make_leaves_nothing_that_opens_and_its_files_are_removed_as_orphans(s3, made, location):
    before = s3.keys("tests")
    s3.delay(0.15)
    program = "from fileset_integrations.cli import main; main()"
    maker = subprocess.Popen(
        [sys.executable, "-c", program, "make", location, "torn", "--max-file-bytes", "24000"],
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "NO_COLOR": "1"},
    )
    maker.stdin.write(QUERY.encode())
    maker.stdin.close()
    while maker.poll() is None and len(s3.keys("tests")) < len(before) + 2:
        time.sleep(0.02)
    maker.kill()
    maker.wait()
    s3.delay(0)
    s3.settle()
    left = [key for key in s3.keys("tests") if key not in before]

    with pytest.raises(FileSetNotFoundError, match=r"s3://tests/sets/torn: there is no complete FileSet"):
        FileSet(target_stage_loc=location, name="torn")
    done = CliRunner().invoke(cli.app, ["rm", "--orphans", location])

    assert left and all(key.startswith("sets/torn/run-") for key in left)
    assert done.stdout.split() == [f"s3://tests/{key}" for key in left]
    assert s3.keys("tests") == before


def test_what_was_deleted_by_others_is_seen_by_who_has_looked_before(s3, made, location):
    storage = open_storage(location)
    assert storage.names() == ["numbers"] and storage.exists("numbers")

    FileSet.open(made._root).delete()
    later = open_storage(location)

    assert storage.names() == later.names() == [] and not storage.exists("numbers")
    assert s3.keys("tests") == []


# --- what goes wrong -------------------------------------------------------------------------------------------------


def test_an_altered_object_is_refused_by_its_sha256_after_a_second_try(s3, made):
    path = made.files()[3]
    content = bytearray(open_storage(made._storage.location).read(path))
    content[100] ^= 1
    s3fs.S3FileSystem().pipe_file(path, bytes(content))
    s3.clear_log()

    with pytest.raises(FileSetCorruptError, match=r"data_3\.parquet: its content is not what was written"):
        made.to_arrow()

    assert s3.fetches()[path.removeprefix("s3://tests/")] == 2


def test_a_missing_object_is_named(made):
    s3fs.S3FileSystem().rm_file(made.files()[3])

    with pytest.raises(FileSetCorruptError, match=r"data_3\.parquet: the file is missing"):
        made.to_arrow()
    with pytest.raises(FileSetCorruptError, match=r"data_3\.parquet: missing"):
        made.verify()


WRONG = {
    "an unknown key": {"key": "AKIANOBODY"},
    "another secret": {"secret": SECRET + "x"},
    "no key at all": {"key": None, "secret": None},
}


def test_credentials_that_do_not_do_are_an_error_in_one_line_that_names_the_bucket(
    s3, location, monkeypatch, other_environment
):
    good = s3.require_keys()
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    told = []

    def refused(use, options):
        with pytest.raises(FileSetLocationError) as raised:
            use(options)
        told.append(str(raised.value))

    for wrong in WRONG.values():
        refused(lambda options: FileSet.open(f"{location}/numbers", options), s3.options(**(good | wrong)))
    refused(lambda options: make(location, storage_options=options), s3.options(**(good | WRONG["an unknown key"])))
    refused(lambda options: open_storage(location, options).names(), s3.options(**(good | WRONG["an unknown key"])))

    for text in told:
        assert text.startswith("s3://tests/sets") and "Check the credentials" in text and "AWS_PROFILE" in text
        assert "\n" not in text and not any(secret in text for secret in (SECRET, good["secret"], good["key"]))
    assert make(location, storage_options=s3.options(**good)).num_rows == ROWS


def test_a_store_that_does_not_answer_is_named_with_what_to_look_at(location, monkeypatch):
    monkeypatch.setattr(s3fs.S3FileSystem, "retries", 1)
    options = {
        "endpoint_url": "http://127.0.0.1:9",
        "config_kwargs": {"retries": {"max_attempts": 0}, "connect_timeout": 2},
        "skip_instance_cache": True,
    }

    with pytest.raises(FileSetLocationError, match=r"s3://tests/sets/x/manifest: cannot be read .*Check the network"):
        FileSet(target_stage_loc=location, name="x", storage_options=options)


def test_a_bucket_that_is_not_there_is_not_made(s3, location):
    with pytest.raises(FileSetLocationError, match=r"s3://nosuch/.*there is no such bucket\. Make it first"):
        make("s3://nosuch/sets")
    with pytest.raises(FileSetNotFoundError, match="s3://nosuch/sets/x"):
        FileSet.open("s3://nosuch/sets/x")
    with pytest.raises(FileSetNotFoundError, match=r"s3://nosuch/sets: there is nothing to list"):
        open_storage("s3://nosuch/sets").names()

    assert "/nosuch" not in [request.path for request in s3.requests() if request.method == "PUT"]


def test_what_a_driver_says_is_told_without_the_options_that_are_secret():
    driver = Driver("memory://x", {"token": "hunter2", "client_kwargs": {"api_key": "hunter2-b"}, "region": "eu"})

    told = pytest.raises(FileSetLocationError, match=r"cannot be read \(OSError: bad \*\*\* and \*\*\*.* in eu\)")
    with told, driver.explained("memory://x/y", "read"):
        raise OSError("bad hunter2 and hunter2-b in eu")


# --- the terminal ----------------------------------------------------------------------------------------------------


def test_commands_take_urls(s3, location, tmp_path):
    def call(*arguments, text=None):
        done = CliRunner().invoke(cli.app, [str(one) for one in arguments], input=text)
        assert done.exit_code == 0, done.output
        return done.stdout

    where = f"{location}/rows"
    assert call("make", location, "rows", text=QUERY) == f"{where}\n"
    assert [one["name"] for one in json.loads(call("ls", location, "--json"))] == ["rows"]
    assert json.loads(call("info", where, "--json"))["num_rows"] == ROWS
    assert len(json.loads(call("head", where, "-n", "3", "--json"))) == 3
    call("verify", where)
    call("pull", where)
    assert call("copy", where, tmp_path / "sets") == f"{tmp_path / 'sets'}/rows\n"
    call("rm", where, "--yes")
    assert s3.keys("tests") == []


def test_commands_tell_what_goes_wrong_in_one_line(s3, location, monkeypatch, other_environment):
    s3.require_keys()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIANOBODY")

    done = CliRunner().invoke(cli.app, ["info", f"{location}/rows"])

    [line] = done.stderr.splitlines()
    assert done.exit_code != 0 and isinstance(done.exception, SystemExit | FileSetError)
    assert "s3://tests/sets/rows" in line and "Check the credentials" in line and SECRET not in line
