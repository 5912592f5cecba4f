"""Our own readers and faces, measured in the same way as the peers, and what only we promise."""

from __future__ import annotations

import itertools
import random
import resource
import shutil
import statistics
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import fileset_integrations
from benchmarks.protocol import Data, Entry, Epochs, Job, Request, consume
from fileset_integrations import Columns, FileSet, FileSetReader
from fileset_integrations.columns import Category, FittedColumns, Stack, bind
from fileset_integrations.plan import Plan
from fileset_integrations.spec import BatchSpec, Shard, ShuffleSpec

_MEMORY_BYTES = 512 * 2**20  # enough for 8 open files of data A, two read ahead, and the tables being decoded


def version() -> str:
    return f"fileset-integrations {getattr(fileset_integrations, '__version__', '')}".strip()


def columns_of(data: Data) -> Columns:
    """Dense batches: the floats in one tensor, strings as categories, lists as matrices; nulls filled with 0."""
    features: dict[str, Any] = {"x": list(data.floats)}
    features |= {name: name for name in data.integers}
    features |= {name: Category(name) for name in data.texts}
    features |= {name: Stack(name, shape=(length,)) for name, length in data.lists.items()}
    fills = {name: 0 for name in data.nulls if name not in data.texts}  # null is a category of its own
    return Columns(features, label=data.label, nulls=fills or "error")


def _fitted(fs: FileSet, job: Job) -> FittedColumns:
    """Columns with vocabularies, fitted once for all epochs, as a training run has them."""
    kept = Path(job.scratch) / "columns.json"
    if kept.exists():
        return FittedColumns.load(kept)
    fitted = columns_of(job.data).fit(fs)
    fitted.save(kept)
    return fitted


def reader(job: Job, **options: Any) -> FileSetReader:
    """A reader of dense batches, shuffled unless asked otherwise; the files are opened anew."""
    fs = FileSet.from_parquet(job.data.folder)
    settings: dict[str, Any] = {"columns": _fitted(fs, job), "batch_size": job.batch_size, "shuffle": True}
    return FileSetReader(fs, **(settings | options))


def _epochs(made: FileSetReader) -> Epochs:
    numbers = itertools.count()
    return lambda: made.iter_batches(next(numbers))


def _dense(blocks: str) -> Entry:
    return lambda job: _epochs(reader(job, blocks=blocks))


def disk(job: Job) -> Epochs:
    """Blocks mapped from a cache directory that is empty at first."""
    shutil.rmtree(Path(job.scratch) / "cache", ignore_errors=True)
    return _epochs(reader(job, blocks="disk", cache_dir=Path(job.scratch) / "cache"))


def separate(job: Job) -> Epochs:
    """Every column as an array of its own, without `Columns`: what the ancestor gives."""
    return _epochs(reader(job, blocks="stream", columns=None))


def torch_face(job: Job) -> Epochs:
    """Tensors from a DataLoader, streamed."""
    from torch.utils.data import DataLoader

    from fileset_integrations.torch import FileSetIterableDataset

    fs = FileSet.from_parquet(job.data.folder)
    columns = _fitted(fs, job)
    dataset = FileSetIterableDataset(fs, columns=columns, batch_size=job.batch_size, shuffle=True, blocks="stream")
    loader: Any = DataLoader(dataset, batch_size=None)
    return lambda: iter(loader)


def tf_face(job: Job) -> Epochs:
    """Tensors from tf.data, streamed, consumed as NumPy arrays."""
    from fileset_integrations.tensorflow import to_tf_dataset

    fs = FileSet.from_parquet(job.data.folder)
    columns = _fitted(fs, job)
    dataset: Any = to_tf_dataset(fs, columns=columns, batch_size=job.batch_size, shuffle=True, blocks="stream")
    return lambda: dataset.as_numpy_iterator()


ENTRIES: dict[str, Entry] = {
    "stream": _dense("stream"),
    "memory": _dense("memory"),
    "disk": disk,
    "separate": separate,
    "torch": torch_face,
    "tf": tf_face,
}


def random_batches(job: Job, request: dict[str, Any]) -> dict[str, Any]:
    """Seconds per `batch(i)` at random i, against i in order and against iterating; blocks and orders are in memory."""
    made = reader(job, blocks=request["blocks"], cache_dir=Path(job.scratch) / "cache")
    for index in range(len(made)):  # decodes every block, draws every permutation
        made.batch(index)
    calls = min(len(made), 2_000)
    order = random.Random(0).sample(range(len(made)), calls)
    answer: dict[str, Any] = {"calls": calls, "random_s": [], "in_order_s": [], "iterated_s": []}
    for _ in range(request["repeats"]):
        answer["random_s"].append(_timed(lambda: [made.batch(index) and None for index in order]) / calls)
        answer["in_order_s"].append(_timed(lambda: [made.batch(index) and None for index in range(calls)]) / calls)
        epoch = consume(made.iter_batches, float("inf"))
        answer["iterated_s"].append(epoch["wall_s"] / epoch["batches"])
    return answer


def first_batches(job: Job, request: dict[str, Any]) -> dict[str, Any]:
    """Seconds until the first batch, opening included: of an epoch, and resumed after 99 % of it. They take turns."""
    saved = reader(job).state(0, 0)
    batches = job.data.num_rows // job.batch_size
    answer: dict[str, Any] = {"open_s": [], "cold_s": [], "resumed_s": []}

    def first(position: int) -> None:
        iterator = reader(job, blocks="stream").iter_batches()
        if position:
            iterator.load_state_dict(saved | {"batches": position})
        next(iterator)
        iterator.close()

    for turn in range(request["repeats"]):
        places = [("cold_s", 0), ("resumed_s", int(batches * 0.99))]
        for name, position in places if turn % 2 else reversed(places):
            answer[name].append(_timed(partial(first, position)))
            time.sleep(0.2)  # the threads of a closed iterator end with the block they are at
        answer["open_s"].append(_timed(partial(reader, job)))
    return answer


