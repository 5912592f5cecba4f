"""The commands that documents name and no block of theirs runs: in those of the console, in running text, in help."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import typer.main

from fileset_integrations import cli
from tests.support import ROOT
from tests.support.pages import FENCE, blocks, pages

_PROGRAM = (
    r"(?:[A-Z_]+=\S+ )?(?:(?:fileset|fileset-train|make|pip|python|pytest|bash|torchrun|ssh|sudo)(?= )|\.venv/bin/\S+)"
)
_SPAN = re.compile(rf"`({_PROGRAM}[^`]*)`")
_LINE = re.compile(rf"^    ({_PROGRAM} .*)$", re.MULTILINE)
_IN_HELP = re.compile(r"fileset (?:make|info|ls) .*?(?=\.$|\.\s|$)", re.MULTILINE)


@dataclass(frozen=True)
class Command:
    """A command as it is written, and the first place that names it."""

    text: str
    where: str


def commands() -> list[Command]:
    """Each of them once, in the order of the documents."""
    found: dict[str, Command] = {}
    for text, where in _all():
        text = " ".join(text.split())
        found.setdefault(text, Command(text, where))
    return list(found.values())


def _all() -> Iterator[tuple[str, str]]:
    for page in [*pages(), *ROOT.glob("CONTRIBUTING.md")]:
        name = page.relative_to(ROOT)
        for block in blocks(page):
            if block.language == "console":
                yield from ((re.sub(r"\s+#.*", "", line), f"{name}:{block.line}") for line in block.code.splitlines())
        # Headings of commands in docs/cli.md are made from the commands themselves.
        prose = FENCE.sub("", re.sub(r"^#.*$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE))
        yield from ((span[1], str(name)) for span in _SPAN.finditer(prose))
    for recipe in sorted((ROOT / "recipes").glob("*.py")):
        text = recipe.read_text(encoding="utf-8")
        yield from ((line[1], str(recipe.relative_to(ROOT))) for line in _LINE.finditer(text))
    group: Any = typer.main.get_command(cli.app)
    for name, command in {"": group, **group.commands}.items():
        for line in _IN_HELP.findall(command.help or ""):
            yield line, f"fileset {name} --help"
