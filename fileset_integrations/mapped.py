"""Blocks on disk: decoded once per machine into files of the cache directory that every process maps."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from pathlib import Path

import filelock
import numpy as np
import pyarrow as pa

from fileset_integrations.blocks import Arena, Block, Loaded, StreamedBlocks
from fileset_integrations.columns import Decoder, FittedColumns
from fileset_integrations.decoder import Value
from fileset_integrations.errors import FileSetLocationError, SpecError
from fileset_integrations.fileset import FileSet
from fileset_integrations.fits import KeptRows
from fileset_integrations.plan import BlockTable
from fileset_integrations.storage.cache import cache_root, write_atomically


class MappedBlocks(StreamedBlocks):
    """Decodes each block once per machine, into files of the cache directory that are mapped from then on.

    Args:
        columns: What the tensors are, for the key of the files.
        cache_dir: The cache directory.
        cache_bytes: Most bytes that the blocks may take on disk; None: what is free.

    Raises:
        SpecError: All blocks together take more than `cache_bytes`.
        FileSetLocationError: They take more than is free.
    """

    def __init__(
        self,
        fs: FileSet,
        decoder: Decoder,
        table: BlockTable,
        kept: KeptRows,
        columns: FittedColumns | None,
        cache_dir: str | os.PathLike[str] | None,
        cache_bytes: int | None,
    ) -> None:
        super().__init__(fs, decoder, table, kept, keep=64)
        spec = "" if columns is None else columns.to_json()
        key = hashlib.sha256(f"{fs.snapshot_id}\0{spec}".encode()).hexdigest()
        self._folder = cache_root(cache_dir) / "blocks" / key
        needed = int(kept.rows.sum()) * decoder.row_bytes
        if cache_bytes is not None and needed > cache_bytes:
            raise SpecError(
                f"cache_bytes={cache_bytes}: the decoded blocks of {fs!r} take {needed} bytes. Pass at least that, or "
                "blocks='stream'."
            )
        self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        free = shutil.disk_usage(self._folder).free
        if not any(self._folder.iterdir()) and needed > free:
            raise FileSetLocationError(
                f"{self._folder}: the decoded blocks of {fs!r} take {needed} bytes, {free} are free. Pass another "
                "cache_dir=, or blocks='stream'."
            )

    def arena(self, slots: int) -> Arena | None:
        return None

    def load(self, block: int, arena: Arena | None = None, slot: int = 0) -> Loaded:
        folder = self._folder / str(block)
        complete = folder / "complete"
        if not complete.exists():
            with filelock.FileLock(self._folder / f"{block}.lock"):
                if not complete.exists():
                    self._write(folder, self.decode(block))
        return Loaded({tensor.name: _map(folder, place) for place, tensor in enumerate(self._decoder.tensors)})

    def _write(self, folder: Path, block: Block) -> None:
        folder.mkdir(exist_ok=True, mode=0o700)
        for place, value in enumerate(block.values()):
            if isinstance(value, pa.Array):
                sink = pa.BufferOutputStream()
                batch = pa.record_batch([value], names=["values"])
                with pa.ipc.new_file(sink, batch.schema) as writer:
                    writer.write_batch(batch)
                write_atomically(folder / f"{place}.arrow", sink.getvalue().to_pybytes())
            else:
                temporary = folder / f".{place}.npy"
                np.save(temporary, value, allow_pickle=False)
                temporary.replace(folder / f"{place}.npy")
        write_atomically(folder / "complete", json.dumps(list(block)).encode())


def _map(folder: Path, place: int) -> Value:
    numbers = folder / f"{place}.npy"
    if numbers.exists():
        if numbers.stat().st_size and (mapped := np.load(numbers, mmap_mode="r", allow_pickle=False)).size:
            return np.asarray(mapped)
        return np.load(numbers, allow_pickle=False)  # nothing to map
    return pa.ipc.open_file(pa.memory_map(str(folder / f"{place}.arrow"))).read_all()["values"].combine_chunks()
