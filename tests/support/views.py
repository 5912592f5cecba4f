"""What tests of views share: how a FileSet is split, and what the order contract says of a view."""

from __future__ import annotations

import pyarrow as pa

from fileset_integrations import FileSet
from tests.support.reference import epoch_order

FILE_ROWS = (7, 0, 1, 12, 9, 1, 1)
ROWS = sum(FILE_ROWS)  # 31
SHARES = {"train": 0.6, "val": 0.2, "test": 0.2}
ORDER = {"batch_size": 4, "shuffle": True, "seed": 3, "drop_last_batch": False}


def ids_of(fs: FileSet) -> list[int]:
    return fs.to_arrow(["id"])["id"].to_pylist()


def expected_batches(view: FileSet, epoch: int, batch_size: int = 4, seed: int = 3) -> list[list[int]]:
    """What the order contract says of a view whose files hold as many rows as the view has of them."""
    by_file = [pa.table(one)["id"].to_pylist() for one in file_tables(view)]
    order = epoch_order([len(rows) for rows in by_file], shuffle=True, seed=seed, epoch=epoch, streams=8)
    found = [by_file[file][row] for file, row in order]
    return [found[at : at + batch_size] for at in range(0, len(found), batch_size)]


def file_tables(view: FileSet) -> list[pa.Table]:
    """The rows that a view has of each file, found without the reader."""
    tables = []
    for file in range(len(view.files())):
        table, mask = view.read_file(file, ["id"]), view.selection.mask(file)
        tables.append(table if mask is None else table.filter(pa.array(mask)))
    return tables
