"""What Keras's workers read ahead of the training, and how to be rid of it.

With `workers` above 1, or processes, Keras's adapter of a `PyDataset` keeps batches in queues of an "enqueuer". Two
things it leaves undone, seen in Keras 3.8 and 3.15: what is in the queues when a model has been built from the first
batch goes into the epochs that follow, and a thread that waits for room in a full queue is never ended. Neither the
adapter nor the enqueuer is handed to the dataset, to callbacks or to whoever calls `fit`, so there is no public way to
either: this module goes by names of Keras's inside, it alone, and `lacking` tries whether they still hold.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import queue
import sys
import threading
from types import FrameType
from typing import Any

import keras

TRIED = "3.8 to 3.15"  # versions of Keras: the first and the last of these
_ADAPTERS = "keras.src.trainers.data_adapters.py_dataset_adapter"


def reads_ahead(dataset: Any) -> bool:
    """Whether Keras gives the dataset threads or processes that ask for batches before the training does."""
    return bool(dataset.workers > 1 or (dataset.workers > 0 and dataset.use_multiprocessing))


def forget(dataset: Any) -> None:
    """Throw away what workers have read ahead, where Keras's adapter has just ended an epoch.

    To be called by the dataset's `on_epoch_end`, which the adapter calls: it is found by its frame.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_name == "on_epoch_end":
        enqueuer = getattr(frame.f_locals.get("self"), "enqueuer", None)
        if enqueuer is not None and getattr(enqueuer, "py_dataset", None) is dataset:
            if not enqueuer.is_running():
                _empty(enqueuer.ready_queue)
                _empty(enqueuer.future_queue)
            return
        frame = frame.f_back


def stop(*datasets: Any) -> None:
    """End the threads and processes that Keras leaves when a training ends by an exception."""
    for thread in threading.enumerate():
        enqueuer = _enqueuer_of(thread)
        if any(getattr(enqueuer, "py_dataset", None) is dataset for dataset in datasets if dataset is not None):
            enqueuer.stop(drain_queue_and_join=False)
            while thread.is_alive():  # it waits for room in a queue that nobody empties any more
                with contextlib.suppress(queue.Empty):
                    enqueuer.future_queue.get(timeout=0.05)


@functools.cache
def lacking() -> str:
    """What of Keras's inside is no longer where this module looks for it; "" where all is there."""
    try:
        adapter = importlib.import_module(_ADAPTERS).PyDatasetAdapter(_Trial(workers=2))
        enqueuer = adapter.enqueuer
        for waiting in (enqueuer.ready_queue, enqueuer.future_queue):
            waiting.put(None)
        adapter.on_epoch_end()
        left = enqueuer.ready_queue.qsize() + enqueuer.future_queue.qsize()
        thread = threading.Thread(target=enqueuer._run)
        found = _enqueuer_of(thread) is enqueuer and callable(enqueuer.stop)
    except (ImportError, AttributeError, TypeError) as error:
        return f"{type(error).__name__}: {error}"
    return "the queues of its adapter" if left else "" if found else "the threads of its adapter"


class _Trial(keras.utils.PyDataset):  # type: ignore[misc]
    """As much of a dataset as an adapter asks for."""

    num_batches = 1

    def on_epoch_end(self) -> None:
        forget(self)


def _enqueuer_of(thread: threading.Thread) -> Any:
    return getattr(getattr(thread, "_target", None), "__self__", None)


def _empty(waiting: queue.Queue[Any]) -> None:
    with contextlib.suppress(queue.Empty):
        while True:
            waiting.get_nowait()
