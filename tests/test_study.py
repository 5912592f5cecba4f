"""A study of Optuna that survives its process: every trial counts once, and goes on as if nothing had happened."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf

from fileset_integrations import study, train
from fileset_integrations.errors import SpecError
from fileset_integrations.results import Result
from tests.support import SOAK
from tests.support.app import TINY, fileset_train

optuna = pytest.importorskip("optuna", minversion="4")

SEARCH = (*TINY, "hparams_search=optuna", "hydra.sweep.dir=search")
TEN = "hydra.sweeper.n_trials=10"


def trials(folder: Path) -> list[Any]:
    backend = optuna.storages.journal.JournalFileBackend(str(folder / "study.journal"))
    return optuna.load_study(study_name="study", storage=optuna.storages.JournalStorage(backend)).trials


def facts(folder: Path) -> list[tuple[int, str, dict[str, float], float]]:
    return [(trial.number, trial.state.name, trial.params, trial.value) for trial in trials(folder)]


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A study of ten trials that nothing disturbed."""
    folder = tmp_path_factory.mktemp("whole")
    ended = fileset_train(folder, "-m", *SEARCH, TEN)
    return ended, folder / "search"


@pytest.mark.slow
def test_a_search_ends_with_its_table_best_first(whole):
    ended, folder = whole
    best = min(trials(folder), key=lambda trial: trial.value)
    rows = [line for line in ended.out[ended.out.index("best first") :].splitlines() if line.startswith("│")]

    assert ended.status == 0 and len(rows) == 10
    assert rows[0].split("│")[1].strip() == str(best.number)
    assert f"{best.value:.4f}" in rows[0] and "model.lr" in ended.out
    for trial in trials(folder):
        assert 0.0003 <= trial.params["model.lr"] <= 0.1
        recorded = json.loads((folder / str(trial.number) / "result.json").read_text())
        assert float(recorded["overrides"]["model.lr"]) == trial.params["model.lr"]
        assert recorded["metrics"]["val_rmse"] == trial.value


@pytest.mark.slow
def test_a_search_that_is_done_runs_nothing_and_tells_its_table_again(whole, monkeypatch):
    monkeypatch.setattr(train, "run", None)

    ended = fileset_train(whole[1].parent, *SEARCH, TEN)

    assert ended.status == 0 and "10 of 10 jobs" in ended.out


@pytest.mark.slow
def test_a_search_of_other_settings_is_not_mixed_in(whole):
    ended = fileset_train(whole[1].parent, "-m", *SEARCH, "hydra.sweeper.n_trials=11", "model.lr=interval(0.1,0.2)")

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


@contextlib.contextmanager
def searching(folder: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that runs the ten trials; it is killed at the end of the block."""
    command = [sys.executable, "-c", "from fileset_integrations.train import main; main()", *SEARCH, TEN]
    environment = {name: value for name, value in os.environ.items() if name != "FILESET_ROOT"}
    with subprocess.Popen(command, cwd=folder, env=environment, stdout=-3, stderr=-3) as process:
        try:
            yield process
        finally:
            process.send_signal(signal.SIGKILL)


def wait_for(folder: Path, job: int, *status: str) -> None:
    """Until that job is so."""
    deadline = time.monotonic() + 250
    while time.monotonic() < deadline:
        with contextlib.suppress(OSError):
            if Result.read(folder / "search" / str(job)).status in status:
                return
        time.sleep(0.002)
    raise TimeoutError(f"job {job} is not {status}")


@pytest.mark.slow
def test_ten_trials_killed_in_the_fifth_and_resumed_lose_none_and_are_those_of_a_study_that_was_not(whole, tmp_path):
    with searching(tmp_path):
        wait_for(tmp_path, 4, "started", "done", "failed")
    states = [state for _, state, _, _ in facts(tmp_path / "search")]
    first = [(tmp_path / "search" / str(job) / "result.json").stat().st_mtime_ns for job in range(4)]

    ended = fileset_train(tmp_path, *SEARCH, TEN)

    assert states == ["COMPLETE"] * 4 + ["RUNNING"]
    assert ended.status == 0 and "10 of 10 jobs" in ended.out
    assert facts(tmp_path / "search") == facts(whole[1])
    # Nothing is done twice.
    assert [(tmp_path / "search" / str(job) / "result.json").stat().st_mtime_ns for job in range(4)] == first


@pytest.mark.slow
@pytest.mark.skipif(not SOAK, reason="a process for each of many kills")
@pytest.mark.parametrize("seed", range(3))
def test_kills_between_trials_and_in_them_change_nothing(whole, tmp_path, seed):
    random = Random(seed)
    for job in sorted(random.sample(range(9), 4)):
        with searching(tmp_path):
            # When a trial is done, its value is told, and the next one is proposed: within some hundredths of a second.
            between = random.random() < 0.7
            wait_for(tmp_path, job, *(["done"] if between else ["started", "done"]))
            time.sleep(random.uniform(0, 0.2 if between else 1.5))

    ended = fileset_train(tmp_path, *SEARCH, TEN)

    assert ended.status == 0 and "10 of 10 jobs" in ended.out
    assert facts(tmp_path / "search") == facts(whole[1])


def test_a_trial_that_was_killed_while_it_was_proposed_is_proposed_again_as_it_was(tmp_path):
    space = {name: optuna.distributions.FloatDistribution(0.1, 1) for name in ("a", "b")}
    space["c"] = optuna.distributions.CategoricalDistribution([8, 16, "x"])
    sweeper, (whole, cut) = study.StudySweeper(seed=3), [tmp_path / name for name in ("whole", "cut")]

    def opened(path: Path) -> Any:
        backend = optuna.storages.journal.JournalFileBackend(str(path))
        storage = optuna.storages.JournalStorage(backend)
        return optuna.create_study(study_name="study", storage=storage, load_if_exists=True)

    before = opened(whole)
    for number in range(12):  # after ten, the sampler looks at what is known
        before.tell(sweeper._propose(before, space).number, float(number % 5))
    told = whole.stat().st_size
    proposed = sweeper._propose(before, space)
    proposal = whole.read_bytes()[told:].splitlines(keepends=True)
    for written in range(1, len(proposal)):
        cut.write_bytes(whole.read_bytes()[:told] + b"".join(proposal[:written]))

        study._mend(cut, set(space))
        again = sweeper._propose(opened(cut), space)

        assert (again.number, again.params) == (12, proposed.params)
    assert len(proposal) >= 4  # the trial and its three values

    study._mend(whole, set(space))

    assert opened(whole).trials[12].params == proposed.params  # one whose values are all there stays


def test_what_a_kill_can_leave_in_the_journal_is_mended(tmp_path):
    path = tmp_path / "study.journal"
    path.write_bytes(b'{"op_code": 0}\n{"b": ')
    (tmp_path / "study.journal.lock").write_text("")

    study._mend(path, {"a"})

    assert path.read_bytes() == b'{"op_code": 0}\n'
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
