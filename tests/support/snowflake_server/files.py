"""Statements about the files of a stage: LIST, REMOVE, GET, PUT, COPY INTO a stage."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from tests.support.snowflake_server.context import Context
from tests.support.snowflake_server.dialect import translate
from tests.support.snowflake_server.encryption import encrypt, material
from tests.support.snowflake_server.errors import SnowflakeError, syntax, unsupported
from tests.support.snowflake_server.lexer import Token, string_value
from tests.support.snowflake_server.reading import Reader
from tests.support.snowflake_server.results import COPY, GET, LIST, PUT, REMOVE, Result
from tests.support.snowflake_server.sessions import CREDENTIAL_SECONDS
from tests.support.snowflake_server.sqltypes import number_column, text_column
from tests.support.snowflake_server.stages import Location, Stage, list_rows, listed_name
from tests.support.snowflake_server.unload import Options, unload

_THRESHOLD = 209_715_200  # bytes above which the connector moves a file in parts


def _pattern(reader: Reader) -> str | None:
    options = reader.options()
    if set(options) - {"PATTERN"}:
        raise syntax(f"unexpected '{next(iter(options))}'.")
    return str(options["PATTERN"]) if options else None


def list_files(reader: Reader, context: Context) -> Result:
    location = context.location(reader.stage_reference())
    found = context.store.files(location, _pattern(reader))
    rows = list(list_rows(context.store.stage(location.stage), found, context.settings.digests))
    if context.fault is not None and rows:
        match context.fault.action:
            case "wrong_md5":
                rows[-1][2] = hashlib.md5(b"another file", usedforsecurity=False).hexdigest()
            case "no_md5":
                for row in rows:
                    row[2] = None
            case "wrong_size":
                rows[-1][1] = str(int(rows[-1][1] or 0) + 1)
            case "unlisted":
                rows.pop()
    columns = [text_column("name"), number_column("size"), text_column("md5"), text_column("last_modified")]
    return Result(columns, rows, LIST)


def remove(reader: Reader, context: Context) -> Result:
    location = context.location(reader.stage_reference())
    stage = context.store.stage(location.stage)
    rows: list[list[str | None]] = []
    for path, _ in context.store.files(location, _pattern(reader)):
        context.store.remove(stage, path)
        rows.append([listed_name(stage, path), "removed"])
    return Result([text_column("name"), text_column("result")], rows, REMOVE)


def get(reader: Reader, context: Context) -> Result:
    location = context.location(reader.stage_reference())
    local = _local(reader)
    options = _checked(reader.options(), {"PARALLEL", "PATTERN"})
    stage = context.store.stage(location.stage)
    found = context.store.files(location, options.get("PATTERN"))
    paths = [path for path, _ in found]
    data = _transfer("DOWNLOAD", context, local, options)
    data["src_locations"] = paths
    if context.settings.transfer == "gcs" and stage.server_side:
        urls = [context.objects.url(context.base_url, stage, path, CREDENTIAL_SECONDS) for path in paths]
        data |= {"presignedUrls": urls, "stageInfo": _gcs_info(context, stage)}
    else:
        data["stageInfo"] = _s3_info(context, stage, "")
        if not stage.server_side:
            data["encryptionMaterial"] = [material(stage.key) for _ in paths]
    return Result([], [], GET, data)


def put(reader: Reader, context: Context) -> Result:
    local = _local(reader)
    location = context.location(reader.stage_reference())
    known = {"PARALLEL", "AUTO_COMPRESS", "SOURCE_COMPRESSION", "OVERWRITE"}
    options = _checked(reader.options(), known)
    stage = context.store.stage(location.stage)
    directory = location.path if not location.path or location.path.endswith("/") else location.path + "/"
    data = _transfer("UPLOAD", context, None, options)
    data |= {
        "src_locations": [local],
        "overwrite": options.get("OVERWRITE", "FALSE") == "TRUE",
        "autoCompress": options.get("AUTO_COMPRESS", "TRUE") == "TRUE",
        "sourceCompression": options.get("SOURCE_COMPRESSION", "AUTO_DETECT").lower(),
        "stageInfo": _s3_info(context, stage, directory),
    }
    if not stage.server_side:
        data["encryptionMaterial"] = material(stage.key)
    return Result([], [], PUT, data)


def _local(reader: Reader) -> str:
    token = reader.next("url", "string")
    text = token.text if token.kind == "url" else string_value(token)
    if not text.startswith("file://"):
        raise syntax(f"unexpected '{text}': a local file is file://...")
    return unquote(text.removeprefix("file://"))


def _checked(options: dict[str, Any], known: set[str]) -> dict[str, str]:
    if set(options) - known:
        raise syntax(f"unexpected '{min(set(options) - known)}'.")
    return {name: str(value) for name, value in options.items()}


def _transfer(command: str, context: Context, local: str | None, options: dict[str, str]) -> dict[str, Any]:
    return {
        "command": command,
        "operation": "Node",
        "localLocation": local,
        "parallel": int(options.get("PARALLEL", 10)),
        "threshold": _THRESHOLD,
        "overwrite": False,
        "autoCompress": True,
        "sourceCompression": "auto_detect",
        "clientShowEncryptionParameter": False,
    }


def _s3_info(context: Context, stage: Stage, directory: str) -> dict[str, Any]:
    keys = context.access.credentials()
    return {
        "locationType": "S3",
        "location": context.objects.location(stage, directory),
        "path": directory,
        "region": "us-east-1",
        "storageAccount": None,
        "isClientSideEncrypted": not stage.server_side,
        "creds": {
            "AWS_KEY_ID": keys.key_id,
            "AWS_SECRET_KEY": keys.secret_key,
            "AWS_TOKEN": keys.token,
            "AWS_ID": keys.key_id,
            "AWS_KEY": keys.secret_key,
        },
        "presignedUrl": None,
        "endPoint": context.base_url,  # with its scheme: a bare host would mean https
        "useRegionalUrl": False,
        "useVirtualUrl": False,
    }


def _gcs_info(context: Context, stage: Stage) -> dict[str, Any]:
    return {
        "locationType": "GCS",
        "location": context.objects.location(stage),
        "path": "",
        "region": "us-central1",
        "storageAccount": None,
        "isClientSideEncrypted": False,
        "creds": {},
        "presignedUrl": None,
        "endPoint": None,
        "useRegionalUrl": False,
    }


def copy_into(reader: Reader, context: Context) -> Result:
    reference = reader.stage_reference()
    location = context.location(reference)
    stage = context.store.stage(location.stage)
    reader.expect("FROM")
    query = _source(reader)
    options = _unload_options(reader, context)
    if not options.overwrite and not options.include_query_id and context.store.files(location):
        message = f"Files already existing at the unload destination: {reference}. Use overwrite option to force."
        raise SnowflakeError(1030, "22000", message)
    translated = translate(query, context.dialect)
    cursor = context.cursor()
    columns, batches = context.engine.query(cursor, translated.sql, translated.casts, context.parameters)
    report: list[list[str | int]] = []
    fault = context.fault.action if context.fault is not None else ""
    for file in unload(batches, columns, translated.casts, options, context.query_id, context.store.new_content):
        path = _joined(location, file.name)
        metadata = {} if stage.server_side else encrypt(file.content, stage.key)
        stored = context.store.put(stage, path, file.content, context.clock.now(), metadata)
        report.append([path.removeprefix(_directory(location)), stored.size, file.num_rows])
        if fault == "partial" and context.fault is not None:
            raise SnowflakeError(context.fault.errno, context.fault.sqlstate, context.fault.message)
    if fault == "missing" and report:
        context.store.remove(stage, _directory(location) + str(report[-1][0]))
    if fault == "fewer" and report:
        report.pop()
    total = sum(int(row[1]) for row in report)
    if options.detailed_output:
        names = [text_column("FILE_NAME"), number_column("FILE_SIZE"), number_column("ROW_COUNT")]
        return Result(names, [[str(value) for value in row] for row in report], COPY)
    names = [number_column(name) for name in ("rows_unloaded", "input_bytes", "output_bytes")]
    return Result(names, [[str(sum(int(row[2]) for row in report)), str(total), str(total)]], COPY)


def _source(reader: Reader) -> list[Token]:
    if reader.token is not None and reader.token.text == "(":
        return reader.parenthesized()
    name = reader.name()
    parts = [Token("op", ".", 0)] * (2 * len(name) - 1)
    parts[::2] = [Token("quoted", '"' + part.replace('"', '""') + '"', 0) for part in name]
    return [Token("word", "SELECT", 0), Token("op", "*", 0), Token("word", "FROM", 0), *parts]


def _unload_options(reader: Reader, context: Context) -> Options:
    raw = reader.options()
    file_format = raw.pop("FILE_FORMAT", {})
    if not isinstance(file_format, dict) or file_format.get("TYPE") != "PARQUET":
        raise unsupported("unloading as anything but FILE_FORMAT = (TYPE = PARQUET)")
    if set(file_format) - {"TYPE", "COMPRESSION"}:
        raise unsupported(f"the file format option {min(set(file_format) - {'TYPE', 'COMPRESSION'})}")
    compression = file_format.get("COMPRESSION", "SNAPPY").lower()
    if compression in ("auto", "snappy"):
        compression = "snappy"
    elif compression != "none":
        raise unsupported(f"the Parquet compression {compression}")
    options = Options(compression=compression, timestamp_unit=context.settings.timestamp_unit)
    for name, value in raw.items():
        field = name.lower()
        if name == "MAX_FILE_SIZE":
            options = replace(options, max_file_size=int(str(value)))
        elif field in ("header", "include_query_id", "overwrite", "single", "detailed_output"):
            if value not in ("TRUE", "FALSE"):
                raise SnowflakeError(1008, "22023", f"SQL compilation error:\ninvalid value '{value}' for '{name}'")
            chosen: dict[str, Any] = {field: value == "TRUE"}
            options = replace(options, **chosen)
        else:
            raise syntax(f"unexpected '{name}'.")
    if options.include_query_id and (options.single or options.overwrite):
        message = "SQL compilation error:\nINCLUDE_QUERY_ID cannot be combined with SINGLE or OVERWRITE."
        raise SnowflakeError(1008, "22023", message)
    return options


def _directory(location: Location) -> str:
    return location.path[: location.path.rfind("/") + 1]


def _joined(location: Location, name: str) -> str:
    """A path that ends with a slash is a directory; another one is the beginning of the names."""
    if location.path.endswith("/") or not location.path:
        return location.path + name
    return f"{location.path}_{name.removeprefix('data_')}"
