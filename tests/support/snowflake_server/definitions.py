"""Databases, schemas, tables and stages: CREATE, DROP, USE, SHOW, DESCRIBE."""

from __future__ import annotations

import re
from datetime import UTC, datetime

from tests.support.snowflake_server.context import Context
from tests.support.snowflake_server.dialect import translate, translate_columns
from tests.support.snowflake_server.errors import SnowflakeError, missing, unsupported
from tests.support.snowflake_server.lexer import quote_name
from tests.support.snowflake_server.reading import Reader
from tests.support.snowflake_server.results import DDL, SHOW, Result, said
from tests.support.snowflake_server.sqltypes import text_column
from tests.support.snowflake_server.stages import Stage, stage_name

_SHOW_STAGES = (
    *("created_on", "name", "database_name", "schema_name", "url", "has_credentials", "has_encryption_key", "owner"),
    *("comment", "region", "type", "cloud", "notification_channel", "storage_integration", "endpoint"),
    *("owner_role_type", "directory_enabled"),
)


def create(reader: Reader, context: Context) -> Result:
    replace = reader.accept("OR", "REPLACE")
    for word in ("TRANSIENT", "TEMPORARY", "TEMP"):
        reader.accept(word)
    kind = reader.next("word").upper
    if_not_exists = reader.accept("IF", "NOT", "EXISTS")
    if kind not in ("DATABASE", "SCHEMA", "TABLE", "STAGE"):
        raise unsupported(f"CREATE {kind}")
    name = reader.name()
    if kind == "STAGE":
        return _create_stage(reader, context, name, replace=replace, if_not_exists=if_not_exists)
    if kind == "TABLE":
        return _create_table(reader, context, name, replace=replace, if_not_exists=if_not_exists)
    reader.end()
    if kind == "DATABASE":
        context.engine.create_database(name[-1], replace=replace, if_not_exists=if_not_exists)
        context.session.database, context.session.schema = name[-1], "PUBLIC"
    else:
        database = context.complete(name, 2)[0]
        context.engine.create_schema(database, name[-1], replace=replace, if_not_exists=if_not_exists)
        context.session.database, context.session.schema = database, name[-1]
    return said(f"{kind.capitalize()} {name[-1]} successfully created.")


def _create_table(reader: Reader, context: Context, name: list[str], *, replace: bool, if_not_exists: bool) -> Result:
    full = context.complete(name, 3)
    if not context.engine.has_schema(full[0], full[1]):
        raise missing("Schema", ".".join(full[:2]))
    start = f"CREATE {'OR REPLACE ' if replace else ''}TABLE {'IF NOT EXISTS ' if if_not_exists else ''}"
    cursor = context.cursor()
    if reader.accept("AS"):
        query = translate(reader.rest(), context.dialect)
        context.engine.execute(cursor, f"{start}{quote_name(*full)} AS {query.sql}", context.parameters)
        hints = {result: cast.hint for result, cast in query.casts.items() if cast.hint is not None}
    else:
        columns, hints = translate_columns(reader.parenthesized())
        reader.end()
        context.engine.execute(cursor, f"{start}{quote_name(*full)} ({columns})", [])
    context.engine.hints.update(hints)
    return said(f"Table {full[-1]} successfully created.")


def _create_stage(reader: Reader, context: Context, name: list[str], *, replace: bool, if_not_exists: bool) -> Result:
    full = stage_name(name, context.session.database, context.session.schema)
    if not context.engine.has_schema(full.database, full.schema):
        raise missing("Schema", f"{full.database}.{full.schema}")
    options = reader.options()
    unknown = set(options) - {"ENCRYPTION", "DIRECTORY", "COMMENT", "FILE_FORMAT"}
    if unknown:
        raise unsupported(f"the stage option {', '.join(sorted(unknown))}")
    encryption = options.get("ENCRYPTION", {})
    kind = encryption.get("TYPE", "SNOWFLAKE_FULL") if isinstance(encryption, dict) else encryption
    if kind not in ("SNOWFLAKE_FULL", "SNOWFLAKE_SSE"):
        raise SnowflakeError(1008, "22023", f"SQL compilation error:\ninvalid value '{kind}' for property 'ENCRYPTION'")
    directory = options.get("DIRECTORY", {})
    stage = Stage(
        name=full,
        server_side=kind == "SNOWFLAKE_SSE",
        directory=isinstance(directory, dict) and directory.get("ENABLE") == "TRUE",
        comment=str(options.get("COMMENT", "")),
        created=context.clock.now(),
    )
    if context.store.create(stage, replace=replace, if_not_exists=if_not_exists):
        return said(f"Stage area {full.stage} successfully created.")
    return said(f"{full.stage} already exists, statement succeeded.")


