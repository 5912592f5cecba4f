"""`fileset-train`: the Hydra app that makes a task's FileSets, trains a model on them, and says how good it is.

```
fileset-train experiment=flights trainer.max_epochs=1        one run
fileset-train experiment=flights_keras keras.backend=jax     the same FileSets, Keras
fileset-train -m model.lr=0.1,0.01                           a sweep; the FileSets are made once
```
What can be chosen lies in the package `fileset_integrations.conf`; `fileset-train --help` lists it.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import filelock
import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import InstantiationException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, ListConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from fileset_integrations import mistakes, plots, schemas, study, sweeps
from fileset_integrations.callbacks import extra_of_backend
from fileset_integrations.errors import FileSetError, MissingDependencyError, SpecError, how_to_install
from fileset_integrations.fileset import FileSet
from fileset_integrations.mistakes import TrainError
from fileset_integrations.outcome import Evaluation, Outcome
from fileset_integrations.reader import FileSetReader
from fileset_integrations.results import Result
from fileset_integrations.runs import Job, Trained, target_of
from fileset_integrations.storage.cache import cache_root
from fileset_integrations.storage.connecting import refuse_secrets
from fileset_integrations.storage.directory import is_stage
from fileset_integrations.summary import Summary
from fileset_integrations.throughput import record_throughput
from fileset_integrations.views import View, as_fileset

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
    study.register()
    try:
        with mistakes.in_one_line():
            _hydra_main()
    except KeyboardInterrupt:
        if mistakes.asked_for_all():
            raise
        raise SystemExit(128 + signal.SIGINT) from None
    finally:
        succeeded = sweeps.finish(sweeps.console_of_the_end())
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
    overrides = dict(str(one).lstrip("+~").partition("=")[::2] for one in hydra_config.overrides.task)
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
    if not 0 <= config.seed < 2**32:
        raise SpecError(f"seed is {config.seed}; it must lie in [0, 2**32).")
    train = _framework(config)
    output_dir = Path(config.paths.output_dir)
    evaluation: Evaluation = _build(config, "evaluation")
    _check_metric(config, evaluation.metric_names)
    if OmegaConf.select(config, "columns.label") is None:
        raise SpecError("columns.label is null; fileset-train needs the column that the model is to predict.")

    made = make_filesets(config)
    train_set, val_set = (_open(config, split, made) for split in ("train", "val"))
    # The reader fits the columns, or finds the fit of an earlier run in the cache.
    reader = _reader(config, train_set, _build(config, "columns"))
    columns = reader.columns
    assert columns is not None
    summary = Summary(columns.input_spec(), OmegaConf.select(config, "model.baseline"))
    for batch in reader.iter_batches(epoch=0):
        summary.update(batch)
        evaluation.learn(batch)

    # The data module opens the others itself, by LOCATION/NAME; views have no such name, and it says of no connection.
    both = {"train": train_set, "val": val_set}
    of_the_data: dict[str, Any] = {split: fs for split, fs in both.items() if isinstance(fs, View) or fs.fetches}
    if options := _storage_options(config):
        of_the_data["storage_options"] = options

    def build(key: str, **arguments: Any) -> Any:
        return _build(config, key, **arguments, **(of_the_data if key == "data" else {}))

    def build_model() -> Any:
        offered = {"inputs": summary.inputs(), "target": summary.target()}
        taken = inspect.signature(target_of(config, "model")).parameters
        return _build(config, "model", **{name: value for name, value in offered.items() if name in taken})

    trained = train(Job(config, train_set, val_set, columns, tuple(summary.inputs()), build, build_model, output_dir))
    if trained is None:
        return None

    rows = _reader(config, val_set, columns).iter_batches(epoch=0)
    outcome = evaluation.score(rows, trained.predict, num_rows=val_set.num_rows)
    files = {
        "loss curves": plots.loss_curves(output_dir / "plots" / "loss.png", trained.history),
        **{f"{path.stem} plot": path for path in outcome.draw(output_dir / "plots")},
        **{name: path for name, path in trained.files.items() if path.exists()},  # fast_dev_run writes none
    }
    show(Console(), config.task_name, outcome, trained, output_dir, files)
    record_throughput(
        train_set,
        config.framework.value,
        num_rows=trained.num_rows,
        seconds=trained.seconds,
        cache_dir=config.data.cache_dir,
        batch_size=OmegaConf.select(config, "data.batch_size"),
        waiting_s=trained.waiting_s,
    )
    ended = replace(begun, status="done", metrics=outcome.metrics, lower_is_better=outcome.lower_is_better)
    replace(ended, seconds=time.perf_counter() - start).write(output_dir)
    return outcome.metrics[config.optimized_metric or evaluation.metric_names[0]]


def make_filesets(config: DictConfig) -> dict[str, FileSet]:
    """Make the FileSets of the config's group `filesets`, or open those that exist and were made by the same query.

    Args:
        config: The composed config; `source` says where they live. For a stage, the embedded engine makes the files
            here, from the task's own tables, and they are uploaded: the same files as in a directory.

    Returns:
        The FileSets by "LOCATION/NAME", and the parts of those that are split by "LOCATION/NAME:PART", as the group
        `data` names them.
    """
    refuse_secrets(_plain(config.source), "source")
    location = config.source.location
    options = _storage_options(config)
    made: dict[str, FileSet] = {}
    if not config.filesets.make:
        return made
    # The tables are read even where all FileSets exist: it is what FileSet.make compares, and takes a second or two.
    connection = None if config.filesets.connection is None else _build(config, "filesets.connection")
    for name, node in config.filesets.make.items():
        arguments = {str(key): value for key, value in _plain(node).items()}
        with _one_at_a_time(config, f"{location}/{name}"):
            fileset = FileSet.make(
                target_stage_loc=location,
                name=name,
                connection_name=config.source.get("connection_name"),
                duckdb_connection=connection,
                if_exists="open",
                storage_options=options,
                **arguments,
            )
        made[f"{location}/{name}"] = fileset
        _log.info("FileSet %s/%s: %s rows, snapshot %s", location, name, f"{fileset.num_rows:,}", fileset.snapshot_id)
    for name, node in (OmegaConf.select(config, "filesets.split") or {}).items():
        whole = made.get(f"{location}/{name}")
        if whole is None:
            raise SpecError(
                f"filesets.split.{name}: filesets.make makes no FileSet of that name. It makes: "
                f"{', '.join(config.filesets.make)}."
            )
        parts = whole.split(**{str(key): value for key, value in _plain(node).items()})
        made.update((f"{location}/{name}:{part}", view) for part, view in parts.items())
    return made


@contextmanager
def _one_at_a_time(config: DictConfig, where: str) -> Iterator[None]:
    """Held while a FileSet is made elsewhere than in a directory, which has a lock of its own.

    In a bucket or a stage, jobs of a sweep that begin together would all run the query, and all but one find the name
    taken when they are done.
    """
    if not is_stage(where) and "://" not in where:
        yield
        return
    locks = cache_root(config.data.cache_dir) / "locks"
    locks.mkdir(mode=0o700, exist_ok=True)
    with filelock.FileLock(locks / f"{hashlib.sha256(where.encode()).hexdigest()}.lock"):
        yield


def show(
    console: Console, task: str, outcome: Outcome, trained: Trained, output_dir: Path, files: Mapping[str, Path]
) -> None:
    """Print the table at the end of a run, its verdict, the speed, and where the run's files are."""
    unit = f" ({outcome.unit})" if outcome.unit else ""
    table = Table(title=f"{task}: {outcome.num_rows:,} validation rows", title_justify="left")
    table.add_column("")
    for measure in outcome.scores[0].values:
        table.add_column(f"{measure}{unit}", justify="right")
    for i, score in enumerate(outcome.scores):
        values = [
            f"{value:.2%}" if measure == "accuracy" else f"{value:.3f}" for measure, value in score.values.items()
        ]
        table.add_row(score.name, *values, style="bold" if i == 0 else None)
    console.print(table)
    # soft_wrap: a path that is broken into two lines can be neither clicked nor copied.
    console.print(outcome.verdict(), soft_wrap=True, highlight=False)
    console.print(_speed(trained), soft_wrap=True, highlight=False)
    console.print(f"Files in {_short(output_dir)}", soft_wrap=True, highlight=False, markup=False)
    width = max(map(len, files), default=0)
    for name, path in files.items():
        shown = path.relative_to(output_dir) if path.is_relative_to(output_dir) else path
        console.print(f"  {name:<{width}}  {shown}", soft_wrap=True, highlight=False, markup=False)


