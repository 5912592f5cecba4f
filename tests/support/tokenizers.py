"""Tokenizers for tests, found by their import path."""

from collections.abc import Sequence


def characters(texts: list[str]) -> list[list[int]]:
    """The code point of every character."""
    return [[ord(character) for character in text] for text in texts]


def one_too_few(texts: list[str]) -> Sequence[Sequence[int]]:
    return characters(texts[1:])


def of_floats(texts: list[str]) -> Sequence[Sequence[float]]:
    return [[0.5] for _ in texts]


NO_FUNCTION = 3
