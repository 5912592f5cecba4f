"""Commands about snapshots as wholes: make, ls, info, head, verify, pull, copy, rm."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fileset_integrations.cli.application import DAMAGED, app, to_the_end
from fileset_integrations.cli.completion import complete_fileset
from fileset_integrations.cli.output import (
    Json,
    Location,
    Profile,
    Where,
    facts_of,
    opened,
    print_facts,
    print_json,
    print_rows,
    print_table,
    say,
    seen,
)
from fileset_integrations.cli.sizes import MaxFileBytes
from fileset_integrations.errors import FileSetCorruptError, FileSetNotFoundError, QueryError

if TYPE_CHECKING:
    from fileset_integrations.storage.base import Storage


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
    max_file_bytes: MaxFileBytes = 32 * 2**20,
    if_exists: Annotated[
        str,
        typer.Option(
            metavar="error|open",
            help="Where the name is taken: open accepts what the same query made.",
            autocompletion=lambda: ["error", "open"],
        ),
    ] = "error",
    store_query: Annotated[bool, typer.Option(help="Keep the query's text, secrets masked.")] = True,
    connection_name: Profile = None,
    as_json: Json = False,
) -> None:
    """Run a query and keep its result: fileset make data/filesets flights < flights.sql.

    The embedded engine runs it; Snowflake does where LOCATION is a stage. Prints LOCATION/NAME, for other commands to
    read.
    """
    text = _query(query)
    from fileset_integrations.fileset import FileSet

    made = FileSet.make(
        target_stage_loc=location,
        name=name,
        query=text,
        shuffle=shuffle,
        seed=seed,
        shuffle_key=shuffle_key or None,
        max_file_bytes=max_file_bytes,
        if_exists=if_exists,  # type: ignore[arg-type]  # checked there
        store_query=store_query,
        connection_name=connection_name,
        progress=True,
    )
    where = f"{location.rstrip('/')}/{name}"
    if as_json:
        print_json(facts_of(where, made))
        return
    typer.echo(where)
    say(f"{made.num_rows:,} rows in {made.manifest.files.num_rows:,} files, {made.manifest.num_bytes:,} bytes")


def _query(path: Path | None) -> str:
    if path is None and sys.stdin is None:
        raise QueryError("There is no standard input to read a query from. Pass --query FILE.")
    if path is None and sys.stdin.isatty():
        say("The query, ended by Ctrl-D:")
    try:
        # Bytes: in some locales, text of other encodings would come with surrogates in it.
        return (sys.stdin.buffer.read() if path is None else path.read_bytes()).decode("utf-8")
    except UnicodeDecodeError as error:
        raise QueryError(f"{path or 'standard input'}: the query is no UTF-8 text ({error.reason}).") from error


@app.command()
def ls(location: Location, connection_name: Profile = None, as_json: Json = False) -> None:
    """List the FileSets at a location: name, rows, files, bytes, when they were made."""
    from fileset_integrations.fileset import FileSet
    from fileset_integrations.storage.directory import LocalStorage

    storage = _storage(location, connection_name)
    found, damaged = [], []
    names = storage.names()
    if not names and isinstance(storage, LocalStorage) and not Path(storage.location).is_dir():
        raise FileSetNotFoundError(f"{storage.location}: there is no such directory. Pass one that holds FileSets.")
    for name in names:
        try:
            fs = FileSet(target_stage_loc=location, name=name, connection_name=connection_name)
        except FileSetCorruptError as error:
            damaged.append(error)
            continue
        found.append(facts_of(f"{location.rstrip('/')}/{name}", fs))
    if as_json:
        print_json(found)
    else:
        keys = ("name", "num_rows", "num_files", "num_bytes", "created_at")
        print_table(("name", "rows", "files", "bytes", "made"), ([one[key] for key in keys] for one in found))
    if damaged:
        raise damaged[0]


@app.command()
def info(where: Where = None, connection_name: Profile = None, as_json: Json = False) -> None:
    """Say what a FileSet consists of and where it comes from."""
    facts = facts_of(*opened(where, connection_name))
    if as_json:
        print_json(facts)
    else:
        _print_info(facts)


def _print_info(facts: dict[str, Any]) -> None:
    if not sys.stdout.isatty():
        print_facts(facts)
        return
    from fileset_integrations.progress import amount

    schema, nulls = facts.pop("schema"), facts.pop("null_counts")
    facts["num_bytes"] = f"{facts['num_bytes']:,} ({amount(facts['num_bytes'], 'bytes')})"
    print_facts({name: value for name, value in facts.items() if value not in (None, [])})
    typer.echo()
    print_table(("column", "type", "nulls"), ([name, type_, nulls.get(name)] for name, type_ in schema.items()))


@app.command()
def head(
    where: Where = None,
    rows: Annotated[int, typer.Option("--rows", "-n", min=0, help="Rows to print.")] = 10,
    columns: Annotated[list[str] | None, typer.Option("--column", "-C", help="Only this column (repeatable).")] = None,
    connection_name: Profile = None,
    as_json: Json = False,
) -> None:
    """Print the first rows."""
    table = opened(where, connection_name)[1].to_arrow(columns or None, limit=rows)
    if as_json:
        print_json(table.to_pylist())
    else:
        print_rows(table.column_names, [[*row.values()] for row in table.to_pylist()])


@app.command()
def verify(where: Where = None, connection_name: Profile = None, as_json: Json = False) -> None:
    """Compare every file with the manifest: size, sha256, footer. Prints those that differ, and how."""
    where, fs = opened(where, connection_name)
    problems = fs.find_problems(progress=True)
    if as_json:
        print_json({"fileset": where, "num_files": fs.manifest.files.num_rows, "problems": problems})
    elif problems:
        for problem in problems:
            typer.echo(seen(problem))
    else:
        typer.echo(f"{fs.manifest.files.num_rows} files are what was written.")
    if problems:
        count = f"{len(problems)} of {fs.manifest.files.num_rows}"
        typer.echo(f"fileset: {where}: {count} files are not what was written. Make or copy it again.", err=True)
        raise typer.Exit(DAMAGED)


@app.command()
def pull(where: Where = None, connection_name: Profile = None, as_json: Json = False) -> None:
    """Fetch all files of a FileSet in a stage or a bucket into the cache of this machine."""
    where, fs = opened(where, connection_name)
    fs.pull()
    if as_json:
        print_json({"fileset": where, "num_files": fs.manifest.files.num_rows, "num_bytes": fs.manifest.num_bytes})
    else:
        typer.echo(f"{fs.manifest.files.num_rows} files are here.")


@app.command()
def copy(
    where: Annotated[
        str, typer.Argument(metavar="LOCATION/NAME", help="The FileSet.", autocompletion=complete_fileset)
    ],
    location: Annotated[str, typer.Argument(metavar="TO", help="Directory, URL or stage to copy it to.")],
    name: Annotated[str | None, typer.Option(help="The copy's name; that of the FileSet without.")] = None,
    connection_name: Profile = None,
    as_json: Json = False,
) -> None:
    """Copy a FileSet, every file verified, under the same snapshot id. Prints the copy's LOCATION/NAME."""
    from fileset_integrations.fileset import FileSet
    from fileset_integrations.storage.opening import is_stage

    source = FileSet.open(where, connection_name=connection_name if is_stage(where) else None)
    copied = source.copy_to(
        location, name=name, connection_name=connection_name if is_stage(location) else None, progress=True
    )
    there = f"{location.rstrip('/')}/{copied.name}"
    if as_json:
        print_json(facts_of(there, copied))
    else:
        typer.echo(there)