def _speed(trained: Trained) -> str:
    rate = f"{trained.num_rows / trained.seconds:,.0f} rows/s" if trained.seconds else "no time at all"
    text = f"Training: {trained.num_rows:,} rows in {trained.seconds:.2f} s ({rate}); "
    if trained.waiting_s is None:
        return text + "the time spent waiting for data is not visible on this backend, which reads ahead by itself."
    share = trained.waiting_s / trained.seconds if trained.seconds else 0.0
    return text + f"{trained.waiting_s:.2f} s of it waiting for data ({share:.1%})."


def _short(path: Path) -> Path:
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


def _framework(config: DictConfig) -> Callable[[Job], Trained | None]:
    """The function that trains; the framework is imported here and nowhere earlier."""
    framework = config.framework.value
    extras = [framework, "recipes"]
    if framework == "keras":
        _choose_keras_backend(config.keras.backend.value)
        extras.insert(1, extra_of_backend(config.keras.backend.value))
    try:
        module = importlib.import_module(f"fileset_integrations.runs.{framework}")
        if config.get("ray") is not None:  # which says how to get Ray, before the FileSets are made
            importlib.import_module("fileset_integrations.ray")
    except ImportError as error:
        if isinstance(error, FileSetError):
            raise
        raise MissingDependencyError(
            f"This run (framework={framework}) needs {error.name or error}, which cannot be imported. "
            f"{how_to_install(*extras)}"
        ) from error
    plots.require_matplotlib()  # rather than at the end, with the model lost
    train: Callable[[Job], Trained | None] = module.train
    return train


