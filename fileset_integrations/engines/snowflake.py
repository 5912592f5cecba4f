"""Snowflake as the engine: COPY INTO unloads a query's result into the stage, in a directory of the run's own.

Nothing of it opens before the manifest is there. An answer that is lost on its way is an unknown outcome: the files
say, by the query's id in their names, whether it ran, and then its result is asked for again.
"""

from __future__ import annotations

import re
import uuid
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import pyarrow as pa

from fileset_integrations.engines.snowflake_types import Column, arrow_type, cast_of, check_unloaded, columns_of
from fileset_integrations.errors import (
    ColumnError,
    FileSetCorruptError,
    FileSetError,
    QueryError,
    SnowflakeError,
)
from fileset_integrations.manifest import DataFile, Manifest, file_table, mask_secrets, natural_key
from fileset_integrations.progress import progress_bar
from fileset_integrations.storage.connecting import Result, SnowflakeSession
from fileset_integrations.storage.footers import common_schema, read_footers, total_nulls
from fileset_integrations.storage.listing import Listed, require_server_side
from fileset_integrations.storage.locations import identifier
from fileset_integrations.storage.remote import RUN
from fileset_integrations.storage.stage import StageStorage

NAME = "snowflake"

_MAX_FILE_BYTES = 5 * 10**9  # https://docs.snowflake.com/en/sql-reference/sql/copy-into-location
_QUERY_ID = re.compile(r"data_([0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12})_[^/]*\.parquet")
# A literal, a quoted name or a comment, in which a semicolon and a keyword mean nothing.
_QUOTED = re.compile(r"""'(?:[^'\\]|\\.|'')*'|"(?:[^"]|"")*"|\$\$.*?\$\$|--[^\n]*|//[^\n]*|/\*.*?\*/""", re.DOTALL)


@dataclass(frozen=True, slots=True)
class Query:
    """One SELECT, ready to be unloaded.

    Attributes:
        text: The statement without its closing semicolon.
        columns: Columns of the result.
    """

    text: str
    columns: tuple[Column, ...]


def version(session: SnowflakeSession) -> str:
    """Version of the Snowflake that runs the queries."""
    rows = session.execute("SELECT CURRENT_VERSION()", again=True).rows
    return str(rows[0][0])


def parse(query: str, session: SnowflakeSession) -> Query:
    """Check that `query` is exactly one SELECT; it is described, not run.

    Raises:
        QueryError: It is empty, several statements, no SELECT, or Snowflake refuses it.
    """
    if not isinstance(query, str) or not query.strip():
        raise QueryError("query is empty. Pass one SELECT statement.")
    bare = _QUOTED.sub(lambda found: " " * len(found[0]), query)  # of the same length
    end = bare.find(";")
    if end >= 0:
        if bare[end:].strip("; \t\r\n"):
            raise QueryError("The query holds several statements. Pass exactly one SELECT.")
        query, bare = query[:end], bare[:end]
    word = re.match(r"[\s(]*([A-Za-z]*)", bare)
    if word is None or word[1].upper() not in ("SELECT", "WITH"):
        raise QueryError(
            f"The query begins with {(word[1] if word else '') or bare.strip()[:1]!r}. Pass exactly one SELECT, which "
            "may begin with WITH."
        )
    try:
        columns = columns_of(session.describe(query))
    except SnowflakeError as error:
        raise QueryError(f"Snowflake refuses the query: {error}") from error
    return Query(query, tuple(columns))


