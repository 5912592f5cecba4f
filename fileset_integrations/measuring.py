"""How fast this machine reads a FileSet, what that takes, and which arguments of a reader suit it."""

from __future__ import annotations

import os
import resource
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any

from fileset_integrations.columns import Category, Columns, bind
from fileset_integrations.decoder import check_columns
from fileset_integrations.errors import ColumnError, SpecError
from fileset_integrations.fileset import FileSet
from fileset_integrations.mixing import ShuffleReport, shuffle_report
from fileset_integrations.progress import amount, progress_bar
from fileset_integrations.reader import FileSetReader
from fileset_integrations.spec import as_int

_STREAMS = (8, 16, 32, 64, 128)
# Batches may differ from each other by half more than those of a true shuffle: no training that we know of tells.
_MIXED = 1.5
_SAMPLE_S = 0.005
_TOO_SHORT_S = 0.05
_TELLING_BATCHES = 4  # with fewer, how their means vary is chance
_DECODERS = 2  # threads that a reader decodes with


@dataclass(frozen=True, slots=True)
class Rate:
    """Rows and the time that they took.

    Attributes:
        num_rows: Rows.
        seconds: Time by the clock.
        cpu_seconds: Time of all processors together.
    """

    num_rows: int
    seconds: float
    cpu_seconds: float

    @property
    def rows_per_s(self) -> float:
        """Rows a second."""
        return self.num_rows / self.seconds if self.seconds else 0.0

    def to_json(self) -> dict[str, float]:
        """All of it as plain JSON."""
        return {**asdict(self), "rows_per_s": self.rows_per_s}


@dataclass(frozen=True, slots=True)
class Measured:
    """What `measure` found.

    Attributes:
        columns: Columns that were read.
        left_out: Columns that were not, having no tensor without more being said, and why.
        num_rows: Rows of the FileSet.
        decoded_bytes: Bytes that all rows take once decoded; strings are codes.
        batch_size: Rows of a batch.
        streams: Blocks that were open at once.
        first_batch_s: From making a reader to its first batch, vocabularies known.
        decode: Reading the columns of every file into Arrow, by two threads: no reader is faster.
        first_epoch: Shuffled batches, every file decoded on the way.
        later_epochs: The same where decoded rows are kept in memory; None where they have no room in `memory_bytes`.
        memory_bytes: The bound that the reader was given.
        used_bytes: Anonymous memory that the first epoch took at most, beyond what the process had.
        shuffles: How well so many streams mix the rows.
        advice: What follows from all that, a sentence each.
    """

    columns: tuple[str, ...]
    left_out: dict[str, str]
    num_rows: int
    decoded_bytes: int
    batch_size: int
    streams: int
    first_batch_s: float
    decode: Rate
    first_epoch: Rate
    later_epochs: Rate | None
    memory_bytes: int
    used_bytes: int
    shuffles: tuple[ShuffleReport, ...]
    advice: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        plain = asdict(self)
        for name in ("decode", "first_epoch", "later_epochs"):
            rate = getattr(self, name)
            plain[name] = None if rate is None else rate.to_json()
        for shuffle in plain["shuffles"]:
            shuffle.update({key: None for key, value in shuffle.items() if value != value})
        return plain


def readable_columns(fs: FileSet, columns: Sequence[str] | None = None) -> tuple[Columns | None, dict[str, str]]:
    """Columns that have a tensor by themselves: numbers and times as they are, texts as categories; nulls become 0.

    Args:
        fs: The FileSet.
        columns: Names of columns to take; None: all.

    Returns:
        The spec, None where no column has a tensor; and the columns left out, with the reason.

    Raises:
        ColumnError: There is no such column.
    """
    names = fs.schema.names if columns is None else list(dict.fromkeys(columns))
    check_columns(names, fs.schema)
    taken: dict[str, Any] = {}
    nulls: dict[str, Any] = {}
    left_out: dict[str, str] = {}
    for name in names:
        errors = []
        for spec in (name, Category(name)):
            policy: dict[str, Any] = {} if isinstance(spec, Category) or fs.null_counts.get(name) == 0 else {name: 0}
            try:
                bind(Columns({"x": spec}, nulls=policy or "error"), fs.schema)
            except ColumnError as error:
                errors.append(str(error))
                continue
            taken[f"column {len(taken)}"] = spec
            nulls |= policy
            break
        else:
            left_out[name] = errors[0]
    return (Columns(taken, nulls=nulls or "error") if taken else None), left_out


