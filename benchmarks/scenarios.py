"""What is measured against what: candidates, and the data and batch sizes at which they meet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["limit", "ours", "peer"]
Phase = Literal["first", "later"]


@dataclass(frozen=True)
class Candidate:
    """Something that reads data, in a process of its own.

    Attributes:
        key: Its name in results.
        title: Its name in tables.
        module: Module with its entry.
        entry: Name of the entry there.
        kind: What it stands for.
        order: How far its rows are shuffled.
        environment: The peer's environment that it runs in; "" for our own.
        phases: "first": opened anew for the epoch. "later": what is open, and kept in memory or on disk, goes on.
        slow: It reads a small part of the data before time is up: two rounds say all that there is to say.
    """

    key: str
    title: str
    module: str
    entry: str
    kind: Kind
    order: str
    environment: str = ""
    phases: tuple[Phase, ...] = ("first",)
    slow: bool = False


@dataclass(frozen=True)
class Scenario:
    """Candidates that take turns on the same data.

    Attributes:
        key: Its name in results and on the command line.
        title: Its heading.
        data: Name of the data.
        batch_size: Rows per batch.
        candidates: Keys of those that take part.
        most_rounds: Rounds, if fewer than asked for are enough.
    """

    key: str
    title: str
    data: str
    batch_size: int
    candidates: tuple[str, ...]
    most_rounds: int = 1_000


_OURS, _PEERS = "benchmarks.ours", "benchmarks.peers"
_BOTH: tuple[Phase, ...] = ("first", "later")
_LATER: tuple[Phase, ...] = ("later",)


def _limit(key: str, title: str, entry: str) -> Candidate:
    return Candidate(key, title, f"{_PEERS}.arrow", entry, "limit", "none")


def _ours(key: str, title: str, phases: tuple[Phase, ...] = ("first",)) -> Candidate:
    return Candidate(key, title, _OURS, key, "ours", "8 files at a time", phases=phases)


def _peer(key: str, title: str, at: str, order: str, environment: str = "", slow: bool = False) -> Candidate:
    """A peer whose entry is `at`, "module.entry"; without an environment it keeps the data in memory."""
    module, _, entry = at.partition(".")
    phases = ("first",) if environment else _BOTH
    return Candidate(key, title, f"{_PEERS}.{module}", entry, "peer", order, environment, phases, slow)


CANDIDATES = {
    candidate.key: candidate
    for candidate in (
        _limit("read", "`pq.read_table`, its own threads", "threads"),
        _limit("read-1", "`pq.read_table`, one thread", "one_thread"),
        _ours("stream", "reader, streamed"),
        _ours("memory", "reader, blocks in memory", _LATER),
        _ours("disk", "reader, blocks mapped from disk", _BOTH),
        _ours("torch", "our torch dataset in a DataLoader, streamed"),
        _ours("tf", "our tf.data dataset, streamed"),
        _ours("separate", "reader, an array a column, streamed"),
        _peer("sf", "snowflake-ml, an array a column", "snowflake.columns", "within files", "snowflake"),
        _peer("sf-dense", "snowflake-ml in a DataLoader, dense", "snowflake.dense", "within files", "snowflake"),
        _peer("by-hand", "all in memory, `torch.randperm` by hand", "tensors.by_hand", "all rows"),
        _peer("tensors", "torch DataLoader, TensorDataset", "tensors.loader", "all rows", slow=True),
        _peer("tf-data", "tf.data from tensors", "tf_data.shuffled", "65,536 rows", slow=True),
        _peer("hf-batched", "HF datasets, streamed, batch()", "huggingface.batched", "none", "huggingface", True),
        _peer("hf-indexed", "HF datasets, indexed", "huggingface.indexed", "all rows", "huggingface", True),
        _peer("hf-buffered", "HF datasets, buffer", "huggingface.buffered", "10,000 rows", "huggingface", True),
        _peer("litdata", "LitData, ParquetLoader", "litdata.shuffled", "within files", "litdata", True),
    )
}

_SLOW = ("tf", *(key for key, candidate in CANDIDATES.items() if candidate.slow))
_FEW = ("read", "stream", "memory", "sf", "by-hand")

SCENARIOS = (
    Scenario("epochs", "Data A, batch 1,024", "a", 1024, tuple(key for key in CANDIDATES if key not in _SLOW)),
    # Apart from the others: each of them takes seconds and gigabytes of its own.
    Scenario("slow", "Data A, batch 1,024, slow peers and tf.data", "a", 1024, ("stream", "memory", *_SLOW), 2),
    Scenario("batch-64", "Data A, batch 64", "a", 64, (*_FEW, "hf-batched"), 3),
    Scenario("batch-65536", "Data A, batch 65,536", "a", 65_536, (*_FEW, "hf-batched"), 3),
    Scenario("columns-3", "3 columns, batch 1,024", "a3", 1024, _FEW, 3),
    Scenario("columns-200", "200 columns, batch 1,024", "a200", 1024, _FEW, 3),
    Scenario("b", "Data B, batch 1,024", "b", 1024, ("read", "stream", "memory", "sf", "hf-batched")),
)

# What only we are measured at: request of `ours`, the data, and its arguments.
PROMISES: dict[str, tuple[str, str, dict[str, Any]]] = {
    "random": ("random_batches", "a", {"blocks": "memory"}),
    "random-disk": ("random_batches", "a", {"blocks": "disk"}),
    "first-batch": ("first_batches", "a32", {}),
    "plan": ("plan", "a", {"files": 1_000_000}),
    "memory": ("flat", "a32", {"epochs": 20}),
    "fit": ("fit", "b", {}),
    "convert": ("convert", "c", {}),
    "profile": ("profile", "a", {}),
    "profile-b": ("profile", "b", {}),
}


def environments(candidates: Sequence[str]) -> list[str]:
    """The peers' environments that candidates need."""
    return sorted({CANDIDATES[key].environment for key in candidates} - {""})
