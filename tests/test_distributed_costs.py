"""The arithmetic of docs/distributed.md: what 1,000 ranks read of 100,000 files, by the plan itself."""

import hashlib
import uuid

import numpy as np
import pyarrow as pa
import pytest

from fileset_integrations.fileset import FileSet
from fileset_integrations.manifest import DataFile, Manifest, file_table
from fileset_integrations.plan import Plan
from fileset_integrations.reader import FileSetReader
from fileset_integrations.spec import BatchSpec, Shard, ShuffleSpec
from tests.support import ROOT, count
from tests.support.staged import staged_numbers

FILES, RANKS, PER_MACHINE, BATCH = 100_000, 1000, 8, 1024
MACHINES = RANKS // PER_MACHINE
FILE_BYTES = 32 * 2**20
PAGE = ROOT / "docs" / "distributed.md"

pytestmark = pytest.mark.checkout


@pytest.fixture(scope="module")
def rows():
    return np.random.default_rng(0).integers(80_000, 120_001, FILES)


@pytest.fixture(scope="module")
def page() -> dict[str, str]:
    """The table of numbers, and all text under "text"."""
    text = PAGE.read_text(encoding="utf-8")
    lines = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]
    return {"text": " ".join(text.split()), **{line[0]: line[1] for line in lines if len(line) == 2}}


def plan_of(rows, rank: int) -> Plan:
    return Plan(rows, BatchSpec.of(BATCH, None, RANKS, True), ShuffleSpec(True, 0, None), Shard(rank, RANKS))


def files_of(rows, rank: int, epoch: int) -> set[int]:
    return {visit.block for visit in plan_of(rows, rank).epoch(epoch).visits()}


def files_of_machine(rows, machine: int, epoch: int) -> set[int]:
    ranks = range(machine * PER_MACHINE, (machine + 1) * PER_MACHINE)
    return set().union(*(files_of(rows, rank, epoch) for rank in ranks))


def test_ranks_and_machines_read_as_many_files_as_the_page_says(rows, page):
    machines = {machine: files_of_machine(rows, machine, 0) for machine in range(0, MACHINES, count(12, 1))}
    ranks = [len(files_of(rows, rank, epoch)) for rank in range(0, RANKS, count(40, 1)) for epoch in range(2)]
    sizes = [len(files) for files in machines.values()]

    assert page["files that a rank reads"] == "96 to 106"
    assert 96 <= min(ranks) <= 101 <= max(ranks) <= 106
    assert page["files that a machine reads"] == "791 to 810"
    assert 791 <= min(sizes) <= 801 <= max(sizes) <= 810
    low, high = (FILE_BYTES * files / 2**30 for files in (96, 106))
    assert page["bytes in the files that a rank reads"] == f"{low:.1f} to {high:.1f} GiB"
    low, high = (FILE_BYTES * files / 2**30 for files in (791, 810))
    assert page["bytes that a machine fetches"] == f"{low:.1f} to {high:.1f} GiB"


def test_neighbours_share_the_file_that_their_boundary_lies_in_and_no_other(rows, page):
    for machine in range(0, MACHINES - 1, count(30, 1)):
        assert len(files_of_machine(rows, machine, 0) & files_of_machine(rows, machine + 1, 0)) <= 1

    assert page["files read by two machines, since a boundary lies in them"] == f"at most {MACHINES - 1}"
    assert page["files fetched by all machines"] == f"at most {FILES + MACHINES - 1:,}"


def test_streams_and_batches_are_what_the_page_says(rows, page):
    plans = [plan_of(rows, rank) for rank in (0, 1, 999)]
    batches = int(rows.sum()) // (BATCH * RANKS)

    assert {(plan.streams, plan.lanes, plan.num_batches) for plan in plans} == {(RANKS, 1, batches)}
    assert page["streams, if nobody names a number"] == "1,000: one a rank"
    assert page["batches of every rank"] == f"{plans[0].num_batches:,}"


def test_a_machine_that_keeps_what_it_fetched_has_the_share_that_the_page_says(rows, page):
    fetched = [files_of_machine(rows, 0, epoch) for epoch in range(3)]
    seen = len(set().union(*fetched))

    assert seen / FILES == pytest.approx(1 - (1 - 1 / MACHINES) ** 3, rel=0.02)
    wanted = page["files of all epochs so far that a machine has fetched, after 3"]
    assert wanted == f"{seen:,}, or {100 * seen / FILES:.1f} %"


def test_the_manifest_is_as_large_as_the_page_says(rows, page):
    files = [
        DataFile(
            f"run-{uuid.UUID(int=1)}/data_{hashlib.md5(str(i).encode()).hexdigest()}.parquet",
            int(rows[i]),
            FILE_BYTES + int(rows[i]),
            hashlib.sha256(str(i).encode()).hexdigest(),
            (int(rows[i]),),
        )
        for i in range(FILES)
    ]
    schema = pa.schema([(f"c{i}", pa.float32()) for i in range(20)])
    content = Manifest(snapshot_id=str(uuid.UUID(int=2)), files=file_table(files), schema=schema).to_bytes()

    assert "the manifest (6 MiB for 100,000 files" in page["text"]
    assert 4 * 2**20 < len(content) < 6.5 * 2**20


def test_from_a_stage_a_file_is_one_request_and_64_files_one_signing(snowflake_server, stage, cache, page):
    whole = staged_numbers(snowflake_server, [5] * 208)
    fs = FileSet(target_stage_loc=f"{stage}/sets", name="numbers", connection_name="local")
    reader = FileSetReader(fs, batch_size=10, shuffle=True, streams=2, shard=Shard(0, 2), blocks="stream")
    snowflake_server.clear_logs()

    assert sum(1 for _ in reader.iter_batches()) == whole.num_rows // 20

    fetches = snowflake_server.fetches()
    assert set(fetches.values()) == {1} and 104 <= len(fetches) <= 105
    signings = [sql for sql in snowflake_server.sql() if "GET_PRESIGNED_URL" in sql]
    assert len(signings) == 2
    assert "a rank needs 2 for its 100" in page["text"]
