"""Describing the columns of a FileSet in two passes over its rows, in memory that does not grow with them.

The first pass counts, sums and sketches; the second, which knows the extremes and the frequent values by then, counts
the bins of histograms and how often each frequent value occurs. Sketches are DuckDB's (HyperLogLog, t-digest, filtered
space-saving); sums, extremes, bins and counts are exact. FileSets that are small enough are described exactly
throughout, but for which values are the most frequent where there are very many different ones; and so is every column
of so few different values that all of them were counted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import duckdb
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fileset_integrations.decoder import check_columns
from fileset_integrations.engines.duckdb import connect
from fileset_integrations.engines.interrupting import interruptible
from fileset_integrations.errors import ColumnError
from fileset_integrations.fileset import FileSet
from fileset_integrations.kernels.statistics import Statistics
from fileset_integrations.profiles.leaves import Kind, Leaf, Plain, leaves
from fileset_integrations.progress import progress_bar

QUANTILES = (0.01, 0.05, 0.25, 0.5, 0.75, 0.95, 0.99)
BINS = 40
TOP = 10

_CANDIDATES = 100  # of the most frequent values: a sketch of more of them is surer of the first ones
_BATCH_ROWS = 65_536
# Up to here distinct counts and quantiles are exact: both hold all values of all columns in memory.
_EXACT_VALUES = 4_000_000
_EXACT_BYTES = 128 * 2**20
_EXACT_INTEGER = 2**53  # the last one before float64 has gaps
# Where the middle 98 % of the values take less of the whole range than this, the histogram is theirs.
_MIDDLE = 0.4


@dataclass(frozen=True, slots=True)
class Histogram:
    """How many values lie in each of several ranges of equal width, exactly.

    Attributes:
        start: Where the first range begins.
        stop: Where the last one ends.
        counts: Values in each range; the last one includes its end.
        labels: The least and the greatest value in it, as they are shown.
        below: Values below the first range: a few that lie far off are not drawn, lest one bar holds all others.
        above: Values above the last one.
    """

    start: float
    stop: float
    counts: tuple[int, ...]
    labels: tuple[Plain, Plain]
    below: int = 0
    above: int = 0


@dataclass(frozen=True, slots=True)
class Lengths:
    """How long the values are: characters of texts, bytes of bytes, elements of lists.

    Attributes:
        minimum: Of the shortest.
        mean: On average.
        maximum: Of the longest.
    """

    minimum: int
    mean: float
    maximum: int


@dataclass(frozen=True, slots=True)
class ColumnProfile:
    """What one column looks like. Of a list, extremes, moments and histogram are those of its elements.

    Attributes:
        name: The column, or the path of a field of a struct.
        type: Its Arrow type.
        kind: How it is described (see `leaves.Leaf`).
        rows: Rows looked at.
        nulls: Nulls among them.
        nans: NaNs among the values, which are left out of all that follows.
        distinct: Different values; None where they are not counted.
        minimum: The least value; of numbers and times.
        maximum: The greatest value.
        mean: The mean, rounded once.
        std: Standard deviation of the values seen, as a number; of times in seconds.
        quantiles: Share -> the value below or at which that share of the finite values lies.
        lengths: How long texts, bytes and lists are.
        histogram: Of numbers and times, infinities left out.
        top: The most frequent values that occur more than once, and how often, exactly.
        top_share: Share of the values that are not null that those make up.
        approximate: `distinct` and `quantiles` are estimates: within about 5 % and 1 % of the rows.
        top_approximate: Another value might be as frequent as one of `top`.
    """

    name: str
    type: str
    kind: Kind
    rows: int
    nulls: int
    nans: int = 0
    distinct: int | None = None
    minimum: Plain = None
    maximum: Plain = None
    mean: Plain = None
    std: float | None = None
    quantiles: dict[str, Plain] = field(default_factory=dict)
    lengths: Lengths | None = None
    histogram: Histogram | None = None
    top: tuple[tuple[Plain, int], ...] = ()
    top_share: float = 0.0
    approximate: bool = False
    top_approximate: bool = False

    def to_json(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return asdict(self)


def profile_columns(
    fs: FileSet, columns: Sequence[str] | None = None, *, progress: bool = False, exact: bool | None = None
) -> list[ColumnProfile]:
    """Describe the columns of a FileSet or a view of one. Its files are read twice.

    Args:
        fs: The FileSet.
        columns: Names of columns; None: all.
        progress: Show a progress bar, where standard error is a terminal.
        exact: Count distinct values and find quantiles exactly, in memory that grows with the rows; None: where the
            FileSet is small.

    Raises:
        ColumnError: There is no such column, or DuckDB refuses its values, such as text that is no UTF-8.
        FileSetCorruptError: A file cannot be read; names it.
    """
    names = fs.schema.names if columns is None else list(dict.fromkeys(columns))
    check_columns(names, fs.schema)
    described = leaves(pa.schema([fs.schema.field(name) for name in names]))
    if exact is None:
        small = fs.num_rows * max(len(described), 1) <= _EXACT_VALUES
        exact = small and fs.manifest.num_bytes <= _EXACT_BYTES
    accounts = [_Account(leaf, exact) for leaf in described]
    if names:
        shown = None if progress else False
        with progress_bar("Looking at the rows", 2 * fs.num_rows, shown) as done:
            _first_pass(fs, names, accounts, done)
            for account in accounts:
                account.choose()
            for table in fs.scan(names):
                for account in accounts:
                    account.count(table)
                done(table.num_rows)
    return [account.profile() for account in accounts]


def _first_pass(fs: FileSet, names: list[str], accounts: list[_Account], done: Callable[[int], None]) -> None:
    """Let all accounts learn from every row, and DuckDB sketch what it can."""
    sketched = [(f"c{place}", account) for place, account in enumerate(accounts) if account.sketched]
    failure: list[BaseException] = []

    def batches() -> Iterator[pa.RecordBatch]:
        try:
            for table in fs.scan(names):
                learned = [account.learn(table) for account in accounts]
                wanted = {name: learned[accounts.index(account)] for name, account in sketched}
                yield from pa.table(wanted, schema=schema).to_batches(max_chunksize=_BATCH_ROWS)
                done(table.num_rows)
        except BaseException as error:
            failure.append(error)
            raise

    schema = pa.schema([(name, account.plain) for name, account in sketched])
    if not sketched:
        for _ in batches():
            pass
        return
    select = [sql for name, account in sketched for sql in account.sketches(name)]
    with connect() as connection, interruptible(connection):
        reader = pa.RecordBatchReader.from_batches(schema, batches())
        try:
            found = iter(connection.from_arrow(reader).aggregate(", ".join(select)).fetchall()[0])
        except (duckdb.Error, OSError) as error:
            if failure:  # DuckDB tells of it in words of its own
                raise failure[0] from None
            raise ColumnError(
                f"The columns of {fs!r} cannot be described ({type(error).__name__}). Name those that can: columns=."
            ) from error
    for _, account in sketched:
        account.take(found)


class _Account:
    """What is known of one column so far."""

    def __init__(self, leaf: Leaf, exact: bool) -> None:
        self.leaf, self._exact = leaf, exact
        empty = leaf.values(pa.chunked_array([], leaf.type) if leaf.path[1:] else _empty(leaf))
        self.plain: pa.DataType | None = None if empty is None else empty.type
        self.sketched = leaf.kind in ("number", "time", "text", "bytes")
        self._numbers = leaf.kind in ("number", "time") or (leaf.kind == "list" and self.plain is not None)
        self._rows = self._nulls = 0
        self._statistics, self._lengths = Statistics(), Statistics()
        self._distinct: int | None = None
        self._quantiles: list[Any] = []
        self._candidates: pa.Array | None = None
        self._top = np.zeros(0, np.int64)
        self._range: tuple[float, float, int] | None = None
        self._ends: tuple[Any, Any] = (None, None)
        self._origin = 0
        self._bins = np.zeros(0, np.int64)
        self._below = self._above = 0

    def learn(self, table: pa.Table) -> pa.ChunkedArray | None:
        """Count and sum the rows of a table; its values."""
        column = self.leaf.column(table)
        self._rows += len(column)
        self._nulls += column.null_count
        values = self.leaf.values(column)
        if self._numbers:
            self._statistics = self._statistics.merge(Statistics.of(values))
        if (lengths := self.leaf.lengths(column)) is not None:
            self._lengths = self._lengths.merge(Statistics.of(lengths))
        return values

    def sketches(self, name: str) -> list[str]:
        """The aggregates that DuckDB is to compute of the column, each a part of a SELECT."""
        floating = pa.types.is_floating(self.plain)
        of = f"CASE WHEN NOT isnan({name}) THEN {name} END" if floating else name
        distinct = f"count(DISTINCT {of})" if self._exact else f"approx_count_distinct({of})"
        wanted = [distinct, f"approx_top_k({of}, {_CANDIDATES})"]
        if self._numbers:
            of = f"CASE WHEN isfinite({name}) THEN {name} END" if floating else name
            # The ends too: those of the finite values.
            shares = ", ".join(map(str, (0.0, *QUANTILES, 1.0)))
            wanted.append(f"{'quantile_disc' if self._exact else 'approx_quantile'}({of}, [{shares}])")
        return wanted

    def take(self, found: Iterator[Any]) -> None:
        """Take over what DuckDB found, in the order of `sketches`."""
        self._distinct = next(found)
        candidates = [value for value in next(found) or [] if value is not None]
        self._candidates = pa.array(candidates, self.plain)
        if self._numbers:
            self._quantiles = next(found) or []

    def choose(self) -> None:
        """Between the passes: which bins and which values are counted in the second one."""
        if self._candidates is not None:
            self._top = np.zeros(len(self._candidates), np.int64)
        low, high = self._statistics.minimum, self._statistics.maximum
        if self._quantiles and not (_finite(low) and _finite(high)):
            low, high = self._quantiles[0], self._quantiles[-1]
        if low is None or high is None or not (_finite(low) and _finite(high)):
            return
        if pa.types.is_integer(self.plain) and int(high) - int(low) <= _EXACT_INTEGER:
            self._origin = int(low)  # counted from there, floats tell neighbours apart
        low, high = self._middle(low, high)
        start, stop = float(low - self._origin), float(high - self._origin)
        if pa.types.is_integer(self.plain) and stop - start <= _EXACT_INTEGER:
            # Bins of as many integers each, one if it can be: else some hold one more than their neighbours.
            each = -(-(int(stop - start) + 1) // BINS)
            bins = -(-(int(stop - start) + 1) // each)
            self._range = (start - 0.5, start - 0.5 + bins * each, bins)
        elif math.isfinite(stop - start) and np.all(np.diff(np.linspace(start, stop, BINS + 1)) > 0):
            self._range = (start, stop, BINS)
        if self._range is not None:
            self._ends = low, high
            self._bins = np.zeros(self._range[2], np.int64)

    def _middle(self, low: Any, high: Any) -> tuple[Any, Any]:
        """The range that a histogram shows of all finite values: all, or where nearly all of them are."""
        if not self._quantiles or None in self._quantiles:
            return low, high
        first, last = self._quantiles[1], self._quantiles[-2]
        return (first, last) if 0 < float(last - first) < _MIDDLE * float(high - low) else (low, high)

    def count(self, table: pa.Table) -> None:
        """The second pass over the rows of a table."""
        if not len(self._bins) and not len(self._top):
            return
        values = self.leaf.values(self.leaf.column(table))
        if len(self._top):
            places = pc.index_in(values, value_set=self._candidates).combine_chunks().drop_null().to_numpy()
            self._top += np.bincount(places, minlength=len(self._top))
        if self._range is not None and values is not None:
            start, stop, bins = self._range
            values = values.drop_null()
            if self._origin:
                wide = pa.uint64() if pa.types.is_uint64(values.type) else pa.int64()
                values = pc.subtract(values.cast(wide), pa.scalar(self._origin, wide))
            numbers: NDArray[np.float64] = values.cast(pa.float64(), safe=False).to_numpy()
            if pa.types.is_floating(self.plain):
                numbers = numbers[np.isfinite(numbers)]
            below, above = int(np.count_nonzero(numbers < start)), int(np.count_nonzero(numbers > stop))
            if self._ends == (self._statistics.minimum, self._statistics.maximum):
                # Nothing lies outside, but for a decimal's float, by a bit.
                numbers, below, above = np.clip(numbers, start, stop), 0, 0
            self._bins += np.histogram(numbers, bins, (start, stop))[0]
            self._below, self._above = self._below + below, self._above + above

    def profile(self) -> ColumnProfile:
        """All that was found."""
        leaf, numbers = self.leaf, self._statistics
        count = numbers.count if self._numbers else 0
        valid = self._rows - self._nulls
        # Where the counted values are all there are, they tell exactly what else is estimated.
        counted = self._candidates is not None and int(self._top.sum()) == valid - numbers.nans
        distinct = int(np.count_nonzero(self._top)) if counted else self._distinct
        quantiles = self._counted_quantiles() if counted and self._numbers else self._quantiles[1:-1]
        top = self._most_frequent()
        lengths = self._lengths
        return ColumnProfile(
            name=leaf.name,
            type=str(leaf.type),
            kind=leaf.kind,
            rows=self._rows,
            nulls=self._nulls,
            nans=numbers.nans,
            distinct=None if distinct is None else min(distinct, valid),
            minimum=leaf.shown(numbers.minimum),
            maximum=leaf.shown(numbers.maximum),
            mean=leaf.shown(numbers.mean) if count else None,
            std=_std(numbers, leaf.unit) if count else None,
            quantiles={
                f"{share:g}": leaf.shown(value)
                for share, value in zip(QUANTILES, quantiles, strict=False)
                if value is not None
            },
            lengths=Lengths(int(lengths.minimum), lengths.mean, int(lengths.maximum))
            if lengths.minimum is not None and lengths.maximum is not None
            else None,
            histogram=self._histogram(),
            top=tuple((leaf.shown(value), number) for value, number in top),
            top_share=sum(number for _, number in top) / valid if valid else 0.0,
            approximate=self.sketched and not self._exact and not counted,
            top_approximate=bool(top) and not counted and (distinct or 0) > _CANDIDATES * 4 // 5,
        )

    def _most_frequent(self) -> list[tuple[Any, int]]:
        if self._candidates is None:
            return []
        counted = zip(self._candidates.to_pylist(), self._top.tolist(), strict=True)
        found = [(value, number) for value, number in counted if number > 1]
        return sorted(found, key=lambda one: (-one[1], str(one[0])))[:TOP]

    def _counted_quantiles(self) -> list[Any]:
        """Quantiles of the finite values, where all values were counted; as DuckDB's quantile_disc has them."""
        pairs = zip(self._candidates.to_pylist() if self._candidates else [], self._top.tolist(), strict=True)
        counted = sorted((value, number) for value, number in pairs if number and _finite(value))
        if not counted:
            return []
        ends = np.cumsum([number for _, number in counted])
        # In whole numbers: a share of all values times their number would be rounded.
        ranks = [-(-round(100 * share) * int(ends[-1]) // 100) for share in QUANTILES]
        return [counted[int(np.searchsorted(ends, max(rank, 1)))][0] for rank in ranks]

    def _histogram(self) -> Histogram | None:
        if self._range is None:
            return None
        start, stop, _ = self._range
        low, high = self._ends
        start, stop = start + self._origin, stop + self._origin
        labels = (self.leaf.shown(low), self.leaf.shown(high))
        return Histogram(start, stop, tuple(self._bins.tolist()), labels, self._below, self._above)


def _empty(leaf: Leaf) -> pa.ChunkedArray:
    return leaf.column(pa.schema([(leaf.path[0], leaf.type)]).empty_table())


def _finite(value: Any) -> bool:
    return value is not None and math.isfinite(value)


def _std(statistics: Statistics, unit: float) -> float | None:
    variance = statistics.variance
    return math.sqrt(variance) * unit if math.isfinite(variance) else None
