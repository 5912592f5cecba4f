"""snowflake-ml-python's torch dataset, over local Parquet files and without a Snowflake session.

Nothing is patched. `DataConnector.from_dataset` makes an `ArrowIngestor`, which looks up the files of a Dataset through
its session. That class also takes plain paths (`DataSource` is `DataFrameInfo | DatasetInfo | str`), for which it needs
none. So it is made directly, with no session, the paths, and format="parquet", and `TorchDatasetWrapper` around it, as
`DataConnector.to_torch_dataset(batch_size=, shuffle=True)` does. From there on all code is the peer's. Reading local
files spares it the download in every epoch, which its users pay.

`shuffle=True` shuffles the files and the rows of each file (one row group each here); rows of different files do not
mix.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import metadata
from typing import Any

import torch
from snowflake.ml.data._internal.arrow_ingestor import ArrowIngestor
from snowflake.ml.data.torch_utils import TorchDatasetWrapper
from torch.utils.data import DataLoader

from benchmarks.protocol import Epochs, Job


def version() -> str:
    return f"snowflake-ml-python {metadata.version('snowflake-ml-python')}"


def _dataset(job: Job) -> TorchDatasetWrapper:
    ingestor = ArrowIngestor(None, job.data.files, format="parquet")
    return TorchDatasetWrapper(ingestor, batch_size=job.batch_size, shuffle=True, drop_last=True)


def columns(job: Job) -> Epochs:
    """The dataset itself: a NumPy array a column, (batch, 1). The fastest way to iterate over it."""
    dataset = _dataset(job)
    return lambda: iter(dataset)


def dense(job: Job) -> Epochs:
    """As documented, through a DataLoader, with the floats put together for a model: x (batch, floats) and label."""
    loader: DataLoader[dict[str, Any]] = DataLoader(_dataset(job), batch_size=None, num_workers=0)
    floats, label = job.data.floats, job.data.label

    def epoch() -> Iterator[dict[str, torch.Tensor]]:
        for batch in loader:
            yield {"x": torch.cat([batch[name] for name in floats], 1), "label": batch[label]}

    return epoch


ENTRIES = {"columns": columns, "dense": dense}
