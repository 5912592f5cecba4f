"""The cache directory: what was fetched or computed of a snapshot once and is true for ever."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from fileset_integrations.errors import FileSetLocationError
from fileset_integrations.storage.lru import LruFiles


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """The cache directory, made with mode 0700 where it is missing.

    Args:
        cache_dir: The directory; None: `FILESET_CACHE_DIR`, else fileset_integrations in `XDG_CACHE_HOME` or ~/.cache.

    Raises:
        FileSetLocationError: It cannot be made.
    """
    chosen = cache_dir or os.environ.get("FILESET_CACHE_DIR")
    if chosen is None:
        base = os.environ.get("XDG_CACHE_HOME") or "~/.cache"
        chosen = Path(base).expanduser() / "fileset_integrations"
    root = Path(chosen).expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise FileSetLocationError(
            f"{root}: cannot make the cache directory ({error.strerror}). Pass cache_dir=, or set FILESET_CACHE_DIR."
        ) from error
    return root


def cached_files(cache_dir: str | os.PathLike[str] | None, max_bytes: int | None) -> LruFiles:
    """Fetched files and decoded blocks, for which one limit holds.

    Args:
        cache_dir: As of `cache_root`.
        max_bytes: Most bytes that they take together, those on their way included; None: what is free on the disk.

    Raises:
        FileSetLocationError: The folder cannot be made.
    """
    return LruFiles(cache_root(cache_dir) / "files", max_bytes)


def write_atomically(path: Path, data: bytes) -> None:
    """Write a file so that readers see all of it or none."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
