"""Results of SELECT in the protocol's Arrow form: plain arrays, with what they mean in the fields' metadata."""

from __future__ import annotations

import base64

import pyarrow as pa
import pyarrow.compute as pc

from tests.support.snowflake_server.results import json_texts
from tests.support.snowflake_server.sqltypes import Column

_NANOSECONDS = 1_000_000_000


def encoded(columns: list[Column], reader: pa.RecordBatchReader) -> pa.Table:
    """All rows, as the connector reads them."""
    table = reader.read_all().combine_chunks()
    arrays, fields = [], []
    for column, chunked in zip(columns, table.columns, strict=True):
        array = chunked.chunk(0) if chunked.num_chunks else pa.array([], chunked.type)
        arrays.append(_encoded(column, array))
        fields.append(pa.field(column.name, arrays[-1].type, metadata=_metadata(column)))
    return pa.Table.from_arrays(arrays, schema=pa.schema(fields))


def stream(table: pa.Table) -> bytes:
    """An Arrow IPC stream; nothing for no rows."""
    if table.num_rows == 0:
        return b""
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as writer:
        writer.write_table(table)
    return bytes(sink.getvalue())


def stream_text(table: pa.Table) -> str:
    return base64.b64encode(stream(table)).decode()


def _metadata(column: Column) -> dict[str, str]:
    found = {
        "logicalType": column.type.upper(),
        "precision": str(column.precision if column.precision is not None else 38),
        "scale": str(column.scale or 0),
        "charLength": str(column.length or 0),
        # The connector tells the two forms of TIMESTAMP_TZ apart by their lengths.
        "byteLength": "16" if column.type == "timestamp_tz" else str(column.length or 0),
        "finalType": "T",
    }
    return found | ({"vectorDimension": str(column.dimension)} if column.dimension is not None else {})


def _encoded(column: Column, array: pa.Array) -> pa.Array:
    match column.type:
        case "fixed":
            # The precision decides, not the values: up to 18 digits fit 64 bits.
            if column.scale == 0 and (column.precision or 38) <= 18:
                return array.cast(pa.int64())
            return array.cast(pa.decimal128(38, column.scale or 0))
        case "real":
            return array.cast(pa.float64())
        case "time":
            return array.cast(pa.time64("ns")).cast(pa.int64())
        case "timestamp_ntz" | "timestamp_ltz" | "timestamp_tz":
            return _moments(column, array)
        case "variant" | "object" | "array":
            return pa.array(json_texts(column, array), pa.string())
    return array


def _moments(column: Column, array: pa.Array) -> pa.Array:
    """Counts of the column's unit up to 7 digits; beyond, and with a zone, seconds and nanoseconds apart."""
    nanoseconds = array.cast(pa.timestamp("ns", tz=getattr(array.type, "tz", None))).cast(pa.int64())
    scale = column.scale or 0
    if scale <= 7 and column.type != "timestamp_tz":
        return pc.divide(nanoseconds, 10 ** (9 - scale))
    values = nanoseconds.to_pylist()
    parts = [None if value is None else divmod(value, _NANOSECONDS) for value in values]
    rows = [None if part is None else {"epoch": part[0], "fraction": part[1], "timezone": 1440} for part in parts]
    fields = [("epoch", pa.int64()), ("fraction", pa.int32())]
    if column.type == "timestamp_tz":
        fields.append(("timezone", pa.int32()))
    return pa.array(rows, pa.struct(fields))