@app.command()
def rm(
    where: Annotated[
        str,
        typer.Argument(
            metavar="LOCATION[/NAME]",
            help="The FileSet; with --orphans its location.",
            autocompletion=complete_fileset,
        ),
    ],
    orphans: Annotated[bool, typer.Option("--orphans", help="Remove what crashed makes have left.")] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False,
    connection_name: Profile = None,
    as_json: Json = False,
) -> None:
    """Remove a FileSet: its manifest, then exactly the files that it lists. Asks before."""
    if orphans:
        removed = _storage(where, connection_name).remove_orphans()
        if as_json:
            print_json({"removed": removed})
        else:
            for path in removed:
                typer.echo(path)
        return
    where, fs = opened(where, connection_name)
    confirmed(yes, f"Remove {where}, {fs.num_rows:,} rows in {fs.manifest.files.num_rows:,} files?")
    with to_the_end():
        fs.delete()
    if as_json:
        print_json({"removed": [where]})


def confirmed(yes: bool, question: str) -> None:
    """Ask, on standard error, unless it was answered before; no, or no answer at all, ends the command."""
    if not yes:
        typer.confirm(question, abort=True, err=True)


def _storage(location: str, connection_name: str | None) -> Storage:
    from fileset_integrations.storage.connecting import session_of
    from fileset_integrations.storage.opening import open_storage

    return open_storage(location, session=session_of(None, None, connection_name))
