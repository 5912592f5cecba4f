"""Which epoch an iteration is, where many processes iterate over copies of one dataset and none is told."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
import threading
import weakref
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from fileset_integrations.forks import mend_after_fork
from fileset_integrations.reader import FileSetReader


@dataclass(frozen=True, slots=True)
class Begin:
    """Where an iteration begins.

    Attributes:
        epoch: Its epoch.
        state: The state of a reader that it goes on from; None: it begins with the epoch.
    """

    epoch: int
    state: Mapping[str, Any] | None = None

    def place(self, reader: FileSetReader) -> tuple[int, int]:
        """Its epoch, and the batches to leave out. The reader takes over the streams of the state."""
        return (self.epoch, 0) if self.state is None else reader.resume(self.state)


class EpochCounter:
    """Numbers the iterations of one dataset over all processes that hold a copy of it.

    DataLoader workers cannot be told the epoch: forked or spawned ones get the dataset as it was, and persistent ones
    keep it. So the workers of one iteration settle its number among themselves, by who first links a file of that
    number: it holds the name of their iteration, which the others then find there. Each takes its own place in it.
    """

    def __init__(self) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="fileset-epochs-"))
        self._lock = threading.Lock()
        self._rounds: dict[int, int] = {}  # set of workers -> iterations this worker has begun in it
        mend_after_fork(self)
        weakref.finalize(self, _remove, self._folder, os.getpid())

    def claim(self) -> tuple[int, Begin]:
        """The number of an iteration that begins in this process, counted from 0, and where it begins."""
        with self._lock:
            return self._claim(f"main {os.getpid()} {os.urandom(8).hex()}")

    def claim_together(self, workers: int, worker: int) -> tuple[int, Begin]:
        """Likewise for an iteration that the workers of one set begin together.

        Args:
            workers: What names the set.
            worker: Which of them this is.
        """
        with self._lock:
            self._rounds[workers] = self._rounds.get(workers, 0) + 1
            return self._claim(f"workers {workers} {self._rounds[workers]}", worker)

    def set_next(self, begin: Begin) -> None:
        """Let the next iteration begin there, and those after it count on from its epoch."""
        self.settle(self._begun(), begin)

    def settle(self, number: int, begin: Begin) -> None:
        """Let iteration `number` begin there, and those after it count on from its epoch."""
        temporary = self._folder / f".{os.getpid()}-{threading.get_ident()}-from"
        temporary.write_text(json.dumps(asdict(begin)))
        temporary.replace(self._folder / f"from-{number}")

    def coming(self) -> tuple[int, Begin | None]:
        """How many iterations have begun, and where the next one was told to begin, if it was."""
        begun = self._begun()
        told = self._folder / f"from-{begun}"
        return begun, _read(told) if told.exists() else None

    def _begun(self) -> int:
        return sum(1 for path in self._folder.iterdir() if path.name.isdecimal())

    def _claim(self, iteration: str, worker: int = 0) -> tuple[int, Begin]:
        # Sets of workers share a name where torch's generator was seeded alike before each: then the later set finds
        # its places in the earlier one's iteration taken, and goes on to the next.
        folder = self._folder
        mine = folder / f".{os.getpid()}-{threading.get_ident()}"
        mine.write_text(iteration)
        number = 0
        while not (self._joins(mine, str(number), iteration) and self._links(mine, f"{number}.{worker}")):
            number += 1
        mine.unlink()
        starts = [int(path.name.removeprefix("from-")) for path in folder.glob("from-*")]
        start = max((start for start in starts if start <= number), default=None)
        begin = Begin(0) if start is None else _read(folder / f"from-{start}")
        if number == start:
            return number, begin
        return number, Begin(begin.epoch + number - (start or 0))

    def _joins(self, mine: Path, name: str, iteration: str) -> bool:
        return self._links(mine, name) or (self._folder / name).read_text() == iteration

    def _links(self, mine: Path, name: str) -> bool:
        try:
            os.link(mine, self._folder / name)
        except FileExistsError:
            return False
        return True

    def __getstate__(self) -> dict[str, Any]:
        return {"_folder": self._folder}

    def __setstate__(self, state: dict[str, Any]) -> None:
        # A copy in another process shares the folder, which its maker removes.
        self.__dict__.update(state, _lock=threading.Lock(), _rounds={})
        mend_after_fork(self)

    def after_fork(self) -> None:
        """Renew the lock."""
        self._lock = threading.Lock()


def _read(path: Path) -> Begin:
    return Begin(**json.loads(path.read_text()))


def _remove(folder: Path, maker: int) -> None:
    if os.getpid() == maker:  # not in a forked worker
        shutil.rmtree(folder, ignore_errors=True)
