"""Sweeps: a failing job is its own affair, one FileSet serves all, and the end is a table, a plot and a status."""

import csv
import io
import json
import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import fsspec
import pytest
from hydra import compose, initialize_config_module
from omegaconf import OmegaConf
from rich.console import Console

from fileset_integrations import making, plots, results, schemas, sweeps
from fileset_integrations.errors import SpecError
from fileset_integrations.results import Result
from fileset_integrations.runs.filesets import make_filesets
from tests.support import ROOT, SOAK
from tests.support.app import TINY, commands_of, fileset_train


def rows_of(text: str) -> list[list[str]]:
    """Cells of the table that a sweep ends with."""
    last = text[text.index("best first") :]
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in last.splitlines() if line.startswith("│")]


def in_a_process(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    # A file, for Lightning's ddp starts it again by its name.
    program = folder / "app.py"
    program.write_text("from fileset_integrations.train import main\n\nif __name__ == '__main__':\n    main()\n")
    environment = {name: value for name, value in os.environ.items() if name != "FILESET_ROOT"}
    return subprocess.run(
        [sys.executable, str(program), *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=280,
    )


# A model of the user's own, one of whose eight jobs comes upon what it cannot compute with.
MINE = """
from fileset_integrations.models.lightning import TabularRegressor


class Mine(TabularRegressor):
    def training_step(self, batch, batch_idx):
        if self.hparams.lr == 0.07 and self.hparams.dropout > 0:
            raise ArithmeticError("the loss is\\nnot finite")
        return super().training_step(batch, batch_idx)
"""


@pytest.fixture(scope="module")
def swept(tmp_path_factory):
    """Eight jobs by joblib, two at once, of which one raises; what was printed and the folder."""
    folder = tmp_path_factory.mktemp("sweeps")
    (folder / "mine.py").write_text(MINE)
    varied = ("model.lr=0.1,0.07,0.03,0.01", "model.dropout=0,0.1", "model._target_=mine.Mine")
    by_joblib = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", "hydra.sweep.dir=sweep")
    return in_a_process(folder, "-m", *TINY, *varied, *by_joblib), folder


@pytest.mark.slow
def test_a_job_that_raises_stops_no_other_is_named_at_the_end_and_fails_the_whole(swept):
    done, folder = swept

    assert done.returncode == 1
    assert len(rows_of(done.stdout)) == 7
    assert "7 of 8 jobs, best first by val_rmse" in done.stdout
    assert done.stdout[done.stdout.index("1 of 8 jobs failed:") :].splitlines() == [
        "1 of 8 jobs failed:",
        "  job 3 (model.lr=0.07, model.dropout=0.1): ArithmeticError: the loss is not finite",
    ]
    # It is no mistake in a config: where it came from stands in the job's own log, and there only.
    told = {job: (folder / "sweep" / str(job) / "train.log").read_text() for job in range(8)}
    assert [job for job, text in told.items() if "Traceback" in text] == [3]


@pytest.mark.slow
def test_the_table_is_best_first_and_says_what_each_job_measured(swept):
    done, folder = swept
    rows = rows_of(done.stdout)
    errors = [float(row[3]) for row in rows]
    by_job = {result.job: result for result in results.read_all(folder / "sweep")}

    assert errors == sorted(errors)
    for job, lr, dropout, rmse, mae, _ in rows:
        result = by_job[int(job)]
        assert (result.overrides["model.lr"], result.overrides["model.dropout"]) == (lr, dropout)
        assert result.metrics == pytest.approx({"val_rmse": float(rmse), "val_mae": float(mae)}, abs=1e-4)
    assert [result.status for result in by_job.values()] == ["done"] * 3 + ["failed"] + ["done"] * 4


@pytest.mark.slow
def test_the_folder_of_a_sweep_holds_its_table_and_its_plot(swept):
    _, folder = swept

    with (folder / "sweep" / "sweep.csv").open() as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["job", "model.lr", "model.dropout", "val_rmse", "val_mae", "seconds"]
    assert len(rows) == 8
    assert (folder / "sweep" / "sweep.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.slow
def test_one_fileset_is_made_once_and_serves_all_jobs(swept):
    _, folder = swept

    assert [path.name for path in (folder / "data" / "filesets").iterdir() if path.name[0] != "."] == ["query"]
    told = [(folder / "sweep" / str(job) / "train.log").read_text() for job in range(8)]
    assert len({re.search(r"snapshot (\S+)", text)[1] for text in told}) == 1


@pytest.mark.slow
def test_a_sweep_whose_jobs_all_succeed_ends_well(tmp_path):
    ended = fileset_train(tmp_path, "-m", *TINY, "seed=0,1", "optimized_metric=val_mae", "hydra.sweep.dir=sweep")

    assert ended.status == 0
    assert "2 of 2 jobs, best first by val_mae" in ended.out and "failed" not in ended.out


# As docs/sweeps.md says them.
GRID, EIGHT, SEARCH = commands_of(ROOT / "docs" / "sweeps.md") if (ROOT / "docs").is_dir() else ((), (), ())


@pytest.mark.slow
@pytest.mark.checkout
@pytest.mark.skipif(not SOAK, reason="in soak: another test runs eight jobs at once, of which one raises")
def test_jobs_at_once_by_joblib_share_one_fileset_that_is_made_once(tmp_path):
    num_jobs = 8
    done = in_a_process(tmp_path, *EIGHT)

    folder = tmp_path / "logs" / "eight"
    assert done.returncode == 0, done.stderr[-3000:]
    assert len(rows_of(done.stdout)) == num_jobs and (folder / "sweep.png").stat().st_size > 5_000
    told = [(folder / str(job) / "train.log").read_text() for job in range(num_jobs)]
    assert len({re.search(r"snapshot (\S+)", text)[1] for text in told}) == 1
    [made] = [path for path in (tmp_path / "data" / "filesets").iterdir() if path.name[0] != "."]
    assert made.name == "digits"
    assert "Warning" not in done.stderr


@pytest.mark.slow
@pytest.mark.checkout
def test_the_other_commands_of_the_page_run_as_written(tmp_path):
    grid = fileset_train(tmp_path, *GRID, "callbacks=none")
    first = fileset_train(tmp_path, *SEARCH, "callbacks=none", "hydra.sweeper.n_trials=2")
    second = fileset_train(tmp_path, *SEARCH, "callbacks=none")

    assert [grid.status, first.status, second.status] == [0, 0, 0]
    assert [len(rows_of(ended.out)) for ended in (grid, first, second)] == [4, 2, 4]
    accuracies = [float(row[-2]) for row in rows_of(grid.out)]
    assert accuracies == sorted(accuracies, reverse=True)


@pytest.mark.slow
def test_a_job_of_submitit_trains_in_processes_that_are_spawned(tmp_path):
    done = in_a_process(
        tmp_path,
        *("-m", *TINY, "hydra.sweep.dir=sweep", "hydra/launcher=submitit_local", "trainer=ddp_spawn"),
    )

    assert done.returncode == 0, done.stderr[-3000:]
    assert [row[0] for row in rows_of(done.stdout)] == ["0"]
    [log] = (tmp_path / "sweep" / ".submitit").rglob("*_log.out")
    # What the spawned processes saw of the training has come back.
    assert "Training: 256 rows in " in log.read_text()


@pytest.mark.slow
def test_of_two_processes_the_first_one_tells(tmp_path):
    done = in_a_process(tmp_path, *TINY, "trainer=ddp", "trainer.accelerator=cpu")

    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stdout.count("64 validation rows") == 1
    assert "Training: 256 rows in " in done.stdout
    assert "sync_dist" not in done.stderr and "[rank: 1]" not in done.stdout
    assert len(list((tmp_path / "logs").rglob("result.json"))) == 1


# --- what is told -----------------------------------------------------------------------------------------------------


def printed(found: list[Result], metric: str | None, folder: Path) -> str:
    text = io.StringIO()
    sweeps.show(Console(file=text, width=120), "task", found, metric, folder)
    return text.getvalue()


def done(job: int, lr: str, accuracy: float, **overrides: str) -> Result:
    return Result(job, {"model.lr": lr, **overrides}, "done", {"acc": accuracy, "loss": 1.0}, False, 2.0)


def test_more_is_better_where_the_evaluation_says_so_and_what_is_no_number_comes_last(tmp_path):
    found = [done(0, "0.1", 0.5), done(1, "0.2", float("nan")), done(2, "0.3", 0.9)]

    text = printed(found, "acc", tmp_path)

    assert [row[0] for row in rows_of(text)] == ["2", "0", "1"]


def test_a_job_whose_process_died_is_no_success(tmp_path, monkeypatch):
    for result in (done(0, "0.1", 0.5), Result(1, {"model.lr": "0.2"})):
        result.write(tmp_path / str(result.job))
    text = io.StringIO()
    config = {"task_name": "task", "optimized_metric": None, "hydra": {"sweep": {"dir": str(tmp_path)}}}
    monkeypatch.setattr(sweeps.Sweep, "config", OmegaConf.create(config))

    assert not sweeps.finish(Console(file=text, width=120))

    assert "job 1 (model.lr=0.2): began, and its process ended before it did" in text.getvalue()
    assert sweeps.finish(Console(file=text))  # told once


def test_what_an_interpolation_stands_for_is_written_into_no_result(tmp_path, monkeypatch):
    # The environment may hold a secret, and its name is all that a config says of it.
    monkeypatch.setenv("SWEPT", "41-of-the-environment")
    ended = fileset_train(tmp_path, "-m", *TINY, "seed=-1", "task_name='${oc.env:SWEPT}'", "hydra.sweep.dir=sweep")

    [result] = results.read_all(tmp_path / "sweep")
    assert ended.status == 1 and result.overrides["task_name"] == "'${oc.env:SWEPT}'"


@pytest.mark.parametrize("varied", ["seed=range(1,1)", "seed=glob(nothing*)"])
def test_a_sweep_without_a_job_is_a_mistake(varied, tmp_path):
    ended = fileset_train(tmp_path, "-m", *TINY, varied, "hydra.sweep.dir=sweep")

    assert ended.status == 1
    assert ended.err.startswith("The sweep has no job: ") and len(ended.err.splitlines()) == 1


def test_nothing_is_drawn_where_nothing_was_varied(tmp_path):
    text = printed([done(0, "0.1", 0.5)], None, tmp_path)

    assert rows_of(text) == [["0", "0.5000", "1.0000", "2.0"]]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["sweep.csv"]


def test_what_is_no_number_has_a_place_on_the_plot_too(tmp_path):
    values = {"model": ["big", "small", "big"], "lr": ["0.001", "0.1", "0.01"], "n": ["1", "2", "3"], "m": ["0"] * 3}

    path = plots.sweep(tmp_path / "sweep.png", values, "acc", [0.5, float("nan"), 0.2])

    assert path.read_bytes().startswith(b"\x89PNG")


def test_a_result_is_whole_and_what_others_left_is_passed_over(tmp_path):
    result = done(3, "0.1", float("nan"))
    result.write(tmp_path / "3")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "result.json").write_text(json.dumps({"score": 1}))
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "result.json").write_text('{"job": 1')

    [found] = results.read_all(tmp_path)

    assert found.overrides == result.overrides and found.metrics["acc"] != found.metrics["acc"]
    assert [path.name for path in (tmp_path / "3").iterdir()] == ["result.json"]


# --- distributed strategies -------------------------------------------------------------------------------------------

BASIC = {
    "sweeper": {"_target_": "hydra._internal.core_plugins.basic_sweeper.BasicSweeper"},
    "launcher": {"_target_": "hydra._internal.core_plugins.basic_launcher.BasicLauncher"},
}
STUDY = {**BASIC, "sweeper": {"_target_": "hydra_plugins.fileset_integrations.StudySweeper"}}
JOBLIB = {**BASIC, "launcher": {"_target_": "hydra_plugins.hydra_joblib_launcher.joblib_launcher.JoblibLauncher"}}


def trainer(**settings: object) -> dict[str, object]:
    default = {"_target_": "lightning.Trainer", "accelerator": "cpu", "strategy": "auto", "devices": 1, "num_nodes": 1}
    return {"trainer": {**default, **settings}}


@pytest.mark.parametrize("hydra", [STUDY, JOBLIB])
@pytest.mark.parametrize(
    "settings",
    [
        {"strategy": "ddp", "devices": 2},
        {"strategy": "auto", "devices": "2"},
        {"strategy": "ddp_find_unused_parameters_true", "accelerator": "gpu", "devices": -1},
        {"strategy": "fsdp", "accelerator": "gpu", "devices": "auto"},
        {"strategy": "ddp", "num_nodes": 2},
        {"strategy": "ddp", "accelerator": "gpu", "devices": [0, 1]},
    ],
)
def test_a_strategy_that_starts_the_script_again_is_refused_where_that_would_be_another_job(hydra, settings):
    with pytest.raises(SpecError, match=r"trainer\.strategy=.*another job\. Choose trainer=ddp_spawn"):
        sweeps.refuse_subprocesses(OmegaConf.create(trainer(**settings)), OmegaConf.create(hydra))

    sweeps.refuse_subprocesses(OmegaConf.create(trainer(**settings)), OmegaConf.create(BASIC))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"strategy": "ddp_spawn", "devices": 2},
        {"strategy": "ddp", "devices": 1},
        {"strategy": "ddp", "accelerator": "gpu", "devices": [3]},
        {"devices": "auto"},
        {"_target_": "fileset_integrations.runs.keras.KerasTrainer"},
    ],
)
def test_a_strategy_that_stays_in_the_job_is_taken(settings):
    sweeps.refuse_subprocesses(OmegaConf.create(trainer(**settings)), OmegaConf.create(STUDY))


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        (["hparams_search=optuna"], "hydra/sweeper=StudySweeper"),
        (["-m", "seed=0,1", "hydra/launcher=joblib"], "hydra/launcher=JoblibLauncher"),
    ],
)
def test_it_is_refused_before_the_first_job(choice, named, tmp_path):
    ended = fileset_train(tmp_path, *TINY, *choice, "trainer=ddp", "hydra.sweep.dir=sweep")

    assert ended.status == 1
    assert f"under {named} would be another job. Choose trainer=ddp_spawn" in ended.err
    assert list(tmp_path.iterdir()) == []