def plan(job: Job, request: dict[str, Any]) -> dict[str, Any]:
    """Seconds to plan an epoch of many files, and to find the rows of one batch in it."""
    files = request["files"]
    whole = Plan(np.full(files, 400_000), BatchSpec(job.batch_size), ShuffleSpec(True, 0, None), Shard(0, 1))
    answer: dict[str, Any] = {"files": files, "epoch_s": [], "batch_s": []}
    for epoch in range(request["repeats"]):
        began = time.perf_counter()
        planned = whole.epoch(epoch)
        list(planned.pieces(0, job.batch_size))
        answer["epoch_s"].append(time.perf_counter() - began)
        places = random.Random(epoch).sample(range(whole.num_batches), 1_000)
        bounds = [whole.batch_bounds(index) for index in places]
        answer["batch_s"].append(_timed(lambda: [list(planned.pieces(*each)) for each in bounds]) / len(places))  # noqa: B023
    return answer


def flat(job: Job, request: dict[str, Any]) -> dict[str, Any]:
    """Bytes of anonymous memory over many epochs of one streaming reader: the highest and the last of each."""
    before = anonymous_bytes()
    memory_bytes = max(int(_MEMORY_BYTES * job.data.rows[0] / 400_000), 32 * 2**20)
    made = reader(job, blocks="stream", memory_bytes=memory_bytes)
    highest, last = [], []
    for epoch in range(request["epochs"]):
        most = 0
        for number, _ in enumerate(made.iter_batches(epoch)):
            if number % 32 == 0:
                most = max(most, anonymous_bytes())
        highest.append(most)
        last.append(anonymous_bytes())
    return {"before": before, "highest": highest, "last": last, "memory_bytes": memory_bytes}


def fit(job: Job, request: dict[str, Any]) -> dict[str, Any]:
    """Seconds to fit the columns' vocabularies on all rows."""
    fs = FileSet.from_parquet(job.data.folder)
    return {"fit_s": [_timed(lambda: columns_of(job.data).fit(fs)) for _ in range(request["repeats"])]}


def convert(job: Job, request: dict[str, Any]) -> dict[str, Any]:
    """Processor seconds to make tensors of all rows from the files, and to `pq.read_table` them, by turns."""
    fs = FileSet.from_parquet(job.data.folder)
    decoder = bind(Columns(columns_of(job.data).features).fit(fs), fs.schema)

    def ours() -> None:
        for file in range(len(job.data.files)):
            for batch in fs.iter_file(file, decoder.columns, None, decoder.dictionaries):
                decoder.decode(pa.Table.from_batches([batch]))

    def theirs() -> None:
        for path in job.data.files:
            pq.read_table(path, columns=decoder.columns)

    spent: dict[str, list[float]] = {"ours_s": [], "theirs_s": []}
    for turn in range(request["repeats"] + 1):
        for name, step in [("ours_s", ours), ("theirs_s", theirs)][:: -1 if turn % 2 else 1]:
            cpu = time.process_time()
            step()
            spent[name].append(time.process_time() - cpu)
    return {name: values[1:] for name, values in spent.items()}  # the first turn warms up


def profile(job: Job, request: dict[str, Any]) -> dict[str, Any]:
    """CPU milliseconds per 400,000 rows of the steps of a streamed epoch, each on one thread, one after the other."""
    made = reader(job, blocks="stream")
    fs, decoder, epoch_plan = made.fileset, made._decoder, made.plan.epoch(0)
    spent: dict[str, list[float]] = {"read": [], "decode": [], "row_order": []}
    blocks, orders = {}, {}
    for block in range(len(made._table)):
        steps: dict[str, Callable[[], Any]] = {
            "read": lambda: fs.read_file(block, decoder.columns, None, decoder.dictionaries),  # noqa: B023
            "decode": lambda: decoder.decode(table),  # noqa: B023
            "row_order": lambda: epoch_plan.row_order(block),  # noqa: B023
        }
        cpu = time.process_time()
        table = steps["read"]()
        spent["read"].append(time.process_time() - cpu)
        cpu = time.process_time()
        blocks[block] = steps["decode"]()
        spent["decode"].append(time.process_time() - cpu)
        cpu = time.process_time()
        orders[block] = steps["row_order"]()
        spent["row_order"].append(time.process_time() - cpu)
    per = 400_000 / job.data.num_rows * 1e3
    answer = {name: sum(values) * per for name, values in spent.items()}
    kept = reader(job, blocks="memory")
    consume(kept.iter_batches, float("inf"))
    kept_epochs = [consume(partial(kept.iter_batches, epoch), float("inf"))["cpu_s"] for epoch in range(1, 4)]
    answer["kept_epoch"] = statistics.median(kept_epochs) * per
    streamed = [consume(partial(made.iter_batches, epoch), float("inf"))["cpu_s"] for epoch in range(3)]
    answer["streamed_epoch"] = statistics.median(streamed) * per
    return answer


REQUESTS: dict[str, Request] = {
    "random_batches": random_batches,
    "first_batches": first_batches,
    "plan": plan,
    "flat": flat,
    "fit": fit,
    "convert": convert,
    "profile": profile,
}


def anonymous_bytes() -> int:
    """Anonymous memory of this process; where the system does not say, the most it ever held."""
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("RssAnon:"):
                return int(line.split()[1]) * 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def _timed(action: Callable[[], object]) -> float:
    began = time.perf_counter()
    action()
    return time.perf_counter() - began
