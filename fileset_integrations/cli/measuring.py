"""Commands that read the rows of a FileSet: stats, bench, report."""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fileset_integrations.cli.application import app
from fileset_integrations.cli.output import (
    Json,
    Profile,
    Where,
    opened,
    print_facts,
    print_json,
    print_table,
    say,
    seen,
)
from fileset_integrations.cli.sizes import MemoryBytes
from fileset_integrations.errors import FileSetLocationError

if TYPE_CHECKING:
    from fileset_integrations.measuring import Rate
    from fileset_integrations.profiles.measure import ColumnProfile

Column = Annotated[list[str] | None, typer.Option("--column", "-C", help="Only this column (repeatable).")]


@app.command()
def stats(
    where: Where = None,
    columns: Column = None,
    exact: Annotated[
        bool | None,
        typer.Option(
            "--exact/--approximate",
            help="Distinct counts and quantiles: exact takes memory that grows with the rows. Default: exact if small.",
        ),
    ] = None,
    connection_name: Profile = None,
    as_json: Json = False,
) -> None:
    """Describe every column: nulls, distinct values, extremes, mean, quantiles, top values. Reads the rows twice."""
    where, fs = opened(where, connection_name)
    from fileset_integrations.profiles.measure import profile_columns

    profiles = profile_columns(fs, columns or None, progress=True, exact=exact)
    if as_json:
        print_json({"fileset": where, "num_rows": fs.num_rows, "columns": [one.to_json() for one in profiles]})
        return
    if not sys.stdout.isatty():
        print_table((), ([one.name, one.type, *_described(one).values()] for one in profiles))
        return
    if columns is None and len(profiles) > _IN_FULL:
        print_table(_OVERVIEW, map(_in_a_line, profiles))
        say("`-C COLUMN` says more of one: mean, quantiles, frequent values.")
        return
    for one in profiles:
        said = {name: value for name, value in _described(one).items() if value != ""}
        if one.kind == "time" and one.std is not None:
            said["std"] = f"{one.std:,.6g} s"
        print_facts({one.name: one.type, **said})
        typer.echo()


_IN_FULL = 4  # columns that are described one below the other; more in a line each
_OVERVIEW = ("column", "type", "nulls", "distinct", "min", "median", "max", "most frequent")


def _in_a_line(one: ColumnProfile) -> list[Any]:
    said = _described(one)
    top = f"{str(one.top[0][0])[:20]} ({one.top[0][1]:,})" if one.top else ""
    middle = _short(one.quantiles.get("0.5"))
    about = "≈" if one.approximate and middle else ""
    distinct = "" if one.distinct is None else f"{'≈' if one.approximate else ''}{one.distinct:,}"
    return [one.name, one.type[:24], one.nulls, distinct, said["min"], about + middle, said["max"], top]


def _described(one: ColumnProfile) -> dict[str, Any]:
    """What is said of a column, the same of each, so that its place among tabs tells what it is."""
    about = "≈" if one.approximate else ""
    lengths = one.lengths
    return {
        "nulls": one.nulls,
        "distinct": "" if one.distinct is None else f"{about}{one.distinct}",
        "min": _short(one.minimum),
        "max": _short(one.maximum),
        "mean": _short(one.mean),
        "std": _short(one.std),
        "quantiles": ", ".join(f"{float(share):.0%} {about}{_short(value)}" for share, value in one.quantiles.items()),
        "lengths": "" if lengths is None else f"{lengths.minimum} to {lengths.maximum}, mean {_short(lengths.mean)}",
        "top": ", ".join(f"{str(value)[:40]} ({count})" for value, count in one.top),
    }


def _short(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


@app.command()
def bench(
    where: Where = None,
    columns: Column = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of a batch.")] = 1024,
    streams: Annotated[int | None, typer.Option(help="Blocks open at once; 8 without.")] = None,
    memory_bytes: MemoryBytes = 2 * 2**30,
    seconds: Annotated[float, typer.Option(min=0.01, help="About how long each measurement takes at most.")] = 10.0,
    connection_name: Profile = None,
    as_json: Json = False,
) -> None:
    """Measure how fast this machine reads a FileSet, and say which arguments of a reader suit it."""
    where, fs = opened(where, connection_name)
    fs.pull()
    from fileset_integrations.measuring import measure
    from fileset_integrations.progress import amount
    from fileset_integrations.throughput import record_throughput

    found = measure(
        fs,
        columns=columns or None,
        batch_size=batch_size,
        streams=streams,
        memory_bytes=memory_bytes,
        seconds=seconds,
        progress=True,
    )
    for what, rate in (("bench, first epoch", found.first_epoch), ("bench, kept in memory", found.later_epochs)):
        if rate is not None:
            record_throughput(
                fs,
                what,
                num_rows=rate.num_rows,
                seconds=rate.seconds,
                streams=found.streams,
                batch_size=found.batch_size,
                memory_bytes=found.memory_bytes,
            )
    if as_json:
        print_json({"fileset": where, **found.to_json()})
        return
    print_facts(
        {
            "columns read": len(found.columns),
            "columns left out": ", ".join(found.left_out),
            "decode limit": _rate(found.decode),
            "first epoch": _rate(found.first_epoch),
            "later epochs": "not measured" if found.later_epochs is None else _rate(found.later_epochs),
            "first batch": f"{found.first_batch_s:.3f} s",
            "all rows decoded": amount(found.decoded_bytes, "bytes"),
            "memory used": f"{amount(found.used_bytes, 'bytes')} of {amount(found.memory_bytes, 'bytes')}",
            **{f"advice {number}": text for number, text in enumerate(found.advice, 1)},
        }
    )


def _rate(rate: Rate) -> str:
    cpu = rate.cpu_seconds / rate.seconds if rate.seconds else 0.0
    return f"{rate.rows_per_s:,.0f} rows/s on {cpu:.1f} processors ({rate.num_rows:,} rows in {rate.seconds:.2f} s)"


@app.command()
def report(
    where: Where = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="File to write; NAME.html without.")] = None,
    columns: Column = None,
    streams: Annotated[
        list[int] | None, typer.Option("--streams", "-s", min=1, help="Draw how so many streams mix (repeatable).")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Rows of the batches that are drawn.")] = 1024,
    exact: Annotated[bool | None, typer.Option("--exact/--approximate", help="As of `fileset stats`.")] = None,
    connection_name: Profile = None,
    as_json: Json = False,
) -> None:
    """Write one HTML page about a FileSet: provenance, columns, files, shuffling, speed. Reads the rows twice.

    The page needs neither scripts nor a network. It holds values of rows, and so is as secret as they are.
    """
    where, fs = opened(where, connection_name)
    path = Path(f"{fs.name}.html") if output is None else output
    if path.is_dir() or not path.absolute().parent.is_dir():
        raise FileSetLocationError(f"{path}: cannot be written. Pass -o FILE, in a directory that exists.")
    from fileset_integrations.profiles.measure import profile_columns
    from fileset_integrations.report.page import render

    profiles = profile_columns(fs, columns or None, progress=True, exact=exact)
    page = render(fs, profiles, title=fs.name, streams=streams or (8, 32), batch_size=batch_size)
    _write(path, page)
    if as_json:
        print_json({"fileset": where, "report": str(path), "num_bytes": path.stat().st_size})
    else:
        typer.echo(seen(str(path)))


def _write(path: Path, text: str) -> None:
    """All of the file or nothing, with the rights that a new file has."""
    handle, temporary = tempfile.mkstemp(dir=path.absolute().parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        mask = os.umask(0)
        os.umask(mask)
        Path(temporary).chmod(0o666 & ~mask)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