def _choose_keras_backend(backend: str) -> None:
    # Keras reads the variable once, when it is first imported.
    loaded = sys.modules.get("keras")
    if loaded is None:
        os.environ["KERAS_BACKEND"] = backend
    elif loaded.backend.backend() != backend:
        raise SpecError(
            f"keras.backend={backend}, but this process has loaded keras with {loaded.backend.backend()} already. "
            "A process has one backend: start a run for each, or sweep with a launcher that starts processes."
        )


def _check_metric(config: DictConfig, names: Sequence[str]) -> None:
    # Before the training, not after it.
    if config.optimized_metric is not None and config.optimized_metric not in names:
        raise SpecError(
            f"optimized_metric is {config.optimized_metric!r}, but {config.evaluation._target_} measures "
            f"{', '.join(names)}. Name one of them, or null."
        )


def _open(config: DictConfig, split: str, made: Mapping[str, FileSet]) -> FileSet:
    """The FileSet of data.train or data.val."""
    where = config.data[split]
    several = list(where) if split == "train" and isinstance(where, ListConfig) else [where]
    if not several or not all(isinstance(one, str) for one in several):
        raise SpecError(
            f"data.{split} is {'missing' if where is None else 'not a string'}; fileset-train needs one FileSet there, "
            "written LOCATION/NAME, or LOCATION/NAME:PART where filesets.split shares it out."
        )
    for one in several:
        if ":" in one.rpartition("/")[2] and one not in made:
            raise SpecError(
                f"data.{split} names the part {one!r}, which filesets.split does not make. "
                f"There are: {', '.join(name for name in made if ':' in name) or 'none'}."
            )
    return as_fileset([made[one] if one in made else _open_one(config, one) for one in several])


def _open_one(config: DictConfig, where: str) -> FileSet:
    connection_name = config.source.get("connection_name") if is_stage(where) else None
    return FileSet.open(where, connection_name=connection_name, storage_options=_storage_options(config, where))


def _storage_options(config: DictConfig, where: str | None = None) -> dict[str, Any] | None:
    """What fsspec is told of the source's store; None for a directory, a stage, and places elsewhere."""
    given = config.source.get("storage_options") or {}
    options = {str(key): value for key, value in given.items() if value is not None}
    return options if options and str(where or config.source.location).startswith(config.source.location) else None


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


def _build(config: DictConfig, key: str, **arguments: Any) -> Any:
    """What the config's node makes; a node of named nodes makes a dict of them.

    `arguments` do not pass through OmegaConf, which would turn dataclasses among them into config nodes.
    """
    node = OmegaConf.select(config, key)
    if node is None:
        return {}
    if "_target_" not in node:
        return {name: _build(config, f"{key}.{name}") for name in node if node[name] is not None}
    parameters = inspect.signature(target_of(config, key)).parameters
    if not any(one.kind == one.VAR_KEYWORD for one in parameters.values()):
        for name in node:
            if name not in parameters and not str(name).startswith("_"):
                raise SpecError(mistakes.no_such_key(f"{key}.{name}", [*parameters]))
    return instantiate(node, _partial_=True)(**arguments) if arguments else instantiate(node)


def _plain(node: DictConfig) -> dict[Any, Any]:
    plain = OmegaConf.to_container(node, resolve=True)
    assert isinstance(plain, dict)
    return plain
