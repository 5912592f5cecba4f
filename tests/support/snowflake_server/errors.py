"""The one error that a statement ends with, and its numbers as far as we know them."""

from __future__ import annotations


class SnowflakeError(Exception):
    """A statement that failed: what the connector shows as `errno`, `sqlstate` and message."""

    def __init__(self, errno: int, sqlstate: str, message: str) -> None:
        super().__init__(message)
        self.errno = errno
        self.sqlstate = sqlstate
        self.message = message


def syntax(detail: str) -> SnowflakeError:
    return SnowflakeError(1003, "42000", f"SQL compilation error:\nsyntax error: {detail}")


def missing(kind: str, name: str) -> SnowflakeError:
    """A stage, schema or the like that is not there (or not to be seen)."""
    state = "42S02" if kind in ("Object", "Table") else "02000"
    return SnowflakeError(2003, state, f"SQL compilation error:\n{kind} '{name}' does not exist or not authorized.")


def exists(name: str) -> SnowflakeError:
    return SnowflakeError(2002, "42710", f"SQL compilation error:\nObject '{name}' already exists.")


def unsupported(what: str) -> SnowflakeError:
    """Something of Snowflake that this server does not imitate: never silently another thing."""
    return SnowflakeError(9999, "0A000", f"The local Snowflake does not imitate {what}.")
