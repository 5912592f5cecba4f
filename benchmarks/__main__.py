"""Rows a second on 20 float32 and one int64 column, every batch touched.

    python -m benchmarks --rows 400000 --files 8

The candidates take turns, several times over; what is printed are medians, and their ratio to bare decoding with one
thread. Only ratios of one run mean anything: the machine may be shared.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.progress import track
from rich.table import Table

from fileset_integrations import Columns, FileSet, FileSetReader

COLUMNS = Columns({"x": [f"f{place}" for place in range(20)]}, label="label")


def make_data(folder: Path, rows: int, files: int) -> FileSet:
    """Data A: 20 float32 columns and an int64 one."""
    floats = ", ".join(f"(hash(i * 20 + {place}) % 1000003 / 1e6)::FLOAT AS f{place}" for place in range(20))
    query = f"SELECT {floats}, (i % 10)::BIGINT AS label FROM range({rows * files}) t(i)"
    # Some 85 bytes a row: files of `rows` rows each.
    return FileSet.make(target_stage_loc=folder, name="a", query=query, max_file_bytes=rows * 84)


def decode_only(fs: FileSet) -> Callable[[], int]:
    """Every file by `pq.read_table`: the limit that no loader of Parquet passes."""
    return lambda: sum(pq.read_table(path, use_threads=False).num_rows for path in fs.files())


def ours(reader: FileSetReader) -> Callable[[], int]:
    """One epoch after another of a reader."""
    epochs: Iterator[int] = iter(range(1_000_000))

    def epoch() -> int:
        rows = 0
        for batch in reader.iter_batches(next(epochs)):
            rows += len(batch["label"])
            _ = batch["x"][0, 0]
        return rows

    return epoch


def tensor_dataset(fs: FileSet, batch_size: int) -> Callable[[], int]:
    """PyTorch's own DataLoader over tensors in memory, shuffled, whole batches by index."""
    import torch
    from torch.utils.data import BatchSampler, DataLoader, RandomSampler, TensorDataset

    table = fs.to_arrow()
    x = torch.stack([torch.from_numpy(table[f"f{place}"].to_numpy()) for place in range(20)], 1)
    data = TensorDataset(x, torch.from_numpy(table["label"].to_numpy()))
    sampler = BatchSampler(RandomSampler(data), batch_size, drop_last=True)
    loader: DataLoader[Any] = DataLoader(data, sampler=sampler, batch_size=None)
    return lambda: sum(len(label) for _, label in loader)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--rows", type=int, default=400_000, help="rows per file")
    parser.add_argument("--files", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        fs = make_data(Path(folder), args.rows, args.files)
        common: dict[str, Any] = {"columns": COLUMNS, "batch_size": args.batch_size, "shuffle": True}
        candidates = {
            "pq.read_table, one thread": decode_only(fs),
            "reader, streamed": ours(FileSetReader(fs, blocks="stream", **common)),
            "reader, kept in memory": ours(FileSetReader(fs, blocks="memory", **common)),
            "torch DataLoader(TensorDataset)": tensor_dataset(fs, args.batch_size),
        }
        speeds: dict[str, list[float]] = {name: [] for name in candidates}
        for epoch in candidates.values():
            epoch()  # fills page cache and kept blocks
        for _ in track(range(args.repeats), "measuring", console=Console(stderr=True)):
            for name, epoch in candidates.items():
                began = time.perf_counter()
                rows = epoch()
                speeds[name].append(rows / (time.perf_counter() - began))
    limit = statistics.median(speeds["pq.read_table, one thread"])
    title = f"{fs.num_rows} rows, batch {args.batch_size}"
    table = Table("", "million rows/s", "of bare decoding", "spread", title=title)
    for name, measured in speeds.items():
        median = statistics.median(measured)
        spread = f"{min(measured) / median:.2f} to {max(measured) / median:.2f}"
        table.add_row(name, f"{median / 1e6:.2f}", f"{median / limit:.2f} x", spread)
    Console().print(table)


if __name__ == "__main__":
    main()
