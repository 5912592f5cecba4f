"""Files compared with what the manifest says of them."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from fileset_integrations.errors import FileSetCorruptError
from fileset_integrations.manifest import Manifest
from fileset_integrations.storage.base import Storage
from fileset_integrations.storage.footers import read_footer, same_columns

_THREADS = 4
_READ_BYTES = 16 * 2**20  # each read is a request where the file lies elsewhere


def find_problems(
    storage: Storage, root: str, manifest: Manifest, done: Callable[[int], object] = lambda size: None
) -> list[str]:
    """What is wrong with the files of a snapshot: a line for each file that is missing or differs, its path first.

    `done` is told the bytes of each file that was looked at.
    """
    files = manifest.files.to_pylist()
    with ThreadPoolExecutor(_THREADS, thread_name_prefix="fileset-verify") as pool:
        found = pool.map(lambda file: _problem(storage, root, manifest, file), files)
        problems = []
        for file, problem in zip(files, found, strict=True):
            done(file["bytes"])
            if problem:
                problems.append(problem)
        return problems


def _problem(storage: Storage, root: str, manifest: Manifest, file: dict[str, Any]) -> str | None:
    path = f"{root}/{file['path']}"
    try:
        size = storage.size(path)
    except OSError:
        return f"{path}: missing"
    if size != file["bytes"]:
        return f"{path}: {size} bytes, {file['bytes']} were written"
    try:
        footer = read_footer(storage, path)
    except FileSetCorruptError as error:
        return f"{path}: no whole Parquet file ({error.__cause__})"
    if footer.rows != file["rows"]:
        return f"{path}: {footer.rows} rows, {file['rows']} were written"
    if not same_columns(footer.schema, manifest.schema):
        return f"{path}: another schema than was written"
    if file["sha256"] is not None and _sha256(storage, path) != file["sha256"]:
        return f"{path}: its content was altered (another sha256)"
    return None


def _sha256(storage: Storage, path: str) -> str:
    digest = hashlib.sha256()
    with storage.open(path) as opened:
        while data := opened.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()
