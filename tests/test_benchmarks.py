"""The parts of `make bench`, on tiny data and without the peers' environments."""

import io
import itertools
import json
import sys
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path

import pyarrow.parquet as pq
import pytest

pytest.importorskip("benchmarks", reason="benchmarks/ is part of the checkout")

from benchmarks import driver, environments, protocol, report
from benchmarks.data import make_data
from benchmarks.ours import REQUESTS
from benchmarks.scenarios import CANDIDATES, PROMISES, SCENARIOS, Scenario
from tests.support import SOAK

pytestmark = pytest.mark.checkout

SCALE = 0.001  # 400 rows a file of data A
BATCH = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("bench")


def serve(data: protocol.Data, scratch: Path, module: str, entry: str, *requests: dict) -> list[dict]:
    """What a process for one entry would answer."""
    begin = {"module": module, "entry": entry, "data": data.to_json(), "batch_size": BATCH, "scratch": str(scratch)}
    answers = io.StringIO()
    protocol.serve(io.StringIO("\n".join(json.dumps(line) for line in (begin, *requests))), answers)
    return [json.loads(line) for line in answers.getvalue().splitlines()]


def test_data_a_is_eight_equal_files_of_one_row_group(folder):
    data = make_data("a", SCALE, folder)

    read = [pq.ParquetFile(path) for path in data.files]

    assert [file.metadata.num_rows for file in read] == [400] * 8
    assert {file.metadata.num_row_groups for file in read} == {1}
    assert read[0].schema_arrow.names == [*data.floats, "label"]
    assert make_data("a", SCALE, folder) == data


def test_data_b_is_unequal_files_with_nulls_strings_and_lists(folder):
    data = make_data("b", 0.01, folder)

    read = [pq.read_table(path) for path in data.files]

    assert [table.num_rows for table in read] == list(data.rows)
    assert len(set(data.rows)) == 37
    for name in data.nulls:
        assert sum(table[name].null_count for table in read)
    assert (len(data.floats), len(data.integers) + 1, len(data.texts), data.lists) == (12, 3, 4, {"v": 16})


@pytest.mark.parametrize(
    ("entry", "data_name"),
    itertools.product(("stream", "memory", "disk"), "ab")
    if SOAK
    else [("stream", "a"), ("memory", "b"), ("disk", "a")],
)
def test_our_entries_yield_every_full_batch_in_first_and_later_epochs(folder, tmp_path, data_name, entry):
    data = make_data(data_name, SCALE, folder)
    epochs = [{"do": "epoch", "fresh": fresh, "seconds": 60} for fresh in (True, False, True)]

    begun, *answers = serve(data, tmp_path, "benchmarks.ours", entry, *epochs)

    assert begun["version"].startswith("fileset-integrations")
    for answer in answers:
        assert answer["batches"] == data.num_rows // BATCH
        assert answer["rows"] == answer["batches"] * BATCH
        assert answer["complete"]


def test_the_limit_reads_every_row(folder, tmp_path):
    data = make_data("a", SCALE, folder)

    _, answer = serve(
        data, tmp_path, "benchmarks.peers.arrow", "threads", {"do": "epoch", "fresh": True, "seconds": 60}
    )

    assert answer["rows"] == data.num_rows


def test_an_epoch_is_cut_off_when_its_time_is_up(folder, tmp_path):
    data = make_data("a", SCALE, folder)

    _, answer = serve(data, tmp_path, "benchmarks.ours", "stream", {"do": "epoch", "fresh": True, "seconds": 0})

    assert (answer["batches"], answer["first_rows"], answer["complete"]) == (2, BATCH, False)


def test_an_epoch_that_was_cut_off_counts_the_time_to_its_first_batch_once():
    cut = {"rows": 30, "first_rows": 10, "data_rows": 100, "wall_s": 5.0, "first_s": 3.0, "cpu_s": 1.0}

    whole = report._whole(cut | {"complete": False})

    assert (whole["rows"], whole["wall_s"]) == (100, 12.0)  # 3 s, and 90 rows at 10 a second
    assert report._whole(cut | {"complete": True})["wall_s"] == 5.0


