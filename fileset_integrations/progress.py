"""A progress bar on a terminal, and nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def progress_bar(what: str, total: int, shown: bool | None = None) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, removed when done; gives a function to be told how many more are done.

    Args:
        what: What is being done.
        total: How many there are.
        shown: Whether to show it; None: where standard error is a terminal.
    """
    if not (sys.stderr.isatty() if shown is None else shown):
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True, force_terminal=shown), transient=True) as progress:
        task = progress.add_task(what, total=total)
        yield lambda done: progress.update(task, advance=done)
