"""The reference in `docs/cli.md`: every command with its arguments and options, as the application has them.

`python -m fileset_integrations.cli.reference docs/cli.md` writes it anew into that file.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import typer.main

from fileset_integrations.cli import app
from fileset_integrations.cli.application import EXIT_CODES

BEGIN, END = "<!-- begin: {} -->", "<!-- end: {} -->"


def reference() -> dict[str, str]:
    """Text of each part that is generated, by its name."""
    return {
        "exit codes": "\n".join(
            ["| code | meaning |", "|---:|---|", *(f"| {code} | {meaning} |" for code, meaning in EXIT_CODES.items())]
        ),
        "commands": "\n".join(_commands(typer.main.get_command(app), "fileset")).strip(),
    }


def replaced(text: str) -> str:
    """A document whose parts between the marks are those of `reference`.

    Raises:
        ValueError: The marks of a part are missing.
    """
    for name, part in reference().items():
        begin, end = BEGIN.format(name), END.format(name)
        if begin not in text or end not in text:
            raise ValueError(f"The document lacks {begin} and {end}.")
        before, after = text.split(begin)[0], text.split(end)[1]
        text = f"{before}{begin}\n\n{part}\n\n{end}{after}"
    return text


def _commands(group: Any, path: str) -> Iterator[str]:
    for name, command in group.commands.items():
        if hasattr(command, "commands"):
            yield from _commands(command, f"{path} {name}")
            continue
        arguments = [param for param in command.params if param.param_type_name == "argument"]
        options = [param for param in command.params if param.param_type_name == "option"]
        words = " ".join(_metavar(one) for one in arguments)
        yield from (f"### `{' '.join(filter(None, (path, name, words)))}`", "")
        yield from (command.help.strip(), "")
        yield from ("| argument or option | meaning |", "|---|---|")
        for one in arguments:
            yield f"| `{_metavar(one)}` | {_cell(one.help)} |"
        for one in options:
            yield f"| {_spelling(one)} | {_cell(one.help)}{_default(one)} |"
        yield ""


def _metavar(param: Any) -> str:
    return str(param.metavar or param.name.upper())


def _spelling(option: Any) -> str:
    names = [*option.opts, *option.secondary_opts]
    value = "" if option.is_flag else f" {option.metavar or option.name.split('_')[-1].upper()}"
    return ", ".join(f"`{name}{value}`" for name in sorted(names, key=lambda name: (len(name) > 2, name)))


def _default(option: Any) -> str:
    if option.is_flag or option.default is None or not option.show_default:
        return ""
    return f" Default: {option.default}."


def _cell(text: str | None) -> str:
    return " ".join((text or "").replace("|", "\\|").split())


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(replaced(document.read_text(encoding="utf-8")), encoding="utf-8")
