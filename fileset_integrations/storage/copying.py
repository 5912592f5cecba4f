"""Whole snapshots on their way: into the cache of this machine, or to another home."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa

from fileset_integrations.errors import FileSetCorruptError, FileSetError, FileSetLocationError
from fileset_integrations.manifest import DataFile, Manifest, file_table
from fileset_integrations.progress import progress_bar
from fileset_integrations.storage.base import Storage

_READ_BYTES = 2**20
_COPIES = 4  # at once


def pull(storage: Storage, root: str, manifest: Manifest, progress: bool) -> None:
    """Fetch all files of a snapshot, behind a progress bar where a person looks on."""
    name, shown = root.rsplit("/", 1)[-1], None if progress else False
    with progress_bar(f"Fetching {name}", manifest.num_bytes, shown, "bytes") as done:
        storage.pull(root, manifest, done)


def copy_snapshot(
    source: Storage, root: str, manifest: Manifest, target: Storage, name: str, progress: bool = False
) -> Manifest:
    """Copy a snapshot to another home, every file verified on its way; its manifest there.

    Args:
        source: Where it is.
        root: Its directory there.
        manifest: What it consists of.
        target: Where it goes.
        name: Its name there.
        progress: Show a progress bar, where standard error is a terminal.

    Raises:
        FileSetExistsError: The name is taken.
        FileSetCorruptError: A file is not what was written.
        FileSetLocationError: It cannot be written there.
    """
    with target.making(name):
        if target.exists(name):
            raise target.taken(name)
        staged = target.stage(name)
        try:
            ahead = source.read_ahead(root, manifest, iter(range(manifest.files.num_rows)))
            files: list[DataFile] = []
            shown = None if progress else False
            with (
                progress_bar(f"Copying {name}", manifest.num_bytes, shown, "bytes") as done,
                ThreadPoolExecutor(_COPIES, thread_name_prefix="fileset-copy") as pool,
            ):
                numbers = range(manifest.files.num_rows)
                copies = [pool.submit(_copy, source, root, manifest, number, staged) for number in numbers]
                try:
                    for copy in copies:
                        files.append(copy.result())
                        done(files[-1].bytes)
                except BaseException:
                    pool.shutdown(wait=False, cancel_futures=True)  # what is under way is waited for, and no more
                    raise
                finally:
                    if ahead is not None:
                        ahead.close()
            prefix = target.data_prefix(staged)
            table = file_table([replace(file, path=prefix + file.path) for file in files])
            copied = replace(manifest, files=table)
            with progress_bar(f"Storing {name}", copied.num_bytes, shown, "bytes") as done:
                target.publish(staged, name, [file.path for file in files], copied.to_bytes(), done)
            return copied
        except OSError as error:
            if isinstance(error, FileSetError):
                raise
            raise FileSetLocationError(
                f"{target.url(name)}: cannot be written ({error.strerror or error}). Pass a location with room in "
                "which you may write."
            ) from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)


def _copy(source: Storage, root: str, manifest: Manifest, file: int, staged: Path) -> DataFile:
    facts: dict[str, Any] = {name: manifest.files[name][file].as_py() for name in manifest.files.column_names}
    shown, path = f"{root}/{facts['path']}", _without_run(facts["path"])
    target = staged / path
    target.parent.mkdir(parents=True, exist_ok=True)
    digest, size = hashlib.sha256(), 0
    try:
        opened = source.open_file(root, manifest, file)
    except FileSetError:
        raise
    except (OSError, pa.ArrowException) as error:
        raise FileSetCorruptError(f"{shown}: cannot be read ({error}). Make the FileSet again.") from error
    with opened, target.open("wb") as copy:
        while data := opened.read(_READ_BYTES):
            digest.update(data)
            size += len(data)
            copy.write(data)
    if size != facts["bytes"]:
        raise FileSetCorruptError(f"{shown}: {size} bytes, {facts['bytes']} were written. Make the FileSet again.")
    if facts["sha256"] is not None and digest.hexdigest() != facts["sha256"]:
        raise FileSetCorruptError(f"{shown}: its content was altered (another sha256). Make the FileSet again.")
    groups = tuple(facts["row_groups"] or (facts["rows"],))
    return DataFile(path, facts["rows"], size, digest.hexdigest(), groups)


def _without_run(path: str) -> str:
    """The path without the directory of the run that wrote it: the copy has another."""
    first, _, rest = path.partition("/")
    try:
        uuid.UUID(first.removeprefix("run-"))
    except ValueError:
        return path
    return rest if first.startswith("run-") and rest else path
