"""Makers of small FileSets: real Parquet files whose rows are easy to tell apart."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fileset_integrations.fileset import FileSet


def write_parquet(folder: Path, tables: Sequence[pa.Table], **options: Any) -> Path:
    """Write each table as one file, data_0.parquet, data_1.parquet, ...; returns the folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for number, table in enumerate(tables):
        pq.write_table(table, folder / f"data_{number}.parquet", **options)
    return folder


def fileset_of(folder: Path, *tables: pa.Table, **options: Any) -> FileSet:
    """A FileSet of the tables, one file each."""
    return FileSet.from_parquet(write_parquet(folder, tables, **options))


def numbered_tables(file_rows: Sequence[int]) -> list[pa.Table]:
    """Tables of so many rows each. Row i of all has id = i (int64), x = i + 0.25, y = -i (float32), name = "row i".

    No value occurs twice in a column, no column holds a null, and each says which row it is of.
    """
    stops = np.cumsum(file_rows).tolist()
    return [_numbered(np.arange(stop - rows, stop)) for rows, stop in zip(file_rows, stops, strict=True)]


def _numbered(ids: np.ndarray) -> pa.Table:
    return pa.table(
        {
            "id": pa.array(ids, pa.int64()),
            "x": pa.array(ids + 0.25, pa.float64()),
            "y": pa.array(-ids, pa.float32()),
            "name": pa.array([f"row {row}" for row in ids.tolist()], pa.string()),
        }
    )


def numbered(folder: Path, file_rows: Sequence[int], **options: Any) -> FileSet:
    """A FileSet of `numbered_tables`, one file each; `options` are those of pyarrow.parquet.write_table."""
    return fileset_of(folder, *numbered_tables(file_rows), **options)


def table(columns: Mapping[str, tuple[Sequence[Any], pa.DataType]]) -> pa.Table:
    """A table from name -> (values, Arrow type)."""
    return pa.table({name: pa.array(values, type_) for name, (values, type_) in columns.items()})


def ids(batches: Iterable[Mapping[str, Any]]) -> list[list[int]]:
    """Column "id" of each batch."""
    return [batch["id"].tolist() for batch in batches]


def plain(batch: Mapping[str, Any]) -> dict[str, Any]:
    """A batch of lists, to be compared with =="""
    return {name: value if isinstance(value, list) else value.tolist() for name, value in batch.items()}


def flat(batches: Iterable[Sequence[int]]) -> list[int]:
    """What all batches hold, one after another."""
    return [row for batch in batches for row in batch]


def add_noise(batch: Mapping[str, Any], generator: np.random.Generator) -> dict[str, Any]:
    """A transform: column "id", and a random number for each row."""
    return {"id": batch["id"], "noise": generator.integers(0, 2**40, len(batch["id"]))}
