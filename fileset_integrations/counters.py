"""What a reader has read so far: counted where it happens, always on, and readable while it goes on.

A count costs an addition under a lock, a few times for each block of rows and never for a row. Each process counts for
itself: what DataLoader workers read is in their counters, which end with them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields

from fileset_integrations.forks import mend_after_fork


@dataclass(frozen=True, slots=True)
class ReaderStats:
    """What was read, and what was there already, since a reader was made. The difference of two is what lies between.

    A block is a file, or a part of a large one; how often it is asked for depends on how it is kept: an iteration asks
    for each block about once an epoch, `batch(i)` for every block that has a row in the batch.

    Attributes:
        file_bytes: Bytes read of the columns that tensors are made of, as they lie compressed in Parquet files; footers
            left out.
        files_opened: Times that a file was opened.
        blocks_decoded: Blocks that were decoded from their files.
        memory_hits: Blocks that were asked for and lay decoded in memory, or were mapped there.
        disk_hits: Blocks that were asked for and lay decoded in the cache directory.
        files_fetched: Files that came from a stage or a bucket into the cache directory, for any reader of the same
            FileSet.
        fetched_bytes: Their bytes.
    """

    file_bytes: int = 0
    files_opened: int = 0
    blocks_decoded: int = 0
    memory_hits: int = 0
    disk_hits: int = 0
    files_fetched: int = 0
    fetched_bytes: int = 0

    def __sub__(self, earlier: ReaderStats) -> ReaderStats:
        return ReaderStats(*(getattr(self, name) - getattr(earlier, name) for name in NAMES))

    def __add__(self, other: ReaderStats) -> ReaderStats:
        return ReaderStats(*(getattr(self, name) + getattr(other, name) for name in NAMES))

    @property
    def cache_hits(self) -> int:
        """Blocks that were asked for and needed no decoding."""
        return self.memory_hits + self.disk_hits


NAMES = tuple(field.name for field in fields(ReaderStats))


class Counters:
    """The counts of one process, from any of its threads. A copy in another process begins with zeros."""

    def __init__(self) -> None:
        self._counts = dict.fromkeys(NAMES, 0)
        self.after_fork()
        mend_after_fork(self)

    def after_fork(self) -> None:
        """Renew the lock."""
        self._lock = threading.Lock()

    def add(self, **counts: int) -> None:
        """Count on, by the names of `ReaderStats`."""
        with self._lock:
            for name, count in counts.items():
                self._counts[name] += count

    def stats(self) -> ReaderStats:
        """What was counted so far."""
        with self._lock:
            return ReaderStats(**self._counts)

    def __reduce__(self) -> tuple[type[Counters], tuple[()]]:
        return Counters, ()
