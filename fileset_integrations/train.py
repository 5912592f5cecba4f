"""`fileset-train`: the Hydra app that makes a task's FileSets, trains a model on them, and says how good it is.

```
fileset-train experiment=flights trainer.max_epochs=1        one run
fileset-train experiment=flights_keras keras.backend=jax     the same FileSets, Keras
fileset-train -m model.lr=0.1,0.01                           a sweep; the FileSets are made once
```
What can be chosen lies in the package `fileset_integrations.conf`; `fileset-train --help` lists it.
"""

from __future__ import annotations

import inspect
import logging
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console

from fileset_integrations import choices, mistakes, plots, schemas, study, sweeps
from fileset_integrations.errors import FileSetError, SpecError
from fileset_integrations.fileset import FileSet
from fileset_integrations.mistakes import TrainError
from fileset_integrations.outcome import Evaluation
from fileset_integrations.reader import FileSetReader
from fileset_integrations.results import Result
from fileset_integrations.runs import Job
from fileset_integrations.runs.building import build, target_of
from fileset_integrations.runs.filesets import make_filesets, open_fileset, storage_options
from fileset_integrations.runs.frameworks import training_function
from fileset_integrations.runs.printing import show
from fileset_integrations.summary import Summary
from fileset_integrations.throughput import record_throughput
from fileset_integrations.views import View

_log = logging.getLogger(__name__)
# Rows of a batch where no optimizer sees them: large, so that Python's part is small.
_EVALUATION_BATCH = 16_384


def main(*defaults: str) -> None:
    """Entry point of `fileset-train` and of the recipes.

    Args:
        *defaults: Overrides such as "experiment=flights_keras", which hold unless the command line sets the same key.
    """
    # Into sys.argv, where Lightning looks for the command line when it starts further processes; and beside the other
    # overrides, for argparse takes positional arguments in one place only: `-m model.lr=0.1,0.01`, but also `--info`.
    overrides = [i for i, argument in enumerate(sys.argv) if i and "=" in argument and not argument.startswith("-")]
    given = {sys.argv[i].lstrip("+~").partition("=")[0] for i in overrides}
    place = overrides[0] if overrides else 1
    sys.argv[place:place] = [default for default in defaults if default.partition("=")[0] not in given]
    # Absolute, and inherited by the processes of launchers: a job may run in another folder.
    os.environ.setdefault("FILESET_ROOT", str(Path.cwd()))
    schemas.register()
    choices.register()
    study.register()
    whole = False
    try:
        with mistakes.in_one_line():
            _hydra_main()
            sys.stdout.flush()
        whole = True
    except KeyboardInterrupt:
        if mistakes.asked_for_all():
            raise
        raise SystemExit(128 + signal.SIGINT) from None
    except BrokenPipeError:  # whoever read it went away, such as `fileset-train --help | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # where the rest goes at exit
        sys.exit(128 + signal.SIGPIPE)
    finally:
        succeeded = sweeps.finish(sweeps.console_of_the_end(), whole)
    if not succeeded:
        sys.exit(1)


@hydra.main(version_base="1.3", config_path="pkg://fileset_integrations.conf", config_name="train")
def _hydra_main(config: DictConfig) -> float | None:
    return _one_of_a_sweep(config) if HydraConfig.get().mode == RunMode.MULTIRUN else _alone(config)


def _alone(config: DictConfig) -> float | None:
    try:
        return run(config)
    except Exception as error:
        text = mistakes.explain(error)
        if text is None or mistakes.asked_for_all():
            raise
        # Hydra would name the overrides in a line of its own before it comes to the point.
        mistakes.leave(text)


def _one_of_a_sweep(config: DictConfig) -> float | None:
    """A job that records how it ended, and whose failure is its own."""
    hydra_config = HydraConfig.get()
    folder = Path(config.paths.output_dir)
    overrides = mistakes.given(cast(DictConfig, hydra_config))
    begun, start = Result(hydra_config.job.num, overrides), time.perf_counter()
    begun.write(folder)
    try:
        sweeps.refuse_subprocesses(config, cast(DictConfig, hydra_config))
        return run(config, begun)
    except Exception as error:
        text = mistakes.explain(error)
        if text is None or mistakes.asked_for_all():
            _log.exception("Job %d failed.", begun.job)
        text = text or f"{type(error).__name__}: {' '.join(str(error).split())}"
        _log.error("Job %d failed: %s", begun.job, text)
        begun.failed(text, time.perf_counter() - start).write(folder)
        return None


