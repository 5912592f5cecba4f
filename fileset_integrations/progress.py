"""A progress bar on a terminal, and nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.progress import Task

Unit = Literal["rows", "files", "steps", "bytes"]


@contextmanager
def progress_bar(
    what: str, total: int | None, shown: bool | None = None, unit: Unit = "rows"
) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, removed when done; gives a function to be told how many more are done.

    It shows how much is done, how fast, and the time left, or, where nobody knows the total, the time so far.

    Args:
        what: What is being done.
        total: How many there are; None: nobody knows.
        shown: Whether to show it; None: where standard error is a terminal.
        unit: What is counted.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
    from rich.table import Column
    from rich.text import Text

    class Amount(ProgressColumn):
        def render(self, task: Task) -> Text:
            whole = "" if task.total is None else f" of {amount(task.total, unit)}"
            rate = f", {amount(task.speed, unit)}/s" if task.speed else ""
            return Text(f"{amount(task.completed, unit)}{whole}{rate}", no_wrap=True)

    columns = (TextColumn("{task.description}"), BarColumn(20), Amount(Column(no_wrap=True)))
    time = TimeElapsedColumn() if total is None else TimeRemainingColumn()
    with Progress(*columns, time, console=Console(stderr=True, force_terminal=shown), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, advance=done)


def amount(number: float, unit: Unit) -> str:
    """A number with its unit: "1,234 rows", "5.4 MiB"."""
    if unit != "bytes":
        return f"{number:,.0f} {unit}"
    for name in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} bytes" if name == "bytes" else f"{number:.1f} {name}"
        number /= 1024
    return f"{number:,.1f} TiB"
