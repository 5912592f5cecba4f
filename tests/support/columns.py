"""Rows in memory that columns are fitted on, and tensors of a column that is its own training data."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from fileset_integrations import Columns

CHARACTERS = "tests.support.tokenizers:characters"


class Memory:
    """Tables in memory that columns can be fitted on, in tables of so many rows."""

    def __init__(self, *tables: pa.Table) -> None:
        self.tables, self.schema = tables, tables[0].schema
        self.num_rows = sum(len(one) for one in tables)
        self.read: list[str] = []

    def scan(self, columns, dictionaries=()):
        self.read += columns
        yield from self.tables


def fitted_rows(spec, values, type_=None, nulls="error", nans="keep") -> dict[str, np.ndarray]:
    """Tensors of a column "a" that is the training data itself."""
    rows = pa.table({"a": values if isinstance(values, pa.Array | pa.ChunkedArray) else pa.array(values, type_)})
    columns = Columns({"x": spec}, nulls=nulls, nans=nans)
    return columns.fit(Memory(rows)).transform(rows)
