"""A progress bar on a terminal, and nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from rich.progress import Task

Unit = Literal["rows", "files", "steps", "bytes"]
_WIDE, _NARROW = 100, 64  # columns of a terminal from which there is room for a bar, and for how much is done
_BAR = 20


def is_seen(shown: bool | None) -> bool:
    """Whether a bar is to be shown; None: where standard error is a terminal."""
    return sys.stderr.isatty() if shown is None else shown


@contextmanager
def progress_bar(
    what: str,
    total: int | None,
    shown: bool | None = None,
    unit: Unit = "rows",
    share: Callable[[], float | None] = lambda: None,
) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, removed when done; gives a function to be told how many more are done.

    It shows how much is done, how fast, and the time left, or, where nobody knows the total, the time so far.

    Args:
        what: What is being done.
        total: How many there are; None: nobody knows.
        shown: As of `is_seen`.
        unit: What is counted.
        share: Where nobody knows the total: which part of the work is done, in [0, 1], if anybody knows that. It is
            asked from a thread of the bar's.
    """
    if not is_seen(shown):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeRemainingColumn
    from rich.progress_bar import ProgressBar
    from rich.table import Column
    from rich.text import Text

    class Amount(ProgressColumn):
        def render(self, task: Task) -> Text:
            rate = f", {amount(task.speed, unit).removesuffix(f' {unit}')}/s" if task.speed else ""
            if task.total is None:
                return Text(f"{amount(task.completed, unit)}{rate}")
            done = amount(task.completed, unit).removesuffix(f" {unit}")
            return Text(f"{done} of {amount(task.total, unit)}{rate}")

    class Share(ProgressColumn):
        def render(self, task: Task) -> ProgressBar:
            part = share()
            return ProgressBar(1, part or 0, _BAR, pulse=part is None, animation_time=task.get_time())

    class Left(ProgressColumn):
        max_refresh = 0.5

        def render(self, task: Task) -> Text:
            part, spent = share(), task.elapsed or 0.0
            return Text(f"{clock(spent)} so far" if not part else f"about {clock(spent * (1 - part) / part)} left")

    console = Console(stderr=True, force_terminal=shown)
    # The time left is what is looked for: on a narrow terminal, the others make room for it.
    if console.width < _NARROW and len(what) > (room := max(console.width - 21, 8)):
        what = f"{what[: room - 1]}…"
    columns: list[ProgressColumn] = [TextColumn("{task.description}", table_column=Column(no_wrap=True))]
    if console.width >= _WIDE:
        columns += [Share() if total is None else BarColumn(_BAR)]
    if console.width >= _NARROW:
        columns += [Amount(Column(no_wrap=True))]
    columns += [Left(Column(no_wrap=True)) if total is None else TimeRemainingColumn(table_column=Column(no_wrap=True))]
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, advance=done)


def clock(seconds: float) -> str:
    """A time as clocks show it: "0:01:05"."""
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def amount(number: float, unit: Unit) -> str:
    """A number with its unit: "1,234 rows", "5.4 MiB"."""
    if unit != "bytes":
        return f"{number:,.0f} {unit}"
    for name in ("bytes", "KiB", "MiB", "GiB"):
        if number < 1024:
            return f"{number:,.0f} bytes" if name == "bytes" else f"{number:.1f} {name}"
        number /= 1024
    return f"{number:,.1f} TiB"
