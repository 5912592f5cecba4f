"""The FileSets that a config names: made by its queries or found, shared out, opened."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import filelock
from omegaconf import DictConfig, ListConfig, OmegaConf

from fileset_integrations.errors import SpecError
from fileset_integrations.fileset import FileSet
from fileset_integrations.runs.building import build, plain
from fileset_integrations.storage.cache import cache_root
from fileset_integrations.storage.connecting import refuse_secrets
from fileset_integrations.storage.opening import is_stage
from fileset_integrations.views import as_fileset

_log = logging.getLogger(__name__)


def make_filesets(config: DictConfig) -> dict[str, FileSet]:
    """Make the FileSets of the config's group `filesets`, or open those that exist and were made by the same query.

    Args:
        config: The composed config; `source` says where they live. For a stage, the embedded engine makes the files
            here, from the task's own tables, and they are uploaded: the same files as in a directory.

    Returns:
        The FileSets by "LOCATION/NAME", and the parts of those that are split by "LOCATION/NAME:PART", as the group
        `data` names them.
    """
    refuse_secrets(plain(config.source), "source")
    location = config.source.location
    options = storage_options(config)
    made: dict[str, FileSet] = {}
    if not config.filesets.make:
        return made
    # The tables are read even where all FileSets exist: it is what FileSet.make compares, and takes a second or two.
    connection = None if config.filesets.connection is None else build(config, "filesets.connection")
    for name, node in config.filesets.make.items():
        with _one_at_a_time(config, f"{location}/{name}"):
            fileset = FileSet.make(
                target_stage_loc=location,
                name=name,
                connection_name=config.source.get("connection_name"),
                duckdb_connection=connection,
                if_exists="open",
                storage_options=options,
                **plain(node),
            )
        made[f"{location}/{name}"] = fileset
        _log.info("FileSet %s/%s: %s rows, snapshot %s", location, name, f"{fileset.num_rows:,}", fileset.snapshot_id)
    for name, node in (OmegaConf.select(config, "filesets.split") or {}).items():
        whole = made.get(f"{location}/{name}")
        if whole is None:
            raise SpecError(
                f"filesets.split.{name}: filesets.make makes no FileSet of that name. It makes: "
                f"{', '.join(config.filesets.make)}."
            )
        parts = whole.split(**plain(node))
        made.update((f"{location}/{name}:{part}", view) for part, view in parts.items())
    return made


@contextmanager
def _one_at_a_time(config: DictConfig, where: str) -> Iterator[None]:
    """Held while a FileSet is made elsewhere than in a directory, which has a lock of its own.

    In a bucket or a stage, jobs of a sweep that begin together would all run the query, and all but one find the name
    taken when they are done.
    """
    if not is_stage(where) and "://" not in where:
        yield
        return
    locks = cache_root(config.data.cache_dir) / "locks"
    locks.mkdir(mode=0o700, exist_ok=True)
    with filelock.FileLock(locks / f"{hashlib.sha256(where.encode()).hexdigest()}.lock"):
        yield


def open_fileset(config: DictConfig, split: str, made: Mapping[str, FileSet]) -> FileSet:
    """The FileSet of `data.train` or `data.val`.

    Args:
        config: The composed config.
        split: "train" or "val".
        made: What `make_filesets` gave; others are opened.

    Raises:
        SpecError: The config names none, or a part that no split makes.
        FileSetError: It cannot be opened.
    """
    where = config.data[split]
    several = list(where) if split == "train" and isinstance(where, ListConfig) else [where]
    if not several or not all(isinstance(one, str) for one in several):
        raise SpecError(
            f"data.{split} is {'missing' if where is None else 'not a string'}; fileset-train needs one FileSet there, "
            "written LOCATION/NAME, or LOCATION/NAME:PART where filesets.split shares it out."
        )
    for one in several:
        if ":" in one.rpartition("/")[2] and one not in made:
            raise SpecError(
                f"data.{split} names the part {one!r}, which filesets.split does not make. "
                f"There are: {', '.join(name for name in made if ':' in name) or 'none'}."
            )
    return as_fileset([made[one] if one in made else _open_one(config, one) for one in several])


def _open_one(config: DictConfig, where: str) -> FileSet:
    connection_name = config.source.get("connection_name") if is_stage(where) else None
    return FileSet.open(where, connection_name=connection_name, storage_options=storage_options(config, where))


def storage_options(config: DictConfig, where: str | None = None) -> dict[str, Any] | None:
    """What fsspec is told of the source's store; None for a directory, a stage, and places elsewhere."""
    given = config.source.get("storage_options") or {}
    options = {str(key): value for key, value in given.items() if value is not None}
    return options if options and str(where or config.source.location).startswith(config.source.location) else None
