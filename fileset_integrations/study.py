"""A Hydra sweeper over Optuna's own API: a sweep that can be killed at any moment and goes on where it stood.

The folder of the sweep is the study: it holds Optuna's journal beside the folders of the jobs, and trial n is job n.
Hydra's own plugin for Optuna cannot do this (1.3): a second run adds as many trials as the first was to have, begins
again with the same proposals, writes over the first one's folders, and leaves killed trials running for ever.
"""

from __future__ import annotations

import json
import logging
import math
from collections.abc import Iterator, Sequence, Set
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import filelock
import numpy as np
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import IntervalSweep, Override, RangeSweep, Transformer
from hydra.core.plugins import Plugins
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from fileset_integrations.errors import MissingDependencyError, SpecError, how_to_install

if TYPE_CHECKING:
    from optuna import Study
    from optuna.distributions import BaseDistribution
    from optuna.trial import FrozenTrial

_log = logging.getLogger(__name__)
# Hydra instantiates plugins by names in this namespace only. A package in it would be imported by every other Hydra app
# of the environment when it starts; so the name is registered where our own app starts, and the class lies here.
NAME = "hydra_plugins.fileset_integrations.StudySweeper"
_JOURNAL = "study.journal"
_CREATE_TRIAL = 4  # in the journal: JournalOperation.CREATE_TRIAL of Optuna 4 and 5


def register() -> None:
    """Make the sweeper known to Hydra. Safe to call again."""
    Plugins.instance().class_name_to_class[NAME] = StudySweeper


