"""What tests of plain PyTorch share."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from torch.utils.data import DataLoader

FILE_ROWS = (7, 0, 1, 12, 9)
ROWS = sum(FILE_ROWS)  # 29
BATCH = 4
ORDER: dict[str, Any] = {"batch_size": BATCH, "shuffle": True, "seed": 3, "drop_last_batch": False}
WORKERS: list[dict[str, Any]] = [
    {"num_workers": 0},
    {"num_workers": 2},
    {"num_workers": 3},
    {"num_workers": 2, "persistent_workers": True},
]
WORKER_IDS = ["0", "2", "3", "2-persistent"]


def failure_of(batches: Iterable[Any], error: type[Exception]) -> str:
    """What the error says that an iteration ends with.

    The error and its traceback hold each other, and the iterator with them: left to the garbage collector, each worker
    takes five seconds to end, at some moment of another test.
    """
    try:
        list(batches)
    except error as raised:
        raised.__traceback__ = None
        return str(raised)
    raise AssertionError(f"no {error.__name__} was raised")


def loader(dataset: Any, **options: Any) -> DataLoader[Any]:
    """A DataLoader of a dataset that yields whole batches."""
    return DataLoader(dataset, batch_size=None, **options)