def drop(reader: Reader, context: Context) -> Result:
    kind = reader.next("word").upper
    if_exists = reader.accept("IF", "EXISTS")
    name = reader.name()
    if kind in ("DATABASE", "SCHEMA") and not reader.accept("CASCADE"):
        reader.accept("RESTRICT")
    reader.end()
    if kind == "STAGE":
        full = stage_name(name, context.session.database, context.session.schema)
        if not if_exists or any(stage.name == full for stage in context.store.stages()):
            context.store.drop(full)
    elif kind == "TABLE":
        full_name = context.complete(name, 3)
        words = "IF EXISTS " if if_exists else ""
        context.engine.execute(context.cursor(), f"DROP TABLE {words}{quote_name(*full_name)}", [])
    elif kind == "SCHEMA":
        database, schema = context.complete(name, 2)
        context.engine.drop_schema(database, schema, if_exists=if_exists)
        context.store.drop_schema(database, schema)
    elif kind == "DATABASE":
        context.engine.drop_database(name[-1], if_exists=if_exists)
        context.store.drop_schema(name[-1], None)
    else:
        raise unsupported(f"DROP {kind}")
    return said(f"{name[-1]} successfully dropped.")


def use(reader: Reader, context: Context) -> Result:
    kind = next((word for word in ("DATABASE", "SCHEMA", "WAREHOUSE", "ROLE") if reader.accept(word)), None)
    name = reader.name()
    reader.end()
    session = context.session
    if kind == "WAREHOUSE":
        session.warehouse = name[-1]
    elif kind == "ROLE":
        session.role = name[-1]
    elif kind == "SCHEMA" or (kind is None and len(name) == 2):
        database, schema = context.complete(name, 2)
        if not context.engine.has_schema(database, schema):
            raise SnowflakeError(2043, "02000", f"SQL compilation error:\nObject '{'.'.join(name)}' does not exist.")
        session.database, session.schema = database, schema
    else:
        if not context.engine.has_database(name[-1]):
            raise SnowflakeError(2043, "02000", f"SQL compilation error:\nObject '{name[-1]}' does not exist.")
        session.database, session.schema = name[-1], "PUBLIC"
    return said("Statement executed successfully.", DDL)


def show(reader: Reader, context: Context) -> Result:
    kind = reader.next("word").upper
    if kind == "STAGES":
        return _show_stages(reader, context)
    if kind in ("DATABASES", "SCHEMAS"):
        like = reader.string() if reader.accept("LIKE") else None
        schemas = context.engine.schemas()
        rows: list[list[str | None]]
        if kind == "DATABASES":
            rows = [[name] for name in sorted(schemas)]
        else:
            database = reader.name()[-1] if reader.accept("IN", "DATABASE") or reader.accept("IN") else None
            database = database or context.session.database or ""
            rows = [[name] for name in sorted(schemas.get(database, ()))]
        reader.end()
        return Result([text_column("name")], [row for row in rows if like is None or _like(like, str(row[0]))], SHOW)
    raise unsupported(f"SHOW {kind}")


def _show_stages(reader: Reader, context: Context) -> Result:
    like = reader.string() if reader.accept("LIKE") else None
    database, schema = context.session.database, context.session.schema
    if reader.accept("IN"):
        if reader.accept("ACCOUNT"):
            database = schema = None
        elif reader.accept("DATABASE"):
            database, schema = reader.name()[-1], None
        else:
            reader.accept("SCHEMA")
            database, schema = context.complete(reader.name(), 2)
            if not context.engine.has_schema(database, schema):
                raise SnowflakeError(
                    2043, "02000", f"SQL compilation error:\nObject '{database}.{schema}' does not exist."
                )
    reader.end()
    rows = [
        _stage_row(stage)
        for stage in context.store.stages()
        if database in (None, stage.name.database)
        and schema in (None, stage.name.schema)
        and (like is None or _like(like, stage.name.stage))
    ]
    return Result([text_column(name) for name in _SHOW_STAGES], rows, SHOW)


def _stage_row(stage: Stage) -> list[str | None]:
    created = datetime.fromtimestamp(stage.created, UTC).strftime("%Y-%m-%d %H:%M:%S.000 +0000")
    known = {
        "created_on": created,
        "name": stage.name.stage,
        "database_name": stage.name.database,
        "schema_name": stage.name.schema,
        "url": "",
        "has_credentials": "N",
        "has_encryption_key": "N",
        "owner": "SYSADMIN",
        "comment": stage.comment,
        "type": stage.type,
        "owner_role_type": "ROLE",
        "directory_enabled": "Y" if stage.directory else "N",
    }
    return [known.get(name) for name in _SHOW_STAGES]


def _like(pattern: str, text: str) -> bool:
    """SHOW ... LIKE: case-insensitive, with % and _ and backslash escapes."""
    expression = re.sub(
        r"\\(.)|(%)|(_)|(.)",
        lambda match: re.escape(match[1] or match[4]) if match[1] or match[4] else (".*" if match[2] else "."),
        pattern,
        flags=re.DOTALL,
    )
    return re.fullmatch(expression, text, re.IGNORECASE | re.DOTALL) is not None


def describe(reader: Reader, context: Context) -> Result:
    reader.expect("STAGE")
    full = stage_name(reader.name(), context.session.database, context.session.schema)
    reader.end()
    stage = context.store.stage(full)
    names = ("parent_property", "property", "property_type", "property_value", "property_default")
    rows: list[list[str | None]] = [
        ["STAGE_FILE_FORMAT", "TYPE", "String", "CSV", "CSV"],
        ["DIRECTORY", "ENABLE", "Boolean", str(stage.directory).lower(), "false"],
    ]
    return Result([text_column(name) for name in names], rows, SHOW)
