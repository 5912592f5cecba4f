"""The group `debug`: the same four short runs with either framework, in one process."""

import csv
import re

import numpy as np
import pytest

from fileset_integrations import FileSet
from fileset_integrations.columns import Columns
from tests.support.app import TINY, fileset_train

# 256 rows in 16 batches; how many epochs there are is the choice's own.
SHORT = (*(one for one in TINY if not one.startswith(("trainer.", "data.", "callbacks"))), "data.batch_size=16")
OWN = {"lightning": ("callbacks=default", "logger=csv"), "keras": ("framework=keras", "callbacks=keras")}


@pytest.fixture(scope="module", params=["lightning", "keras"])
def debugged(request, tmp_path_factory):
    """What each choice printed, and the folder of its run."""
    root, found = tmp_path_factory.mktemp("debug"), {}
    for choice in ("fdr", "limit", "overfit", "profiler"):
        ended = fileset_train(
            root, *SHORT, *OWN[request.param], f"debug={choice}", f"paths.output_dir=runs/{choice}", "model.lr=0.1"
        )
        assert ended.status == 0, ended.err
        found[choice] = (ended.out, root / "runs" / choice)
    return request.param, found


def rows_trained(text: str) -> int:
    return int(re.search(r"Training: ([\d,]+) rows", text)[1].replace(",", ""))


@pytest.mark.slow
def test_each_choice_trains_on_as_many_batches_as_it_says(debugged):
    _, found = debugged

    rows = {choice: rows_trained(out) for choice, (out, _) in found.items()}

    assert rows == {"fdr": 16, "limit": 3 * 8 * 16, "overfit": 20 * 3 * 16, "profiler": 256}


@pytest.mark.slow
def test_one_batch_leaves_neither_checkpoints_nor_logs_and_a_few_leave_both(debugged):
    framework, found = debugged
    metrics = {"lightning": "csv/metrics.csv", "keras": "metrics.csv"}[framework]
    checkpoint = {"lightning": "checkpoints/last.ckpt", "keras": "checkpoints/last.keras"}[framework]

    there = {
        choice: [(folder / file).exists() for file in (metrics, checkpoint)] for choice, (_, folder) in found.items()
    }

    assert there["fdr"] == [False, False]
    assert there["limit"] == there["profiler"] == [True, True]


@pytest.mark.slow
def test_the_same_few_batches_are_learnt_by_heart(debugged):
    framework, found = debugged
    file, name = {"lightning": ("csv/metrics.csv", "loss_step"), "keras": ("metrics.csv", "loss")}[framework]
    with (found["overfit"][1] / file).open() as lines:
        losses = [float(row[name]) for row in csv.DictReader(lines) if row[name]]

    assert len(losses) == {"lightning": 60, "keras": 20}[framework]  # a line for each step, for each epoch
    assert losses[-1] < losses[0] / 4


@pytest.mark.slow
def test_the_profile_names_what_took_long_and_is_listed(debugged):
    framework, found = debugged
    out, folder = found["profiler"]
    name, inside = {"lightning": ("fit-profile.txt", "run_training_batch"), "keras": ("profile.txt", "train_step")}[
        framework
    ]

    assert inside in (folder / name).read_text()
    assert re.search(rf"profile +{re.escape(name)}", out)


def test_what_keras_repeats_is_the_beginning_of_the_first_epoch(tmp_path):
    keras = pytest.importorskip("fileset_integrations.runs.keras")
    fs = FileSet.make(
        target_stage_loc=str(tmp_path), name="n", query="SELECT i::FLOAT AS a, i AS y FROM range(64) t(i)"
    )
    columns = Columns(features={"a": "a"}, label="y")
    datasets = [
        keras.TimedDataset(fs, columns=columns, batch_size=4, shuffle=True, steps_per_epoch=3, repeats=repeats)
        for repeats in (True, False)
    ]
    seen = []
    for dataset in datasets:
        for epoch in (0, 5):
            dataset.set_epoch(epoch)
            seen.append(np.concatenate([dataset[i][1] for i in range(3)]).tolist())

    assert seen[0] == seen[1] == seen[2] != seen[3]
