"""`DataWait` in Lightning and in Keras: what it measures, where it says so."""

import csv
import json
import os
import subprocess
import sys
import time

import pytest

pytest.importorskip("lightning")

import torch
from lightning.pytorch import Callback
from lightning.pytorch.callbacks import TQDMProgressBar
from lightning.pytorch.loggers import CSVLogger
from torch.utils.data import DataLoader

from fileset_integrations.errors import SpecError
from fileset_integrations.lightning import DataWait, FileSetDataModule
from tests.support import ROOT, SOAK
from tests.support.data import numbered
from tests.support.fitting import ID_COLUMNS, Recorder, quiet_trainer

FILE_ROWS = (20, 0, 13, 30)
BATCHES = sum(FILE_ROWS) // 4
DELAY_S = 0.02


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("numbered")
    numbered(folder / "train", FILE_ROWS)
    numbered(folder / "val", (9,))
    return folder


def data_module(folder, **options) -> FileSetDataModule:
    from fileset_integrations import FileSet

    train, val = (FileSet.from_parquet(folder / name) for name in ("train", "val"))
    return FileSetDataModule(train=train, val=val, columns=ID_COLUMNS, batch_size=4, **options)


def slowly(batch, generator):
    time.sleep(DELAY_S)
    return batch


class SlowModel(Recorder):
    """Each step takes a while, and so does validation."""

    def training_step(self, batch, batch_idx):
        time.sleep(DELAY_S)
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        time.sleep(10 * DELAY_S)


def test_every_epoch_is_measured_and_said_in_words(folder, caplog):
    wait = DataWait()

    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        quiet_trainer(max_epochs=2, callbacks=[wait]).fit(Recorder(), data_module(folder))

    (first,), (second,) = wait.history
    assert (first.steps, first.rows) == (second.steps, second.rows) == (BATCHES, BATCHES * 4)
    assert (first.stats.blocks_decoded, first.stats.cache_hits) == (3, 0)
    assert (second.stats.blocks_decoded, second.stats.cache_hits, second.stats.file_bytes) == (0, 3, 0)
    assert 0 < second.waited_s < second.seconds
    said = [text for text in caplog.messages if text.startswith("Epoch ")]
    assert [text.partition(" s,")[0].rpartition(" in ")[0] for text in said] == [
        f"Epoch 0: {BATCHES} steps",
        f"Epoch 1: {BATCHES} steps",
    ]


@pytest.mark.slow
def test_a_slow_loader_is_the_bottleneck_and_a_slow_model_is_not(folder, caplog):
    """Sums of sleeps bound what is measured from below, whatever else the machine does."""
    slow_data, slow_model = DataWait(), DataWait()

    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        quiet_trainer(callbacks=[slow_data]).fit(Recorder(), data_module(folder, transform=slowly))
        quiet_trainer(callbacks=[slow_model], val_check_interval=5).fit(SlowModel(), data_module(folder))

    (data,), (model,) = slow_data.history[0], slow_model.history[0]
    assert data.waited_s >= BATCHES * DELAY_S * 0.9
    assert data.seconds >= data.waited_s
    assert model.seconds - model.waited_s >= BATCHES * DELAY_S * 0.9
    assert "data is the bottleneck" in next(text for text in caplog.messages if text.startswith("Epoch 0"))


def test_validation_in_the_middle_of_an_epoch_is_left_out(folder):
    class Clocked(Callback):
        validation_s = 0.0

        def on_validation_start(self, trainer, pl_module):
            self.began = time.perf_counter()

        def on_validation_end(self, trainer, pl_module):
            self.validation_s += time.perf_counter() - self.began

        def on_train_epoch_start(self, trainer, pl_module):
            self.epoch_began = time.perf_counter()

        def on_train_epoch_end(self, trainer, pl_module):
            self.epoch_s = time.perf_counter() - self.epoch_began

    wait, clocked = DataWait(say=False), Clocked()
    quiet_trainer(callbacks=[wait, clocked], val_check_interval=5).fit(SlowModel(), data_module(folder))

    assert clocked.validation_s > 3 * 3 * 10 * DELAY_S * 0.9  # three times three batches
    assert wait.history[0][0].seconds < clocked.epoch_s - 0.9 * clocked.validation_s


