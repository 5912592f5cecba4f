"""Objects that threads share, mended in forked children.

A child has only the thread that forked: a lock that another thread held stays locked there for ever, and work that
another thread had begun is never finished.
"""

from __future__ import annotations

import os
import weakref
from typing import Protocol


class Forkable(Protocol):
    """Something to mend in a forked child."""

    def after_fork(self) -> None:
        """Renew locks; forget what other threads were at."""


_shared: weakref.WeakSet[Forkable] = weakref.WeakSet()


def mend_after_fork(shared: Forkable) -> None:
    """Call `shared.after_fork()` in every child that is forked while `shared` lives."""
    _shared.add(shared)


def _mend() -> None:
    for shared in list(_shared):
        shared.after_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_mend)
