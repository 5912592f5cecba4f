"""COPY INTO a stage: rows as Parquet files, named, split and typed as the references say of Snowflake's unload.

What nobody here has seen a real account do is marked "guess".
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tests.support.snowflake_server.errors import SnowflakeError, unsupported
from tests.support.snowflake_server.sqltypes import Column, Written

_THREADS = 8  # of the imitated warehouse: they number the files
# An explicit cast in the outermost SELECT chooses the width ("Data unloading considerations" in Snowflake's docs).
_CAST_WIDTHS = {
    "TINYINT": pa.int8(),
    "BYTEINT": pa.int8(),
    "SMALLINT": pa.int32(),
    "INT": pa.int32(),
    "INTEGER": pa.int32(),
    "BIGINT": pa.int64(),
    "FLOAT": pa.float32(),
    "FLOAT4": pa.float32(),
    "REAL": pa.float32(),
}


@dataclass(frozen=True, slots=True)
class Options:
    """Options of COPY INTO that we know, with Snowflake's defaults."""

    compression: str = "snappy"
    header: bool = False
    include_query_id: bool = False
    overwrite: bool = False
    single: bool = False
    detailed_output: bool = False
    max_file_size: int = 16_777_216
    timestamp_unit: str = "ms"


@dataclass(frozen=True, slots=True)
class Unloaded:
    """One file, written but not yet in the stage."""

    name: str
    content: Path
    num_rows: int


def unload(
    reader: pa.RecordBatchReader,
    columns: list[Column],
    casts: dict[str, Written],
    options: Options,
    query_id: str,
    new_content: Callable[[], Path],
) -> Iterator[Unloaded]:
    """Write the rows in their order, file after file; a file is yielded when it is complete.

    `max_file_size` bounds the sizes roughly, as there: a row group is measured when it has been written.
    """
    fields = [_parquet_field(column, casts.get(column.name), options) for column in columns]
    names = [column.name if options.header else f"_COL_{index}" for index, column in enumerate(columns)]
    schema = pa.schema(pa.field(name, field) for name, field in zip(names, fields, strict=True))
    number, file = 0, None
    for batch in reader:
        arrays = [
            _convert(column, array, field) for column, array, field in zip(columns, batch.columns, fields, strict=True)
        ]
        table = pa.Table.from_arrays(arrays, schema=schema)
        # Small row groups where files are small, so that the limit can be met.
        step = max(1, int(options.max_file_size / 4 / max(1, table.nbytes / max(1, table.num_rows))))
        for start in range(0, table.num_rows, step):
            if file is None:
                file = _OpenFile(new_content(), schema, options.compression)
            grown = file.write(table.slice(start, step))
            if not options.single and file.size + grown > options.max_file_size:
                yield Unloaded(_file_name(number, options, query_id), file.close(), file.num_rows)
                number, file = number + 1, None
    if file is not None:
        yield Unloaded(_file_name(number, options, query_id), file.close(), file.num_rows)


class _OpenFile:
    """A Parquet file being written, whose size so far is known."""

    def __init__(self, path: Path, schema: pa.Schema, compression: str) -> None:
        self._path = path
        self._sink = pa.OSFile(str(path), "wb")
        self._writer = pq.ParquetWriter(self._sink, schema, compression=compression)
        self.size = 0
        self.num_rows = 0

    def write(self, rows: pa.Table) -> int:
        """Write a row group; returns by how many bytes the file grew."""
        self._writer.write_table(rows)
        self.num_rows += rows.num_rows
        before, self.size = self.size, self._sink.tell()
        return self.size - before

    def close(self) -> Path:
        self._writer.close()
        self._sink.close()
        return self._path


def _file_name(number: int, options: Options, query_id: str) -> str:
    if options.single:
        return "data"
    id_part = f"{query_id}_" if options.include_query_id else ""
    return f"data_{id_part}0_{number % _THREADS}_{number // _THREADS}.{options.compression}.parquet"


def _parquet_field(column: Column, cast: Written | None, options: Options) -> pa.DataType:
    if column.type == "fixed":
        if cast is not None and cast.word in _CAST_WIDTHS:
            return _CAST_WIDTHS[cast.word]
        return pa.decimal128(column.precision, column.scale)
    if column.type == "real":
        return _CAST_WIDTHS.get(cast.word, pa.float64()) if cast is not None else pa.float64()
    if column.type in ("timestamp_tz", "timestamp_ltz"):
        message = "Error encountered when unloading to PARQUET: TIMESTAMP_TZ and LTZ types are not supported."
        raise SnowflakeError(100113, "22000", message)
    if column.type == "vector":
        message = "Error encountered when unloading to PARQUET: VECTOR is not supported. Convert it with TO_ARRAY."
        raise SnowflakeError(100113, "22000", message)
    if column.type == "array":
        # Without a declared element type, a list of JSON texts.
        elements = {None: pa.string(), "real": pa.float64(), "text": pa.string(), "boolean": pa.bool_()}
        if column.element not in elements and column.element != "fixed":
            raise unsupported(f"unloading an ARRAY of {column.element}")
        return pa.list_(elements.get(column.element, pa.int64()))
    simple = {
        "text": pa.string(),
        "variant": pa.string(),
        "object": pa.string(),
        "boolean": pa.bool_(),
        "binary": pa.binary(),
        "date": pa.date32(),
        "time": pa.time32("ms"),  # guess
        "timestamp_ntz": pa.timestamp(options.timestamp_unit),
    }
    return simple[column.type]


def _convert(column: Column, array: pa.Array, target: pa.DataType) -> pa.Array:
    if column.type == "array" and not pa.types.is_list(array.type):
        # A semi-structured array is one JSON text in the engine.
        return _json_lists(array)
    if column.type == "real" and pa.types.is_float32(target):
        return array.cast(target, safe=False)
    if column.type in ("timestamp_ntz", "time"):
        return array.cast(target, safe=False)  # cut, as a coarser unit does
    if column.type == "fixed":
        try:
            # By way of the widest: Arrow takes no integers of 64 bits for fewer than 19 digits, fitting or not.
            wide = array.cast(pa.decimal128(38, 0)) if pa.types.is_integer(array.type) else array
            return wide.cast(target)
        except pa.ArrowInvalid as error:
            raise SnowflakeError(100039, "22003", f"Numeric value out of range: {error}") from None
    return array.cast(target)


def _json_lists(array: pa.Array) -> pa.Array:
    lists = [
        None if text is None else [None if value is None else json.dumps(value) for value in json.loads(text)]
        for text in pc.cast(array, pa.string()).to_pylist()
    ]
    return pa.array(lists, pa.list_(pa.string()))
