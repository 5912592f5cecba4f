"""The choices that `fileset-train --help` lists: those of the package, and of folders given by --config-dir."""

from __future__ import annotations

import textwrap

from hydra.core.global_hydra import GlobalHydra
from hydra.core.object_type import ObjectType
from omegaconf import OmegaConf

_WIDTH = 118
_CHECKS_ONLY = "schema"  # shapes that configs are checked against: nobody chooses among them


def register() -> None:
    """Make the list known to configs as `${fileset.choices:}`. Safe to call again."""
    OmegaConf.register_new_resolver("fileset.choices", _choices, replace=True)


def _choices() -> str:
    """A paragraph for each group. Hydra asks for it while it prints the help, with its search path set."""
    loader = GlobalHydra.instance().config_loader()
    groups = [group for group in loader.list_groups("") if group not in (_CHECKS_ONLY, "hydra")]
    options = {group: loader.get_group_options(group, ObjectType.CONFIG) for group in sorted(groups)}
    options["hydra/launcher"] = loader.get_group_options("hydra/launcher", ObjectType.CONFIG)
    room = max(map(len, options)) + 4
    return "\n".join(
        textwrap.fill(", ".join(names), _WIDTH, initial_indent=f"  {group}".ljust(room), subsequent_indent=" " * room)
        for group, names in options.items()
        if names
    )
