"""Blocks on disk: decoded once per machine, into files of the cache directory that all processes share."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Iterable
from contextlib import suppress
from typing import Any, BinaryIO

import pyarrow as pa
import pyarrow.compute as pc

from fileset_integrations.block_files import BlockFileError, BlockFormat
from fileset_integrations.blocks import Arrays, Block, StreamedBlocks
from fileset_integrations.columns import Decoder, FittedColumns
from fileset_integrations.errors import FileSetCorruptError, FileSetLocationError, SpecError
from fileset_integrations.fileset import FileSet
from fileset_integrations.kept import KeptRows
from fileset_integrations.plan import BlockTable
from fileset_integrations.storage.cache import cached_files

_KEEP = 1024  # blocks that stay mapped: address space, and nothing else


class MappedBlocks(StreamedBlocks):
    """Decodes each block once per machine, into a file of the cache directory, where every process finds it.

    Iterators read a block's file as a whole, at the speed of the disk; `get`, for batches by index, maps it. A file
    that is damaged or had to make room for others is made again, by whoever needs it. What has been mapped stays as it
    is meanwhile.

    Args:
        fs: The FileSet.
        decoder: The way from its tables to arrays.
        table: Where each block lies.
        kept: Rows that the null policy leaves.
        columns: What the tensors are, for the names of the files.
        cache_dir: The cache directory.
        cache_bytes: Most bytes that the blocks of all FileSets take there, together with fetched files; None: what is
            free.

    Raises:
        SpecError: The blocks of this one take more than `cache_bytes`.
        FileSetLocationError: They take more than is free, or the directory cannot be written to.
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
        super().__init__(fs, decoder, table, kept, keep=_KEEP)
        spec = json.dumps([fs.snapshot_id, None if columns is None else columns.to_json()])
        self._key = hashlib.sha256(spec.encode()).hexdigest()
        self._format = BlockFormat(decoder.tensors)
        self._verified: dict[int, tuple[int, int, int]] = {}  # block -> which file it was
        self._mended: set[int] = set()
        needed = int(self._format.num_bytes(kept.rows).sum())
        # The files that blocks are made of lie beside them, at least the one in use and the next.
        fetched = 2 * int(pc.max(fs.manifest.files["bytes"]).as_py() or 0) if fs.fetches else 0
        if cache_bytes is not None and needed + fetched > cache_bytes:
            raise SpecError(
                f"cache_bytes={cache_bytes}: the decoded blocks of {fs!r} take {needed + fetched} bytes"
                f"{', with fetched files' if fetched else ''}. Pass at least that, or blocks='stream'."
            )
        self._files = cached_files(cache_dir, cache_bytes)
        self._files.trim()
        free = shutil.disk_usage(self._files.root).free
        if needed > free and needed > free + (room := sum(entry.num_bytes for entry in self._files.entries())):
            raise FileSetLocationError(
                f"{self._files.root}: the decoded blocks of {fs!r} take {needed} bytes, {free + room} are free. Pass "
                "another cache_dir=, or blocks='stream'."
            )

    def decode(self, block: int, out: Arrays | None = None) -> Block:
        """One block, from its file, numbers into `out` where that is given; mapped where not.

        Raises:
            FileSetCorruptError: The FileSet's own file cannot be read, or the cache does not keep what is written.
            FileSetLocationError: The disk is full.
        """
        name = f"{self._key}-{block}"
        with suppress(BlockFileError):
            if (found := self._find(block, name, out)) is not None:
                self.counters.add(disk_hits=1)
                return found
        with self._files.lock(name):
            try:
                if (found := self._find(block, name, out)) is not None:
                    self.counters.add(disk_hits=1)
                    return found  # another made it while we waited
            except BlockFileError as error:
                if block in self._mended:
                    raise self._unsound(error) from error
                self._mended.add(block)
            values = self._make(block, name, out)
        if out is not None:
            return values
        try:
            mapped = self._find(block, name, None)
        except BlockFileError as error:
            raise self._unsound(error) from error
        return values if mapped is None else mapped  # None: it had to make room for others at once

    def holds(self, block: int) -> bool:
        return super().holds(block) or f"{self._key}-{block}" in self._files

    def prepare(self, blocks: Iterable[int]) -> None:
        for block in blocks:
            if block in self._held:  # as nearly all are: `batch(i)` calls this each time
                continue
            name = f"{self._key}-{block}"
            if name not in self._files:
                with self._files.lock(name, wait=False) as mine:
                    if mine and name not in self._files:
                        self._make(block, name, None)

    def _make(self, block: int, name: str, out: Arrays | None) -> Block:
        values = super().decode(block, out)
        pieces = self._format.pack(self._identity(block), values)

        def write(file: BinaryIO) -> None:
            for piece in pieces:
                file.write(piece)

        with self._files.add(name, sum(map(len, pieces)), write) as file:
            self._verified[block] = _version(file)
        return values

    def _find(self, block: int, name: str, out: Arrays | None) -> Block | None:
        """The values of a block from its file; None where there is none.

        Raises:
            BlockFileError: The file is damaged.
        """
        file = self._files.open(name)
        if file is None:
            return None
        with file:
            version, identity = _version(file), self._identity(block)
            verify = self._verified.get(block) != version  # once in each process
            if out is not None:
                values = self._format.read(file, identity, out, verify)
            else:
                try:
                    # Arrow keeps no descriptor of what it maps: as many blocks as there are may be mapped.
                    with pa.memory_map(file.name) as mapped:
                        content = mapped.read_buffer()
                except FileNotFoundError:  # it had to make room just now
                    return None
                except OSError as error:
                    raise BlockFileError("it cannot be mapped") from error
                values = self._format.view(content, identity, int(self._kept.rows[block]), verify)
            self._verified[block] = version
            return values

    def _identity(self, block: int) -> list[int]:
        table = self._table
        return [int(n[block]) for n in (table.file, table.first_row, table.rows, self._kept.rows)]

    def _unsound(self, error: BlockFileError) -> FileSetCorruptError:
        return FileSetCorruptError(
            f"{self._files.root}: a decoded block was written there twice, and what is read back differs ({error}). "
            "Pass another cache_dir=, on a disk that is sound."
        )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_verified": {}}


def _version(file: BinaryIO) -> tuple[int, int, int]:
    """Tells a file from others that lie in its place at other times, without a look at its bytes."""
    stat = os.fstat(file.fileno())
    return stat.st_ino, stat.st_mtime_ns, stat.st_size
