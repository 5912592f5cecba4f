"""Stages and the files in them. Paths are keys, as in an object store: `a/../b` is a name like any other."""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.utils import formatdate
from pathlib import Path

from tests.support.snowflake_server.errors import exists, missing, syntax, unsupported
from tests.support.snowflake_server.lexer import NAME, split_name

_REFERENCE = re.compile(rf"@(?P<name>{NAME}(?:\.{NAME})*)(?:/(?P<path>.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class StageName:
    """Database, schema and stage, each exactly as it is called."""

    database: str
    schema: str
    stage: str

    def __str__(self) -> str:
        return f"{self.database}.{self.schema}.{self.stage}"


@dataclass(frozen=True, slots=True)
class Location:
    """A path inside a stage; no slash at its start."""

    stage: StageName
    path: str


@dataclass(frozen=True, slots=True)
class StoredFile:
    """The bytes of one file, and the object store's metadata of it."""

    content: Path
    size: int
    md5: str
    modified: float  # seconds since the epoch
    metadata: dict[str, str]


@dataclass
class Stage:
    """One stage. `key` names it in URLs, since its own name may hold anything."""

    name: StageName
    server_side: bool  # SNOWFLAKE_SSE; else the client encrypts (SNOWFLAKE_FULL)
    directory: bool
    comment: str
    created: float
    key: str = field(default_factory=lambda: uuid.uuid4().hex[:12])
    files: dict[str, StoredFile] = field(default_factory=dict)

    @property
    def type(self) -> str:
        """As SHOW STAGES calls it."""
        return "INTERNAL NO CSE" if self.server_side else "INTERNAL"


def parse_location(text: str, database: str | None, schema: str | None) -> Location:
    """Read `@[[db.]schema.]stage[/path]`; what is left out of the name comes from the session."""
    if text.startswith(("@~", "@%")):
        raise unsupported("user and table stages")
    match = _REFERENCE.fullmatch(text)
    if match is None:
        raise syntax(f"invalid stage reference '{text}'")
    return Location(stage_name(split_name(match["name"]), database, schema), match["path"] or "")


def stage_name(parts: list[str], database: str | None, schema: str | None) -> StageName:
    """Complete a name of one to three parts."""
    if len(parts) > 3:
        raise syntax(f"a stage's name has at most three parts, not {'.'.join(parts)}")
    full = [database, schema][: 3 - len(parts)] + parts
    if None in full:
        raise missing("Stage", ".".join(parts))
    return StageName(*(str(part) for part in full))


class Store:
    """All stages. Safe for threads; a file appears whole or not at all."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._lock = threading.RLock()
        self._stages: dict[StageName, Stage] = {}

    def create(self, stage: Stage, *, replace: bool, if_not_exists: bool) -> bool:
        """Whether it was made: not so if it exists and `if_not_exists`."""
        with self._lock:
            if stage.name in self._stages and not replace:
                if if_not_exists:
                    return False
                raise exists(str(stage.name))
            if stage.name in self._stages:
                self.drop(stage.name)
            self._stages[stage.name] = stage
            return True

    def drop(self, name: StageName) -> None:
        with self._lock:
            for stored in self.stage(name).files.values():
                stored.content.unlink(missing_ok=True)
            del self._stages[name]

    def drop_schema(self, database: str, schema: str | None) -> None:
        with self._lock:
            for name in list(self._stages):
                if name.database == database and schema in (None, name.schema):
                    self.drop(name)

    def stage(self, name: StageName) -> Stage:
        """The stage of exactly that name.

        Raises:
            SnowflakeError: 2003 if there is none.
        """
        with self._lock:
            if name not in self._stages:
                raise missing("Stage", str(name))
            return self._stages[name]

    def stages(self) -> list[Stage]:
        with self._lock:
            return sorted(self._stages.values(), key=lambda stage: str(stage.name))

    def by_key(self, key: str) -> Stage | None:
        with self._lock:
            return next((stage for stage in self._stages.values() if stage.key == key), None)

    def files(self, location: Location, pattern: str | None = None) -> list[tuple[str, StoredFile]]:
        """(path, file), sorted, whose path begins with the location's, as LIST, GET and REMOVE choose them.

        Args:
            location: A stage, and the prefix of the paths.
            pattern: Regular expression for all of "stage/path".
        """
        with self._lock:
            stage = self.stage(location.stage)
            return [
                (path, stage.files[path])
                for path in sorted(stage.files)
                if path.startswith(location.path)
                and (pattern is None or re.fullmatch(pattern, listed_name(stage, path)))
            ]

    def file(self, stage: Stage, path: str) -> StoredFile | None:
        with self._lock:
            return stage.files.get(path)

    def new_content(self) -> Path:
        """A path to write the bytes of a file to, before `put`."""
        handle, name = tempfile.mkstemp(dir=self._root)
        os.close(handle)
        return Path(name)

    def put(self, stage: Stage, path: str, content: Path, modified: float, metadata: dict[str, str]) -> StoredFile:
        """Make the file visible under `path`; takes `content` over."""
        with content.open("rb") as file:
            md5 = hashlib.file_digest(file, "md5").hexdigest()
        stored = StoredFile(content, content.stat().st_size, md5, modified, metadata)
        with self._lock:
            old = stage.files.get(path)
            stage.files[path] = stored
        if old is not None:
            old.content.unlink(missing_ok=True)
        return stored

    def remove(self, stage: Stage, path: str) -> None:
        with self._lock:
            stored = stage.files.pop(path, None)
        if stored is not None:
            # A body that is being sent from it goes on: the file is open.
            stored.content.unlink(missing_ok=True)


def listed_name(stage: Stage, path: str) -> str:
    """A file's name as LIST gives it. For quoted stage names the capitals are a guess."""
    return f"{stage.name.stage.lower()}/{path}"


def shown_digest(stored: StoredFile, digests: str) -> str | None:
    """What the object store gives as the file's digest, see `Settings.digests`."""
    other = hashlib.md5(stored.md5.encode(), usedforsecurity=False).hexdigest()
    return {"content": stored.md5, "multipart": f"{other}-2", "opaque": other}.get(digests)


def list_rows(stage: Stage, found: list[tuple[str, StoredFile]], digests: str) -> Iterator[list[str | None]]:
    """The rows of LIST: name, size, md5, last_modified."""
    for path, stored in found:
        modified = formatdate(stored.modified, usegmt=True)
        yield [listed_name(stage, path), str(stored.size), shown_digest(stored, digests), modified]
