"""What commands have in common: their arguments, and how they say what they found."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fileset_integrations.cli.completion import complete_fileset, local_names
from fileset_integrations.errors import FileSetNotFoundError, SpecError

if TYPE_CHECKING:
    from fileset_integrations.fileset import FileSet

Where = Annotated[
    str | None,
    typer.Argument(
        metavar="[LOCATION/NAME]",
        show_default=False,
        help="The FileSet; without, standard input says.",
        autocompletion=complete_fileset,
    ),
]
Location = Annotated[
    str, typer.Argument(metavar="LOCATION", help="A directory, URL or @database.schema.stage/dir that holds FileSets.")
]
Profile = Annotated[
    str | None,
    typer.Option("--connection-name", "-c", help="Profile in connections.toml, for a stage; the default one without."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


def opened(where: str | None, connection_name: str | None) -> tuple[str, FileSet]:
    """The FileSet of an argument, or of what another command printed; and how it is written.

    Raises:
        SpecError: Nothing names one.
        The errors of `FileSet.open`.
    """
    from fileset_integrations.fileset import FileSet

    where = named(where)
    try:
        return where, FileSet.open(where, connection_name=connection_name)
    except FileSetNotFoundError as error:
        if (there := _what_there_is(where)) is None:
            raise
        raise FileSetNotFoundError(f"{where}: there is no such FileSet. {there}") from error


def _what_there_is(where: str) -> str | None:
    """What a person who mistook a name in a directory may have meant; None where nothing is there."""
    parent, _, name = where.rstrip("/").rpartition("/")
    if local_names(where):
        return f"It is a location, which holds FileSets: `fileset ls {where}` lists them."
    if not (names := local_names(parent or ".")):
        return None
    alike = get_close_matches(name, names, n=3) or names[:3]
    more = f"; `fileset ls {parent or '.'}` lists all {len(names)}" if len(names) > len(alike) else ""
    return f"{parent or '.'} holds {', '.join(alike)}{more}."


def named(where: str | None) -> str:
    """LOCATION/NAME as it was given, or as the first line of standard input has it: by itself, or in JSON.

    Raises:
        SpecError: Neither names one.
    """
    if where is not None:
        return where
    text = "" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.readline().strip()
    if text.startswith("{"):
        try:
            text = str(json.loads(text)["fileset"])
        except (ValueError, KeyError, TypeError):
            raise SpecError("Standard input is JSON without the key 'fileset'. Pass LOCATION/NAME.") from None
    if not text:
        raise SpecError("There is no LOCATION/NAME. Pass it, or pipe it in: fileset make ... | fileset info")
    return text


def facts_of(where: str, fs: FileSet) -> dict[str, Any]:
    """What a FileSet consists of and where it comes from, under the names of its attributes."""
    manifest = fs.manifest
    return {
        "fileset": where,
        "name": fs.name,
        "snapshot_id": fs.snapshot_id,
        "num_rows": fs.num_rows,
        "num_files": manifest.files.num_rows,
        "num_bytes": manifest.num_bytes,
        "schema": {field.name: str(field.type) for field in fs.schema},
        "null_counts": dict(manifest.null_counts),
        "query": manifest.query,
        "query_sha256": manifest.query_sha256,
        "query_id": manifest.query_id,
        "engine": manifest.engine,
        "engine_version": manifest.engine_version,
        "shuffle": manifest.shuffle,
        "shuffle_key": list(manifest.shuffle_key),
        "seed": manifest.seed,
        "reproducible": manifest.reproducible,
        "created_at": manifest.created_at,
    }


def print_json(value: Any) -> None:
    """One line of JSON; what JSON has no form for as text."""
    typer.echo(json.dumps(value, default=str))


def print_facts(facts: Mapping[str, Any]) -> None:
    """Names and values, one a line; names and values of a mapping among them below each other."""
    rows = []
    for name, value in facts.items():
        inner = value.items() if isinstance(value, Mapping) else ()
        rows += [(f"{name}.{key}", one) for key, one in inner] if inner else [(name, _plain(value))]
    print_table((), rows)


def print_table(headers: Sequence[str], rows: Iterable[Sequence[Any]]) -> None:
    """A table for people on a terminal; elsewhere lines of cells between tabs, without headers, for other programs.

    Cells may come from rows of data: what a terminal would take for a command is written out.
    """
    if not sys.stdout.isatty():
        for row in rows:
            typer.echo("\t".join(map(_cell, row)))
        return
    _print_grid(headers, [[f"{cell:,}" if _is_number(cell) else cell for cell in row] for row in rows])


def print_rows(names: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    """Rows of data: on a terminal that is too narrow for all columns, columns below each other."""
    if not sys.stdout.isatty():
        print_table(names, rows)
        return
    from rich.cells import cell_len
    from rich.console import Console

    room = Console().width
    texts = [[_cut(_cell(cell)) for cell in row] for row in rows]
    widths = [max(map(cell_len, column)) + 2 for column in zip(map(_cell, names), *texts, strict=True)]
    if sum(widths) <= room or not rows:
        _print_grid(names, texts)
        return
    beside = max(map(cell_len, map(_cut, names)), default=0) + 2
    each = max((room - beside) // (max(cell_len(cell) for row in texts for cell in row) + 2), 1)
    for start in range(0, len(texts), each):
        block = texts[start : start + each]
        if start:
            typer.echo()
        numbers = [str(place) for place in range(start + 1, start + len(block) + 1)]
        _print_grid(("row", *numbers), [[_cut(name), *cells] for name, *cells in zip(names, *block, strict=True)])


def _print_grid(headers: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=bool(headers), header_style="bold", pad_edge=False, padding=(0, 2, 0, 0))
    for place in range(len(headers) or len(rows[0] if rows else ())):
        column = [_cell(row[place]) for row in rows]
        numbers = bool(headers) and any(column) and all(_NUMBER.fullmatch(cell) for cell in column if cell)
        table.add_column(Text(seen(headers[place])) if headers else "", justify="right" if numbers else "left")
    for row in rows:
        table.add_row(*(Text(_cell(cell), overflow="fold") for cell in row))
    Console().print(table)


_NUMBER = re.compile(r"≈?-?[\d,.]+(e[+-]?\d+)?( ?([KMGT]iB|bytes|%))?")
_WIDEST = 40  # characters of a value of a row


def _is_number(cell: Any) -> bool:
    return isinstance(cell, int) and not isinstance(cell, bool)


def _cell(cell: Any) -> str:
    return seen("" if cell is None else str(cell))


def _cut(text: str) -> str:
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"


def say(text: str) -> None:
    """A word to a person who looks on, on standard error; nothing where that is no terminal."""
    if sys.stderr.isatty():
        typer.echo(text, err=True)


def seen(text: str) -> str:
    """Text with control characters written out."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def _plain(value: Any) -> Any:
    if isinstance(value, list | Mapping):
        return ", ".join(map(str, value))
    return value
