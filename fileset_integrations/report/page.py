"""What the report of a FileSet says, and the page that it becomes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.resources import files
from typing import Any

import numpy as np

from fileset_integrations.columns import Columns, Hashed, bind
from fileset_integrations.errors import SpecError
from fileset_integrations.fileset import FileSet
from fileset_integrations.measuring import readable_columns
from fileset_integrations.mixing import ShuffleReport, mixing_map, shuffle_report
from fileset_integrations.profiles.measure import ColumnProfile
from fileset_integrations.progress import amount
from fileset_integrations.reader import FileSetReader
from fileset_integrations.report import words
from fileset_integrations.report.charts import Bar, cells_of, columns_of, grouped
from fileset_integrations.report.remarks import badges_of, remarks_on
from fileset_integrations.spec import as_int
from fileset_integrations.throughput import throughputs

_QUERY = 20_000  # characters of the query
_MAP_HEIGHT, _BANDS = 160, 20
_OVERVIEW = 4  # columns from which on a table of them all is of use
_TOP_BESIDE = 5  # frequent values that are shown below a histogram, or where even they are rare
_RARE = 0.01
_WIDE = 11  # characters of a value, of which two stand side by side in place of three
_WORDS = ("about", "count", "duration", "instant", "number", "percent", "size", "tidy", "times")


@dataclass(frozen=True, slots=True)
class Described:
    """A column as the page shows it.

    Attributes:
        profile: What is known of it.
        badges: What is to be remarked, in a word each.
        bars: Its histogram; empty where there is none, or nothing to be seen in it.
        outside: What the histogram leaves out, in words.
        top: The frequent values that are worth showing.
        wide: Its values take much room.
    """

    profile: ColumnProfile
    badges: list[str]
    bars: list[Bar]
    outside: str
    top: Sequence[tuple[Any, int]]
    wide: bool


@dataclass(frozen=True, slots=True)
class Mixing:
    """How an order mixes the rows.

    Attributes:
        title: What order it is.
        report: Its figures.
        window: Memory of the open blocks, all readable columns decoded.
        cells: The picture: batches from left to right, the FileSet's rows from top to bottom.
    """

    title: str
    report: ShuffleReport
    window: str
    cells: list[Bar]


def render(
    fs: FileSet,
    profiles: Sequence[ColumnProfile],
    *,
    title: str | None = None,
    streams: Sequence[int] = (8,),
    batch_size: int = 1024,
    cache_dir: str | None = None,
) -> str:
    """The report as HTML; whatever comes out of rows, names or the query is escaped.

    Args:
        fs: The FileSet.
        profiles: Its columns, described.
        title: What it is called; None: its name.
        streams: Numbers of streams whose mixing is drawn, beside that of the rows' own order.
        batch_size: Rows of the batches that are drawn.
        cache_dir: The cache directory, whose measurements are shown.

    Raises:
        SpecError: A number of streams, or the batch size, is out of range.
    """
    # Loaded here: of all commands, one needs it.
    from jinja2 import Environment, StrictUndefined

    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {name: getattr(words, name) for name in _WORDS}
    text = files("fileset_integrations.report").joinpath("report.html").read_text(encoding="utf-8")
    manifest = fs.manifest
    rows, sizes = manifest.file_rows.tolist(), manifest.files["bytes"].to_pylist()
    groups = [size for file, one in enumerate(manifest.files["row_groups"].to_pylist()) for size in one or [rows[file]]]
    query = manifest.query
    page = environment.from_string(text).render(
        title=title or fs.name,
        fs=fs,
        manifest=manifest,
        query=None if query is None else _lines(query),
        columns=[_described(profile) for profile in profiles],
        overview=len(profiles) >= _OVERVIEW,
        remarks=remarks_on(profiles),
        approximate=any(profile.approximate for profile in profiles),
        files=_sizes(sizes),
        file_rows=_sizes(rows),
        groups=_sizes(groups),
        mixing=_mixing(fs, streams, batch_size),
        batch_size=min(as_int(batch_size, "batch_size"), max(fs.num_rows, 1)),
        map_height=_MAP_HEIGHT,
        runs=_runs(throughputs(fs.snapshot_id, cache_dir)),
        at=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
    )
    return page


def _lines(query: str) -> str:
    shown = query if len(query) <= _QUERY else query[:_QUERY] + "\n…"
    return "\n".join(words.tidy(line, limit=_QUERY) for line in shown.expandtabs(4).splitlines())


def _described(profile: ColumnProfile) -> Described:
    histogram, top, outside = profile.histogram, profile.top, ""
    bars: list[Bar] = []
    if profile.minimum is not None and profile.minimum == profile.maximum:
        top = ()
    elif histogram is not None:
        bars = columns_of(histogram.counts, _ranges(profile))
        # Where a bar is one value, the bars say it all.
        each = (histogram.stop - histogram.start) / len(histogram.counts)
        if (each == 1 and "int" in profile.type) or (profile.top_share < 0.1 and profile.kind in ("number", "time")):
            top = ()
        if histogram.below or histogram.above:
            outside = f"not shown: {histogram.below:,} below and {histogram.above:,} above"
    rare = profile.top_share < _RARE
    top = top[:_TOP_BESIDE] if bars or rare else top
    ends = [len(words.number(end)) for end in (profile.minimum, profile.maximum)]
    return Described(profile, badges_of(profile), bars, outside, top, wide=max(ends) > _WIDE)


def _ranges(profile: ColumnProfile) -> list[str]:
    """What each bar of a histogram stands for, in words."""
    assert profile.histogram is not None
    counts = profile.histogram.counts
    ends = np.linspace(profile.histogram.start, profile.histogram.stop, len(counts) + 1).tolist()
    said = []
    for low, high, held in zip(ends, ends[1:], counts, strict=False):
        if profile.kind == "time":
            where = ""  # the ends are in a unit that says nothing
        elif "int" in profile.type:
            first, last = math.ceil(low), math.floor(high)
            where = f"{words.number(first)}: " if first == last else f"{words.number(first)} to {words.number(last)}: "
        else:
            where = f"{words.about(low)} to {words.about(high)}: "
        said.append(f"{where}{words.count(held, 'value')}")
    return said


def _sizes(sizes: Sequence[int]) -> dict[str, Any]:
    bars, size = grouped(sizes)
    array = np.array(sizes or [0])
    return {
        "count": len(sizes),
        "least": int(array.min()),
        "median": float(np.median(array)),
        "most": int(array.max()),
        "bars": columns_of(bars),
        "each": size,
    }


def _mixing(fs: FileSet, streams: Sequence[int], batch_size: int) -> list[Mixing]:
    """Nothing of a FileSet whose rows fit into one batch, or without a column that has a tensor by itself."""
    batch_size = as_int(batch_size, "batch_size")
    if batch_size < 1:
        raise SpecError(f"batch_size={batch_size}: pass at least 1.")
    spec, _ = readable_columns(fs)
    if spec is None or fs.num_rows <= batch_size:
        return []
    row_bytes = bind(spec, fs.schema).row_bytes
    # One column that nothing must be learned of: where rows come from is the same for all columns.
    plain = next((one for one in spec.features.values() if not one.has_null_code), None)
    nulls = spec.nulls if plain is not None else "error"
    one = Columns({"x": plain or Hashed(spec.sources[0], 2)}, nulls=_of_one(nulls, plain))
    arguments: dict[str, Any] = {"columns": one, "batch_size": min(batch_size, fs.num_rows), "blocks": "stream"}
    orders: list[tuple[str, dict[str, Any]]] = [("The rows' own order", {})]
    orders += [
        (f"Shuffled, {number} stream{'' if number == 1 else 's'}", {"shuffle": True, "streams": number})
        for number in sorted(set(streams))
    ]
    found = []
    for title, order in orders:
        reader = FileSetReader(fs, **arguments, **order)
        figures = shuffle_report(reader)
        window = figures.window_bytes // max(reader.row_bytes, 1) * row_bytes
        found.append(
            Mixing(
                title, figures, amount(window, "bytes"), cells_of(mixing_map(reader, bands=_BANDS), height=_MAP_HEIGHT)
            )
        )
    return found


def _of_one(nulls: Any, spec: Any) -> Any:
    if not isinstance(nulls, Mapping):
        return nulls
    return {name: value for name, value in nulls.items() if name in spec.sources} or "error"


def _runs(found: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    rates = [one["num_rows"] / one["seconds"] if one["seconds"] else 0.0 for one in found]
    most = max(rates, default=0.0) or 1.0
    both = zip(reversed(found), reversed(rates), strict=True)
    return [{**one, "rate": rate, "share": 100 * rate / most} for one, rate in both]
