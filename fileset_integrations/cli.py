"""The `fileset` command: make, list, inspect, check and remove FileSets."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from fileset_integrations.errors import FileSetError
from fileset_integrations.fileset import FileSet
from fileset_integrations.storage.connecting import session_of
from fileset_integrations.storage.directory import Storage, is_stage, open_storage

app = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="FileSets: immutable snapshots of SQL queries' results, as Parquet files under one name.",
)

Where = Annotated[str, typer.Argument(metavar="LOCATION/NAME", help="The FileSet.")]
Location = Annotated[
    str, typer.Argument(metavar="LOCATION", help="A directory, URL or @database.schema.stage/dir that holds FileSets.")
]
Profile = Annotated[
    str | None,
    typer.Option("--connection-name", "-c", help="Profile in connections.toml, for a stage; the default one without."),
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]


@app.command()
def make(
    location: Location,
    name: Annotated[str, typer.Argument(metavar="NAME", help="The new FileSet's name.")],
    query: Annotated[
        Path | None, typer.Option("--query", "-q", help="File that holds the SELECT; standard input without it.")
    ] = None,
    shuffle: Annotated[bool, typer.Option("--shuffle", help="Shuffle the rows globally.")] = False,
    seed: Annotated[int, typer.Option(help="Seed of that shuffle.")] = 0,
    shuffle_key: Annotated[
        list[str] | None, typer.Option(help="Column that is unique (repeat for several), to shuffle by.")
    ] = None,
    max_file_bytes: Annotated[int, typer.Option(help="Size that files should have.")] = 32 * 2**20,
    if_exists: Annotated[str, typer.Option(help="error, or open: accept what the same query made.")] = "error",
    connection_name: Profile = None,
    as_json: Json = False,
) -> None:
    """Run a query and keep its result: fileset make data/filesets flights < flights.sql.

    The embedded engine runs it; Snowflake does where LOCATION is a stage.
    """
    text = query.read_text(encoding="utf-8") if query else sys.stdin.read()
    made = FileSet.make(
        target_stage_loc=location,
        name=name,
        query=text,
        shuffle=shuffle,
        seed=seed,
        shuffle_key=shuffle_key or None,
        max_file_bytes=max_file_bytes,
        if_exists=if_exists,  # type: ignore[arg-type]  # checked there
        connection_name=connection_name,
    )
    _show(_facts(made), as_json)


@app.command()
def ls(location: Location, connection_name: Profile = None, as_json: Json = False) -> None:
    """List the FileSets at a location."""
    names = _storage(location, connection_name).names()
    found = [FileSet(target_stage_loc=location, name=name, connection_name=connection_name) for name in names]
    if as_json:
        typer.echo(json.dumps([_facts(fs) for fs in found]))
        return
    table = Table("name", "rows", "files", "bytes", "made", box=None)
    for fs in found:
        facts = _facts(fs)
        table.add_row(fs.name, *(str(facts[key]) for key in ("num_rows", "num_files", "num_bytes", "created_at")))
    Console().print(table)


@app.command()
def info(where: Where, connection_name: Profile = None, as_json: Json = False) -> None:
    """Say what a FileSet consists of and where it comes from."""
    _show(_facts(FileSet.open(where, connection_name=connection_name)), as_json)


@app.command()
def head(
    where: Where,
    rows: Annotated[int, typer.Option("--rows", "-n", help="Rows to print.")] = 10,
    connection_name: Profile = None,
    as_json: Json = False,
) -> None:
    """Print the first rows."""
    table = FileSet.open(where, connection_name=connection_name).to_arrow(limit=rows)
    if as_json:
        typer.echo(json.dumps(table.to_pylist(), default=str))
        return
    shown = Table(*map(escape, table.column_names), box=None)
    for row in table.to_pylist():
        shown.add_row(*(Text("" if value is None else str(value)) for value in row.values()))
    Console().print(shown)


@app.command()
def verify(where: Where, connection_name: Profile = None) -> None:
    """Compare every file with the manifest: size, sha256, footer."""
    fs = FileSet.open(where, connection_name=connection_name)
    fs.verify()
    typer.echo(f"{fs.manifest.files.num_rows} files are what was written.")


@app.command()
def pull(where: Where, connection_name: Profile = None) -> None:
    """Fetch all files of a FileSet in a stage into the cache of this machine."""
    fs = FileSet.open(where, connection_name=connection_name)
    fs.pull()
    typer.echo(f"{fs.manifest.files.num_rows} files are here.")


@app.command()
def copy(
    where: Where,
    location: Annotated[str, typer.Argument(metavar="TO", help="Directory, URL or stage to copy it to.")],
    name: Annotated[str | None, typer.Option(help="The copy's name; that of the FileSet without.")] = None,
    connection_name: Profile = None,
    as_json: Json = False,
) -> None:
    """Copy a FileSet, every file verified, under the same snapshot id."""
    source = FileSet.open(where, connection_name=connection_name if is_stage(where) else None)
    copied = source.copy_to(location, name=name, connection_name=connection_name if is_stage(location) else None)
    _show(_facts(copied), as_json)


@app.command()
def rm(
    where: Annotated[str, typer.Argument(metavar="LOCATION[/NAME]", help="The FileSet; with --orphans its location.")],
    orphans: Annotated[bool, typer.Option("--orphans", help="Remove what crashed makes have left.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    connection_name: Profile = None,
) -> None:
    """Remove a FileSet: its manifest, then exactly the files that it lists."""
    if orphans:
        for path in _storage(where, connection_name).remove_orphans():
            typer.echo(path)
        return
    fs = FileSet.open(where, connection_name=connection_name)
    if not yes:
        typer.confirm(f"Remove {where}, {fs.num_rows} rows in {fs.manifest.files.num_rows} files?", abort=True)
    fs.delete()


def _storage(location: str, connection_name: str | None) -> Storage:
    return open_storage(location, session=session_of(None, None, connection_name))


def _facts(fs: FileSet) -> dict[str, Any]:
    manifest = fs.manifest
    return {
        "name": fs.name,
        "snapshot_id": fs.snapshot_id,
        "num_rows": fs.num_rows,
        "num_files": manifest.files.num_rows,
        "num_bytes": manifest.num_bytes,
        "schema": {field.name: str(field.type) for field in fs.schema},
        "null_counts": dict(manifest.null_counts),
        "query": manifest.query,
        "query_sha256": manifest.query_sha256,
        "engine": manifest.engine,
        "engine_version": manifest.engine_version,
        "shuffle": manifest.shuffle,
        "shuffle_key": list(manifest.shuffle_key),
        "seed": manifest.seed,
        "reproducible": manifest.reproducible,
        "created_at": manifest.created_at,
    }


def _show(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(facts))
        return
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        text = "\n".join(f"{key}: {one}" for key, one in value.items()) if isinstance(value, dict) else str(value)
        table.add_row(name, Text(text))
    Console().print(table)


def main() -> None:
    """Run the command; a mistake of the user's is one line on standard error and exit code 1."""
    try:
        app()
    except FileSetError as error:
        typer.echo(f"fileset: {error}", err=True)
        sys.exit(1)
