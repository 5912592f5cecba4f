"""`pyarrow.parquet.read_table`, a file at a time: what any reader of Parquet has to do at least."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.protocol import Epochs, Job


def version() -> str:
    return f"pyarrow {pa.__version__}"


def _read(job: Job, **options: Any) -> Epochs:
    def epoch() -> Iterator[list[pa.ChunkedArray]]:
        for path in job.data.files:
            yield pq.read_table(path, **options).columns

    return epoch


def threads(job: Job) -> Epochs:
    """With its default settings: columns are decoded by as many threads as there are cores."""
    return _read(job)


def one_thread(job: Job) -> Epochs:
    """On one thread."""
    return _read(job, use_threads=False)


ENTRIES = {"threads": threads, "one_thread": one_thread}
