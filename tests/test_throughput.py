"""How fast runs were, kept in the cache directory."""

import pytest

from fileset_integrations import throughput
from fileset_integrations.throughput import record_throughput, throughputs
from tests.support.data import numbered


@pytest.fixture
def fs(tmp_path):
    return numbered(tmp_path / "data", [10, 10])


def record(fs, rows, cache):
    record_throughput(fs, "bench", num_rows=rows, seconds=0.5, cache_dir=cache, streams=8)


def test_the_last_runs_come_in_their_order(fs, cache):
    for rows in range(30):
        record(fs, rows, cache)

    found = throughputs(fs.snapshot_id, cache)

    assert [one["num_rows"] for one in found] == list(range(10, 30))
    assert (found[0]["what"], found[0]["seconds"], found[0]["streams"]) == ("bench", 0.5, 8)


def test_those_of_parts_belong_to_the_whole_and_those_of_others_do_not(fs, cache, tmp_path):
    record(fs.split(train=0.5, val=0.5)["train"], 1, cache)
    record(numbered(tmp_path / "other", [3]), 2, cache)

    assert [one["num_rows"] for one in throughputs(fs.snapshot_id, cache)] == [1]


def test_damaged_lines_are_passed_over_and_half_a_line_is_mended(fs, cache):
    record(fs, 1, cache)
    path = cache / "runs" / "throughput.jsonl"
    with path.open("ab") as file:
        file.write(b'{"at": 3}\nnull\n[1]\n\xff\n{"at": "2026')
    record(fs, 2, cache)

    assert [one["num_rows"] for one in throughputs(fs.snapshot_id, cache)] == [1, 2]


def test_the_older_half_goes_when_there_are_many(fs, cache, monkeypatch):
    monkeypatch.setattr(throughput, "_MAX_BYTES", 2000)
    for rows in range(100):
        record(fs, rows, cache)

    found = [one["num_rows"] for one in throughputs(fs.snapshot_id, cache, last=1000)]

    assert found == list(range(found[0], 100))
    assert (cache / "runs" / "throughput.jsonl").stat().st_size < 3000


def test_a_cache_that_cannot_be_written_to_stops_nobody(fs, cache):
    cache.mkdir()
    (cache / "runs").write_text("in the way")

    record(fs, 1, cache)

    assert throughputs(fs.snapshot_id, cache) == []
