"""LIST and SHOW STAGES: what a stage is and what it holds. What of it is not documented stands in one function each."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fileset_integrations.errors import FileSetLocationError, SnowflakeError, StageNotFoundError
from fileset_integrations.storage.connecting import SnowflakeSession
from fileset_integrations.storage.locations import StageLocation, identifier, literal

NO_SUCH_OBJECT = 2003  # "does not exist or not authorized"
_SERVER_SIDE = "INTERNAL NO CSE"
_MD5 = re.compile(r"[0-9a-f]{32}")


@dataclass(frozen=True, slots=True)
class Listed:
    """One file of a stage.

    Attributes:
        path: Path from the stage's root.
        size: Bytes as they are stored; more than the file's own where the client encrypts.
        md5: What LIST states as md5; None where it states nothing.
    """

    path: str
    size: int
    md5: str | None


@dataclass(frozen=True, slots=True)
class StageKind:
    """What kind a stage is.

    Attributes:
        text: The column `type` of SHOW STAGES.
        internal: Whether it is Snowflake's own, and not a bucket.
        server_side: Whether its files are encrypted by the server alone, so that presigned URLs give their content.
    """

    text: str
    internal: bool
    server_side: bool

    @classmethod
    def of(cls, text: str) -> StageKind:
        """Read SHOW STAGES' column `type` (https://docs.snowflake.com/en/sql-reference/sql/show-stages)."""
        upper = text.upper()
        return cls(text, upper.startswith("INTERNAL"), _SERVER_SIDE in upper)

    def usable_md5(self, listed: Listed) -> str | None:
        """The md5 of a listed file's content, hex; None where LIST states no such thing.

        LIST's column is the object store's ETag: no md5 for files that were uploaded in parts ("...-3"), that of the
        encrypted bytes where the client encrypts, and null for some keys of the customer's own.
        """
        if not self.server_side or listed.md5 is None or not _MD5.fullmatch(listed.md5):
            return None
        return listed.md5


def list_files(session: SnowflakeSession, location: StageLocation, path: str) -> list[Listed]:
    """The files whose paths begin with `path`, counted from the stage's root; sorted.

    Raises:
        StageNotFoundError: There is no such stage.
        SnowflakeError: It cannot be listed.
    """
    try:
        rows = session.execute(f"LIST {location.reference(path)}", again=True).dicts()
    except SnowflakeError as error:
        if error.errno == NO_SUCH_OBJECT:
            raise no_such_stage(location, str(error)) from error
        raise
    found = [Listed(path_in_stage(str(row["name"]), location), int(row["size"]), row.get("md5")) for row in rows]
    return sorted((file for file in found if file.path.startswith(path)), key=lambda file: file.path)


def path_in_stage(name: str, location: StageLocation) -> str:
    """The path, from the stage's root, of a file as LIST names it: the stage's name, "/", the path.

    For stages whose names are not quoted the name is in lower case; how others are written is not documented, and a "/"
    may be part of it.
    """
    stage = location.stage
    for written in (stage, identifier(stage)):
        if name.lower().startswith(written.lower() + "/"):
            return name[len(written) + 1 :]
    return name.partition("/")[2]


def stage_kind(session: SnowflakeSession, location: StageLocation) -> StageKind:
    """What kind the stage is, by its exact name.

    Raises:
        StageNotFoundError: There is no such stage, or no right to see it.
    """
    schema = f"{identifier(location.database)}.{identifier(location.schema)}"
    # LIKE ignores case and has wildcards: it only shortens the list that is compared exactly below.
    pattern = re.sub(r"([\\%_])", r"\\\1", location.stage)
    try:
        rows = session.execute(f"SHOW STAGES LIKE {literal(pattern)} IN SCHEMA {schema}", again=True).dicts()
    except SnowflakeError as error:
        if error.errno == NO_SUCH_OBJECT:
            raise no_such_stage(location, str(error)) from error
        raise
    wanted = (location.database, location.schema, location.stage)
    for row in rows:
        if (row.get("database_name"), row.get("schema_name"), row.get("name")) == wanted:
            return StageKind.of(str(row.get("type", "")))
    raise no_such_stage(location, "no stage of exactly that name")


def require_server_side(kind: StageKind, location: StageLocation) -> None:
    """Refuse to make a FileSet in a stage that presigned URLs cannot serve.

    Raises:
        FileSetLocationError: Says which statement makes a stage that will do.
    """
    if not (kind.internal and kind.server_side):
        raise FileSetLocationError(
            f"{location} is a stage of type {kind.text!r}; FileSets are made in internal stages with server-side "
            f"encryption, which cannot be changed afterwards. Make another: {_create(location, '_SSE')}"
        )


def no_such_stage(location: StageLocation, said: str) -> StageNotFoundError:
    """The error for a stage that is not there."""
    return StageNotFoundError(
        f"{location}: there is no such stage, or the role has no right to it ({said}). Make it: {_create(location)}"
    )


def _create(location: StageLocation, suffix: str = "") -> str:
    names = (location.database, location.schema, location.stage + suffix)
    return f"CREATE STAGE {'.'.join(map(identifier, names))} ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')"
