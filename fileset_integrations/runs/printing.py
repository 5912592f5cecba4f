"""What a run prints at its end: how good the model is, how fast it was trained, where its files are."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from fileset_integrations.outcome import Outcome
from fileset_integrations.runs import Trained


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