def write(
    query: Query,
    storage: StageStorage,
    name: str,
    wanted: Manifest,
    max_file_bytes: int,
    readback: bool,
    shown: bool | None = False,
) -> Manifest:
    """Unload the result into a stage, check what came, and publish it; the manifest.

    Args:
        query: What `parse` made of the user's text.
        storage: The stage.
        name: Name of the FileSet there.
        wanted: The manifest, but for files, schema and what is learned with them.
        max_file_bytes: Target for the size of a file.
        readback: Fetch the files, for their sha256.
        shown: Show how far it is, as of `progress.is_seen`. How far a query is, Snowflake does not tell.

    Raises:
        QueryError: The query failed.
        ColumnError: A column cannot be unloaded as it is, or `shuffle_key` is not unique.
        FileSetExistsError: Somebody else took the name meanwhile.
        FileSetLocationError: The stage is missing, of the wrong kind, or cannot be written.
        SnowflakeError: What became of the unload cannot be found out; nothing was published.
    """
    require_server_side(storage.kind(), storage.place)
    select = _select(query, wanted, storage.session)
    run = f"{RUN}{uuid.uuid4()}/"
    try:
        with progress_bar(f"Snowflake makes {name}", None, shown) as done:
            result = _unload(select, storage, name, run, max_file_bytes)
            done(sum(rows for _, _, rows in unloaded_files(result)))
            files = _checked_files(result, storage, name, run)
            manifest = _manifest(query, storage, name, run, files, replace(wanted, query_id=_query_id(files, result)))
        if readback and files:
            with progress_bar(f"Reading {name} back", manifest.num_bytes, shown, "bytes") as done:
                manifest = _with_digests(manifest, storage, name, done)
        storage.publish_manifest(name, run, manifest.to_bytes())
        return manifest
    except BaseException:
        storage.remove_run(name, run)
        raise


def _select(query: Query, wanted: Manifest, session: SnowflakeSession) -> str:
    names = [column.name for column in query.columns]
    casts = ", ".join(f"{cast_of(column)} AS {identifier(column.name)}" for column in query.columns)
    source = f"(\n{query.text}\n)"
    select = f"SELECT {casts} FROM {source}"
    if not wanted.shuffle:
        return select
    if not wanted.shuffle_key:
        # Not reproducible in spite of its seed (https://docs.snowflake.com/en/sql-reference/functions/random).
        return f"{select} ORDER BY RANDOM({wanted.seed})"
    missing = [key for key in wanted.shuffle_key if key not in names]
    if missing:
        raise ColumnError(
            f"shuffle_key names {', '.join(map(repr, missing))}, which the query does not return. Its columns: "
            f"{', '.join(names)}. Snowflake's names are upper case unless they are quoted."
        )
    keys = ", ".join(map(identifier, wanted.shuffle_key))
    _check_unique(source, keys, wanted.shuffle_key, session)
    return f"{select} ORDER BY HASH({keys}, {wanted.seed}), {keys}"


def _check_unique(source: str, keys: str, shuffle_key: Sequence[str], session: SnowflakeSession) -> None:
    # COUNT(DISTINCT ...) leaves out rows with nulls: a key with nulls counts as not unique, rightly.
    try:
        rows, distinct = session.execute(f"SELECT COUNT(*), COUNT(DISTINCT {keys}) FROM {source}", again=True).rows[0]
    except SnowflakeError as error:
        raise QueryError(f"Snowflake could not run the query: {_without_values(error)}") from error
    if rows != distinct:
        raise ColumnError(
            f"shuffle_key={list(shuffle_key)!r} is not unique: {rows} rows have {distinct} distinct keys without "
            "nulls, so that rows with equal keys would lie side by side. Add columns until it is unique, or leave "
            "shuffle_key out."
        )


def copy_statement(select: str, storage: StageStorage, name: str, run: str, max_file_bytes: int) -> str:
    """The COPY INTO that unloads a SELECT into a run's directory.

    https://docs.snowflake.com/en/sql-reference/sql/copy-into-location: without OVERWRITE, which leaves other files in
    place and may duplicate rows on a retry; with the query's id in the names, which removes what a retry leaves;
    without PARTITION BY, which gives up the order.
    """
    target = storage.place.reference(storage.place.path(name, run))
    return (
        f"COPY INTO {target} FROM (\n{select}\n) FILE_FORMAT = (TYPE = PARQUET COMPRESSION = SNAPPY) HEADER = TRUE "
        f"INCLUDE_QUERY_ID = TRUE MAX_FILE_SIZE = {min(max_file_bytes, _MAX_FILE_BYTES)} DETAILED_OUTPUT = TRUE"
    )


def _unload(select: str, storage: StageStorage, name: str, run: str, max_file_bytes: int) -> Result:
    """Run the COPY; where its answer is lost, find out by the files whether it ran, and ask for its result again."""
    try:
        return storage.session.execute(copy_statement(select, storage, name, run, max_file_bytes))
    except SnowflakeError as error:
        if error.refused:
            said = _without_values(error)
            raise QueryError(f"Snowflake could not run the query to its end: {said}") from error
        lost = error
    query_id = lost.query_id or _query_id(storage.listed(storage.place.path(name, run)), None)
    if query_id is not None:
        return storage.session.result_of(query_id)
    raise SnowflakeError(
        f"{storage.url(name)}: Snowflake's answer to COPY INTO was lost, and no file tells what became of it ({lost}). "
        "Nothing was published: make it again. `fileset rm --orphans` removes files that may still be written.",
        lost.errno,
        lost.sqlstate,
    ) from lost


