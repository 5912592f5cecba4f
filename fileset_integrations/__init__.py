"""Train on a SQL query's result, in PyTorch Lightning and in Keras.

Importing this package imports no framework: the faces load when they are first used.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fileset_integrations.columns import Columns
    from fileset_integrations.errors import FileSetError
    from fileset_integrations.fileset import FileSet
    from fileset_integrations.keras import FileSetPyDataset
    from fileset_integrations.lightning import FileSetDataModule
    from fileset_integrations.mixing import shuffle_report
    from fileset_integrations.reader import FileSetReader
    from fileset_integrations.spec import Shard

__version__ = "0.1.0"

__all__ = [
    "Columns",
    "FileSet",
    "FileSetDataModule",
    "FileSetError",
    "FileSetPyDataset",
    "FileSetReader",
    "Shard",
    "shuffle_report",
]

_HOMES = {
    "Columns": "columns",
    "FileSet": "fileset",
    "FileSetDataModule": "lightning",
    "FileSetError": "errors",
    "FileSetPyDataset": "keras",
    "FileSetReader": "reader",
    "Shard": "spec",
    "shuffle_report": "mixing",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
