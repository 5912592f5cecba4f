"""The `fileset` command: make, look at, check, measure and remove FileSets without writing Python."""

from __future__ import annotations

import os
import signal
import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fileset_integrations.cli.application import app

__all__ = ["app", "main"]


def main() -> None:
    """Run the command. A mistake of the user's is one line on standard error."""
    _keep_numbers()
    # All else is imported here, where Ctrl-C ends the command without a word, and not with the trace of an import.
    try:
        _commands().run()
    except KeyboardInterrupt:
        raise SystemExit(128 + signal.SIGINT) from None


def _keep_numbers() -> None:
    # Of a stream that whoever started this has closed, the number is not to become that of a library's pipe or file.
    if sys.stdin is None:
        os.open(os.devnull, os.O_RDONLY)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_WRONLY)
            setattr(sys, name, os.fdopen(nowhere, "w", encoding="utf-8", closefd=False))


def _commands() -> Any:
    for family in ("snapshots", "measuring", "cache"):
        import_module(f"{__name__}.{family}")
    return import_module(f"{__name__}.application")


def __getattr__(name: str) -> Any:
    if name != "app":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return _commands().app