def _query_id(files: Sequence[Listed], result: Result | None) -> str | None:
    """The id of the query that wrote files, from their names: one that Snowflake repeats has another than was told."""
    for file in files:
        if match := _QUERY_ID.fullmatch(file.path.rsplit("/", 1)[-1]):
            return match[1]
    return result.query_id if result is not None else None


def _checked_files(result: Result, storage: StageStorage, name: str, run: str) -> list[Listed]:
    """The files of the run, in order, where LIST and COPY agree on them."""
    reported = {path.rsplit("/", 1)[-1]: size for path, size, _ in unloaded_files(result)}
    listed = storage.listed(storage.place.path(name, run))
    found = {file.path.rsplit("/", 1)[-1]: file.size for file in listed}
    if found != reported:
        other = sorted(set(found.items()) ^ set(reported.items()))[0][0]
        raise FileSetCorruptError(
            f"{storage.url(name, run)}: COPY INTO reports {len(reported)} files and LIST shows {len(found)}; they "
            f"differ in {other!r}. Nothing was published: make it again."
        )
    return sorted(listed, key=lambda file: natural_key(file.path))


def unloaded_files(result: Result) -> list[tuple[str, int, int]]:
    """Path, size and rows of each file, as COPY INTO with DETAILED_OUTPUT reports them.

    By the place of the columns where their names are others: these are not documented. Without rows nothing is written.
    """
    places = [
        result.columns.index(name) if name in result.columns else place
        for place, name in enumerate(("file_name", "file_size", "row_count"))
    ]
    rows = [tuple(row[place] for place in places) for row in result.rows]
    return [(str(path), int(size), int(count)) for path, size, count in rows if int(count)]


def _manifest(
    query: Query, storage: StageStorage, name: str, run: str, listed: Sequence[Listed], wanted: Manifest
) -> Manifest:
    """The manifest, with what the footers of all files say; they are read by a few bytes each."""
    if not listed:
        fields = [pa.field(column.name, arrow_type(column)) for column in query.columns]
        return replace(wanted, schema=pa.schema(fields), null_counts={column.name: 0 for column in query.columns})
    storage.find(storage.url(name, run.rstrip("/")))  # so that sizes are known
    paths = [storage.shown(file.path) for file in listed]
    footers = read_footers(storage, paths)
    for path, footer, file in zip(paths, footers, listed, strict=True):
        if footer.bytes != file.size:
            raise FileSetCorruptError(f"{path}: {footer.bytes} bytes, LIST says {file.size}. Make it again.")
    schema = common_schema(paths, footers)
    for remark in check_unloaded(query.columns, schema):
        warnings.warn(remark, UserWarning, stacklevel=2)
    files = [
        DataFile(run + file.path.rsplit("/", 1)[-1], footer.rows, footer.bytes, None, footer.row_groups)
        for file, footer in zip(listed, footers, strict=True)
    ]
    return replace(
        wanted,
        files=file_table(files),
        schema=_with_dimensions(query.columns, schema),
        null_counts=total_nulls(footers),
    )


def _with_dimensions(columns: Sequence[Column], schema: pa.Schema) -> pa.Schema:
    """The schema, with each vector's dimension among its field's metadata: the files have lists."""
    fields = [
        schema.field(column.name).with_metadata({"dimension": str(column.dimension)})
        if column.dimension
        else schema.field(column.name)
        for column in columns
    ]
    return pa.schema(fields)


def _with_digests(manifest: Manifest, storage: StageStorage, name: str, done: Callable[[int], object]) -> Manifest:
    digests = storage.digests(storage.url(name), manifest, done)
    column = manifest.files.schema.get_field_index("sha256")
    return replace(manifest, files=manifest.files.set_column(column, "sha256", pa.array(digests, pa.string())))


def _without_values(error: FileSetError) -> str:
    """Snowflake's words about a failure at run time, in which it quotes values of rows, without these."""
    said = re.sub(r"'(?:[^']|'')*'", "'***'", str(error))
    return mask_secrets(said)
