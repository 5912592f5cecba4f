"""Hugging Face datasets over the same Parquet files.

- `batched`: streaming, unshuffled, whole batches by `.batch()` as NumPy arrays: the fastest documented way through it.
- `indexed`: converted to its Arrow cache once (not measured), shuffled by random indices, a batch of indices at a time
  (`BatchSampler`, the way that its PyTorch guide recommends).
- `buffered`: streaming, with `shuffle(buffer_size=10_000)`, through a DataLoader.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
from torch.utils.data import BatchSampler, DataLoader, RandomSampler

from benchmarks.protocol import Epochs, Job

_BUFFER_ROWS = 10_000


def version() -> str:
    return f"datasets {datasets.__version__}"


def _streamed(job: Job) -> datasets.IterableDataset:
    return datasets.load_dataset("parquet", data_files=job.data.files, split="train", streaming=True)


def batched(job: Job) -> Epochs:
    """Streamed, not shuffled."""
    data = _streamed(job).with_format("numpy").batch(job.batch_size, drop_last_batch=True)
    return lambda: iter(data)


def indexed(job: Job) -> Epochs:
    """Random rows of memory-mapped Arrow files."""
    cache = Path(os.environ["HF_DATASETS_CACHE"])
    cache.mkdir(parents=True, exist_ok=True)
    data = datasets.load_dataset("parquet", data_files=job.data.files, split="train", cache_dir=str(cache))
    data = data.with_format("torch")
    sampler = BatchSampler(RandomSampler(data), job.batch_size, drop_last=True)
    loader: DataLoader[Any] = DataLoader(data, sampler=sampler, batch_size=None)
    return lambda: iter(loader)


def buffered(job: Job) -> Epochs:
    """Streamed, shuffled within a buffer of rows and by file."""
    data = _streamed(job).with_format("torch").shuffle(seed=0, buffer_size=_BUFFER_ROWS)

    def epoch() -> Iterator[Any]:
        return iter(DataLoader(data, batch_size=job.batch_size, drop_last=True))

    return epoch


ENTRIES = {"batched": batched, "indexed": indexed, "buffered": buffered}
