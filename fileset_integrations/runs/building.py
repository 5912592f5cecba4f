"""What the nodes of a config make: classes and functions named by `_target_`, called with the node's keys."""

from __future__ import annotations

import inspect
import pkgutil
from typing import Any

from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from fileset_integrations import mistakes
from fileset_integrations.errors import SpecError


def target_of(config: DictConfig, key: str) -> Any:
    """The class or function that the config's node names as its `_target_`.

    Raises:
        SpecError: There is none, or it cannot be imported.
    """
    name = OmegaConf.select(config, f"{key}._target_")
    try:
        return pkgutil.resolve_name(str(name))
    except (ImportError, AttributeError, ValueError) as error:
        raise SpecError(
            f"{key}._target_ is {name}, which cannot be imported ({error}). Name a class or a function by its module, "
            "and start from a folder in which Python finds it."
        ) from error


def build(config: DictConfig, key: str, **arguments: Any) -> Any:
    """What the config's node makes; a node of named nodes makes a dict of them.

    Args:
        config: The composed config.
        key: Path of the node in it.
        **arguments: Further arguments of the node's target. They do not pass through OmegaConf, which would turn
            dataclasses among them into config nodes.

    Raises:
        SpecError: The node has a key that is no argument of its target.
    """
    node = OmegaConf.select(config, key)
    if node is None:
        return {}
    if "_target_" not in node:
        return {name: build(config, f"{key}.{name}") for name in node if node[name] is not None}
    parameters = inspect.signature(target_of(config, key)).parameters
    if not any(one.kind == one.VAR_KEYWORD for one in parameters.values()):
        for name in node:
            if name not in parameters and not str(name).startswith("_"):
                raise SpecError(mistakes.no_such_key(f"{key}.{name}", [*parameters]))
    return instantiate(node, _partial_=True)(**arguments) if arguments else instantiate(node)


def plain(node: DictConfig) -> dict[str, Any]:
    """A node as a dict of plain values, whatever it refers to filled in."""
    found = OmegaConf.to_container(node, resolve=True)
    assert isinstance(found, dict)
    return {str(key): value for key, value in found.items()}
