"""Making a snapshot: run a query, write its result, and put it under a name, all of it or nothing."""

from __future__ import annotations

import hashlib
import shutil
import uuid
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal

import duckdb
import pyarrow as pa

from fileset_integrations.engines import duckdb as engine
from fileset_integrations.engines import snowflake
from fileset_integrations.engines.interrupting import interruptible
from fileset_integrations.errors import FileSetError, FileSetExistsError, FileSetLocationError, SpecError
from fileset_integrations.manifest import Manifest, file_table, mask_secrets
from fileset_integrations.progress import is_seen, progress_bar
from fileset_integrations.spec import MAX_SEED, as_int
from fileset_integrations.storage.base import Storage
from fileset_integrations.storage.footers import read_footers, total_nulls
from fileset_integrations.storage.opening import open_storage
from fileset_integrations.storage.stage import StageStorage

IfExists = Literal["error", "open"]
Digest = Literal["readback"]

# What two FileSets must share for if_exists="open", and its name in the error.
_IDENTITY = {
    "query_sha256": "query",
    "shuffle": "shuffle",
    "seed": "seed",
    "shuffle_key": "shuffle_key",
    "engine": "engine",
}


@dataclass(frozen=True, slots=True)
class Recipe:
    """What a snapshot is made of; the arguments of `FileSet.make`, checked.

    Attributes:
        query: One SELECT.
        shuffle: Shuffle the rows globally.
        seed: Seed of that shuffle.
        shuffle_key: Columns to shuffle by.
        max_file_bytes: Target for the size of a file.
        store_query: Keep the query's text.
        digest: "readback": fetch the files that Snowflake wrote, for their sha256.
    """

    query: str
    shuffle: bool
    seed: int
    shuffle_key: tuple[str, ...]
    max_file_bytes: int
    store_query: bool
    digest: Digest | None = None

    @classmethod
    def of(
        cls,
        query: str,
        shuffle: bool,
        seed: int,
        shuffle_key: str | Sequence[str] | None,
        max_file_bytes: int,
        store_query: bool,
        digest: Digest | None = None,
    ) -> Recipe:
        """Check what the user passed.

        Raises:
            SpecError: An argument is out of range.
        """
        seed, max_file_bytes = as_int(seed, "seed"), as_int(max_file_bytes, "max_file_bytes")
        if not 0 <= seed <= MAX_SEED:
            raise SpecError(f"seed={seed} lies outside [0, 2**63). Pass a non-negative 63-bit integer.")
        if max_file_bytes < 1:
            raise SpecError(f"max_file_bytes={max_file_bytes}: pass the size that files should have, in bytes.")
        if digest not in (None, "readback"):
            raise SpecError(f"digest={digest!r}: pass 'readback', or None.")
        keys = () if shuffle_key is None else (shuffle_key,) if isinstance(shuffle_key, str) else tuple(shuffle_key)
        if keys and not shuffle:
            raise SpecError(f"shuffle_key={shuffle_key!r} is for shuffle=True. Pass both, or neither.")
        return cls(query, bool(shuffle), seed, keys, max_file_bytes, store_query, digest)


def make_snapshot(
    storage: Storage,
    name: str,
    recipe: Recipe,
    connection: duckdb.DuckDBPyConnection | None,
    if_exists: IfExists,
    progress: bool = False,
) -> Manifest:
    """Make a snapshot under a name, or find the one that stands there; its manifest.

    Args:
        storage: Where.
        name: The name.
        recipe: What it is made of.
        connection: Runs the query; None: an empty in-memory database.
        if_exists: "error", or "open": take what the same recipe made.
        progress: Show how many rows are written and the time left, where standard error is a terminal.

    Raises:
        The errors of `FileSet.make`.
    """
    if if_exists not in ("error", "open"):
        raise SpecError(f"if_exists={if_exists!r}: pass 'error' or 'open'.")
    if isinstance(storage, StageStorage) and connection is None:
        return _make_in_snowflake(storage, name, recipe, if_exists, None if progress else False)
    used = engine.connect() if connection is None else connection
    try:
        parsed = engine.parse(recipe.query, used)
        wanted = _wanted(recipe, parsed.text, engine.NAME, engine.VERSION)

        def write() -> Manifest:
            return _write(storage, name, parsed, wanted, used, recipe.max_file_bytes, None if progress else False)

        return _make(storage, name, wanted, if_exists, write)
    finally:
        if connection is None:
            used.close()


