"""Places in Snowflake stages: parsed, checked, and written into SQL so that nothing in a name can end a literal."""

from __future__ import annotations

import re
from dataclasses import dataclass

from fileset_integrations.errors import FileSetLocationError

# https://docs.snowflake.com/en/sql-reference/identifiers-syntax
_IDENTIFIER = r'(?:[A-Za-z_][A-Za-z0-9_$]*|"(?:[^"]|"")+")'
_LOCATION = re.compile(rf"@({_IDENTIFIER})\.({_IDENTIFIER})\.({_IDENTIFIER})(?:/(.*))?", re.DOTALL)
_PLAIN = re.compile(r"[A-Z_][A-Z0-9_$]*")
_MAX_IDENTIFIER = 255
# Narrower than what Snowflake takes: "/../" is literal there, a space or a quote needs care in every statement, and the
# paths come back in LIST in a form that is not documented.
_SEGMENT = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._=-]*")


@dataclass(frozen=True, slots=True)
class StageLocation:
    """A directory in a stage.

    Attributes:
        database: Name of the database, as Snowflake keeps it.
        schema: Name of the schema.
        stage: Name of the stage.
        directory: Path in the stage without "/" at its ends; "" for the stage itself.
    """

    database: str
    schema: str
    stage: str
    directory: str = ""

    @classmethod
    def parse(cls, text: str) -> StageLocation:
        """Read "@database.schema.stage/directory"; names in double quotes keep their case, others become upper case.

        Raises:
            FileSetLocationError: It is not of that form, or a name cannot be used.
        """
        match = _LOCATION.fullmatch(text.removeprefix("sfc://"))
        if match is None:
            raise FileSetLocationError(
                f"{text!r} is not a place in a Snowflake stage. Write '@database.schema.stage/directory', all three "
                'names, with "double quotes" around names that are not plain.'
            )
        database, schema, stage = (_name(match[group], text) for group in (1, 2, 3))
        segments = [segment for segment in (match[4] or "").split("/") if segment]
        for segment in segments:
            if not _SEGMENT.fullmatch(segment):
                raise FileSetLocationError(
                    f"{text!r}: {segment!r} cannot be a directory. Use letters, digits, '.', '_', '=' and '-', and "
                    "no '.' or '-' in front."
                )
        return cls(database, schema, stage, "/".join(segments))

    @property
    def qualified(self) -> str:
        """The stage's name in SQL, all three parts quoted."""
        return ".".join(map(identifier, (self.database, self.schema, self.stage)))

    def path(self, *parts: str) -> str:
        """Path of something below the directory, from the stage's root."""
        return "/".join(part for part in (self.directory, *parts) if part)

    def __str__(self) -> str:
        names = (self.database, self.schema, self.stage)
        shown = [name if _PLAIN.fullmatch(name) else identifier(name) for name in names]
        return "@" + ".".join(shown) + (f"/{self.directory}" if self.directory else "")

    def reference(self, path: str = "") -> str:
        """SQL literal of a path from the stage's root: a file's, or a directory's that ends in "/"."""
        return literal(f"@{self.qualified}/{path}")


def _name(found: str, text: str) -> str:
    name = found[1:-1].replace('""', '"') if found.startswith('"') else found.upper()
    if len(name) > _MAX_IDENTIFIER or not name.isprintable():
        raise FileSetLocationError(
            f"{text!r}: {name!r} is too long for a name, or holds a line break or another character that cannot be "
            "printed. Snowflake's names have at most 255 characters."
        )
    return name


def identifier(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def literal(text: str) -> str:
    """A text as an SQL literal; Snowflake's have escapes (https://docs.snowflake.com/en/sql-reference/data-types-text)."""
    return "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"
