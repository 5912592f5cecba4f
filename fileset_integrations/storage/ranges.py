"""Remote files to read and seek in, of which only what is read travels."""

from __future__ import annotations

import io
from collections.abc import Callable

_TAIL_BYTES = 64 * 2**10


class RangeFile(io.RawIOBase):
    """A remote file to read and seek in. The first read near its end brings a Parquet footer in one go.

    Args:
        read: Gives bytes [first, last).
        size: Bytes of the file.
    """

    def __init__(self, read: Callable[[int, int], bytes], size: int) -> None:
        super().__init__()
        self._read_range, self._size = read, size
        self._position = 0
        self._kept, self._kept_from = b"", size

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._size}[whence]
        self._position = max(base + offset, 0)
        return self._position

    def readinto(self, out: bytearray | memoryview) -> int:  # type: ignore[override]
        data = self.read(len(out))
        out[: len(data)] = data
        return len(data)

    def readall(self) -> bytes:
        return self.read(-1)

    def read(self, size: int | None = -1, /) -> bytes:
        first = min(self._position, self._size)
        last = self._size if size is None or size < 0 else min(first + size, self._size)
        if first >= last:
            return b""
        if (first < self._kept_from and last == self._size) or first >= self._size - _TAIL_BYTES:
            if first < self._kept_from:
                self._kept_from = min(first, max(self._size - _TAIL_BYTES, 0))
                self._kept = self._read_range(self._kept_from, self._size)
            data = self._kept[first - self._kept_from : last - self._kept_from]
        else:
            data = self._read_range(first, last)
        self._position = last
        return data
