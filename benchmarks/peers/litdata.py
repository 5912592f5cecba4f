"""LitData's StreamingDataset over the same Parquet files: `ParquetLoader`, shuffled, without worker processes.

Two worker processes were no faster on two cores. Its index of the files is made once, and not measured.
"""

from __future__ import annotations

from pathlib import Path

import litdata
from litdata.streaming.item_loader import ParquetLoader

from benchmarks.protocol import Epochs, Job


def version() -> str:
    return f"litdata {litdata.__version__}"


def shuffled(job: Job) -> Epochs:
    """Rows as dicts, collated."""
    folder = Path(job.scratch) / "files"
    if not folder.exists():
        folder.mkdir()
        for path in job.data.files:
            (folder / Path(path).name).symlink_to(Path(path).resolve())
        litdata.index_parquet_dataset(str(folder))
    data = litdata.StreamingDataset(str(folder), item_loader=ParquetLoader(), shuffle=True, drop_last=True)
    loader = litdata.StreamingDataLoader(data, batch_size=job.batch_size, num_workers=0, drop_last=True)
    return lambda: iter(loader)


ENTRIES = {"shuffled": shuffled}