@pytest.mark.parametrize("name", PROMISES)
def test_every_promise_can_be_measured(folder, tmp_path, name):
    request, data_name, arguments = PROMISES[name]
    arguments = arguments | {key: 3 for key in ("epochs", "files") if key in arguments}
    data = make_data(data_name, SCALE, folder)

    answer = REQUESTS[request](protocol.Job(data, BATCH, str(tmp_path)), {"repeats": 1} | arguments)

    assert answer


def test_failures_are_answers_and_the_process_goes_on(folder, tmp_path):
    data = make_data("a", SCALE, folder)

    begun, failed, well = serve(
        data, tmp_path, "benchmarks.ours", "", {"do": "no such thing"}, {"do": "plan", "files": 3, "repeats": 1}
    )

    assert "version" in begun
    assert failed == {"error": "KeyError: 'no such thing'"}
    assert well["files"] == 3


def test_candidates_take_turns_in_processes_and_peers_without_an_environment_are_reported(tmp_path, monkeypatch):
    def fail(command: list[str]) -> None:
        raise environments.NotInstalledError("no such version")

    monkeypatch.setattr(environments, "_run", fail)
    scenario = Scenario("epochs", "Tiny", "a", BATCH, ("read", "stream", "sf"))
    told: list[str] = []
    run = driver.Driver(tmp_path, SCALE, repeats=2, seconds=60, with_peers=True, say=told.append)

    run.prepare(["snowflake"], ["a"])
    run.measure(scenario)
    results = asdict(run.finish())

    measured = [(epoch["round"], epoch["candidate"]) for epoch in results["epochs"]]
    assert measured == [(0, "read"), (0, "stream"), (1, "stream"), (1, "read")]
    assert all(epoch["rows"] and epoch["wall_s"] > 0 for epoch in results["epochs"])
    if sys.platform == "linux":
        assert all(epoch["anon"] for epoch in results["epochs"])
    assert results["failures"] == {"sf": "no such version"}
    text = report.render(json.loads(json.dumps(results)))
    assert "- sf: no such version" in text
    assert "reader, streamed" in text


def test_ratios_are_taken_round_by_round(tmp_path):
    def epoch(candidate: str, phase: str, number: int, speed: float) -> dict:
        about = {"scenario": "epochs", "candidate": candidate, "phase": phase, "round": number}
        return about | {
            "rows": int(speed),
            "wall_s": 1.0,
            "cpu_s": 1.0,
            "first_s": 0.1,
            "anon": 2**20,
            "complete": True,
        }

    # The machine is half as fast in the second round; the ratio stays.
    epochs = [epoch("sf", "first", number, 1e6 / (number + 1)) for number in range(3)]
    epochs += [epoch("stream", "first", number, 5e6 / (number + 1)) for number in range(3)]
    epochs += [epoch("memory", "later", number, 7e6 / (number + 1)) for number in range(3)]
    setting = {"processor": "P", "cores": 2, "system": "S", "python": "3", "packages": {}, "versions": {}}
    setting |= {"scale": 1, "repeats": 3, "seconds": 3, "load_at_start": 0.0, "load_at_end": 0.0}
    memory = {"before": 0, "highest": [2**20] * 4, "last": [2**20] * 4, "memory_bytes": 2**20}
    results = {"setting": setting, "epochs": epochs, "promises": {"memory": memory}, "failures": {}}

    lines = report.render(results).splitlines()
    report.draw(results, tmp_path / "picture.png")

    assert any(">= 4 x | 5.00 x (5.00 to 5.00); by processor time 5.0 x | met" in line for line in lines)
    assert any(">= 8 x | 7.00 x (7.00 to 7.00); by processor time 7.0 x | **missed**" in line for line in lines)
    assert (tmp_path / "picture.png").read_bytes().startswith(b"\x89PNG")


def test_every_candidate_has_its_module_and_every_environment_its_exact_versions():
    for candidate in CANDIDATES.values():
        assert find_spec(candidate.module) is not None
        if candidate.environment:
            lines = (environments.PEERS / f"{candidate.environment}.txt").read_text().splitlines()
            assert all(line.startswith("#") or "==" in line for line in lines)
    assert {key for scenario in SCENARIOS for key in scenario.candidates} == set(CANDIDATES)


def test_why_pip_failed_is_told_without_addresses():
    output = "Looking in indexes: https://user:secret@host/simple\nERROR: none at https://user:secret@host/simple\n\n"

    assert environments._reason(output) == "ERROR: none at ..."
