"""Reading a statement token by token, to its end."""

from __future__ import annotations

from typing import NoReturn

from tests.support.snowflake_server.dialect import closing
from tests.support.snowflake_server.errors import syntax
from tests.support.snowflake_server.lexer import Token, name_value, string_value


class Reader:
    """A place in a list of tokens. What does not fit raises Snowflake's syntax error."""

    def __init__(self, tokens: list[Token]) -> None:
        self._tokens = tokens
        self._at = 0

    @property
    def token(self) -> Token | None:
        return self._tokens[self._at] if self._at < len(self._tokens) else None

    def fail(self) -> NoReturn:
        if self.token is None:
            raise syntax("unexpected '<EOF>'.")
        raise syntax(f"at position {self.token.start} unexpected '{self.token.text}'.")

    def accept(self, *words: str) -> bool:
        """Step over these keywords or signs, if they come next, all of them."""
        following = self._tokens[self._at : self._at + len(words)]
        if [token.upper for token in following] != list(words):
            return False
        self._at += len(words)
        return True

    def expect(self, *words: str) -> None:
        if not self.accept(*words):
            self.fail()

    def next(self, *kinds: str) -> Token:
        """Step over one token of one of these kinds."""
        token = self.token
        if token is None or token.kind not in kinds:
            self.fail()
        self._at += 1
        return token

    def name(self) -> list[str]:
        """A name of one or more parts, each exactly as it is called."""
        parts = [name_value(self.next("word", "quoted").text)]
        while self.accept("."):
            parts.append(name_value(self.next("word", "quoted").text))
        return parts

    def string(self) -> str:
        return string_value(self.next("string"))

    def stage_reference(self) -> str:
        """A stage, as it is or in a string."""
        token = self.next("stage", "string")
        return token.text if token.kind == "stage" else string_value(token)

    def parenthesized(self) -> list[Token]:
        """The tokens inside the parentheses that begin here."""
        if self.token is None or self.token.text != "(":
            self.fail()
        stop = closing(self._tokens, self._at)
        inside = self._tokens[self._at + 1 : stop]
        self._at = stop + 1
        return inside

    def rest(self) -> list[Token]:
        rest = self._tokens[self._at :]
        self._at = len(self._tokens)
        return rest

    def options(self) -> dict[str, str | dict[str, str]]:
        """`NAME = value` and `NAME = (NAME = value ...)` to the end; values of strings, else in capitals."""
        found: dict[str, str | dict[str, str]] = {}
        while self.token is not None:
            if found and self.accept(","):
                continue
            name = self.next("word").upper
            if name in found:
                raise syntax(f"duplicate option {name}")
            self.expect("=")
            if self.token is not None and self.token.text == "(":
                found[name] = {
                    key: value
                    for key, value in Reader(self.parenthesized()).options().items()
                    if isinstance(value, str)
                }
            else:
                token = self.next("word", "string", "number")
                found[name] = string_value(token) if token.kind == "string" else token.text.upper()
        return found

    def end(self) -> None:
        if self.token is not None:
            self.fail()
