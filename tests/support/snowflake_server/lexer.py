"""Snowflake SQL as tokens: strings, $$ strings, quoted names, stage references, comments.

Rules from Snowflake's documentation: "String & binary data types", "Identifier requirements", "COPY INTO <location>".
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.support.snowflake_server.errors import SnowflakeError, syntax

NAME = r'(?:"(?:[^"]|"")+"|[A-Za-z_][A-Za-z0-9_$]*)'
_TOKEN = re.compile(
    rf"""
    (?P<space>\s+|--[^\n]*|//[^\n]*|/\*.*?\*/)
  | (?P<string>'(?:[^'\\]|''|\\.)*'|\$\$.*?\$\$)
  | (?P<stage>@(?:{NAME}(?:\.{NAME})*|[%~][^\s/;,()]*)(?:/[^\s;,()']*)?)
  | (?P<quoted>"(?:[^"]|"")+")
  | (?P<url>file://[^\s;]*)
  | (?P<word>[^\W\d][\w$]*)
  | (?P<number>(?:\d+(?:\.\d*)?|\.\d+)(?:[eE][+-]?\d+)?)
  | (?P<op>::|=>|->|\|\||<=|>=|<>|!=|[-+*/%=<>(),.;:?\[\]{{}}&|^~$!])
    """,
    re.VERBOSE | re.DOTALL,
)
_ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "0": "\0", "b": "\b", "f": "\f"}


@dataclass(frozen=True, slots=True)
class Token:
    """One token: its kind (string, stage, quoted, url, word, number, op) and its text as written."""

    kind: str
    text: str
    start: int

    @property
    def upper(self) -> str:
        """The text in capitals, if it is a word, or an operator; else nothing that equals a keyword."""
        return self.text.upper() if self.kind in ("word", "op") else ""

    @property
    def stop(self) -> int:
        return self.start + len(self.text)


def tokens(sql: str) -> list[Token]:
    """All tokens but white space and comments.

    Raises:
        SnowflakeError: 1003 at the first character that begins none, an open quote, say.
    """
    found, at = [], 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        if match is None:
            line = sql.count("\n", 0, at) + 1
            raise syntax(f"line {line} at position {at} unexpected '{sql[at : at + 10]}'.")
        if match.lastgroup != "space":
            found.append(Token(str(match.lastgroup), match[0], at))
        at = match.end()
    return found


def one_statement(sql: str) -> list[Token]:
    """The tokens of the only statement in `sql`, without the semicolon at its end.

    Raises:
        SnowflakeError: 8 if there are several, as the real server says without MULTI_STATEMENT_COUNT; 900 if none.
    """
    found = tokens(sql)
    while found and found[-1].text == ";":
        found.pop()
    statements = 1 + sum(token.text == ";" for token in found)
    if statements > 1:
        message = f"Actual statement count {statements} did not match the desired statement count 1."
        raise SnowflakeError(8, "0A000", message)
    if not found:
        raise SnowflakeError(900, "42601", "SQL compilation error:\nEmpty SQL statement.")
    return found


def string_value(token: Token) -> str:
    """What a string token stands for: doubled quotes and backslash escapes resolved."""
    if token.text.startswith("$$"):
        return token.text[2:-2]
    return re.sub(
        r"''|\\(.)",
        lambda match: "'" if match[1] is None else _ESCAPES.get(match[1], match[1]),
        token.text[1:-1],
        flags=re.DOTALL,
    )


def name_value(text: str) -> str:
    """The name that an identifier stands for: quoted ones exactly, others in capitals."""
    return text[1:-1].replace('""', '"') if text.startswith('"') else text.upper()


def split_name(text: str) -> list[str]:
    """The parts of a dotted name, each as `name_value`."""
    if not re.fullmatch(rf"{NAME}(?:\.{NAME})*", text):
        raise syntax(f"invalid identifier '{text}'")
    return [name_value(part) for part in re.findall(NAME, text)]


def quote_name(*parts: str) -> str:
    """A dotted name with each part quoted."""
    return ".".join('"' + part.replace('"', '""') + '"' for part in parts)


def quote_string(value: str) -> str:
    """A string literal of standard SQL, which DuckDB takes."""
    return "'" + value.replace("'", "''") + "'"
