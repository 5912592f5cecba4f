"""Ray: training on two nodes of a cluster, killed and resumed; its datasets; and `trainer=ray`."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pyarrow as pa
import pytest

pytest.importorskip("ray")

from fileset_integrations import FileSet, FileSetReader, Shard
from fileset_integrations.errors import SpecError
from tests.support import ROOT, SOAK
from tests.support.data import fileset_of, ids, numbered, numbered_tables

# Some thirty processes, half of them with all of Lightning: minutes, where other tests use the cores too.
LIMIT_S = 1000
pytestmark = [pytest.mark.slow, pytest.mark.timeout(LIMIT_S + 100)]

FILE_ROWS = (10, 0, 23, 7, 14)
RUNS = [
    "recipe",
    pytest.param("loop", marks=pytest.mark.skipif(not SOAK, reason="soak only: the recipe does the same")),
]

# Ray's defaults: https://github.com/ray-project/ray/blob/master/src/ray/common/ray_config_def.h, and
# ray.train.v2._internal.constants
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    # Ray gives its workers what other programs leave of the cores: next to nothing, beside other tests.
    "RAY_worker_niceness": "0",
    # A machine that is short of memory or slow fails elsewhere.
    "RAY_memory_monitor_refresh_ms": "0",
    "RAY_worker_register_timeout_seconds": str(LIMIT_S),
    "RAY_health_check_failure_threshold": "100",
    "RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S": str(LIMIT_S),
    # It takes up checkpoints at its health checks.
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
    # A process for each start of the workers, which looks for machines that are to be taken away.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


@pytest.fixture(scope="module")
def cluster_run(tmp_path_factory):
    """What `tests.support.ray_fit` found, and its folder."""
    folder = tmp_path_factory.mktemp("ray")
    numbered(folder / "train", FILE_ROWS)
    fileset_of(folder / "none", numbered_tables([1])[0].slice(0, 0))
    # Short: sockets lie in it, whose paths may have 107 characters.
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    environment = {
        **os.environ,
        **RAY,
        "RAY_TMPDIR": temporary,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),  # of the workers too
    }
    with (folder / "out").open("w") as out, (folder / "err").open("w") as err:
        process = subprocess.Popen(
            [sys.executable, "-m", "tests.support.ray_fit", str(folder), *(["loop"] if SOAK else [])],
            env=environment,
            cwd=folder,
            stdout=out,  # files, not pipes: nothing that hangs keeps us waiting
            stderr=err,
            start_new_session=True,  # Ray's processes stay in it
        )
    try:
        process.wait(LIMIT_S)
        assert process.returncode == 0, (folder / "err").read_text()[-3000:]
        wait_for_end_of(process.pid)
        logs = sorted(Path(temporary).glob("ray/session_latest/logs/worker-*.err"))
        (folder / "workers").write_text("".join(log.read_text() for log in logs))
    finally:
        while left := of_session(process.pid):
            for pid in left:
                os.kill(pid, signal.SIGKILL)
            process.poll()
        shutil.rmtree(temporary, ignore_errors=True)
    return folder, json.loads((folder / "found.json").read_text())


def of_session(session: int) -> dict[int, str]:
    """Command lines of the processes of a session, by their ids."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, _, _, of = (folder / "stat").read_text().rpartition(")")[2].split()[:4]
            if int(of) == session and state != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_bytes().decode(errors="replace").replace("\0", " ")
        except OSError:  # it has ended
            continue
    return found


def wait_for_end_of(session: int) -> None:
    """Ray kills its processes as it ends: they may take a moment."""
    begin = time.monotonic()
    while left := of_session(session):
        assert time.monotonic() - begin < 60, left
        time.sleep(0.1)


def planned_by(folder: Path, run: str, rank: int) -> FileSetReader:
    if run == "loop":
        fs = FileSet.from_parquet(folder / "train")
    else:
        fs = FileSet.open(f"{folder}/recipe/data/filesets/query").split(train=0.8, val=0.2, seed=0)["train"]
    return FileSetReader(fs, batch_size=4, shuffle=True, seed=7, shard=Shard(rank, 2))


