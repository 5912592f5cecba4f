"""The framework that a config names, loaded once it is known."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Callable

from omegaconf import DictConfig

from fileset_integrations import plots
from fileset_integrations.callbacks import extra_of_backend
from fileset_integrations.errors import FileSetError, MissingDependencyError, SpecError, how_to_install
from fileset_integrations.runs import Job, Trained


def training_function(config: DictConfig) -> Callable[[Job], Trained | None]:
    """The function that trains; the framework is imported here and nowhere earlier.

    Raises:
        MissingDependencyError: The framework, or what it needs, is not installed; names the extra.
        SpecError: Keras is loaded already, with another backend than the config's.
    """
    framework = config.framework.value
    extras = [framework, "recipes"]
    if framework == "keras":
        _choose_keras_backend(config.keras.backend.value)
        extras.insert(1, extra_of_backend(config.keras.backend.value))
    try:
        module = importlib.import_module(f"fileset_integrations.runs.{framework}")
        if config.get("ray") is not None:  # which says how to get Ray, before the FileSets are made
            importlib.import_module("fileset_integrations.ray")
    except ImportError as error:
        if isinstance(error, FileSetError):
            raise
        raise MissingDependencyError(
            f"This run (framework={framework}) needs {error.name or error}, which cannot be imported. "
            f"{how_to_install(*extras)}"
        ) from error
    plots.require_matplotlib()  # rather than at the end, with the model lost
    train: Callable[[Job], Trained | None] = module.train
    return train


def _choose_keras_backend(backend: str) -> None:
    # Keras reads the variable once, when it is first imported.
    loaded = sys.modules.get("keras")
    if loaded is None:
        os.environ["KERAS_BACKEND"] = backend
    elif loaded.backend.backend() != backend:
        raise SpecError(
            f"keras.backend={backend}, but this process has loaded keras with {loaded.backend.backend()} already. "
            "A process has one backend: start a run for each, or sweep with a launcher that starts processes."
        )
