"""What commands have in common: their arguments, and how they say what they found."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fileset_integrations.errors import SpecError

if TYPE_CHECKING:
    from fileset_integrations.fileset import FileSet

Where = Annotated[
    str | None,
    typer.Argument(metavar="[LOCATION/NAME]", show_default=False, help="The FileSet; without, standard input says."),
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
    return where, FileSet.open(where, connection_name=connection_name)


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
    texts = [[seen("" if cell is None else str(cell)) for cell in row] for row in rows]
    if not sys.stdout.isatty():
        for row in texts:
            typer.echo("\t".join(row))
        return
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    table = Table(box=None, show_header=bool(headers))
    for header in headers:
        table.add_column(Text(seen(header)))
    for _ in range(0 if headers or not texts else len(texts[0])):
        table.add_column()
    for row in texts:
        table.add_row(*map(Text, row))
    Console().print(table)


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