class StudySweeper(Sweeper):
    """Runs trials until the study has as many as were asked for.

    Args:
        n_trials: Trials of the study, those of earlier runs included. One that failed counts; one that was killed runs
            again, with the same values and in the same folder.
        n_jobs: Trials that are proposed, and handed to the launcher, at once.
        direction: "minimize" or "maximize"; None: as the config's evaluation says of its metrics.
        seed: Of the sampler. Trial n is drawn by (seed, n) and what is known by then, so that a study that was killed
            proposes what it would have proposed.
        sampler: Makes an Optuna sampler; it is given `seed`.
        params: Keys and what they may be, as Hydra writes sweeps; those of the command line come on top.

    Raises:
        SpecError: A number is out of range.
    """

    def __init__(
        self,
        n_trials: int = 20,
        n_jobs: int = 1,
        direction: Literal["minimize", "maximize"] | None = None,
        seed: int = 0,
        sampler: Any = None,
        params: DictConfig | None = None,
    ) -> None:
        for name, value in (("n_trials", n_trials), ("n_jobs", n_jobs)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise SpecError(f"hydra.sweeper.{name} is {value!r}; it must be a whole number of at least 1.")
        if direction is not None and direction not in ("minimize", "maximize"):
            raise SpecError(f"hydra.sweeper.direction is {direction!r}; choose minimize, maximize or null.")
        if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
            raise SpecError(f"hydra.sweeper.seed is {seed!r}; it must be a whole number of at least 0.")
        self._n_trials, self._n_jobs = n_trials, n_jobs
        self._direction: Literal["minimize", "maximize"] | None = direction
        self._seed, self._sampler = seed, sampler
        self._params = [f"{key!s}={value}" for key, value in (params or {}).items()]
        self._config: DictConfig | None = None
        self._launcher: Launcher | None = None
        self._context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """What Hydra hands over before `sweep`."""
        self._config, self._context = config, hydra_context
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> None:
        """Run the trials that the study still lacks.

        Args:
            arguments: Overrides of the command line; those that sweep add to `params`, the others hold for all trials.

        Raises:
            SpecError: Nothing is to be varied, the study was made with other settings, or another process runs it.
            MissingDependencyError: Optuna is not installed.
        """
        try:
            import optuna
        except ImportError as error:
            raise MissingDependencyError(f"A search by Optuna needs optuna. {how_to_install('sweep')}") from error
        assert self._config is not None and self._context is not None
        parser = OverridesParser.create(config_loader=self._context.config_loader)
        space: dict[str, BaseDistribution] = {}
        fixed: dict[str, str] = {}
        for override in parser.parse_overrides([*self._params, *arguments]):
            key = override.get_key_element()
            space.pop(key, None)
            fixed.pop(key, None)
            if override.is_sweep_override():
                space[key] = _distribution(override)
            else:
                fixed[key] = override.get_value_element_as_str()
        if not space:
            raise SpecError(
                "hydra.sweeper.params varies nothing. Say what may be varied: "
                "model.lr='tag(log, interval(0.001, 0.1))', or the same under hydra.sweeper.params in a file."
            )
        folder = Path(str(self._config.hydra.sweep.dir))
        folder.mkdir(parents=True, exist_ok=True)
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        with _alone(folder):
            study = self._open(folder, self._direction_of(), space, fixed)
            OmegaConf.save(self._config, folder / "multirun.yaml")
            self._run(study, space, fixed)

    def _direction_of(self) -> Literal["minimize", "maximize"]:
        if self._direction is not None:
            return self._direction
        assert self._config is not None
        evaluation = instantiate(self._config.evaluation)
        lower = getattr(evaluation, "lower_is_better", None)
        if lower is None:
            raise SpecError(
                f"hydra.sweeper.direction is null, and {type(evaluation).__name__} has no `lower_is_better`. "
                "Set it to minimize or maximize."
            )
        return "minimize" if lower else "maximize"

    def _open(
        self,
        folder: Path,
        direction: Literal["minimize", "maximize"],
        space: dict[str, BaseDistribution],
        fixed: dict[str, str],
    ) -> Study:
        import optuna
        from optuna.distributions import distribution_to_json
        from optuna.storages.journal import JournalFileBackend

        path = folder / _JOURNAL
        _mend(path, set(space))
        study = optuna.create_study(
            study_name="study",
            storage=optuna.storages.JournalStorage(JournalFileBackend(str(path))),
            direction=direction,
            load_if_exists=True,
        )
        wanted: dict[str, Any] = {
            "direction": direction,
            "optimized_metric": self._config and self._config.optimized_metric,
            **fixed,
            **{key: distribution_to_json(one) for key, one in space.items()},
        }
        made_with = study.user_attrs.get("settings")
        if made_with is None:
            study.set_user_attr("settings", wanted)
        elif made_with != wanted:
            differ = [key for key in {**made_with, **wanted} if made_with.get(key) != wanted.get(key)]
            told = "; ".join(f"{key}: {made_with.get(key)} there, {wanted.get(key)} asked for" for key in differ)
            raise SpecError(
                f"{folder} holds a search with other settings ({told}). Ask for the same, or name another "
                "hydra.sweep.dir."
            )
        return study

    def _run(self, study: Study, space: dict[str, BaseDistribution], fixed: dict[str, str]) -> None:
        from optuna.trial import TrialState

        again = [trial for trial in study.trials if trial.state == TrialState.RUNNING]
        counted = [trial for trial in study.trials if trial.state.is_finished()]
        todo = self._n_trials - len(counted)
        if counted or again:
            _log.info("Going on: %d trials are there, %d were killed and run again.", len(counted), len(again))
        if todo <= 0:
            _log.info("The study has its %d trials. More: hydra.sweeper.n_trials=...", self._n_trials)
        for trial in again[: max(todo, 0)]:
            self._launch(study, [trial], fixed)
            todo -= 1
        while todo > 0:
            batch = [self._propose(study, space) for _ in range(min(self._n_jobs, todo))]
            self._launch(study, batch, fixed)
            todo -= len(batch)

    def _propose(self, study: Study, space: dict[str, BaseDistribution]) -> FrozenTrial:
        study.sampler = self._make_sampler(len(study.trials))
        number = study.ask(space).number
        return study.trials[number]

    def _make_sampler(self, number: int) -> Any:
        import optuna

        seed = int(np.random.SeedSequence(self._seed, spawn_key=(number,)).generate_state(1)[0])
        return (self._sampler or optuna.samplers.TPESampler)(seed=seed)

    def _launch(self, study: Study, trials: Sequence[FrozenTrial], fixed: dict[str, str]) -> None:
        from optuna.trial import TrialState

        assert self._launcher is not None
        overrides = [[f"{key}={value}" for key, value in {**fixed, **trial.params}.items()] for trial in trials]
        returned = self._launcher.launch(overrides, initial_job_idx=trials[0].number)
        for trial, one in zip(trials, returned, strict=True):
            value = _value(one)
            if value is None:
                study.tell(trial.number, state=TrialState.FAIL)
            else:
                study.tell(trial.number, value)


def _value(returned: JobReturn) -> float | None:
    """What a job measured; None where it failed, or its training came to nothing that is a number."""
    if returned.status != JobStatus.COMPLETED or not isinstance(returned.return_value, int | float):
        return None
    return None if math.isnan(returned.return_value) else float(returned.return_value)


def _distribution(override: Override) -> BaseDistribution:
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    value = override.value()
    if isinstance(value, IntervalSweep):
        assert value.start is not None and value.end is not None
        log = "log" in value.tags
        whole = isinstance(value.start, int) and isinstance(value.end, int)
        if value.start > value.end or (log and value.start <= 0):
            raise SpecError(
                f"{override.input_line}: the first end must be the smaller one"
                f"{', and greater than 0 on a logarithmic scale' if log else ''}."
            )
        if whole:
            return IntDistribution(int(value.start), int(value.end), log=log)
        return FloatDistribution(float(value.start), float(value.end), log=log)
    if isinstance(value, RangeSweep) and not value.shuffle:
        assert value.start is not None and value.stop is not None
        numbers = list(value.range())
        if not numbers:
            raise SpecError(f"{override.input_line}: this range is empty.")
        if all(isinstance(number, int) for number in numbers):
            return IntDistribution(int(min(numbers)), int(max(numbers)), step=abs(int(value.step)))
        return CategoricalDistribution([float(number) for number in numbers])
    choices: list[Any] = list(override.sweep_iterator(transformer=Transformer.encode))
    return CategoricalDistribution(choices)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    # Two processes on one study would each take the other's running trials for killed ones.
    lock = filelock.FileLock(folder / ".study.lock")
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout as error:
        raise SpecError(
            f"{folder}: another process is running this search. Wait for it, or name another hydra.sweep.dir."
        ) from error
    try:
        yield
    finally:
        lock.release()


def _mend(path: Path, keys: Set[str]) -> None:
    """Take away what a killed process may have left: its lock on the journal, half a line, half a proposal.

    Args:
        path: The journal.
        keys: Of the values that every trial has.
    """
    lock = path.with_name(path.name + ".lock")
    lock.unlink(missing_ok=True)
    if path.exists():
        whole = path.read_bytes()
        end = whole.rfind(b"\n") + 1
        end = _without_half_a_trial(whole[:end].splitlines(keepends=True), keys)
        if end < len(whole):
            with path.open("r+b") as file:
                file.truncate(end)


def _without_half_a_trial(lines: Sequence[bytes], keys: Set[str]) -> int:
    """Bytes of a journal up to a trial, its last one, whose values are not all there: its job never began."""
    operations = [json.loads(line) for line in lines]
    begun = max((i for i, one in enumerate(operations) if one.get("op_code") == _CREATE_TRIAL), default=len(lines))
    values = {one["param_name"] for one in operations[begun + 1 :] if "param_name" in one}
    return sum(map(len, lines if values == keys else lines[:begun]))
