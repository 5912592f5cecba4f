"""One pass over the training data, in which all that specs ask for is learned."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Protocol

import pyarrow as pa

from fileset_integrations.column_specs.base import Learner, Partial
from fileset_integrations.decoder import Rows
from fileset_integrations.progress import progress_bar

_MAX_THREADS = 8


class Source(Protocol):
    """What columns are fitted on: a FileSet, or a view of one."""

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema."""

    @property
    def num_rows(self) -> int:
        """Rows of all files together."""

    def scan(self, columns: Sequence[str], dictionaries: Sequence[str] = ()) -> Iterator[pa.Table]:
        """Every row once, in tables of whole files."""


def learn(
    source: Source, as_rows: Callable[[pa.Table], Rows], learners: Sequence[Learner], progress: bool | None
) -> dict[Learner, Partial]:
    """What each learner says of all rows, worked out by several threads, a few tables ahead.

    Args:
        source: The training data; only the columns that are learned of are read.
        as_rows: From a table to its columns.
        learners: What is to be learned, each once.
        progress: Whether to show a bar; None: on a terminal.
    """
    if not learners:
        return {}
    columns = list(dict.fromkeys(column for learner in learners for column in learner.columns))
    plain = {column for learner in learners for column in learner.columns if column not in learner.dictionaries}
    dictionaries = [column for column in columns if column not in plain and column in source.schema.names]
    nothing = {learner: learner.of(as_rows(source.schema.empty_table())) for learner in learners}  # of zero files
    found: dict[Learner, Partial] = {}
    with progress_bar("Fitting columns", source.num_rows, progress) as done:
        tables = source.scan(columns, dictionaries)
        for rows, parts in _in_threads(tables, lambda table: [one.of(as_rows(table)) for one in learners]):
            for learner, part in zip(learners, parts, strict=True):
                found[learner] = learner.merge(found[learner], part) if learner in found else part
            done(rows)
    return {**nothing, **found}


def _in_threads(
    tables: Iterable[pa.Table], work: Callable[[pa.Table], list[Partial]]
) -> Iterator[tuple[int, list[Partial]]]:
    threads = min(os.cpu_count() or 1, _MAX_THREADS)
    with ThreadPoolExecutor(threads, thread_name_prefix="fileset-learn") as pool:
        ahead: deque[tuple[int, Future[list[Partial]]]] = deque()
        for table in tables:
            ahead.append((table.num_rows, pool.submit(work, table)))
            if len(ahead) > threads:
                rows, future = ahead.popleft()
                yield rows, future.result()
        for rows, future in ahead:
            yield rows, future.result()
