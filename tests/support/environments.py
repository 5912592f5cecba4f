"""Environments that hold what one extra of the package brings, and no more: by links in a moment, or by pip."""

from __future__ import annotations

import sysconfig
import tomllib
import venv
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from importlib.resources import files
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import fileset_integrations
from tests.support import ROOT

PACKAGE = "fileset-integrations"
# What `dev` installs in place of a distribution: the CPU build.
INSTEAD = {"tensorflow": "tensorflow-cpu"}


def declared() -> dict[str, list[Requirement]]:
    """The requirements of each extra in pyproject.toml; those of the bare package under ""."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    extras = {"": project["dependencies"], **project["optional-dependencies"]}
    return {extra: [Requirement(line) for line in lines] for extra, lines in extras.items()}


def closure(extras: list[str]) -> tuple[dict[str, Distribution], list[str]]:
    """What pip would install for extras, as far as it is installed here; and what of it is not.

    Args:
        extras: Those of the package; [] for the bare package.

    Returns:
        Distributions by their canonical names, and the names of those that are not installed here.
    """
    found: dict[str, Distribution] = {}
    absent: list[str] = []
    asked: set[tuple[str, str]] = set()
    own = declared()
    todo = [requirement for extra in ("", *extras) for requirement in own[extra]]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        if name == PACKAGE:
            todo += [inner for extra in requirement.extras for inner in own[extra]]
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        try:
            there = found.get(name) or _installed(name)
        except PackageNotFoundError:
            absent.append(name)
            continue
        found[name] = there
        for extra in ("", *requirement.extras):
            if (name, extra) not in asked:
                asked.add((name, extra))
                todo += [one for line in there.requires or () if (one := _of_extra(line, extra)) is not None]
    return found, sorted(set(absent))


def _installed(name: str) -> Distribution:
    try:
        return distribution(name)
    except PackageNotFoundError:
        if name not in INSTEAD:
            raise
        return distribution(INSTEAD[name])


def _of_extra(line: str, extra: str) -> Requirement | None:
    requirement = Requirement(line)
    if requirement.marker is not None:
        if not requirement.marker.evaluate({"extra": extra}):
            return None
        requirement.marker = None
    return requirement


def linked(folder: Path, extras: list[str]) -> Path:
    """Make an environment of links to what is installed here; its interpreter.

    Args:
        folder: Where; it must not exist.
        extras: Of the package.

    Raises:
        LookupError: Something is not installed here.
    """
    found, absent = closure(extras)
    if absent:
        raise LookupError(f"not installed: {', '.join(absent)}")
    venv.EnvBuilder(symlinks=True).create(folder)
    python = folder / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder)}))
    for one in found.values():
        for file in one.files or ():
            if ".." not in file.parts and file.suffix not in (".pth", ".pyc"):
                _link(Path(str(one.locate_file(""))), site, file.parts)
    # The package itself, wherever its parts are: in the checkout, conf/ lies beside it.
    package = site / "fileset_integrations"
    package.mkdir()
    for path in Path(fileset_integrations.__file__).parent.iterdir():
        (package / path.name).symlink_to(path)
    if not (package / "conf").exists():
        (package / "conf").symlink_to(Path(str(files("fileset_integrations.conf"))))
    return python


def _link(source: Path, target: Path, parts: tuple[str, ...]) -> None:
    """Link the file `parts`, or the first folder on the way that is no namespace of several distributions."""
    for depth in range(1, len(parts) + 1):
        there, here = source.joinpath(*parts[:depth]), target.joinpath(*parts[:depth])
        if here.is_symlink():
            return
        namespace = there.is_dir() and not (there / "__init__.py").exists() and ".dist-info" not in there.name
        if depth == len(parts) or not namespace:
            here.symlink_to(there)
            return
        here.mkdir(exist_ok=True)
