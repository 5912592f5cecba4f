"""torch on its own, with all rows in memory.

- `loader`: `DataLoader` over a `TensorDataset`, shuffled by `RandomSampler`, whole batches by index
  (`sampler=BatchSampler(...)`, `batch_size=None`): the documented way around collating row by row.
- `by_hand`: no loader at all: `torch.randperm` and `index_select`, as one would write it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

from benchmarks.protocol import Data, Epochs, Job


def version() -> str:
    return f"torch {torch.__version__.partition('+')[0]}"


def load(data: Data) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """All rows: x (rows, floats) float32 and the label (rows,) int64."""
    table = pa.concat_tables(pq.read_table(path, columns=[*data.floats, data.label]) for path in data.files)
    return np.stack([table[name].to_numpy() for name in data.floats], 1), table[data.label].to_numpy()


def _tensors(data: Data) -> tuple[torch.Tensor, torch.Tensor]:
    x, label = load(data)
    return torch.from_numpy(x), torch.from_numpy(label)


def loader(job: Job) -> Epochs:
    """The first epoch reads all files."""
    data = TensorDataset(*_tensors(job.data))
    sampler = BatchSampler(RandomSampler(data), job.batch_size, drop_last=True)
    batches: DataLoader[Any] = DataLoader(data, sampler=sampler, batch_size=None)
    return lambda: iter(batches)


def by_hand(job: Job) -> Epochs:
    """The first epoch reads all files."""
    x, label = _tensors(job.data)

    def epoch() -> Iterator[dict[str, torch.Tensor]]:
        order = torch.randperm(len(label))
        for start in range(0, len(label) - job.batch_size + 1, job.batch_size):
            rows = order[start : start + job.batch_size]
            yield {"x": x.index_select(0, rows), "label": label.index_select(0, rows)}

    return epoch


ENTRIES = {"loader": loader, "by_hand": by_hand}
