"""Sweeps: what may run in one, and what is told at its end.

A job that fails is recorded and does not stop the others. At the end come a table, best first, a plot of the metric
against what was varied, and the jobs that failed by their errors.
"""

from __future__ import annotations

import csv
import math
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table

from fileset_integrations import plots, results
from fileset_integrations.errors import MissingDependencyError, SpecError
from fileset_integrations.mistakes import leave
from fileset_integrations.results import Result

_BASIC = "hydra._internal.core_plugins."


class Sweep(Callback):
    """Remembers, in the process that starts the jobs, which sweep it is."""

    config: ClassVar[DictConfig | None] = None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        """Before the first job."""
        try:
            refuse_subprocesses(config, config.hydra)
        except SpecError as error:
            leave(str(error))  # Hydra turns an exception of a callback into a warning
        Sweep.config = config


def refuse_subprocesses(config: DictConfig, hydra_config: DictConfig) -> None:
    """Refuse strategies of Lightning that start the script again, where that would be another job.

    The further process parses the same command line: under a sweeper that samples it would draw other values, without
    an error; under a launcher that starts processes there is no command line of ours. A plain grid repeats exactly.

    Args:
        config: Config of a job.
        hydra_config: Hydra's own.

    Raises:
        SpecError: Says what to choose instead.
    """
    targets = {part: str(OmegaConf.select(hydra_config, f"{part}._target_")) for part in ("sweeper", "launcher")}
    wrong = [f"hydra/{part}={target.rpartition('.')[2]}" for part, target in targets.items() if _BASIC not in target]
    if wrong and _starts_subprocesses(config):
        raise SpecError(
            f"trainer.strategy={config.trainer.strategy} with {config.trainer.devices} devices starts this script once "
            f"more for each, which under {' and '.join(wrong)} would be another job. Choose trainer=ddp_spawn, or one "
            "device a job."
        )


def _starts_subprocesses(config: DictConfig) -> bool:
    trainer = config.trainer
    # Ray starts processes of its own, which read no command line.
    if trainer.get("_target_") != "lightning.Trainer" or config.get("ray") is not None:
        return False
    strategy, devices = trainer.strategy, trainer.devices
    if not isinstance(strategy, str) or any(word in strategy for word in ("spawn", "fork", "notebook", "ray")):
        return False
    if isinstance(devices, str) and devices.isdigit():
        devices = int(devices)
    on_processor = trainer.accelerator == "cpu"
    # "auto" and -1 are all GPUs, or one process on the processor.
    one = devices == 1 or (devices in ("auto", -1, "-1") and on_processor)
    one = one or (not isinstance(devices, int | str) and len(devices) == 1)
    return not one or trainer.num_nodes > 1


def finish(console: Console, whole: bool = True) -> bool:
    """Tell of the sweep that this process started, if any.

    Args:
        console: Where to.
        whole: Whether it came to its end; where an exception ended it, that is told elsewhere.

    Returns:
        Whether every job that began has succeeded.
    """
    config, Sweep.config = Sweep.config, None
    # Under ddp, the further processes go through the sweep in step with the first one.
    if config is None or os.environ.get("LOCAL_RANK", "0") != "0":
        return True
    folder = Path(config.hydra.sweep.dir).absolute()
    found = results.read_all(folder) if folder.is_dir() else []
    if found:
        show(console, config.task_name, found, config.optimized_metric, folder)
    elif whole:
        print("The sweep has no job: what it varies, a range or a glob, has no value. Give it some.", file=sys.stderr)
        return False
    return all(result.status == "done" for result in found)


def show(console: Console, task: str, found: Sequence[Result], metric: str | None, folder: Path) -> None:
    """Print the table of a sweep and write it, with the plot, into its folder.

    Args:
        console: Where to.
        task: Title.
        found: Results of the jobs.
        metric: What they are compared by; None for the first that they have.
        folder: The sweep's.
    """
    done = [result for result in found if result.status == "done" and result.metrics]
    varied = varied_keys(found)
    if done:
        by = metric if metric in done[0].metrics else next(iter(done[0].metrics))
        done.sort(key=lambda result: _rank(result, by))
        _print_table(console, f"{task}: {len(done)} of {len(found)} jobs, best first by {by}", done, varied, by)
        _write_csv(folder / "sweep.csv", done, varied)
        files = ["sweep.csv"]
        if varied:
            values = {key: [result.overrides.get(key, "") for result in done] for key in varied}
            try:
                files.insert(0, plots.sweep(folder / "sweep.png", values, by, [r.metrics[by] for r in done]).name)
            except MissingDependencyError as error:
                console.print(str(error), soft_wrap=True, highlight=False, markup=False)
        shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        console.print(f"Files in {shown}: {', '.join(files)}", soft_wrap=True, highlight=False, markup=False)
    bad = [result for result in found if result.status != "done"]
    if bad:
        console.print(f"{len(bad)} of {len(found)} jobs failed:", soft_wrap=True, highlight=False)
    for result in bad:
        of = ", ".join(f"{key}={result.overrides.get(key, '')}" for key in varied)
        what = result.error or "began, and its process ended before it did"
        console.print(f"  job {result.job} ({of}): {what}", soft_wrap=True, highlight=False, markup=False)


def varied_keys(found: Sequence[Result]) -> list[str]:
    """Keys that differ between jobs, in the order in which they were given."""
    keys = list(dict.fromkeys(key for result in found for key in result.overrides))
    return [key for key in keys if len({result.overrides.get(key) for result in found}) > 1]


def _rank(result: Result, by: str) -> tuple[bool, float]:
    value = result.metrics.get(by, math.nan)
    # What is not a number comes last.
    return math.isnan(value), value if result.lower_is_better else -value


def _print_table(console: Console, title: str, done: Sequence[Result], varied: Sequence[str], by: str) -> None:
    table = Table(title=title, title_justify="left")
    table.add_column("job", justify="right")
    for key in varied:
        table.add_column(key, justify="right", overflow="fold")
    measures = [by, *(name for name in done[0].metrics if name != by)]
    for name in [*measures, "seconds"]:
        table.add_column(name, justify="right")
    for i, result in enumerate(done):
        cells = [str(result.job), *(_short(result.overrides.get(key, "")) for key in varied)]
        cells += [f"{result.metrics.get(name, math.nan):.4f}" for name in measures]
        table.add_row(*cells, f"{result.seconds:.1f}", style="bold" if i == 0 else None)
    console.print(table)


def _short(value: str) -> str:
    try:
        return f"{float(value):.6g}"
    except ValueError:
        return value


def _write_csv(path: Path, done: Sequence[Result], varied: Sequence[str]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["job", *varied, *done[0].metrics, "seconds"])
        for result in done:
            values = [result.overrides.get(key, "") for key in varied]
            writer.writerow([result.job, *values, *result.metrics.values(), result.seconds])


def console_of_the_end() -> Console:
    """A console as wide as its lines where nobody sees it as a terminal, so that no line is cut."""
    return Console() if sys.stdout.isatty() else Console(width=160)
