"""Which rows of each block remain, of those that a view holds, once null policies have had their say.

Found in one pass over the columns whose nulls drop rows, and remembered in the cache directory.
"""

from __future__ import annotations

import io
import json
import os
from concurrent.futures import ThreadPoolExecutor
from zipfile import BadZipFile

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.decoder import Decoder, find_type, root_column, storage_type
from fileset_integrations.errors import NullValueError
from fileset_integrations.fileset import FileSet
from fileset_integrations.fits import remembered
from fileset_integrations.plan import BlockTable
from fileset_integrations.splits import Selection
from fileset_integrations.storage.cache import write_atomically


def check_nulls(decoder: Decoder, fs: FileSet) -> None:
    """Refuse columns that hold nulls where that is an error; reads rows only where the files keep no counts.

    Raises:
        NullValueError: Names the column, its type and how many nulls it has.
    """
    known = {name: _known_nulls(decoder, fs, name) for name in decoder.no_nulls}
    counts = {name: count or 0 for name, count in known.items()}
    unknown = [name for name, count in known.items() if count is None]
    if unknown:
        for table in fs.scan(unknown):
            for name in unknown:
                counts[name] += int(decoder.null_rows(table, name).sum())
    for name, count in counts.items():
        if count:
            raise NullValueError(
                f"Column {name!r} ({find_type(fs.schema, name)}) of {fs!r} holds {count} nulls in {fs.num_rows} rows. "
                f"Say what becomes of them: Columns(..., nulls={{{name!r}: 'drop'}}) leaves such rows out, "
                f"nulls={{{name!r}: 0}} fills them with 0; or COALESCE them in the query."
            )


def _known_nulls(decoder: Decoder, fs: FileSet, column: str) -> int | None:
    """Nulls of a column as the files' footers count them; None where the rows must be looked at.

    Footers count the nulls in the leaves of lists and structs together, and empty lists with them; none is none.
    """
    if column in decoder.nan_is_null:
        return None
    root = root_column(column, fs.schema.names)
    count = fs.null_counts.get(root)
    flat = root == column and not pa.types.is_nested(storage_type(fs.schema.field(root).type))
    return count if count == 0 or flat else None


class KeptRows:
    """Which rows of each block remain: those that a view holds, less those that the null policy "drop" leaves out.

    Args:
        blocks: The blocks.
        selection: Rows that the view holds; None: all.
        masks: Block -> bits of the rows that remain, for the blocks that lose rows to the null policy.

    Attributes:
        rows: Rows that remain in each block, shape (blocks,).
    """

    def __init__(self, blocks: BlockTable, selection: Selection | None, masks: dict[int, NDArray[np.uint8]]) -> None:
        self._blocks, self._selection, self._masks = blocks, selection, masks
        self.rows = _selected_rows(blocks, selection)
        for block in masks:
            self.rows[block] = np.bitwise_count(masks[block]).sum()  # the bits beyond the rows are 0

    def mask(self, block: int) -> NDArray[np.bool_] | None:
        """Which rows of a block remain, shape (rows,); None: all."""
        if block not in self._masks:
            return _selected(self._blocks, self._selection, block)
        return np.unpackbits(self._masks[block], count=int(self._blocks.rows[block])).astype(np.bool_)


def kept_rows(decoder: Decoder, fs: FileSet, blocks: BlockTable, cache_dir: str | os.PathLike[str] | None) -> KeptRows:
    """Find the rows that remain, in one pass over the columns whose nulls drop rows, or from the cache directory."""
    selection = fs.selection
    dropping = [name for name in decoder.dropping if _known_nulls(decoder, fs, name) != 0]
    if not dropping or not len(blocks):
        return KeptRows(blocks, selection, {})
    asked = sorted((name, name in decoder.nan_is_null, decoder.empty_is_null(name)) for name in dropping)
    path = remembered("kept", fs, json.dumps(asked), cache_dir).with_suffix(".npz")
    if path.exists():
        try:
            with np.load(path, allow_pickle=False) as saved:
                return KeptRows(blocks, selection, {int(name): saved[name] for name in saved.files})
        except (ValueError, OSError, EOFError, BadZipFile):
            path.unlink(missing_ok=True)  # torn by a crash of the machine: find them again

    def remaining(block: int) -> NDArray[np.uint8] | None:
        """Bits of the rows that remain; None where no row is lost to a null."""
        selected = _selected(blocks, selection, block)
        if selected is not None and not selected.any():
            return None
        kept = decoder.kept_rows(fs.read_file(int(blocks.file[block]), dropping, blocks.row_groups(block)))
        if selected is None:
            return None if kept.all() else np.packbits(kept)
        return None if kept[selected].all() else np.packbits(kept & selected)

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fileset-nulls") as pool:
        found = pool.map(remaining, range(len(blocks)))
        masks = {block: bits for block, bits in enumerate(found) if bits is not None}
    sink = io.BytesIO()
    np.savez_compressed(sink, allow_pickle=False, **{str(block): bits for block, bits in masks.items()})
    write_atomically(path, sink.getvalue())
    return KeptRows(blocks, selection, masks)


def _selected_rows(blocks: BlockTable, selection: Selection | None) -> NDArray[np.int64]:
    """Rows of each block that a view holds, shape (blocks,)."""
    if selection is None:
        return blocks.rows.copy()
    rows: NDArray[np.int64] = selection.rows[blocks.file]
    cut = np.flatnonzero(blocks.num_groups >= 0)  # blocks that are a part of their file: their rows must be counted
    if not len(cut):
        return rows
    firsts = np.unique(blocks.file[cut], return_index=True)[1]

    def count(cut_of_file: NDArray[np.int64]) -> None:
        for block in cut_of_file.tolist():
            mask = _selected(blocks, selection, block)
            rows[block] = blocks.rows[block] if mask is None else np.count_nonzero(mask)

    with ThreadPoolExecutor(os.cpu_count() or 1, thread_name_prefix="fileset-split") as pool:
        list(pool.map(count, np.split(cut, firsts[1:])))
    return rows


def _selected(blocks: BlockTable, selection: Selection | None, block: int) -> NDArray[np.bool_] | None:
    """Which rows of a block a view holds, shape (rows,); None: all."""
    mask = None if selection is None else selection.mask(int(blocks.file[block]))
    if mask is None:
        return None
    first = int(blocks.first_row[block])
    return mask[first : first + int(blocks.rows[block])]