def _make_in_snowflake(
    storage: StageStorage, name: str, recipe: Recipe, if_exists: IfExists, shown: bool | None
) -> Manifest:
    parsed = snowflake.parse(recipe.query, storage.session)
    wanted = _wanted(recipe, parsed.text, snowflake.NAME, snowflake.version(storage.session))

    def write() -> Manifest:
        readback = recipe.digest == "readback"
        return snowflake.write(parsed, storage, name, wanted, recipe.max_file_bytes, readback=readback, shown=shown)

    return _make(storage, name, wanted, if_exists, write)


def _wanted(recipe: Recipe, text: str, engine_name: str, engine_version: str) -> Manifest:
    """The manifest as far as it is known before the query runs."""
    return Manifest(
        snapshot_id=str(uuid.uuid4()),
        files=file_table([]),
        schema=pa.schema([]),
        query=mask_secrets(text) if recipe.store_query else None,
        query_sha256=hashlib.sha256(text.strip().encode()).hexdigest(),
        engine=engine_name,
        engine_version=engine_version,
        shuffle=recipe.shuffle,
        shuffle_key=recipe.shuffle_key,
        seed=recipe.seed,
        reproducible=bool(recipe.shuffle_key),
        created_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _make(
    storage: Storage, name: str, wanted: Manifest, if_exists: IfExists, write: Callable[[], Manifest]
) -> Manifest:
    with storage.making(name):
        if storage.exists(name):
            return _existing(storage, name, wanted, if_exists)
        try:
            return write()
        except FileSetExistsError:  # taken meanwhile by somebody who knows of no lock
            if if_exists == "open":
                return _existing(storage, name, wanted, if_exists)
            raise


def _write(
    storage: Storage,
    name: str,
    query: engine.Query,
    wanted: Manifest,
    connection: duckdb.DuckDBPyConnection,
    max_file_bytes: int,
    shown: bool | None,
) -> Manifest:
    staged = storage.stage(name)
    try:
        with (
            engine.share_done(connection) if is_seen(shown) else nullcontext(lambda: None) as share,
            progress_bar(f"Making {name}", None, shown, share=share) as done,
            interruptible(connection),
        ):
            schema, files = engine.write(
                query,
                staged,
                connection,
                shuffle=wanted.shuffle,
                seed=wanted.seed,
                shuffle_key=wanted.shuffle_key,
                max_file_bytes=max_file_bytes,
                done=done,
            )
        footers = read_footers(open_storage(staged), [str(staged / file.path) for file in files])
        prefix = storage.data_prefix(staged)
        manifest = replace(
            wanted,
            files=file_table([replace(file, path=prefix + file.path) for file in files]),
            schema=schema,
            null_counts=total_nulls(footers),
        )
        with progress_bar(f"Storing {name}", sum(file.bytes for file in files), shown, "bytes") as done:
            storage.publish(staged, name, [file.path for file in files], manifest.to_bytes(), done)
        return manifest
    except OSError as error:
        if isinstance(error, FileSetError):
            raise
        raise FileSetLocationError(
            f"{storage.url(name)}: cannot be written ({error.strerror or error}). Pass a target_stage_loc "
            "with room in which you may write."
        ) from error
    finally:
        shutil.rmtree(staged, ignore_errors=True)


def _existing(storage: Storage, name: str, wanted: Manifest, if_exists: IfExists) -> Manifest:
    if if_exists == "error":
        raise storage.taken(name)
    root = storage.url(name)
    found = Manifest.from_bytes(storage.read_manifest(name), root)
    for fact, what in _IDENTITY.items():
        theirs, ours = getattr(found, fact), getattr(wanted, fact)
        if theirs != ours:
            values = "" if fact == "query_sha256" else f" ({theirs!r} there, {ours!r} asked for)"
            raise FileSetExistsError(
                f"{root} exists and was made with another {what}{values}. Choose another name, or remove it first "
                f"with FileSet(...).delete() or `fileset rm {root}`."
            )
    return found
