"""Ray: training on two nodes of a cluster, killed and resumed; its datasets; and `trainer=ray`."""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pyarrow as pa
import pytest

pytest.importorskip("ray")

from fileset_integrations import FileSet, FileSetReader, Shard
from fileset_integrations.errors import SpecError
from tests.support import ROOT, SOAK
from tests.support.data import fileset_of, ids, numbered, numbered_tables

pytestmark = pytest.mark.slow

FILE_ROWS = (10, 0, 23, 7, 14)


@pytest.fixture(scope="module")
def cluster_run(tmp_path_factory):
    """What `tests.support.ray_fit` found, and its folder."""
    if not SOAK:
        pytest.skip("soak only: beside other tests, a cluster on two cores takes minutes")
    folder = tmp_path_factory.mktemp("ray")
    numbered(folder / "train", FILE_ROWS)
    fileset_of(folder / "none", numbered_tables([1])[0].slice(0, 0))
    # Short: sockets lie in it, whose paths may have 107 characters.
    temporary = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    environment = {
        **os.environ,
        "RAY_TMPDIR": temporary,
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "0.2",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": str(ROOT),  # of the workers too
    }
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.support.ray_fit", str(folder)],
            env=environment,
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=280,
        )
        assert done.returncode == 0, done.stderr[-3000:]
        assert processes_naming(temporary) == []
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return folder, json.loads((folder / "found.json").read_text())


def processes_naming(text: str) -> list[str]:
    """Command lines that name a folder: Ray's own processes all name their session's."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = path.read_bytes().decode(errors="replace")
        except OSError:  # it has ended
            continue
        if text in command:
            found.append(command.replace("\0", " "))
    return found


def test_workers_that_were_killed_go_on_at_the_batch_of_the_last_checkpoint(cluster_run):
    folder, found = cluster_run
    fs = FileSet.from_parquet(folder / "train")
    epoch_steps = sum(FILE_ROWS) // 8
    last_checkpoint, killed_at = 9, 10  # steps: in the middle of the second epoch

    assert epoch_steps < last_checkpoint < 2 * epoch_steps
    assert (folder / "died").exists()
    assert found["nodes"] == 2
    for rank in range(2):
        reader = FileSetReader(fs, batch_size=4, shuffle=True, seed=7, shard=Shard(rank, 2))
        planned = [(epoch, i, one) for epoch in (0, 1) for i, one in enumerate(ids(reader.iter_batches(epoch)))]
        lines = (folder / f"seen-{rank}.jsonl").read_text().splitlines()
        seen = [tuple(json.loads(line)) for line in lines]
        # Rank 0 may have begun the step at which rank 1 died.
        before = seen[: len(seen) - (len(planned) - last_checkpoint)]

        assert seen[len(before) :] == planned[last_checkpoint:]
        assert before == planned[: len(before)]
        assert len(before) in (killed_at, killed_at + 1)


def test_reports_of_the_run_reach_its_end(cluster_run):
    _, found = cluster_run

    assert found["fit"] == {"epoch": 1, "step": 2 * (sum(FILE_ROWS) // 8), "kept": 2}


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


def test_a_recipe_runs_on_the_cluster_and_brings_its_model_back(cluster_run):
    _, found = cluster_run

    assert found["recipe"]["accuracy"] > 0.5
    assert {"last.ckpt", "epoch_001.ckpt", "metrics.csv", "loss.png"} <= set(found["recipe"]["files"])


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
