"""What the driver and the processes it measures say to each other: JSON lines on standard input and output.

Peers run in environments of their own, so this module is plain standard library. A process serves one entry:

    {"do": "epoch", "fresh": true, "seconds": 4}  ->  {"rows": 3199488, "wall_s": 0.61, "cpu_s": 1.02, ...}

A fresh epoch opens the data anew and ends with the last batch: nothing is kept from the one before but what lies on
disk. One that is not fresh goes on with what is open. The consumer is the same for all: it reads an element of every
tensor of every batch, and counts rows.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TextIO


@dataclass(frozen=True)
class Data:
    """Parquet files to read, and what is in them.

    Attributes:
        name: "a", "b", ...
        folder: Where the files lie.
        rows: Rows of each file.
        floats: float32 columns, stacked into one tensor where an entry gives dense batches.
        label: The int64 label.
        integers: Further integer columns.
        texts: String columns.
        lists: List columns of float32, with the length of the lists.
        nulls: Columns that hold nulls.
    """

    name: str
    folder: str
    rows: tuple[int, ...]
    floats: tuple[str, ...]
    label: str
    integers: tuple[str, ...] = ()
    texts: tuple[str, ...] = ()
    lists: Mapping[str, int] = field(default_factory=dict)
    nulls: tuple[str, ...] = ()

    @property
    def files(self) -> list[str]:
        return [str(Path(self.folder) / f"data_{number}.parquet") for number in range(len(self.rows))]

    @property
    def num_rows(self) -> int:
        return sum(self.rows)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Data:
        values: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value for name, value in data.items()
        }
        return cls(**values)


@dataclass(frozen=True)
class Job:
    """What one process is to read, and how.

    Attributes:
        data: The files.
        batch_size: Rows per batch.
        scratch: A folder that the process may write to, empty at first.
    """

    data: Data
    batch_size: int
    scratch: str


Epochs = Callable[[], Iterator[Any]]  # called once for each epoch
Entry = Callable[[Job], Epochs]  # opens the data
Request = Callable[[Job, dict[str, Any]], dict[str, Any]]  # anything else that a module measures


def touch(batch: Any) -> int:
    """Read an element of every tensor of a batch, and give its number of rows."""
    rows = 0
    for value in batch.values() if isinstance(batch, dict) else batch:
        rows = len(value)
        _ = value[0]
    return rows


def cpu_s() -> float:
    """Processor time of this process, all of its threads, and of its children that have ended."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + children.ru_utime + children.ru_stime


def consume(epochs: Callable[[], Iterator[Any]], seconds: float) -> dict[str, Any]:
    """Time an iteration from `epochs()` to its last batch, or until `seconds` after its first; two batches at least.

    Returns:
        rows, batches, wall_s, cpu_s, first_s (until the first batch), first_rows (its rows) and complete (whether the
        end was reached).
    """
    gc.collect()
    rows = batches = first_rows = 0
    first_s = 0.0
    complete = True
    cpu, began = cpu_s(), time.perf_counter()
    for batch in epochs():
        rows += touch(batch)
        batches += 1
        if batches == 1:
            first_s, first_rows = time.perf_counter() - began, rows
        elif time.perf_counter() - began > first_s + seconds:
            complete = False
            break
    return {
        "rows": rows,
        "batches": batches,
        "wall_s": time.perf_counter() - began,
        "cpu_s": cpu_s() - cpu,
        "first_s": first_s,
        "first_rows": first_rows,
        "complete": complete,
    }


class Server:
    """Answers requests for one entry."""

    def __init__(self, entry: Entry | None, job: Job, requests: Mapping[str, Request]) -> None:
        self._entry, self._job, self._requests = entry, job, requests
        self._opened: Epochs | None = None

    def answer(self, request: dict[str, Any]) -> dict[str, Any]:
        """Do what a request asks for."""
        if request["do"] != "epoch":
            return self._requests[request["do"]](self._job, request)
        entry, seconds = self._entry, request["seconds"]
        assert entry is not None
        if request["fresh"]:
            self._opened = None
            return consume(lambda: self._open(entry)(), seconds)
        if self._opened is None:  # a later epoch is wanted: the first one is not measured
            for batch in self._open(entry)():
                touch(batch)
        assert self._opened is not None
        return consume(self._opened, seconds)

    def _open(self, entry: Entry) -> Epochs:
        self._opened = entry(self._job)
        return self._opened


def serve(lines: TextIO, answers: TextIO) -> None:
    """Read what to measure from the first line, then answer a request a line, until there are no more."""
    begin = json.loads(lines.readline())
    try:
        module = importlib.import_module(begin["module"])
        job = Job(Data.from_json(begin["data"]), begin["batch_size"], begin["scratch"])
        entry = module.ENTRIES.get(begin["entry"])
        server = Server(entry, job, getattr(module, "REQUESTS", {}))
        answer: dict[str, Any] = {"version": module.version()}
    except Exception as error:
        answer = _failure(error)
    print(json.dumps(answer), file=answers, flush=True)
    if "error" in answer:
        return
    for line in lines:
        try:
            answer = server.answer(json.loads(line))
        except Exception as error:
            answer = _failure(error)
        print(json.dumps(answer), file=answers, flush=True)


def _failure(error: Exception) -> dict[str, Any]:
    traceback.print_exc()
    return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"}


def main() -> None:
    """Serve on standard input and output; what libraries print goes to standard error."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