def measure(
    fs: FileSet,
    *,
    columns: Sequence[str] | None = None,
    batch_size: int = 1024,
    streams: int | None = None,
    memory_bytes: int = 2 * 2**30,
    seconds: float = 10.0,
    cache_dir: str | os.PathLike[str] | None = None,
    progress: bool = False,
) -> Measured:
    """Read a FileSet in the ways that training does, each for a while, and say what would suit it.

    Files are read once before they are timed, so that the page cache holds them where there is room: what is measured
    is this machine's processors and memory, not its disk or network.

    Args:
        fs: The FileSet.
        columns: Names of the columns to read; None: all that have a tensor by themselves.
        batch_size: Rows of a batch.
        streams: Blocks open at once; None: 8.
        memory_bytes: The reader's bound.
        seconds: About how long each of three measurements takes at most.
        cache_dir: The cache directory; None: `FILESET_CACHE_DIR`, else the user's.
        progress: Show a progress bar, where standard error is a terminal.

    Raises:
        ColumnError: No column has a tensor by itself, or there is no such column.
        SpecError: An argument is out of range, or there is not one whole batch.
    """
    spec, left_out = readable_columns(fs, columns)
    if spec is None:
        why = next(iter(left_out.values()), "It has no columns.")
        raise ColumnError(f"No column has a tensor by itself, so there is nothing to be measured. {why}")
    if not fs.num_rows:
        raise SpecError(f"{fs.name} has no rows, so there is nothing to be measured.")
    batch_size = as_int(batch_size, "batch_size")
    arguments: dict[str, Any] = {
        "columns": spec,
        "batch_size": max(min(batch_size, fs.num_rows), 1),
        "shuffle": True,
        "memory_bytes": memory_bytes,
        "cache_dir": cache_dir,
    }
    names = spec.sources
    with progress_bar("Measuring", 3, None if progress else False, "steps") as done:
        decode = _decode(fs, names, seconds)
        # Fits the columns and remembers the fit: what is timed is every later reader.
        FileSetReader(fs, streams=streams, blocks="stream", **arguments)
        done(1)
        began = time.perf_counter()
        reader = FileSetReader(fs, streams=streams, blocks="stream", **arguments)
        next(reader.iter_batches(epoch=0), None)
        first_batch_s = time.perf_counter() - began
        with _memory_used() as used:
            first_epoch = _iterate(reader, 1, seconds)
        done(1)
        later = None
        if 2 * reader.num_bytes <= memory_bytes and reader.plan.num_rows <= first_epoch.rows_per_s * 4 * seconds:
            kept = FileSetReader(fs, streams=streams, blocks="memory", **arguments)
            _iterate(kept, 0, None)
            later = _iterate(kept, 1, seconds)
        done(1)
    shuffles = _shuffles(reader, arguments)
    return Measured(
        columns=tuple(names),
        left_out=left_out,
        num_rows=fs.num_rows,
        decoded_bytes=reader.num_bytes,
        batch_size=reader.batch_size,
        streams=reader.plan.streams,
        first_batch_s=first_batch_s,
        decode=decode,
        first_epoch=first_epoch,
        later_epochs=later,
        memory_bytes=memory_bytes,
        used_bytes=used[0],
        shuffles=shuffles,
        advice=tuple(_advice(fs, reader, first_epoch, later, memory_bytes, shuffles)),
    )


def _shuffles(reader: FileSetReader, arguments: dict[str, Any]) -> tuple[ShuffleReport, ...]:
    """How well the reader's streams mix the rows, and other numbers of streams that make sense for so many blocks."""
    most = max(8 * len(reader.plan.block_rows), reader.plan.streams)
    arguments = {**arguments, "blocks": "stream", "memory_bytes": 2**62}  # nothing is read
    return tuple(
        shuffle_report(FileSetReader(reader.fileset, streams=streams, **arguments))
        for streams in sorted({reader.plan.streams, *_STREAMS})
        if streams <= most
    )


def _decode(fs: FileSet, names: list[str], seconds: float) -> Rate:
    """Read files as they come, on as many threads as a reader decodes with; a first time, untimed, to warm them up."""
    files = [file for file, rows in enumerate(fs.manifest.file_rows.tolist()) if rows]

    def read(file: int) -> int:
        return int(fs.read_file(file, names).num_rows)

    with ThreadPoolExecutor(_DECODERS, thread_name_prefix="fileset-measure") as pool:
        began = time.perf_counter()
        chosen: list[int] = []
        for start in range(0, len(files), _DECODERS):
            chosen += files[start : start + _DECODERS]
            list(pool.map(read, files[start : start + _DECODERS]))
            if time.perf_counter() - began > seconds / 2:
                break
        began, cpu = time.perf_counter(), time.process_time()
        rows = sum(pool.map(read, chosen))
        return Rate(rows, time.perf_counter() - began, time.process_time() - cpu)