# --- buckets ----------------------------------------------------------------------------------------------------------

BUCKET = ("source=s3", "source.location=memory://bucket/mine", "source.storage_options.endpoint_url=http://nowhere")


@pytest.mark.slow
def test_a_sweep_over_a_bucket_makes_its_fileset_there(tmp_path):
    ended = fileset_train(tmp_path, "-m", *TINY, *BUCKET, "seed=0,1", "hydra.sweep.dir=sweep")

    assert ended.status == 0, ended.err
    names = {path.split("/")[3] for path in fsspec.filesystem("memory").find("/bucket/mine/query") if "run-" in path}
    assert len(rows_of(ended.out)) == 2 and len(names) == 1
    assert not (tmp_path / "data").exists()


def test_jobs_that_begin_together_make_a_fileset_in_a_bucket_once(tmp_path, monkeypatch):
    schemas.register()
    with initialize_config_module("fileset_integrations.conf", version_base="1.3"):
        config = compose(
            "train", [*TINY, *BUCKET, "source.location=memory://bucket/once", f"paths.root_dir={tmp_path}"]
        )
    made, write = [], making._write
    monkeypatch.setattr(making, "_write", lambda *rest: made.append(1) or write(*rest))

    with ThreadPoolExecutor(4) as pool:
        found = [each.result() for each in [pool.submit(make_filesets, config) for _ in range(4)]]

    assert len({one["memory://bucket/once/query"].snapshot_id for one in found}) == 1
    assert len(made) == 1