@pytest.mark.parametrize("run", RUNS)
def test_workers_that_were_killed_go_on_at_the_batch_of_the_last_checkpoint(run, cluster_run):
    folder, _ = cluster_run
    epoch_steps = sum(FILE_ROWS) // 8
    last_checkpoint, killed_at = 9, 10  # steps: in the middle of the second epoch

    assert epoch_steps < last_checkpoint < 2 * epoch_steps
    assert (folder / run / "died").exists()
    for rank in range(2):
        reader = planned_by(folder, run, rank)
        planned = [(epoch, i, one) for epoch in (0, 1) for i, one in enumerate(ids(reader.iter_batches(epoch)))]
        lines = (folder / run / f"seen-{rank}.jsonl").read_text().splitlines()
        seen = [tuple(json.loads(line)) for line in lines]
        # Rank 0 may have begun the step at which rank 1 died.
        before = seen[: len(seen) - (len(planned) - last_checkpoint)]

        assert len(reader) == epoch_steps
        assert seen[len(before) :] == planned[last_checkpoint:]
        assert before == planned[: len(before)]
        assert len(before) in (killed_at, killed_at + 1)


@pytest.mark.parametrize("run", RUNS)
def test_each_node_has_a_rank_which_its_worker_is_told(run, cluster_run):
    folder, _ = cluster_run

    (rank_0, size_0, node_0), (rank_1, size_1, node_1) = (
        json.loads((folder / run / f"rank-{rank}.json").read_text()) for rank in range(2)
    )

    assert [(rank_0, size_0), (rank_1, size_1)] == [(0, 2), (1, 2)]
    assert node_0 != node_1


def test_a_recipe_brings_its_model_back(cluster_run):
    folder, found = cluster_run

    assert 0 < found["recipe"]["value"] < 100  # root of the mean square error of labels in (-68, 0]
    assert {"last.ckpt", "epoch_001.ckpt", "metrics.csv", "loss.png"} <= set(found["recipe"]["files"])
    assert "14 validation rows" in (folder / "out").read_text()


def test_its_workers_are_warned_of_nothing_but_of_the_folder_that_those_before_them_left(cluster_run):
    folder, _ = cluster_run
    said = (folder / "workers").read_text()
    warnings = re.findall(r"^\S+\.py:\d+: .*$", said, re.MULTILINE)
    expected = ("LeafSpec", "exists and is not empty")  # Lightning's use of torch; the second start of a run

    assert "actor_name:RayTrainWorker" in said
    assert [line for line in warnings if not any(one in line for one in expected)] == []


@pytest.mark.skipif(not SOAK, reason="soak only, as the loop")
def test_reports_of_a_loop_reach_its_end(cluster_run):
    _, found = cluster_run

    assert found["loop"] == {"epoch": 1, "step": 2 * (sum(FILE_ROWS) // 8), "kept": 2}


def test_a_ray_dataset_has_the_rows_of_the_files(cluster_run):
    folder, found = cluster_run
    fs = FileSet.from_parquet(folder / "train")

    assert found["datasets"]["whole"] == fs.to_arrow().to_pylist()
    assert found["datasets"]["columns"] == ["y", "id"]
    assert found["datasets"]["part"] == fs.split(few=0.25, many=0.75)["few"].to_arrow()["id"].to_pylist()
    assert found["datasets"]["empty"] == 0


def test_a_ray_dataset_with_columns_has_tensors(cluster_run):
    folder, found = cluster_run
    rows = FileSet.from_parquet(folder / "train").to_arrow()
    codes = {name: code for code, name in enumerate(sorted(rows["name"].to_pylist()), 2)}  # equally frequent: by value

    assert found["datasets"]["tensors"] == [
        [row["id"], [row["x"], row["y"]], codes[row["name"]]] for row in rows.to_pylist()
    ]


def test_what_cannot_be_is_an_error_that_says_what_to_do(tmp_path):
    from fileset_integrations.callbacks.ray import RayCheckpoint
    from fileset_integrations.errors import ColumnError
    from fileset_integrations.ray import current_shard

    with pytest.raises(SpecError, match="no worker of Ray Train"):
        current_shard()
    with pytest.raises(SpecError, match="every_n_steps=0"):
        RayCheckpoint(every_n_steps=0)
    with pytest.raises(ColumnError, match="no column 'z'"):
        fileset_of(tmp_path, pa.table({"id": [1]})).to_ray_dataset(columns=["z"])