def test_numbers_reach_the_loggers_the_progress_bar_and_the_metrics(folder, tmp_path):
    shown = []

    class Bar(TQDMProgressBar):
        def get_metrics(self, trainer, pl_module):
            shown.append(super().get_metrics(trainer, pl_module))
            return {}

    trainer = quiet_trainer(
        max_epochs=2,
        callbacks=[DataWait(say=False), Bar()],
        logger=CSVLogger(tmp_path, version=""),
        log_every_n_steps=5,
        enable_progress_bar=True,
    )
    trainer.fit(Recorder(), data_module(folder))

    with next(tmp_path.rglob("metrics.csv")).open() as file:
        rows = list(csv.DictReader(file))
    steps = [row for row in rows if row["data/rows_per_s_step"]]
    epochs = [row for row in rows if row["data/rows_per_s_epoch"]]
    assert [int(row["step"]) for row in steps] == list(range(4, 2 * BATCHES, 5))  # as self.log counts them
    names = ("wait_s", "wait_share", "rows_per_s", "bytes_read", "bytes_fetched", "cache_hits", "cache_misses")
    for rows_of, suffix in ((steps, "step"), (epochs, "epoch")):
        assert all(float(row[f"data/{name}_{suffix}"]) >= 0 for row in rows_of for name in names)
    assert [float(row["data/cache_misses_epoch"]) for row in epochs] == [3, 0]
    assert sum(float(row["data/cache_misses_step"]) for row in steps) == 3
    assert 0 <= trainer.callback_metrics["data/wait_share_epoch"] <= 1
    assert any("data/wait_share" in metrics for metrics in shown)


@pytest.mark.filterwarnings("ignore:.*does not have many workers")
def test_other_loaders_are_measured_by_the_gap(folder):
    fs = data_module(folder)._sources["train"]
    ours = DataLoader(fs.to_torch_dataset(batch_size=4, columns=ID_COLUMNS), batch_size=None)
    plain = DataLoader(torch.utils.data.TensorDataset(torch.arange(12), torch.zeros(12)), batch_size=4)
    waits = [DataWait(say=False) for _ in range(2)]

    class Model(Recorder):
        def training_step(self, batch, batch_idx):
            return self.linear(torch.ones(1, 1)).sum()

    for loader, wait in zip((ours, plain), waits, strict=True):
        quiet_trainer(callbacks=[wait]).fit(Model(), loader)

    (first,), (second,) = waits[0].history[0], waits[1].history[0]
    assert (first.steps, first.rows, first.stats.blocks_decoded) == (BATCHES, BATCHES * 4, 3)
    assert (second.steps, second.rows, second.stats) == (3, 12, None)
    assert first.waited_s > 0 and second.waited_s > 0


def test_what_workers_read_is_said_to_be_unseen(folder, caplog):
    wait = DataWait()

    with caplog.at_level("INFO", logger="lightning.pytorch.utilities.rank_zero"):
        quiet_trainer(callbacks=[wait]).fit(Recorder(), data_module(folder, num_workers=1, blocks="stream"))

    (measured,) = wait.history[0]
    assert (measured.rows, measured.stats) == (BATCHES * 4, None) and measured.waited_s > 0
    assert any("What other processes read for it is not counted here." in text for text in caplog.messages)


def test_a_run_that_breaks_off_leaves_the_callback_fit_for_another(folder):
    class Breaks(Recorder):
        def training_step(self, batch, batch_idx):
            if batch_idx == 2:
                raise RuntimeError("broken")
            return super().training_step(batch, batch_idx)

    wait = DataWait(say=False)
    with pytest.raises(RuntimeError, match="broken"):
        quiet_trainer(callbacks=[wait]).fit(Breaks(), data_module(folder))
    quiet_trainer(callbacks=[wait]).fit(Recorder(), data_module(folder))

    assert [[measured.steps for measured in ranks] for ranks in wait.history] == [[BATCHES]]


