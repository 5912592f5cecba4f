"""Which storage a location is: a path, a URL, or a place in a Snowflake stage; none of them holds credentials."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fileset_integrations.errors import FileSetLocationError
from fileset_integrations.storage.base import Storage
from fileset_integrations.storage.directory import LocalStorage

if TYPE_CHECKING:  # they load when a place is opened whose files are fetched
    from fileset_integrations.storage.connecting import SnowflakeSession
    from fileset_integrations.storage.fetching import Verify

_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]+://")
# user:password@; what follows host:80/ is a path, and what github has there is who owns a repository and its name.
_PASSWORD_IN_URL = re.compile(r"(?<!github)://[^/@:\s]*:(?!\d+/)[^@\s]+@")
_SECRET_IN_QUERY = re.compile(
    r"://[^?\s]*\?[^\s]*(?:passw|secret|token|key|sig|credential)[^=&\s]*=[^&\s]", re.IGNORECASE
)


def is_stage(location: str) -> bool:
    """Whether a location is a place in a Snowflake stage; "sfc://@..." is Snowpark ML's way to write one."""
    return location.startswith(("@", "sfc://@"))


def holds_credentials(text: str) -> bool:
    """Whether a text holds a URL with a password, a key or a token in it."""
    return _PASSWORD_IN_URL.search(text) is not None or _SECRET_IN_QUERY.search(text) is not None


def refuse_credentials(where: str) -> None:
    """Refuse a URL that holds credentials, or might: locations are shown, logged and kept in hyperparameters.

    Raises:
        FileSetLocationError: Says where credentials belong; of the URL it shows what comes before them.
    """
    if is_stage(where) or not (match := _URL.match(where)):
        return
    scheme, host = match[0], ""
    if _PASSWORD_IN_URL.match(where, match.end() - len("://")):
        problem = "user and password stand"
    elif "?" in where:
        host = where[match.end() : where.index("?")].split("@")[-1]
        problem = "what follows the '?' stands"
    else:
        return
    raise FileSetLocationError(
        f"{scheme}{host}...: {problem} in the URL, where everybody sees it, and a location is kept in logs and "
        "checkpoints. Give credentials by the environment (AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
        "AWS_SECRET_ACCESS_KEY, for s3://), by the driver's own file of profiles, or by storage_options=, which are "
        "stored nowhere; and the URL without them."
    )


def split_connection(where: str) -> tuple[str, str | None]:
    """A FileSet's "LOCATION/NAME", and the connection that "?connection_name=PROFILE" after it names; None: none does.

    Raises:
        FileSetLocationError: Something else follows the name of a FileSet in a stage.
    """
    location, slash, name = where.rpartition("/")
    name, mark, option = name.partition("?")
    if not (mark and is_stage(where)):
        return where, None
    key, _, profile = option.partition("=")
    if key != "connection_name" or not profile.strip() or "&" in profile:
        # What follows is not shown: it may be a credential.
        raise FileSetLocationError(
            f"{location}{slash}{name}?...: only ?connection_name=PROFILE may follow the name, with a profile in "
            "connections.toml, which alone holds user and credentials."
        )
    return location + slash + name, profile


def open_storage(
    location: str | os.PathLike[str],
    storage_options: Mapping[str, Any] | None = None,
    *,
    session: SnowflakeSession | None = None,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
    verify: Verify = "auto",
) -> Storage:
    """The storage at a path, a URL or a place in a Snowflake stage.

    Args:
        location: The path, the URL, or "@database.schema.stage/directory".
        storage_options: Options for fsspec, for a URL.
        session: The connection, for a stage; None: that of the default profile.
        cache_dir: Cache directory for files that are fetched from a stage or a bucket.
        cache_bytes: Most bytes that they may take there.
        verify: How they are verified: see `RemoteStorage`.

    Raises:
        FileSetLocationError: The location is not one that this version reads and writes.
    """
    text = os.fspath(location)
    if not isinstance(text, str) or not text.strip():
        raise FileSetLocationError(
            f"target_stage_loc={location!r} names no place. Pass a directory, a URL, or '@database.schema.stage/dir'."
        )
    refuse_credentials(text)
    if is_stage(text):
        if storage_options:
            raise FileSetLocationError(f"{text} is a Snowflake stage, which takes no storage_options. Leave them out.")
        from fileset_integrations.storage.connecting import session as default_session
        from fileset_integrations.storage.stage import StageStorage

        return StageStorage(text, session or default_session(), cache_dir, cache_bytes, verify)
    if session is not None:
        raise FileSetLocationError(
            f"{text} is no place in a Snowflake stage, and a Snowflake connection is for one. Pass "
            "'@database.schema.stage/directory' (copy_to brings the FileSet here then), or leave the connection out."
        )
    if text.startswith("file://"):
        return LocalStorage(text.removeprefix("file://"))
    if _URL.match(text):
        from fileset_integrations.storage.bucket import BucketStorage

        return BucketStorage(text, storage_options, cache_dir, cache_bytes, verify)
    if storage_options:
        raise FileSetLocationError(
            f"{text} is a local directory, which takes no storage_options. Leave them out, or pass a URL."
        )
    return LocalStorage(text)
