"""Sizes in bytes as options take them: 1000000, 32MiB, 1.5GB."""

from __future__ import annotations

import re
from typing import Annotated

import typer

from fileset_integrations.errors import SpecError

_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(?:([kmgt]?)(i?)b)?", re.IGNORECASE)


def as_bytes(text: str | int) -> int:
    """A number of bytes, written with or without a unit.

    Raises:
        SpecError: It is no size.
    """
    match = _SIZE.fullmatch(str(text).strip())
    if match is None:
        raise SpecError(f"{text!r} is no size. Write bytes, or a number with kB, MB, GB, TB, KiB, MiB, GiB or TiB.")
    number, prefix, binary = match.groups()
    base = 1024 if binary else 1000
    return int(float(number) * base ** " kmgt".index((prefix or " ").lower()))


MaxFileBytes = Annotated[
    int, typer.Option("--max-file-bytes", parser=as_bytes, metavar="SIZE", help="Size that files should have.")
]
MemoryBytes = Annotated[
    int, typer.Option("--memory-bytes", parser=as_bytes, metavar="SIZE", help="The reader's bound of memory.")
]
MaxBytes = Annotated[
    int | None,
    typer.Option(
        "--max-bytes",
        parser=as_bytes,
        metavar="SIZE",
        show_default=False,
        help="Keep at most this much of fetched files and decoded blocks, such as 20GB: those used last stay.",
    ),
]
