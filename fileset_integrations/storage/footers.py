"""Parquet footers: what files say of themselves, read without their data, many at once."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from fileset_integrations.errors import FileSetCorruptError, SchemaMismatchError
from fileset_integrations.storage.base import Storage

_READERS = 16  # reading a footer is mostly waiting, for a disk or for a bucket


@dataclass(frozen=True, slots=True)
class Footer:
    """What one file's footer says.

    Attributes:
        schema: Arrow schema, without metadata.
        rows: Rows in the file.
        bytes: Size of the file.
        row_groups: Rows of each row group.
        nulls: Nulls of each column, in the leaves of a nested one; absent where the file keeps no count.
        digest: Sha256 of the footer's bytes, hex.
    """

    schema: pa.Schema
    rows: int
    bytes: int
    row_groups: tuple[int, ...]
    nulls: dict[str, int]
    digest: str


def read_footer(storage: Storage, path: str) -> Footer:
    """Read the footer of one file.

    Raises:
        FileSetCorruptError: The file is missing, or no whole Parquet file.
    """
    try:
        with storage.open(path) as file:
            parquet = pq.ParquetFile(file)
            metadata, schema = parquet.metadata, parquet.schema_arrow.remove_metadata()
            size = file.seek(0, 2)
            file.seek(size - 8 - metadata.serialized_size)  # a file ends: footer, its length in 4 bytes, b"PAR1"
            digest = hashlib.sha256(file.read(metadata.serialized_size)).hexdigest()
    except (pa.ArrowException, OSError) as error:
        raise FileSetCorruptError(
            f"{path}: the file is missing or not a whole Parquet file ({error}). Make or copy the FileSet again."
        ) from error
    groups = tuple(metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
    return Footer(schema, metadata.num_rows, size, groups, _nulls(metadata, schema), digest)


def _nulls(metadata: pq.FileMetaData, schema: pa.Schema) -> dict[str, int]:
    owners = [field.name for field in schema for _ in range(_leaves(field.type))]
    nulls = dict.fromkeys(schema.names, 0)
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        if not row_group.num_rows:
            continue  # no rows, no statistics
        for leaf, name in enumerate(owners):
            statistics = row_group.column(leaf).statistics
            if statistics is None or not statistics.has_null_count:
                nulls.pop(name, None)
            elif name in nulls:
                nulls[name] += statistics.null_count
    return nulls


def _leaves(type_: pa.DataType) -> int:
    if isinstance(type_, pa.BaseExtensionType):
        return _leaves(type_.storage_type)
    if pa.types.is_struct(type_):
        return sum(_leaves(field.type) for field in type_)
    if pa.types.is_map(type_):
        return _leaves(type_.key_type) + _leaves(type_.item_type)
    if isinstance(type_, pa.ListType | pa.LargeListType | pa.FixedSizeListType):
        return _leaves(type_.value_type)
    return 1


def read_footers(storage: Storage, paths: Iterable[str]) -> list[Footer]:
    """Read the footers of many files in parallel, in the order of `paths`."""
    with ThreadPoolExecutor(_READERS, thread_name_prefix="fileset-footers") as pool:
        return list(pool.map(lambda path: read_footer(storage, path), paths))


def common_schema(paths: Sequence[str], footers: Sequence[Footer]) -> pa.Schema:
    """The one schema of all files.

    Raises:
        SchemaMismatchError: A file's schema differs from the first one's; names the file and the column.
    """
    first = footers[0].schema
    for path, footer in zip(paths, footers, strict=True):
        # Whether a column may hold nulls is not compared: writers differ in what they declare.
        if same_columns(footer.schema, first):
            continue
        raise SchemaMismatchError(
            f"{path}: {_difference(footer.schema, first)} in {paths[0]}. All files of a FileSet share one schema; "
            "write them again from one query, for instance with FileSet.make(query=\"FROM read_parquet('...', "
            'union_by_name=true)").'
        )
    return pa.schema([pa.field(field.name, field.type) for field in first])


def same_columns(schema: pa.Schema, other: pa.Schema) -> bool:
    """Whether names, types and order agree; what the schemas say of nulls is not compared."""
    return bool(schema.names == other.names and schema.types == other.types)


def _difference(found: pa.Schema, expected: pa.Schema) -> str:
    for name in expected.names:
        if name not in found.names:
            return f"there is no column {name!r}, but there is"
        if found.field(name).type != expected.field(name).type:
            return f"column {name!r} is {found.field(name).type}, but {expected.field(name).type}"
    extra = [name for name in found.names if name not in expected.names]
    if extra:
        return f"there is a column {extra[0]!r}, but none"
    return "the columns come in another order than"


def total_nulls(footers: Sequence[Footer]) -> dict[str, int]:
    """Nulls of each column over all files; absent where a file keeps no count."""
    totals = dict(footers[0].nulls) if footers else {}
    for footer in footers[1:]:
        totals = {name: count + footer.nulls[name] for name, count in totals.items() if name in footer.nulls}
    return totals


def readable_groups(schema: pa.Schema, row_groups: Sequence[int]) -> list[list[int]]:
    """Row groups as they can be read together: Arrow reads dictionaries inside structs from one group at a time."""
    if len(row_groups) > 1 and any(_holds_dictionary(type_) for type_ in schema.types if pa.types.is_nested(type_)):
        return [[group] for group in row_groups]
    return [list(row_groups)]


def column_bytes(parquet: pq.ParquetFile, row_groups: Sequence[int], columns: Collection[str]) -> int:
    """Bytes that columns, or fields of structs by their path, take in some row groups of a file, as they lie there."""
    wanted, metadata = set(columns), parquet.metadata
    leaves = [
        place
        for place in range(metadata.num_columns)
        if not wanted.isdisjoint(_ancestors(parquet.schema.column(place).path))
    ]
    groups = (metadata.row_group(group) for group in row_groups)
    return sum(group.column(leaf).total_compressed_size for group in groups for leaf in leaves)


def _ancestors(path: str) -> Iterator[str]:
    """A leaf's path, and those of the columns and fields that it is a part of."""
    while path:
        yield path
        path = path.rpartition(".")[0]


def _holds_dictionary(type_: pa.DataType) -> bool:
    fields = [type_.field(place).type for place in range(type_.num_fields)]
    return bool(pa.types.is_dictionary(type_)) or any(map(_holds_dictionary, fields))
