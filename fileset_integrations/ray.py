"""Ray: the rank that Ray Train gives a worker, its last checkpoint, and a `ray.data.Dataset` over the same files.

`FileSetDataModule` needs nothing of this inside Ray Train's `TorchTrainer`: it takes its rank from the trainer, with
Ray's `RayDDPStrategy` and `RayLightningEnvironment`; so do our torch datasets, from torch.distributed.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from fileset_integrations.blocks import RUN_ROWS
from fileset_integrations.callbacks import RAY_CHECKPOINT
from fileset_integrations.columns import Columns, Decoder, FittedColumns, bind
from fileset_integrations.decoder import check_columns
from fileset_integrations.errors import MissingDependencyError, SpecError, how_to_install
from fileset_integrations.fits import fit_once
from fileset_integrations.kept import check_nulls
from fileset_integrations.spec import Shard
from fileset_integrations.views import FileSetLike, as_fileset

try:
    import ray.data
    import ray.train
except ImportError as error:  # pragma: no cover - seen only where ray is not installed
    raise MissingDependencyError(f"{error}. Ray is optional. {how_to_install('ray')}") from error


def current_shard() -> Shard:
    """Rank and world size of this Ray Train worker, for readers that no torch.distributed tells them.

    Raises:
        SpecError: This process is no worker of Ray Train.
    """
    try:  # Ray 2.51 and later raise outside a worker
        context = ray.train.get_context()
        return Shard(context.get_world_rank(), context.get_world_size())
    except RuntimeError as error:
        raise SpecError(
            "This process is no worker of Ray Train. Call current_shard() inside the function that a Ray trainer runs, "
            "or pass shard=Shard(rank, world_size)."
        ) from error


@contextmanager
def last_checkpoint() -> Iterator[str | None]:
    """The file of the last checkpoint that `RayCheckpoint` reported in this run, for `fit(..., ckpt_path=)`; or None.

    To be used inside the function that a Ray trainer runs. Ray gives it to workers that were started again after a
    failure, and to a run of the same name and storage path.
    """
    found = ray.train.get_checkpoint()
    if found is None:
        yield None
        return
    with found.as_directory() as folder:
        path = Path(folder) / RAY_CHECKPOINT
        yield str(path) if path.exists() else None


def to_ray_dataset(
    fs: FileSetLike, *, columns: Sequence[str] | Columns | FittedColumns | None = None
) -> ray.data.Dataset:
    """The rows of a FileSet as a `ray.data.Dataset`, read by Ray's tasks, a file at a time.

    Rows come as they are kept, or as tensors where `columns` say so: one column of the dataset for each feature,
    `label` and `weight`, of shape (...) a row. Ray keeps the order of files only if told to (`preserve_order` among the
    `execution_options` of `ray.data.DataContext.get_current()`), and shuffles by its own means. For an order that is
    the same on any number of ranks, and that can be resumed, take `FileSetDataModule` or `to_torch_dataset` inside
    Ray's workers. Every node must reach the files; those of a stage are fetched into each node's cache, by
    `connection_name`.

    Args:
        fs: The FileSet, or what else `FileSetReader` takes.
        columns: Names of columns; or what becomes which tensor, unfitted ones being fitted on `fs`; None: all columns.

    Raises:
        ColumnError: There is no such column, or it has no tensor form as asked.
        NullValueError: A column holds nulls and its policy is "error".
    """
    fs = as_fileset(fs)
    decoder: Decoder | None = None
    if isinstance(columns, Columns | FittedColumns):
        fitted = fit_once(columns, fs, None) if isinstance(columns, Columns) else columns
        decoder = bind(fitted, fs.schema)
        check_nulls(decoder, fs)
        names = decoder.columns
    else:
        names = fs.schema.names if columns is None else list(columns)
        check_columns(names, fs.schema)
    rows = fs.manifest.file_rows if fs.selection is None else fs.selection.rows
    files = np.flatnonzero(rows)
    read = _ReadFiles(fs, names, decoder)
    if not len(files):
        return ray.data.from_arrow(read.nothing())
    return ray.data.from_numpy(files).map_batches(read, batch_size=1, batch_format="numpy", zero_copy_batch=True)


class _ReadFiles:
    """Reads files by their index, in a process of Ray's."""

    def __init__(self, fs: Any, names: Sequence[str], decoder: Decoder | None) -> None:
        self._fs, self._names, self._decoder = fs, list(names), decoder

    def __call__(self, batch: dict[str, Any]) -> Iterator[Any]:
        for file in batch["data"].tolist():
            yield from self._read(file)

    def nothing(self) -> pa.Table:
        """A table without rows."""
        schema = pa.schema([self._fs.schema.field(name) for name in self._names])
        return schema.empty_table()

    def _read(self, file: int) -> Iterator[Any]:
        fs, decoder = self._fs, self._decoder
        mask = None if fs.selection is None else fs.selection.mask(file)
        dictionaries = [] if decoder is None else decoder.dictionaries
        first = 0
        for run in fs.iter_file(file, self._names, None, dictionaries, RUN_ROWS):
            table = pa.Table.from_batches([run])
            if mask is not None:
                table = table.filter(pa.array(mask[first : first + run.num_rows]))
            first += run.num_rows
            if decoder is None:
                yield table.select(self._names)
                continue
            if decoder.dropping:
                table = table.filter(pa.array(decoder.kept_rows(table)))
            yield decoder.decode(table)  # arrays all: only readers without columns hand out strings
