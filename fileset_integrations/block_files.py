"""One decoded block as one file: numbers as they lie in memory, strings as Arrow IPC, and how to tell that it is whole.

```
"fsblock1"  CRC-32 of the header  header: JSON, padded   |  a section for each tensor, at multiples of 64 bytes
```

The header says which block it is, and of each section where it lies and its CRC-32. One file a block: one rename makes
it visible, one call maps it.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.decoder import STRING_BYTES, TensorSpec, Value

_MAGIC = b"fsblock1"  # change it with the format, and where decoding comes to give other values
_PREFIX = len(_MAGIC) + 8
_ALIGN = 64
_WIDEST = 10**18  # more than any offset or count


class BlockFileError(Exception):
    """A file is not the block that it should be: cut off, altered, or another one. It is to be made again."""


class _Section(NamedTuple):
    offset: int
    num_bytes: int
    crc: str


class BlockFormat:
    """The files of blocks that consist of the same tensors.

    Args:
        tensors: What a block consists of.
    """

    def __init__(self, tensors: Sequence[TensorSpec]) -> None:
        self._tensors = tuple(tensors)
        widest = self._header([_WIDEST] * 4, [_Section(_WIDEST, _WIDEST, "0" * 8)] * len(self._tensors))
        self._header_bytes = int(_up(_PREFIX + len(widest)))

    def num_bytes(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        """Size of the file of a block of so many rows, for each of `rows`; strings are guessed."""
        total = np.full(len(rows), self._header_bytes, np.int64)
        for tensor in self._tensors:
            row_bytes = STRING_BYTES if tensor.dtype.kind == "O" else tensor.dtype.itemsize * int(np.prod(tensor.shape))
            total += _up(rows * row_bytes)
        return total

    def pack(self, identity: Sequence[int], values: Mapping[str, Value]) -> list[memoryview]:
        """What the file of a block consists of, piece by piece.

        Args:
            identity: Four numbers that say which block it is.
            values: Its values, by tensor.
        """
        contents = [_content(values[tensor.name]) for tensor in self._tensors]
        sections, offset = [], self._header_bytes
        for content in contents:
            sections.append(_Section(offset, len(content), _crc(content.data)))
            offset += int(_up(len(content)))
        header = self._header(identity, sections).ljust(self._header_bytes - _PREFIX)
        prefix = _MAGIC + _crc(header).encode() + header
        pieces = [memoryview(prefix)]
        for content in contents:
            pieces += [content.data, memoryview(bytes(_up(len(content)) - len(content)))]
        return pieces

    def read(
        self, file: BinaryIO, identity: Sequence[int], out: Mapping[str, NDArray[Any]], verify: bool
    ) -> dict[str, Value]:
        """A block's values, read from its file, numbers into `out`.

        Args:
            file: The file, opened.
            identity: The numbers that it was written with.
            out: Arrays to read numbers into, by tensor, each C-contiguous of shape (rows, ...).
            verify: Compare every byte with its checksum, not only the header and the size.

        Raises:
            BlockFileError: It is not that block.
        """
        descriptor = file.fileno()
        sections = self._sections(os.pread(descriptor, self._header_bytes, 0), os.fstat(descriptor).st_size, identity)
        values: dict[str, Value] = {}
        for tensor, section in zip(self._tensors, sections, strict=True):
            into = out.get(tensor.name)
            content = np.empty(section.num_bytes, np.uint8) if into is None else into.reshape(-1).view(np.uint8)
            if len(content) != section.num_bytes:
                raise BlockFileError(f"{section.num_bytes} bytes of {tensor.name!r}, not {len(content)}")
            _read_into(descriptor, content, section.offset)
            if verify:
                _check(tensor, content, section)
            values[tensor.name] = _strings(pa.py_buffer(content)) if into is None else into
        return values

    def view(self, mapped: pa.Buffer, identity: Sequence[int], rows: int, verify: bool) -> dict[str, Value]:
        """A block's values where they lie in its mapped file; arrays are read-only.

        Args:
            mapped: All of the file.
            identity: The numbers that it was written with.
            rows: Rows of the block.
            verify: Compare every byte with its checksum, not only the header and the size.

        Raises:
            BlockFileError: It is not that block.
        """
        sections = self._sections(mapped[: self._header_bytes].to_pybytes(), mapped.size, identity)
        values: dict[str, Value] = {}
        for tensor, section in zip(self._tensors, sections, strict=True):
            content = mapped[section.offset : section.offset + section.num_bytes]
            if verify:
                _check(tensor, np.frombuffer(content, np.uint8), section)
            if tensor.dtype.kind == "O":
                values[tensor.name] = _strings(content)
                continue
            shape = (rows, *tensor.shape)
            if int(np.prod(shape)) * tensor.dtype.itemsize != section.num_bytes:
                raise BlockFileError(f"{section.num_bytes} bytes of {tensor.name!r} are not {rows} rows")
            values[tensor.name] = np.frombuffer(content, np.uint8).view(tensor.dtype).reshape(shape)
        return values

    def _header(self, identity: Sequence[int], sections: Sequence[_Section]) -> bytes:
        tensors = [[tensor.name, tensor.dtype.str, list(tensor.shape)] for tensor in self._tensors]
        return json.dumps({"block": [int(n) for n in identity], "tensors": tensors, "sections": sections}).encode()

    def _sections(self, head: bytes, size: int, identity: Sequence[int]) -> list[_Section]:
        """Where each tensor lies, of a file that is as long as it should be and holds the block asked for."""
        header = head[_PREFIX:]
        if len(head) != self._header_bytes or head[:_PREFIX] != _MAGIC + _crc(header).encode():
            raise BlockFileError("its header is damaged")
        sections = [_Section(*section) for section in json.loads(header)["sections"]]
        if self._header(identity, sections) != header.rstrip(b" "):
            raise BlockFileError("it is another block")
        end = int(_up(sections[-1].offset + sections[-1].num_bytes)) if sections else self._header_bytes
        if size != end:
            raise BlockFileError(f"it has {size} bytes, not {end}")
        return sections


def _up(num_bytes: Any) -> Any:
    return -(-num_bytes // _ALIGN) * _ALIGN


def _crc(content: bytes | memoryview) -> str:
    return f"{zlib.crc32(content):08x}"


def _check(tensor: TensorSpec, content: NDArray[np.uint8], section: _Section) -> None:
    if _crc(content.data) != section.crc:
        raise BlockFileError(f"the bytes of {tensor.name!r} were altered")


def _content(value: Value) -> NDArray[np.uint8]:
    if isinstance(value, np.ndarray):
        return np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    sink = pa.BufferOutputStream()
    batch = pa.record_batch([value], names=["values"])
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return np.frombuffer(sink.getvalue(), np.uint8)


def _strings(content: pa.Buffer) -> pa.Array:
    return pa.ipc.open_file(content).read_all()["values"].combine_chunks()


def _read_into(descriptor: int, content: NDArray[np.uint8], offset: int) -> None:
    done = 0
    while done < len(content):  # one call reads 2 GiB at most
        count = os.preadv(descriptor, [content.data[done:]], offset + done)
        if not count:
            raise BlockFileError("it was cut off")
        done += count
