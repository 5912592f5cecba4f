"""The data that is measured: made once for each scale, from fixed seeds, and kept in the cache folder.

Floats are standard normal, so that they hardly compress, and are written plainly, as by DuckDB: pyarrow itself would
put them into dictionaries of no use, which makes decoding three times as slow for everybody. Each file is one row
group, the form in which snowflake-ml shuffles best.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.protocol import Data

_VERSION = 1  # of what is made here
_A_FILES, _A_ROWS = 8, 400_000


def make_data(name: str, scale: float, root: Path) -> Data:
    """Data `name`, made unless it is there.

    Args:
        name: "a": 20 floats and a label, 8 files of 400,000 rows. "a3": 3 floats. "a200": 200 floats, 8 files of 40,000
            rows. "a32": the files of "a" four times over, 32 files of 31 MiB. "b": 37 files of unequal sizes, with
            nulls, strings and lists. "c": 20 floats, 5 strings that repeat, lists of 16 floats; 4 files of 200,000.
        scale: Multiplies the rows of every file.
        root: Folder for all data.
    """
    folder = root / f"{name}-x{scale:g}-v{_VERSION}"
    description = folder / "data.json"
    if not description.exists():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        data = _MAKERS[name](folder, scale)
        description.write_text(json.dumps(data.to_json()))
    return Data.from_json(json.loads(description.read_text()) | {"folder": str(folder)})


def names() -> list[str]:
    """What data there is."""
    return list(_MAKERS)


def _write(folder: Path, number: int, table: pa.Table, dictionaries: list[str]) -> None:
    path = folder / f"data_{number}.parquet"
    pq.write_table(table, path, compression="snappy", use_dictionary=dictionaries, row_group_size=max(len(table), 1))


def _rows(rows: float, scale: float) -> int:
    return max(int(rows * scale), 1)


def _make_a(name: str, floats: int, rows: int) -> Callable[[Path, float], Data]:
    def make(folder: Path, scale: float) -> Data:
        names = tuple(f"f{place}" for place in range(floats))
        count = _rows(rows, scale)
        for number in range(_A_FILES):
            generator = np.random.default_rng((number, floats))
            columns = {column: generator.standard_normal(count, dtype=np.float32) for column in names}
            table = pa.table({**columns, "label": generator.integers(0, 10, count)})
            _write(folder, number, table, ["label"])
        return Data(name, str(folder), (count,) * _A_FILES, names, "label")

    return make


def _make_a32(folder: Path, scale: float) -> Data:
    one = make_data("a", scale, folder.parent)
    for number in range(4 * _A_FILES):
        os.link(one.files[number % _A_FILES], folder / f"data_{number}.parquet")
    return Data("a32", str(folder), one.rows * 4, one.floats, one.label)


def _make_b(folder: Path, scale: float) -> Data:
    floats, integers = tuple(f"f{place}" for place in range(12)), ("i0", "i1")
    vocabularies = {"s0": 16, "s1": 400, "s2": 4_000, "s3": 3}
    nulls = ("f0", "f1", "f2", "f3", "i0", "s0", "s3")
    rows = tuple(_rows(2_000 * 80 ** (number * 23 % 37 / 36), scale) for number in range(37))  # 2,000 to 160,000
    for number, count in enumerate(rows):
        generator = np.random.default_rng((number, 2))
        columns: dict[str, Any] = {name: generator.standard_normal(count, dtype=np.float32) for name in floats}
        columns |= {name: generator.integers(0, 1_000_000, count) for name in integers}
        for name, size in vocabularies.items():
            words = pa.array([f"{name} value {place}" for place in range(size)])
            columns[name] = words.take(pa.array(generator.zipf(1.3, count) % size))
        values = generator.standard_normal(16 * count, dtype=np.float32)
        columns["v"] = pa.ListArray.from_arrays(np.arange(0, 16 * count + 1, 16, dtype=np.int32), values)
        for name in nulls:
            # if_else, not a masked array: the strings are Arrow's already.
            present = pa.array(generator.random(count) >= 0.05)
            columns[name] = pc.if_else(present, columns[name], None)
        columns["label"] = generator.integers(0, 10, count)
        _write(folder, number, pa.table(columns), ["label", *vocabularies])
    return Data("b", str(folder), rows, floats, "label", integers, tuple(vocabularies), {"v": 16}, nulls)


def _make_c(folder: Path, scale: float) -> Data:
    floats, vocabularies = (
        tuple(f"f{place}" for place in range(20)),
        {"s0": 16, "s1": 400, "s2": 4_000, "s3": 3, "s4": 50},
    )
    count = _rows(200_000, scale)
    for number in range(4):
        generator = np.random.default_rng((number, 3))
        columns: dict[str, Any] = {name: generator.standard_normal(count, dtype=np.float32) for name in floats}
        for name, size in vocabularies.items():
            words = pa.array([f"{name} value {place}" for place in range(size)])
            columns[name] = words.take(pa.array(generator.zipf(1.3, count) % size))
        values = generator.standard_normal(16 * count, dtype=np.float32)
        columns["v"] = pa.ListArray.from_arrays(np.arange(0, 16 * count + 1, 16, dtype=np.int32), values)
        _write(folder, number, pa.table(columns), list(vocabularies))
    return Data("c", str(folder), (count,) * 4, floats, floats[0], (), tuple(vocabularies), {"v": 16})


_MAKERS: dict[str, Callable[[Path, float], Data]] = {
    "a": _make_a("a", 20, _A_ROWS),
    "a3": _make_a("a3", 3, _A_ROWS),
    "a200": _make_a("a200", 200, _A_ROWS // 10),
    "a32": _make_a32,
    "b": _make_b,
    "c": _make_c,
}
