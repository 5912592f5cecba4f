"""A run that is killed at any moment and goes on from its last checkpoint sees exactly what it would have seen."""

import json
import os
import random
import subprocess
import sys

import pytest

from fileset_integrations import FileSetReader
from tests.support import ROOT, SOAK, count
from tests.support.data import ids, numbered
from tests.support.fitting import EPOCHS, FILE_ROWS, SEED, VAL_FILE_ROWS
from tests.support.killed_fit import BATCH_SIZE

STEPS = sum(FILE_ROWS) // BATCH_SIZE  # 14 an epoch
KINDS = [  # when checkpoints are taken, what the trainer is told; the first three in every run of the tests
    ({"every_n_train_steps": 4}, {"max_epochs": -1, "max_steps": 31}),
    ({"save_on_train_epoch_end": False}, {"max_epochs": EPOCHS, "val_check_interval": 5}),
    ({"save_on_train_epoch_end": True}, {"max_epochs": EPOCHS, "limit_train_batches": 9}),
    ({"every_n_train_steps": 3}, {"max_epochs": EPOCHS}),
    ({"save_on_train_epoch_end": True}, {"max_epochs": EPOCHS}),
    ({"every_n_train_steps": 1}, {"max_epochs": EPOCHS, "limit_train_batches": 9, "limit_val_batches": 1}),
]


def steps_of(reader, trainer):
    """What an uninterrupted run sees: the epoch and ids of each step."""
    seen = [
        [epoch, batch]
        for epoch in range(EPOCHS)
        for batch in ids(reader.iter_batches(epoch))[: trainer.get("limit_train_batches")]
    ]
    return seen[: trainer.get("max_steps")]


@pytest.mark.slow
@pytest.mark.timeout(count(200, 2400))
def test_a_killed_run_goes_on_from_its_last_checkpoint_with_exactly_the_rest(tmp_path):
    reader = FileSetReader(numbered(tmp_path / "train", FILE_ROWS), batch_size=BATCH_SIZE, shuffle=True, seed=SEED)
    numbered(tmp_path / "val", VAL_FILE_ROWS)
    draw = random.Random(None if SOAK else 3)
    trials = []
    for number in range(count(3, 24)):
        checkpoint, trainer = KINDS[number % len(KINDS)]
        trials.append(
            {
                "name": f"trial-{number}",
                "checkpoint": checkpoint,
                "trainer": trainer,
                "kill_at": draw.randrange(1, len(steps_of(reader, trainer))),
                "wait_s": draw.choice([0, 0.001, 0.004]),
                "num_workers": number // len(KINDS) % 2,
            }
        )
    (tmp_path / "trials.json").write_text(json.dumps(trials))

    done = subprocess.run(
        [sys.executable, "-m", "tests.support.killed_fit", str(tmp_path)],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
    )

    assert done.returncode == 0, done.stderr
    for trial in trials:
        uninterrupted = steps_of(reader, trial["trainer"])
        killed, resumed = (lines(tmp_path / f"{trial['name']}-{run}") for run in ("killed", "resumed"))
        taken = int((tmp_path / f"{trial['name']}-taken").read_text())
        print(f"{trial}: killed in step {len(killed)} of {len(uninterrupted)}, checkpoint after {taken}")
        assert trial["kill_at"] <= len(killed) and killed == uninterrupted[: len(killed)]
        assert taken <= len(killed) and resumed == uninterrupted[taken:], trial
    assert len({trial["kill_at"] for trial in trials}) > 1


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]
