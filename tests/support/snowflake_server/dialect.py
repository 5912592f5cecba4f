"""Snowflake's SQL to DuckDB's, for the part of it that queries here use. What is not known fails in DuckDB, by name.

Unquoted names become capitals, as in Snowflake. DuckDB does not tell "a" from "A": two columns that differ in nothing
else are an error here, though not in Snowflake.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from tests.support.snowflake_server.errors import syntax
from tests.support.snowflake_server.functions import EPOCHS, PARTS_OF_TIME, RENAMED, SEQUENCES
from tests.support.snowflake_server.lexer import Token, name_value, quote_string, string_value
from tests.support.snowflake_server.sqltypes import Written, read_type


@dataclass
class Session:
    """What of a session the text of a query can ask for."""

    database: str | None
    schema: str | None
    literals: dict[str, str | None] = field(default_factory=dict)  # value of CURRENT_USER() and the like
    stage: Callable[[str], str] = str  # a stage reference -> its full name, or an error


@dataclass(frozen=True, slots=True)
class Translated:
    """A query in DuckDB's SQL, and the types that its outermost SELECT casts its columns to."""

    sql: str
    casts: dict[str, Written]  # by result name


def translate(tokens: list[Token], session: Session) -> Translated:
    """A query, or a part of a statement that holds only expressions and queries."""
    return Translated(_joined(_Translation(session).run(tokens)), _outermost_casts(tokens))


def translate_columns(tokens: list[Token]) -> tuple[str, dict[str, str]]:
    """The column definitions of CREATE TABLE (without their parentheses), and hints by column name."""
    definitions, hints = [], {}
    for definition in split(tokens, ","):
        if len(definition) < 2 or definition[0].kind not in ("word", "quoted"):
            raise syntax("in the definition of a column")
        name = name_value(definition[0].text)
        written, rest = read_type(definition, 1)
        tail = " ".join(token.upper or token.text for token in definition[rest:])
        if tail not in ("", "NULL", "NOT NULL", "PRIMARY KEY", "UNIQUE", "NOT NULL PRIMARY KEY"):
            raise syntax(f"unexpected '{tail}' after the type of column {name}")
        # Snowflake does not enforce keys.
        kept = " NOT NULL" if tail.startswith("NOT NULL") else ""
        definitions.append(f'"{name}" {written.duckdb}{kept}'.replace('""', '"'))
        if written.hint is not None:
            hints[name] = written.hint
    return ", ".join(definitions), hints


def split(tokens: list[Token], separator: str) -> list[list[Token]]:
    """Parts between separators outside all parentheses."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        depth += {"(": 1, "[": 1, ")": -1, "]": -1}.get(token.text, 0)
        if token.text == separator and depth == 0:
            parts.append([])
        else:
            parts[-1].append(token)
    return parts


def closing(tokens: list[Token], opened: int) -> int:
    """Index of the parenthesis that closes the one at `opened`.

    Raises:
        SnowflakeError: 1003 if none does.
    """
    depth = 0
    for index in range(opened, len(tokens)):
        depth += {"(": 1, ")": -1}.get(tokens[index].text, 0)
        if depth == 0:
            return index
    raise syntax("unexpected end of statement: ( is not closed")


def _joined(parts: list[str]) -> str:
    """Words with spaces between them, but none around dots, and none before a call's parenthesis."""
    text = " ".join(parts)
    return text.replace(" . ", ".").replace(" :: ", "::")


