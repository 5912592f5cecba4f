"""The parts of a run of `fileset-train`, and a training in each framework behind one interface.

`runs.lightning.train` and `runs.keras.train` take a `Job` and return a `Trained`; `train.py` imports neither framework.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from fileset_integrations.fileset import FileSet
from fileset_integrations.outcome import Predict


@dataclass(frozen=True)
class Job:
    """What a run is given.

    Attributes:
        config: The composed config, of the shape `schemas.TrainConf`.
        train: Training FileSet.
        val: Validation FileSet.
        columns: Columns fitted on the training FileSet.
        features: Names of the features, in order.
        build: Makes what the config has under a key, with further arguments; a dict where that is a group of named
            nodes.
        build_model: Makes the config's model from the description of the data.
        output_dir: Folder of the run.
    """

    config: DictConfig
    train: FileSet
    val: FileSet
    columns: Any
    features: tuple[str, ...]
    build: Callable[..., Any]
    build_model: Callable[[], Any]
    output_dir: Path


@dataclass(frozen=True)
class Trained:
    """What a run returns.

    Attributes:
        predict: From a reader's batch to predictions, shape (rows,).
        history: Values after each epoch by name; `loss` and `val_loss` among them.
        num_rows: Training rows that went through the model, over all epochs.
        seconds: Time of the training epochs, validation left out.
        waiting_s: Part of it in which the model waited for a batch; None where that cannot be told.
        files: Checkpoints and logs by what they are.
    """

    predict: Predict
    history: Mapping[str, list[float]]
    num_rows: int
    seconds: float
    waiting_s: float | None
    files: Mapping[str, Path] = field(default_factory=dict)