def _iterate(reader: FileSetReader, epoch: int, seconds: float | None) -> Rate:
    """Rows of an epoch, every batch touched; of part of it where it takes longer than `seconds`."""
    rows = 0
    began, cpu = time.perf_counter(), time.process_time()
    batches = reader.iter_batches(epoch=epoch)
    for batch in batches:
        value = next(iter(batch.values()))
        rows += len(value)
        if seconds is not None and time.perf_counter() - began > seconds:
            break
    taken = Rate(rows, time.perf_counter() - began, time.process_time() - cpu)
    batches.close()
    return taken


@contextmanager
def _memory_used() -> Iterator[list[int]]:
    """Bytes of anonymous memory that the process takes at most meanwhile, beyond what it had; the first of the list."""
    used = [0]
    before, over = _anonymous_bytes(), threading.Event()

    def sample() -> None:
        while not over.wait(_SAMPLE_S):
            used[0] = max(used[0], _anonymous_bytes() - before)

    thread = threading.Thread(target=sample, name="fileset-memory", daemon=True)
    thread.start()
    try:
        yield used
    finally:
        over.set()
        thread.join()
        used[0] = max(used[0], _anonymous_bytes() - before)


def _anonymous_bytes() -> int:
    """Memory of the process that belongs to no file; where the system does not say, the most that it ever took."""
    try:
        with open("/proc/self/status", encoding="ascii") as status:  # noqa: PTH123 - sampled often
            for line in status:
                if line.startswith("RssAnon:"):
                    return int(line.split()[1]) * 1024
    except OSError:
        pass
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most if sys.platform == "darwin" else most * 1024


def _advice(
    fs: FileSet,
    reader: FileSetReader,
    first: Rate,
    later: Rate | None,
    memory_bytes: int,
    shuffles: Sequence[ShuffleReport],
) -> Iterator[str]:
    wanted = 2 * reader.num_bytes
    room = f"memory_bytes={memory_bytes} ({amount(memory_bytes, 'bytes')})"
    if later is not None and first.rows_per_s:
        times = later.rows_per_s / first.rows_per_s
        yield (
            f"{room} has room for all rows: blocks='auto' keeps them, and epochs after the first "
            f"ran {times:.1f} times as fast."
        )
    elif wanted <= memory_bytes:
        yield f"{room} has room for all rows: blocks='auto' keeps them after the first epoch."
    else:
        yield (
            f"All rows take {amount(reader.num_bytes, 'bytes')} once decoded: memory_bytes={wanted} keeps them in "
            "memory after the first epoch; with less, blocks='disk' keeps them in the cache directory."
        )
    if fs.manifest.shuffle:
        yield f"The rows were shuffled when they were written: streams={reader.plan.streams} mixes them well enough."
    elif len(reader) < _TELLING_BATCHES:
        yield f"An epoch has {len(reader)} batch{'' if len(reader) == 1 else 'es'}: too few to tell streams apart."
    else:
        fitting = [one for one in shuffles if one.window_bytes <= memory_bytes] or shuffles[:1]
        mixed = [one for one in fitting if one.label_mean_variance <= _MIXED]
        best = mixed[0] if mixed else fitting[-1]
        kind = "mixes rows that were sorted nearly as a true shuffle does" if mixed else "mixes best of those tried"
        yield (
            f"streams={best.streams} {kind} (batches' means vary {best.label_mean_variance:.1f} times as much), with "
            f"{amount(best.window_bytes, 'bytes')} of open blocks. Making the FileSet with shuffle=True mixes them for "
            "good."
        )
    busy = first.cpu_seconds / first.seconds if first.seconds else 0.0
    yield (
        f"num_workers=0: the reader's own threads gave {first.rows_per_s:,.0f} rows/s on {busy:.1f} of "
        f"{os.cpu_count() or 1} processors. DataLoader workers pay only where a transform in Python is slower."
    )
    if first.seconds < _TOO_SHORT_S:
        yield f"An epoch takes {first.seconds:.3f} s: too short for the rates to tell much, and nothing to wait for."
