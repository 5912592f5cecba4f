"""Columns fitted once: a snapshot never changes, so its fits are remembered in the cache directory, by its identity."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from fileset_integrations.columns import Columns, FittedColumns
from fileset_integrations.errors import ColumnError
from fileset_integrations.fileset import FileSet
from fileset_integrations.storage.cache import cache_root, write_atomically


def fit_once(columns: Columns, fs: FileSet, cache_dir: str | os.PathLike[str] | None) -> FittedColumns:
    """The columns fitted on a FileSet, from the cache directory where they were fitted before.

    Raises:
        ColumnError: A column is missing or cannot be used as asked.
    """
    path = remembered("columns", fs, json.dumps(columns.to_json()), cache_dir).with_suffix(".json")
    if path.exists():
        try:
            return FittedColumns.load(path)
        except ColumnError:
            path.unlink(missing_ok=True)  # written by another version: fit again
    fitted = columns.fit(fs)
    write_atomically(path, fitted.to_json().encode())
    return fitted


def remembered(what: str, fs: FileSet, spec: str, cache_dir: str | os.PathLike[str] | None) -> Path:
    """Where in the cache directory lies what was computed of a snapshot; without a suffix.

    Args:
        what: Its kind, a folder.
        fs: The FileSet or view.
        spec: Text that tells it from others of its kind.
        cache_dir: The cache directory; None: `FILESET_CACHE_DIR`, else the user's.
    """
    key = hashlib.sha256(f"{fs.snapshot_id}\0{spec}".encode()).hexdigest()
    return cache_root(cache_dir) / what / key