def run(config: DictConfig, begun: Result | None = None) -> float | None:
    """One job: make or open the FileSets, train, evaluate, print the table.

    Args:
        config: Composed config, of the shape `schemas.TrainConf`.
        begun: What the sweep's job has recorded of itself; None outside a sweep.

    Returns:
        The value named by `optimized_metric`, the evaluation's first where that is null. None in further processes of
        a distributed training: the first one measures.

    Raises:
        TrainError: A mistake in the config, in one message.
    """
    try:
        return _run(config, begun or Result(0))
    except (FileSetError, InstantiationException, OmegaConfBaseException) as error:
        if isinstance(error, InstantiationException) and not isinstance(error.__cause__, FileSetError):
            raise
        raise TrainError(mistakes.explain(error)) from error


def _run(config: DictConfig, begun: Result) -> float | None:
    start = time.perf_counter()
    mistakes.refuse_missing(config)
    if not 0 <= config.seed < 2**32:
        raise SpecError(f"seed is {config.seed}; it must lie in [0, 2**32).")
    if config.torch_threads is not None and config.torch_threads < 1:
        raise SpecError(f"torch_threads is {config.torch_threads}; it must be at least 1, or null for all cores.")
    train = training_function(config)
    evaluation: Evaluation = build(config, "evaluation")
    _check_metric(config, evaluation.metric_names)
    if OmegaConf.select(config, "columns.label") is None:
        raise SpecError("columns.label is null; fileset-train needs the column that the model is to predict.")

    job = _prepare(config, evaluation)
    trained = train(job)
    if trained is None:
        return None

    rows = _reader(config, job.val, job.columns).iter_batches(epoch=0)
    outcome = evaluation.score(rows, trained.predict, num_rows=job.val.num_rows)
    files = {
        "loss curves": plots.loss_curves(job.output_dir / "plots" / "loss.png", trained.history),
        **{f"{path.stem} plot": path for path in outcome.draw(job.output_dir / "plots")},
        **{name: path for name, path in trained.files.items() if path.exists()},  # fast_dev_run writes none
    }
    show(Console(), config.task_name, outcome, trained, job.output_dir, files)
    record_throughput(
        job.train,
        config.framework.value,
        num_rows=trained.num_rows,
        seconds=trained.seconds,
        cache_dir=config.data.cache_dir,
        batch_size=OmegaConf.select(config, "data.batch_size"),
        waiting_s=trained.waiting_s,
    )
    ended = replace(begun, status="done", metrics=outcome.metrics, lower_is_better=outcome.lower_is_better)
    replace(ended, seconds=time.perf_counter() - start).write(job.output_dir)
    return outcome.metrics[config.optimized_metric or evaluation.metric_names[0]]


def _prepare(config: DictConfig, evaluation: Evaluation) -> Job:
    """Make or open the FileSets, and read the training rows once: for the columns, the model and the evaluation."""
    made = make_filesets(config)
    train_set, val_set = (open_fileset(config, split, made) for split in ("train", "val"))
    # The reader fits the columns, or finds the fit of an earlier run in the cache.
    reader = _reader(config, train_set, build(config, "columns"))
    columns = reader.columns
    assert columns is not None
    summary = Summary(columns.input_spec(), OmegaConf.select(config, "model.baseline"))
    for batch in reader.iter_batches(epoch=0):
        summary.update(batch)
        evaluation.learn(batch)

    # The data module opens the others itself, by LOCATION/NAME and these options; views have no such name, and it says
    # of no connection.
    options, both = storage_options(config), {"train": train_set, "val": val_set}
    of_the_data: dict[str, Any] = {
        split: fs for split, fs in both.items() if isinstance(fs, View) or (fs.fetches and not options)
    }
    if options:
        of_the_data["storage_options"] = options

    def build_node(key: str, **arguments: Any) -> Any:
        return build(config, key, **arguments, **(of_the_data if key == "data" else {}))

    def build_model() -> Any:
        offered = {"inputs": summary.inputs(), "target": summary.target()}
        taken = inspect.signature(target_of(config, "model")).parameters
        return build(config, "model", **{name: value for name, value in offered.items() if name in taken})

    return Job(
        config=config,
        train=train_set,
        val=val_set,
        columns=columns,
        features=tuple(summary.inputs()),
        build=build_node,
        build_model=build_model,
        output_dir=Path(config.paths.output_dir),
    )


def _check_metric(config: DictConfig, names: Sequence[str]) -> None:
    # Before the training, not after it.
    if config.optimized_metric is not None and config.optimized_metric not in names:
        raise SpecError(
            f"optimized_metric is {config.optimized_metric!r}, but {config.evaluation._target_} measures "
            f"{', '.join(names)}. Name one of them, or null."
        )


def _reader(config: DictConfig, fileset: FileSet, columns: Any) -> FileSetReader:
    """A reader of every row once, in the FileSet's own order."""
    return FileSetReader(
        fileset,
        columns=columns,
        batch_size=_EVALUATION_BATCH,
        drop_last_batch=False,
        memory_bytes=config.data.memory_bytes,
        cache_dir=config.data.cache_dir,
    )