def test_what_is_no_answer_is_refused():
    from fileset_integrations.keras import DataWait as KerasDataWait

    for kind in (DataWait, KerasDataWait):
        with pytest.raises(SpecError, match="say='loudly'"):
            kind(say="loudly")
    with pytest.raises(SpecError, match="pass the FileSetPyDataset"):
        KerasDataWait([1, 2])


# --- on two ranks ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def two_ranks(tmp_path_factory, snowflake_process):
    """What two ranks measured, on a FileSet in a stage whose decoded blocks they share: a folder with their files."""
    from tests.support.staged import PROFILE, make_stage, staged_numbers

    folder = tmp_path_factory.mktemp("ranks")
    snowflake_process.reset()
    make_stage(snowflake_process)
    (folder / "home").mkdir()
    snowflake_process.write_profile(folder / "home", PROFILE)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SNOWFLAKE_HOME", str(folder / "home"))
        staged_numbers(snowflake_process, (40, 25, 30, 33, 21, 51))
    environment = {**os.environ, "SNOWFLAKE_HOME": str(folder / "home"), "FILESET_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.wait_fit", str(folder)],
        env={**environment, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return folder, done


@pytest.mark.slow
def test_ranks_of_a_machine_fetch_and_decode_each_file_once(two_ranks):
    folder, _ = two_ranks
    epochs = json.loads((folder / "history.json").read_text())

    totals = {
        name: sum(rank[name] for epoch in epochs for rank in epoch)
        for name in ("files_fetched", "blocks_decoded", "rows")
    }
    assert totals == {"files_fetched": 6, "blocks_decoded": 6, "rows": 3 * (200 // 8) * 8}
    assert all(rank["disk_hits"] + rank["blocks_decoded"] >= 3 for epoch in epochs for rank in epoch)


@pytest.mark.slow
def test_every_rank_is_logged_and_one_speaks(two_ranks):
    folder, done = two_ranks

    with next(folder.rglob("metrics.csv")).open() as file:
        rows = [row for row in csv.DictReader(file) if row["data/rank_1/rows_per_s"]]
    assert len(rows) == 3
    assert all(float(row[f"data/rank_{rank}/wait_s"]) > 0 for row in rows for rank in range(2))
    said = [line for line in done.stderr.splitlines() if line.startswith("Epoch ")]
    assert len(said) == 3 and all("25 steps" in line and "on 2 ranks" in line for line in said)
    assert "sync_dist" not in done.stderr


# --- Keras -----------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", *(["jax", "tensorflow"] if SOAK else [])])
def test_keras_has_the_numbers_in_its_history_and_says_them(backend, folder):
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.keras_wait", str(folder)],
        env={**os.environ, "KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=200,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    *lines, last = done.stdout.splitlines()
    found = json.loads(last)
    said = [line for line in lines if line.startswith("Epoch ") and " steps in " in line]

    names = ["bytes_fetched", "bytes_read", "cache_hits", "cache_misses", "rows_per_s"]
    seen = {"torch": (1, 2), "jax": (1,), "tensorflow": ()}[backend]  # workers with which the waiting can be measured
    for workers in (1, 2):
        part = found[str(workers)]
        waits = ["wait_s", "wait_share"] if workers in seen else []
        assert part["keys"] == sorted(f"data_{name}" for name in [*names, *waits])
        assert [(one["steps"], one["rows"]) for one in part["history"]] == [(16, 63), (16, 63)]
        assert all((one["waited_s"] is None) == (workers not in seen) for one in part["history"])
        assert part["steps"] == dict.fromkeys(part["keys"], 2 * 16)
        assert part["csv"] == part["keys"]
    assert len(said) == 4
    assert sum("beside the training" in line for line in said) == 2 * (2 - len(seen))
    if 1 in seen:
        assert found["slow"]["waited_s"] >= 16 * DELAY_S * 0.9
    assert found["several steps at once"] == {"steps": 16, "rows": 63}
    assert found["alone"] == (["data_wait_s", "data_wait_share"] if backend == "torch" else [])
