"""What can be chosen in the configs, as tables of `docs/configs.md`: read from the files and their shapes, not written.

`python -m fileset_integrations.config_table docs/configs.md` writes them anew into that file.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from enum import Enum
from importlib.resources import files
from pathlib import Path
from typing import Any

import omegaconf
from omegaconf import OmegaConf

from fileset_integrations.schemas import SHAPES

# The groups, in the order in which a user meets them, and what a choice in each is.
GROUPS = {
    "data": "The task. Unless chosen too, `filesets`, `columns`, `evaluation` and `model` go by its name.",
    "framework": "What trains. Keras brings its own model, trainer and callbacks.",
    "experiment": "A named set of choices, which holds only what differs from `train.yaml`.",
    "source": "Where the FileSets live.",
    "filesets": "Which FileSets a task needs, and the SQL that they are made of.",
    "columns": "Which columns become which tensors.",
    "model": "What is trained. `inputs` and `target` come from the data.",
    "evaluation": "What the table at the end of a run measures.",
    "trainer": "How it is trained, and on what.",
    "callbacks": "What else happens while it is trained.",
    "logger": "Where metrics go, beside the run's own table and plots.",
    "paths": "Folders.",
    "debug": "Short runs that look for mistakes, with either framework.",
    "hparams_search": "Named sweeps.",
    "hydra/sweeper": "What proposes the jobs of a sweep, beside Hydra's own grid.",
}

_MARKS = "<!-- groups -->\n", "<!-- end -->"


def renewed(text: str) -> str:
    """A document whose generated part, between `<!-- groups -->` and `<!-- end -->`, is written anew.

    Raises:
        ValueError: It has no such part.
    """
    before, found, rest = text.partition(_MARKS[0])
    if not found or _MARKS[1] not in rest:
        raise ValueError(f"The document has no part between {_MARKS[0].strip()!r} and {_MARKS[1]!r}. Write both lines.")
    return before + found + tables() + rest[rest.index(_MARKS[1]) :]


def tables() -> str:
    """What can be chosen in each group, and the keys of what is chosen."""
    parts = ["## train.yaml\n", *_whole()]
    for group, what in GROUPS.items():
        parts += [f"\n## {group}\n", f"{what}\n", *_options(group), *_shapes(group)]
    return "\n".join(parts).rstrip() + "\n"


def folder() -> Path:
    """Where the configs lie."""
    return Path(str(files("fileset_integrations.conf")))


def _whole() -> Iterator[str]:
    text = (folder() / "train.yaml").read_text(encoding="utf-8")
    content = _content(folder() / "train.yaml")
    comments = _comments(text)
    yield "| choice | unless you say otherwise | |"
    yield "|---|---|---|"
    for entry in content["defaults"]:
        if isinstance(entry, dict):
            [(group, option)] = entry.items()
            yield f"| `{group}` | {_value(option)} | {comments.get(group, '')} |"
    yield "\n| key | unless you say otherwise | |"
    yield "|---|---|---|"
    for key, value in content.items():
        if key not in ("defaults", "hydra"):
            for name, one in value.items() if isinstance(value, dict) else [("", value)]:
                full = f"{key}.{name}" if name else key
                yield f"| `{full}` | {_value(one)} | {comments.get(name or key, '')} |"


def _options(group: str) -> Iterator[str]:
    yield "| choice | what it is |"
    yield "|---|---|"
    for path in sorted((folder() / group).glob("*.yaml")):
        yield f"| `{group}={path.stem}` | {_first_words(path)} |"


def _shapes(group: str) -> Iterator[str]:
    """A table of keys for each shape that options of the group ask for."""
    names: dict[str, list[str]] = {}
    for path in sorted((folder() / group).glob("*.yaml")):
        text = path.read_text(encoding="utf-8")
        for name in re.findall(r"^  - /schema/(\w+)@_here_$", text, re.MULTILINE):
            names.setdefault(name, []).append(path.stem)
    for name, options in names.items():
        said: dict[str, set[str]] = {}
        for option in options:
            for key, comment in _comments((folder() / group / f"{option}.yaml").read_text(encoding="utf-8")).items():
                said.setdefault(key, set()).add(comment)
        # What only one of them says, or all in the same words.
        comments = {key: next(iter(words)) for key, words in said.items() if len(words) == 1}
        of = "" if len(names) == 1 else f" of {', '.join(f'`{option}`' for option in options)}"
        yield f"\nKeys{of}:\n"
        yield "| key | type | unless a file says otherwise | |"
        yield "|---|---|---|---|"
        for field in fields(SHAPES[name]):
            if not field.name.startswith("_"):
                yield f"| `{field.name}` | {_type(field)} | {_default(field)} | {comments.get(field.name, '')} |"


def _first_words(path: Path) -> str:
    """The comment that a file begins with, or what it is made of where there is none."""
    words: list[str] = []
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.startswith("# @package"):
            continue
        if not line.startswith("#"):
            break
        if line.startswith("#  "):  # a command or a statement, to be copied
            break
        words.append(line.removeprefix("#").strip())
    if words and words[-1].endswith(":"):  # of what follows, which was left out
        words = " ".join(words).rpartition(". ")[0].split(" ")
        words[-1] += "."
    content = _content(path)
    if not words and content.get("defaults"):
        words = [f"`{group}` and" for group in content["defaults"] if isinstance(group, str) and group != "_self_"]
        return " ".join(words).removesuffix(" and") + "."
    if not words:
        targets = [node["_target_"] for node in content.values() if isinstance(node, dict) and "_target_" in node]
        return ", ".join(f"`{target}`" for target in targets) or "None."
    return _cell(" ".join(words))


def _content(path: Path) -> dict[str, Any]:
    content = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    assert isinstance(content, dict)
    return {str(key): value for key, value in content.items()}


def _comments(text: str) -> dict[str, str]:
    """Comments that stand behind keys."""
    found = re.findall(r"^[ -]*([\w-]+):[^#\n]*?[ ]+# (.*)$", text, re.MULTILINE)
    return {key: _cell(comment) for key, comment in found}


def _type(field: Field[Any]) -> str:
    name = str(field.type).replace("|", "or")
    return "anything" if name == "Any" else f"`{name}`"


def _default(field: Field[Any]) -> str:
    value = field.default_factory() if field.default_factory is not MISSING else field.default
    return _value(value)


def _value(value: Any) -> str:
    if value == omegaconf.MISSING:
        return "must be given"
    if isinstance(value, Enum):
        value = value.value
    return f"`{value if isinstance(value, str) and value else json.dumps(value)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


if __name__ == "__main__":
    document = Path(sys.argv[1])
    document.write_text(renewed(document.read_text(encoding="utf-8")), encoding="utf-8")
