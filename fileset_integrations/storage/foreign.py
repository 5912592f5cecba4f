"""Directories of Parquet files that others wrote, described as if they had a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from fileset_integrations.errors import FileSetLocationError, FileSetNotFoundError
from fileset_integrations.manifest import DataFile, Manifest, file_table, natural_key
from fileset_integrations.storage.base import Storage
from fileset_integrations.storage.footers import common_schema, read_footers, total_nulls

_PARQUET = (".parquet", ".parq", ".pq")


def describe_directory(storage: Storage) -> Manifest:
    """The manifest that the Parquet files at a location would have, from their footers.

    Its identity is a digest over each file's path, rows, size and footer, in order.

    Raises:
        FileSetNotFoundError: There is no Parquet file.
        FileSetLocationError: Directory names hold column values that the files lack.
        SchemaMismatchError: The files differ in their schema.
        FileSetCorruptError: A file is not a whole Parquet file.
    """
    root = storage.location
    found = [path for path in storage.find(root) if path.lower().endswith(_PARQUET)]
    relative = sorted((path for path in found if not path.rsplit("/", 1)[-1].startswith(("_", "."))), key=natural_key)
    if not relative:
        raise FileSetNotFoundError(
            f"{root}: no Parquet files ({', '.join('*' + ending for ending in _PARQUET)}) there or below. "
            "Pass the directory that holds them."
        )
    if hive := next((path for path in relative if any("=" in part for part in path.split("/")[:-1])), None):
        raise FileSetLocationError(
            f"{root}: {hive!r} holds column values in directory names, which the files themselves lack. "
            "FileSet.make(query=\"FROM read_parquet('.../**/*.parquet', hive_partitioning=true)\") keeps them."
        )
    return _describe(storage, root, relative)


def read_snapshot(storage: Storage, name: str) -> Manifest:
    """The manifest of a FileSet; of one that Snowpark ML made, the manifest that it would have.

    Raises:
        FileSetNotFoundError: There is no complete FileSet of that name.
        FileSetCorruptError: Its manifest, or a file, is damaged.
    """
    try:
        return Manifest.from_bytes(storage.read_manifest(name), storage.url(name))
    except FileSetNotFoundError:
        files = storage.files_without_manifest(name)
        if not files:
            raise
    return _describe(storage, storage.url(name), sorted(files, key=natural_key))


def _describe(storage: Storage, root: str, relative: Sequence[str]) -> Manifest:
    paths = [f"{root}/{path}" for path in relative]
    footers = read_footers(storage, paths)
    digest = hashlib.sha256()
    for path, footer in zip(relative, footers, strict=True):
        digest.update(f"{path}\0{footer.rows}\0{footer.bytes}\0{footer.digest}\n".encode())
    files = [
        DataFile(path, footer.rows, footer.bytes, None, footer.row_groups)
        for path, footer in zip(relative, footers, strict=True)
    ]
    return Manifest(
        snapshot_id=digest.hexdigest(),
        files=file_table(files),
        schema=common_schema(paths, footers),
        null_counts=total_nulls(footers),
    )
