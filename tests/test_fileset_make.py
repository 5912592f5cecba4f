"""FileSet.make: whole or not at all, by one of many, and never over something else."""

import multiprocessing
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fileset_integrations import FileSet
from fileset_integrations.errors import FileSetExistsError, FileSetNotFoundError
from tests.support import count

QUERY = "SELECT i AS id, 'row ' || i AS name FROM range(5000) r(i)"
MAKERS = count(2, 6)  # processes that make one name at once


def make(location, name="flights", query=QUERY, **options) -> FileSet:
    return FileSet.make(target_stage_loc=location, name=name, query=query, **options)


def visible(folder: Path) -> list[str]:
    """What stands at a location, lock files of makes left out."""
    return sorted(path.name for path in folder.iterdir() if path.suffix != ".lock")


def test_making_a_fileset_twice_is_an_error_that_says_what_to_do(tmp_path):
    first = make(tmp_path)

    with pytest.raises(FileSetExistsError, match=r"already exists.*if_exists='open'.*delete\(\)") as raised:
        make(tmp_path, query="SELECT 1")

    assert isinstance(raised.value, FileExistsError)
    assert FileSet(target_stage_loc=tmp_path, name="flights").snapshot_id == first.snapshot_id
    assert visible(tmp_path) == ["flights"]


@pytest.mark.parametrize("thing", ["file", "folder", "link"])
def test_what_others_put_under_the_name_stays(tmp_path, thing):
    path = tmp_path / "flights"
    if thing == "folder":
        path.mkdir()
        (path / "precious").write_text("x")
    elif thing == "file":
        path.write_text("x")
    else:
        path.symlink_to("nowhere")

    with pytest.raises(FileSetExistsError):
        make(tmp_path)

    assert visible(tmp_path) == ["flights"]
    assert path.is_symlink() or path.read_text() == "x" if thing != "folder" else (path / "precious").exists()


def test_if_exists_open_opens_what_was_made_alike(tmp_path):
    options = {"shuffle": True, "seed": 3, "shuffle_key": "id", "if_exists": "open"}

    made, opened = make(tmp_path, **options), make(tmp_path, **options)

    assert opened.snapshot_id == made.snapshot_id
    assert make(tmp_path, query=f"  {QUERY}\n;", **options).snapshot_id == made.snapshot_id


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"query": "SELECT 1 AS id, 'x' AS name"}, "another query"),
        ({"shuffle": False, "shuffle_key": None}, "another shuffle .*True there, False asked for"),
        ({"seed": 4}, r"another seed \(3 there, 4 asked for\)"),
        ({"shuffle_key": ["id", "name"]}, "another shuffle_key"),
        ({"shuffle_key": None}, "another shuffle_key"),
    ],
)
def test_if_exists_open_says_what_differs(tmp_path, change, named):
    options = {"query": QUERY, "shuffle": True, "seed": 3, "shuffle_key": "id", "if_exists": "open"}
    made = make(tmp_path, **options)

    with pytest.raises(FileSetExistsError, match=named):
        make(tmp_path, **{**options, **change})

    assert FileSet(target_stage_loc=tmp_path, name="flights").snapshot_id == made.snapshot_id


def _make_open(location: str, start, results) -> None:
    start.wait()
    fs = make(location, query=QUERY, if_exists="open")
    results.put((fs.snapshot_id, fs.to_arrow().num_rows))


def _make_error(location: str, start, results) -> None:
    start.wait()
    try:
        results.put(make(location, query=QUERY).snapshot_id)
    except FileSetExistsError:
        results.put("taken")


@pytest.mark.parametrize("target", [_make_open, _make_error])
def test_of_several_processes_that_make_one_name_one_makes_it(tmp_path, target):
    context = multiprocessing.get_context("spawn")
    start, results = context.Barrier(MAKERS), context.Queue()
    processes = [context.Process(target=target, args=(str(tmp_path), start, results)) for _ in range(MAKERS)]
    for process in processes:
        process.start()

    found = [results.get(timeout=120) for _ in processes]

    for process in processes:
        process.join()
    made = FileSet(target_stage_loc=tmp_path, name="flights")
    made.verify()
    if target is _make_open:
        assert found == [(made.snapshot_id, 5000)] * MAKERS
    else:
        assert sorted(found, key="taken".__eq__) == [made.snapshot_id] + ["taken"] * (MAKERS - 1)
    assert visible(tmp_path) == ["flights"]


SLOW_MAKE = """
import sys
from fileset_integrations import FileSet
print("making", flush=True)
FileSet.make(target_stage_loc=sys.argv[1], name="flights", max_file_bytes=100_000,
             query="SELECT i AS id, hash(i) AS h, md5(i::VARCHAR) AS m FROM range(150000) r(i)")
print("made", flush=True)
"""


def test_a_make_that_is_killed_leaves_nothing_that_opens_and_the_same_make_then_succeeds(tmp_path):
    rng = random.Random(11)
    begun = 0
    for attempt in range(count(3, 20)):
        location = tmp_path / str(attempt)
        process = subprocess.Popen([sys.executable, "-c", SLOW_MAKE, str(location)], stdout=subprocess.PIPE)
        assert process.stdout.readline() == b"making\n"
        # Killed when so many files have been begun: a moment that does not depend on the machine's speed.
        wanted = rng.randint(0, 40)
        while process.poll() is None and len(list(location.glob(".*/*.parquet"))) < wanted:
            pass
        os.kill(process.pid, signal.SIGKILL)
        whole = process.communicate()[0] == b"made\n"
        begun += bool(list(location.glob(".*.partial")))

        if not whole and not (location / "flights").exists():
            with pytest.raises(FileSetNotFoundError):
                FileSet(target_stage_loc=location, name="flights")
            assert make(location, query=QUERY).num_rows == 5000
        FileSet(target_stage_loc=location, name="flights").verify()
    assert begun
