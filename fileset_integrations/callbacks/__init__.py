"""Callbacks for training runs, one module a framework; `fileset_integrations.lightning` and `.keras` have them too."""

from __future__ import annotations

import os
from importlib.util import find_spec

from fileset_integrations.errors import MissingDependencyError, how_to_install

RAY_CHECKPOINT = "fit.ckpt"  # the trainer's file in the folder of a checkpoint that Ray Train keeps

_BACKENDS = ("torch", "tensorflow", "jax")  # those of Keras 3 that train


def extra_of_backend(backend: str) -> str:
    """The extra that brings a backend of Keras."""
    return "lightning" if backend == "torch" else backend


def keras_missing(error: ImportError) -> MissingDependencyError:
    """What is said where `import keras` fails: Keras is not there, or the backend that it is told to compute on.

    Args:
        error: What the import raised.
    """
    # Without a word, Keras takes tensorflow, whatever is installed (keras/src/backend/config.py, 3.15).
    backend = error.name if error.name in _BACKENDS else os.environ.get("KERAS_BACKEND", "tensorflow")
    there = [name for name in _BACKENDS if find_spec(name) is not None]
    extras = ([] if find_spec("keras") else ["keras"]) + ([] if backend in there else [extra_of_backend(backend)])
    others = f" Or set it to {' or '.join(there)}, before keras is imported." if there and backend not in there else ""
    return MissingDependencyError(
        f"{error}. Keras is optional, and computes on the backend that KERAS_BACKEND names, here {backend}.{others} "
        f"{how_to_install(*(extras or ['keras', extra_of_backend(backend)]))}"
    )
