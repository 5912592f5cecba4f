"""Keras on two devices and on two processes: equal batches in number and size, and one training on both."""

import json
import os
import socket
import subprocess
import sys

import numpy as np
import pytest

from fileset_integrations import FileSetReader
from tests.support import ROOT
from tests.support.data import numbered

pytest.importorskip("keras", reason="keras is optional")

ROWS = (70, 0, 1, 51, 20)  # 142: 8 batches of 16, and 14 rows that are left out
BATCHES = 8


def run(way, folder, ranks):
    """What the processes of a training saw."""
    numbered(folder / "data", ROWS)
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
    ports = json.dumps([one.getsockname()[1] for one in sockets])
    for one in sockets:
        one.close()
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tests.support.keras_ranks", way, str(folder), str(rank), ports],
            cwd=ROOT,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        for rank in range(ranks)
    ]
    try:
        errors = [process.communicate(timeout=200)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0] * ranks, errors
    return [json.loads((folder / f"rank-{rank}.json").read_text()) for rank in range(ranks)]


@pytest.mark.slow
def test_two_devices_and_two_processes_of_jax_train_alike(tmp_path):
    pytest.importorskip("jax")

    (devices,) = run("devices", tmp_path / "devices", 1)
    first, second = run("jax", tmp_path / "processes", 2)

    assert devices["sizes"] == [16] * BATCHES
    assert first["sizes"] == second["sizes"] == [8] * BATCHES
    assert first["loss"] == second["loss"]
    assert first["weights"] == second["weights"]
    assert first["loss"] == pytest.approx(devices["loss"], rel=1e-5)
    assert first["evaluate"] == pytest.approx(devices["evaluate"], rel=1e-5)
    for mine, whole in zip(first["weights"], devices["weights"], strict=True):
        np.testing.assert_allclose(mine, whole, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_two_processes_of_tensorflow_train_as_one_by_a_loop_of_their_own(tmp_path):
    pytest.importorskip("tensorflow")

    first, second = run("tensorflow", tmp_path, 2)

    assert first["sizes"] == second["sizes"] == [8] * BATCHES
    assert first["loss"] == second["loss"]
    assert first["weights"] == second["weights"]
    assert first["loss"][1] < first["loss"][0]


def test_the_global_batch_is_the_same_rows_on_both_numbers_of_processes(tmp_path):
    from fileset_integrations import Shard

    fs = numbered(tmp_path, ROWS)
    order = {"global_batch_size": 16, "shuffle": True, "seed": 3}
    whole = FileSetReader(fs, **order)
    shares = [FileSetReader(fs, **order, shard=Shard(rank, 2)) for rank in range(2)]

    assert len(whole) == len(shares[0]) == len(shares[1]) == BATCHES
    for index in range(BATCHES):
        parts = [share.batch(index)["id"].tolist() for share in shares]
        assert sorted(parts[0] + parts[1]) == sorted(whole.batch(index)["id"].tolist())