class _Translation:
    def __init__(self, session: Session) -> None:
        self._session = session

    def run(self, tokens: list[Token]) -> list[str]:
        out: list[str] = []
        at = 0
        while at < len(tokens):
            token = tokens[at]
            following = tokens[at + 1].text if at + 1 < len(tokens) else ""
            if token.kind == "string":
                out.append(quote_string(string_value(token)))
            elif token.kind == "stage":
                out.append(quote_string(self._session.stage(token.text)))
            elif token.text == "::":
                written, at = read_type(tokens, at + 1)
                out += ["::", written.duckdb]
                continue
            elif token.kind == "word" and following == "(" and (not out or out[-1] != "."):
                stop = closing(tokens, at + 1)
                out += self._call(token.upper, tokens[at + 2 : stop])
                at = stop
            elif token.upper == "FROM" and following.upper() == "VALUES":
                at, values = self._values(tokens, at + 2)
                out += ["FROM", values]
                continue
            elif token.kind == "word":
                out.append(token.text.upper())
            else:
                out.append(token.text)
            at += 1
        return out

    def _values(self, tokens: list[Token], at: int) -> tuple[int, str]:
        """`VALUES (..), (..)` after FROM, whose columns are COLUMN1, COLUMN2, ... ."""
        rows, width = [], 0
        while True:
            if at >= len(tokens) or tokens[at].text != "(":
                raise syntax("VALUES needs rows in parentheses")
            stop = closing(tokens, at)
            width = len(split(tokens[at + 1 : stop], ","))
            rows.append(f"({_joined(self.run(tokens[at + 1 : stop]))})")
            at = stop + 1
            if at >= len(tokens) or tokens[at].text != ",":
                break
            at += 1
        names = ", ".join(f"COLUMN{number}" for number in range(1, width + 1))
        return at, f"(VALUES {', '.join(rows)}) AS ROWS_({names})"

    def _call(self, name: str, inside: list[Token]) -> list[str]:
        arguments = split(inside, ",")
        if name in ("CAST", "TRY_CAST"):
            parts = split_at_word(inside, "AS")
            if parts is None:
                raise syntax(f"{name} needs AS and a type")
            written, stop = read_type(parts[1], 0)
            if stop != len(parts[1]):
                raise syntax(f"unexpected '{parts[1][stop].text}' in {name}")
            return [f"{name}({_joined(self.run(parts[0]))} AS {written.duckdb})"]
        if name in self._session.literals and not inside:
            value = self._session.literals[name]
            return ["NULL::VARCHAR" if value is None else quote_string(value)]
        if name in SEQUENCES and not inside:
            return ["(ROW_NUMBER() OVER () - 1)"]
        if name == "TABLE" and inside and inside[0].upper == "GENERATOR":
            count = next((token.text for token in inside if token.kind == "number"), None)
            if count is None:
                raise syntax("GENERATOR needs ROWCOUNT => n")
            return [f"(SELECT 1 FROM RANGE({count}))"]
        if name in PARTS_OF_TIME:
            return [self._of_time(name, arguments)]
        if name == "GET_PRESIGNED_URL":
            lifetime = arguments[2:] or [[Token("number", "3600", 0)]]
            return self._plain_call("SNOWFLAKE_PRESIGNED_URL", [self._stage(arguments[0]), *arguments[1:2], *lifetime])
        return self._plain_call(RENAMED.get(name, name), [inside] if inside else [])

    def _stage(self, argument: list[Token]) -> list[Token]:
        """A stage may be given as a string, too."""
        if len(argument) == 1 and argument[0].kind == "string" and string_value(argument[0]).startswith("@"):
            return [Token("stage", string_value(argument[0]), argument[0].start)]
        return argument

    def _plain_call(self, name: str, arguments: list[list[Token]]) -> list[str]:
        return [f"{name}({', '.join(_joined(self.run(argument)) for argument in arguments)})"]

    def _of_time(self, name: str, arguments: list[list[Token]]) -> str:
        if len(arguments) < 2 or len(arguments[0]) != 1:
            raise syntax(f"in the arguments of {name}")
        token = arguments[0][0]
        part = (string_value(token) if token.kind == "string" else token.text).lower()
        values = [_joined(self.run(argument)) for argument in arguments[1:]]
        if name == "DATE_PART" and part in EPOCHS:
            return EPOCHS[part].format(values[0])
        if PARTS_OF_TIME[name] == "DATE_ADD":
            return f"({values[1]} + TO_{part.upper().rstrip('S')}S({values[0]}::INTEGER))"
        return f"{PARTS_OF_TIME[name]}({', '.join([quote_string(part), *values])})"


def split_at_word(tokens: list[Token], word: str) -> tuple[list[Token], list[Token]] | None:
    """What stands before and after the last such word outside all parentheses."""
    depth = 0
    for index in range(len(tokens) - 1, -1, -1):
        depth += {")": 1, "(": -1}.get(tokens[index].text, 0)
        if depth == 0 and tokens[index].upper == word:
            return tokens[:index], tokens[index + 1 :]
    return None


def _outermost_casts(tokens: list[Token]) -> dict[str, Written]:
    """Result name -> type, of the items `x::T [AS] name` and `CAST(x AS T) [AS] name` of the outermost SELECT."""
    start, stop, depth = None, len(tokens), 0
    for index, token in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0 and start is None and token.upper == "SELECT":
            start = index + 1
        elif depth == 0 and start is not None and token.upper in ("FROM", "ORDER", "LIMIT", "UNION"):
            stop = index
            break
    casts = {}
    for item in split(tokens[start:stop], ",") if start is not None else []:
        parts = split_at_word(item, "AS") or (item[:-1], item[-1:])
        expression, alias = parts
        named = len(alias) == 1 and alias[0].kind in ("word", "quoted")
        if named and expression and expression[-1].text not in ("::", "."):
            written = _cast_of(expression)
            if written is not None:
                casts[name_value(alias[0].text)] = written
    return casts


def _cast_of(expression: list[Token]) -> Written | None:
    """The type that an expression, taken as a whole, is cast to."""
    if expression and expression[0].upper in ("CAST", "TRY_CAST") and closing(expression, 1) == len(expression) - 1:
        parts = split_at_word(expression[2:-1], "AS")
        return read_type(parts[1], 0)[0] if parts is not None else None
    depth = 0
    for index in range(len(expression) - 1, 0, -1):
        depth += {")": 1, "(": -1}.get(expression[index].text, 0)
        if depth == 0 and expression[index].text == "::":
            written, stop = read_type(expression, index + 1)
            return written if stop == len(expression) and _is_one_value(expression[:index]) else None
    return None


def _is_one_value(expression: list[Token]) -> bool:
    depth = 0
    for token in expression:
        depth += {"(": 1, ")": -1}.get(token.text, 0)
        if depth == 0 and token.kind == "op" and token.text not in (".", ")", "::"):
            return False
    return True
