"""Keras, on any backend: a `PyDataset` over a FileSet, and a `fit` that goes on where a killed one stood.

`fit(model, ds, ..., resume=folder)` keeps the training's state in a folder.
"""

from fileset_integrations.callbacks.keras import DataWait
from fileset_integrations.keras.dataset import FileSetPyDataset
from fileset_integrations.keras.fitting import fit

__all__ = ["DataWait", "FileSetPyDataset", "fit"]
