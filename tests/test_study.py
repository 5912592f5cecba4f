"""A study of Optuna that survives its process: every trial counts once, and goes on as if nothing had happened."""

import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from fileset_integrations import study, train
from fileset_integrations.errors import SpecError
from tests.support import count
from tests.support.app import TINY, fileset_train

optuna = pytest.importorskip("optuna", minversion="4")

SEARCH = (*TINY, "hparams_search=optuna", "hydra.sweep.dir=search")


def trials(folder: Path) -> list[Any]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    return optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(backend)).trials


def facts(folder: Path) -> list[tuple[int, str, dict[str, float], float]]:
    return [(trial.number, trial.state.name, trial.params, trial.value) for trial in trials(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of six trials that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    ended = fileset_train(folder, "-m", *SEARCH, "hydra.sweeper.n_trials=6")
    return ended, folder / "search"


@pytest.mark.slow
def test_a_search_ends_with_its_table_best_first(whole):
    ended, folder = whole
    best = min(trials(folder), key=lambda trial: trial.value)
    rows = [line for line in ended.out[ended.out.index("best first") :].splitlines() if line.startswith("│")]

    assert ended.status == 0 and len(rows) == 6
    assert rows[0].split("│")[1].strip() == str(best.number)
    assert f"{best.value:.4f}" in rows[0] and "model.lr" in ended.out
    for trial in trials(folder):
        assert 0.0003 <= trial.params["model.lr"] <= 0.1
        recorded = json.loads((folder / str(trial.number) / "result.json").read_text())
        assert float(recorded["overrides"]["model.lr"]) == trial.params["model.lr"]
        assert recorded["metrics"]["val_rmse"] == trial.value


@pytest.mark.slow
def test_a_search_that_was_killed_goes_on_as_if_it_had_not_been(whole, tmp_path, monkeypatch):
    run, begun = train.run, []

    def killed(config: Any, *rest: Any) -> Any:
        begun.append(config.model.lr)
        if len(begun) == 3:
            raise KeyboardInterrupt  # passes everything, as the end of the process would
        return run(config, *rest)

    monkeypatch.setattr(train, "run", killed)
    with pytest.raises(KeyboardInterrupt):
        fileset_train(tmp_path, "-m", *SEARCH, "hydra.sweeper.n_trials=6")
    states = [state for _, state, _, _ in facts(tmp_path / "search")]
    first = (tmp_path / "search" / "0" / "result.json").stat().st_mtime_ns
    ended = fileset_train(tmp_path, "-m", *SEARCH, "hydra.sweeper.n_trials=6")

    assert states == ["COMPLETE", "COMPLETE", "RUNNING"]
    assert ended.status == 0
    assert facts(tmp_path / "search") == facts(whole[1])
    assert (tmp_path / "search" / "0" / "result.json").stat().st_mtime_ns == first  # nothing is done twice
    assert len(begun) == 3 + 4


@pytest.mark.slow
def test_a_search_that_is_done_runs_nothing_and_tells_its_table_again(whole, monkeypatch):
    monkeypatch.setattr(train, "run", None)

    ended = fileset_train(whole[1].parent, "-m", *SEARCH, "hydra.sweeper.n_trials=6")

    assert ended.status == 0 and "6 of 6 jobs" in ended.out


@pytest.mark.slow
def test_a_search_of_other_settings_is_not_mixed_in(whole):
    ended = fileset_train(whole[1].parent, "-m", *SEARCH, "hydra.sweeper.n_trials=9", "model.lr=interval(0.1,0.2)")

    assert ended.status == 1
    assert re.search(r"search with other settings \(model\.lr: .* there, .* asked for\)", ended.err)


@pytest.mark.slow
def test_trials_that_fail_count_and_fail_the_whole(tmp_path):
    ended = fileset_train(
        tmp_path, "-m", *SEARCH, "hydra.sweeper.n_trials=4", "hydra.sweeper.n_jobs=2", "model.lr=choice(0.1,-1)"
    )

    states = {trial.params["model.lr"]: trial.state.name for trial in trials(tmp_path / "search")}
    assert ended.status == 1
    assert states == {0.1: "COMPLETE", -1: "FAIL"}
    assert len(trials(tmp_path / "search")) == 4
    assert re.search(r"[1-3] of 4 jobs failed", ended.out)


@pytest.mark.slow
def test_trials_killed_midway_and_resumed_to_the_end_lose_none(tmp_path):
    num_trials, last = count(4, 10), count(1, 4)  # and the job after whose end the process is killed
    command = [sys.executable, "-c", "from fileset_integrations.train import main; main()", "-m", *SEARCH]
    environment = {name: value for name, value in os.environ.items() if name != "FILESET_ROOT"}
    with subprocess.Popen(
        [*command, f"hydra.sweeper.n_trials={num_trials}"], cwd=tmp_path, env=environment, stdout=-3, stderr=-3
    ) as process:
        deadline = time.monotonic() + 200
        while not (tmp_path / "search" / str(last) / "result.json").exists() and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    before = facts(tmp_path / "search")

    ended = fileset_train(tmp_path, "-m", *SEARCH, f"hydra.sweeper.n_trials={num_trials}")

    after = facts(tmp_path / "search")
    assert [state for _, state, _, _ in before] == ["COMPLETE"] * last + ["RUNNING"]
    assert ended.status == 0
    assert [(number, state) for number, state, _, _ in after] == [(n, "COMPLETE") for n in range(num_trials)]
    assert after[:last] == before[:last] and after[last][2] == before[last][2]
    assert len({tuple(params.values()) for _, _, params, _ in after}) == num_trials  # no proposal twice
    assert f"{num_trials} of {num_trials} jobs" in ended.out


def test_what_a_kill_can_leave_in_the_journal_is_mended(tmp_path):
    path = tmp_path / "study.journal"
    path.write_bytes(b'{"a": 1}\n{"b": ')
    (tmp_path / "study.journal.lock").write_text("")

    study._mend(path)

    assert path.read_bytes() == b'{"a": 1}\n'
    assert [found.name for found in tmp_path.iterdir()] == ["study.journal"]


def test_two_processes_never_run_one_search(tmp_path):
    with (
        study._alone(tmp_path),
        pytest.raises(SpecError, match="another process is running this search"),
        study._alone(tmp_path),
    ):
        pass


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("x=interval(0.5,2)", optuna.distributions.FloatDistribution(0.5, 2)),
        ("x=int(interval(1,4))", optuna.distributions.IntDistribution(1, 4)),
        ("x=tag(log,interval(0.001,1.0))", optuna.distributions.FloatDistribution(0.001, 1, log=True)),
        ("x=tag(log,int(interval(1,64)))", optuna.distributions.IntDistribution(1, 64, log=True)),
        # As in Hydra's own grids, the end of a range is not in it.
        ("x=range(1,8,2)", optuna.distributions.IntDistribution(1, 7, step=2)),
        ("x=range(8,1,-3)", optuna.distributions.IntDistribution(2, 8, step=3)),
        ("x=range(0,1,0.25)", optuna.distributions.CategoricalDistribution([0.0, 0.25, 0.5, 0.75])),
        ("x=choice(a,1,true)", optuna.distributions.CategoricalDistribution(["a", 1, True])),
        ("x=[8],[16,8]", optuna.distributions.CategoricalDistribution(["[8]", "[16,8]"])),
    ],
)
def test_what_may_be_varied_is_written_as_in_any_sweep(text, expected):
    assert study._distribution(OverridesParser.create().parse_override(text)) == expected


@pytest.mark.parametrize("text", ["x=interval(2,1)", "x=tag(log,interval(0,1))", "x=range(3,3)"])
def test_what_cannot_be_varied_is_refused_as_it_was_written(text):
    with pytest.raises(SpecError, match=re.escape(text)):
        study._distribution(OverridesParser.create().parse_override(text))


@pytest.mark.parametrize(
    "wrong", [{"n_trials": 0}, {"n_jobs": 1.5}, {"direction": "up"}, {"seed": -1}, {"n_trials": True}]
)
def test_a_number_out_of_range_is_named(wrong):
    [(name, value)] = wrong.items()
    with pytest.raises(SpecError, match=rf"hydra\.sweeper\.{name} is {value!r}"):
        study.StudySweeper(**wrong)


def test_params_may_come_from_a_config():
    assert study.StudySweeper(params=OmegaConf.create({"a": "interval(0, 1)"}))._params == ["a=interval(0, 1)"]
