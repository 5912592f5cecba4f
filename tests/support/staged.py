"""FileSets in the stages of the local Snowflake."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from fileset_integrations.fileset import FileSet
from tests.support.data import numbered_tables
from tests.support.snowflake_server import Server

STAGE = "@DB1.S1.FS"
PROFILE = "local"


def make_stage(server: Server, name: str = "FS", encryption: str = "SNOWFLAKE_SSE") -> str:
    """Make a stage, by its exact name, in DB1.S1; returns "@DB1.S1.name"."""
    quoted = '"' + name.replace('"', '""') + '"'
    run(server, f"CREATE STAGE IF NOT EXISTS DB1.S1.{quoted} ENCRYPTION = (TYPE = '{encryption}')")
    return f"@DB1.S1.{name if name.isidentifier() and name.isupper() else quoted}"


def run(server: Server, *statements: str) -> list[Any]:
    """Run statements on a connection of their own; the rows of the last one."""
    connection = server.connect()
    try:
        rows: list[Any] = []
        for statement in statements:
            rows = connection.cursor().execute(statement).fetchall()
        return rows
    finally:
        connection.close()


def load_numbers(server: Server, rows: int, table: str = "DB1.S1.NUMBERS") -> None:
    """A table of `numbered_tables`: ID, X, Y, NAME, no value of a column twice."""
    (numbers,) = numbered_tables([rows])
    server.load(table, numbers.rename_columns([name.upper() for name in numbers.column_names]))


def fetched_files(cache: Path) -> list[Path]:
    """The fetched files in a cache directory."""
    return [path for path in (cache / "files").glob("??/*") if "-" not in path.name]


def staged_numbers(
    server: Server, file_rows: Sequence[int], name: str = "numbers", *, digests: bool = False, **options: Any
) -> FileSet:
    """A FileSet in the stage with the files of `numbered_tables`, as a COPY INTO would have left them.

    `digests`: its manifest knows the sha256 of its files, as after make(digest="readback").
    """
    import hashlib
    import io
    import uuid
    from dataclasses import replace

    import pyarrow.parquet as pq

    from fileset_integrations.manifest import DataFile, Manifest, file_table

    files, schema = [], None
    folder = f"run-{uuid.uuid4()}"
    for number, table in enumerate(numbered_tables(file_rows)):
        sink = io.BytesIO()
        pq.write_table(table, sink)
        data, path = sink.getvalue(), f"{folder}/data_0_{number}_0.snappy.parquet"
        server.put(f"{STAGE}/sets/{name}/{path}", data)
        digest = hashlib.sha256(data).hexdigest() if digests else None
        files.append(DataFile(path, table.num_rows, len(data), digest, (table.num_rows,)))
        schema = table.schema
    manifest = Manifest(
        snapshot_id=str(uuid.uuid4()),
        files=file_table(files),
        schema=schema if schema is not None else pa.schema([]),
        null_counts=dict.fromkeys(schema.names, 0) if schema is not None else {},
    )
    server.put(f"{STAGE}/sets/{name}/manifest", replace(manifest).to_bytes())
    return FileSet(target_stage_loc=f"{STAGE}/sets", name=name, connection_name=PROFILE, **options)
