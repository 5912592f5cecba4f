"""What the report of a FileSet says, and the page that it becomes."""

from __future__ import annotations

import math
import unicodedata
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
from fileset_integrations.profiles.leaves import Plain
from fileset_integrations.profiles.measure import ColumnProfile
from fileset_integrations.progress import amount
from fileset_integrations.reader import FileSetReader
from fileset_integrations.report.charts import Bar, cells_of, columns_of, grouped
from fileset_integrations.spec import as_int
from fileset_integrations.throughput import throughputs

_SHOWN = 120  # characters of a value or a name
_QUERY = 20_000  # characters of the query
_MAP_HEIGHT, _BANDS = 160, 20


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
    environment.filters |= {"number": number, "duration": duration, "tidy": tidy, "times": times, "size": size}
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
        profiles=[(profile, _histogram(profile)) for profile in profiles],
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
    return "\n".join(tidy(line, limit=_QUERY) for line in shown.expandtabs(4).splitlines())


def _histogram(profile: ColumnProfile) -> list[Bar]:
    return [] if profile.histogram is None else columns_of(profile.histogram.counts)


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
    """Nothing of a FileSet without rows, or without a column that has a tensor by itself."""
    batch_size = as_int(batch_size, "batch_size")
    if batch_size < 1:
        raise SpecError(f"batch_size={batch_size}: pass at least 1.")
    spec, _ = readable_columns(fs)
    if spec is None or not fs.num_rows:
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


def number(value: Plain) -> str:
    """A number, time or text of a column as people read it."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return tidy(value)
    if isinstance(value, int):
        return f"{value:,}"
    if 1e6 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:,.{7 if abs(value) >= 1e5 else 6}g}"  # 999,999.5, not 1e+06


def size(num_bytes: int) -> str:
    """A number of bytes in the unit that suits it."""
    return amount(num_bytes, "bytes")


def times(ratio: float) -> str:
    """How many times as much something is."""
    return "–" if math.isnan(ratio) else f"{ratio:,.{1 if ratio < 100 else 0}f}"


def duration(seconds: float) -> str:
    """A span of time in the greatest unit that it is more than two of."""
    for name, unit in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds > 2 * unit:
            return f"{seconds / unit:,.4g} {name}"
    return f"{seconds:.4g} s"


def tidy(text: object, limit: int = _SHOWN) -> str:
    """Text in which nothing but characters that are seen is left, cut where it is long."""
    shown = str(text)
    if len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    return "".join(character if _seen(character) else f"\\u{ord(character):04x}" for character in shown)


def _seen(character: str) -> bool:
    # Neither control characters nor those that turn the direction of what follows.
    return character == " " or unicodedata.category(character)[0] not in "CZ"
