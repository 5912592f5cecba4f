"""Keras models of the recipes, for any backend. Import this module after KERAS_BACKEND is set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from fileset_integrations.errors import SpecError
from fileset_integrations.summary import InputSpec, check_codes


def tabular_regressor(
    inputs: dict[str, InputSpec],
    target: dict[str, float],
    baseline: str | None = None,
    hidden: Sequence[int] = (128, 64),
    embedding_size: int = 8,
    dropout: float = 0.1,
    lr: float = 0.002,
    weight_decay: float = 0.01,
) -> Any:
    """A compiled model: hidden layers over numbers and categories; the output may be a correction to a feature.

    Args:
        inputs: Description of every feature (`Summary.inputs`).
        target: Mean and standard deviation of what the output is to be, before `baseline` is added (`Summary.target`).
        baseline: Feature, shape (batch,), to which the output is added; None for none.
        hidden: Units of each hidden layer.
        embedding_size: Longest vector of a category; one with few codes gets a shorter one.
        dropout: Share of hidden units left out in training.
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.

    Returns:
        A `keras.Model` from a dict of features to predictions in the label's unit, shape (batch, 1). It reports `loss`
        (mean squared error), `rmse` and `mae`.
    """
    scalars = [name for name, spec in inputs.items() if list(spec.get("shape", [-1])) == []]
    if baseline is not None and baseline not in scalars:
        raise SpecError(
            f"model.baseline is {baseline!r}, which must be a feature with one number a row; "
            f"there are: {', '.join(scalars) or 'none'}. Name one of them, or null."
        )
    if not lr > 0 or not weight_decay >= 0:
        raise SpecError(f"model.lr is {lr} and model.weight_decay {weight_decay}; lr must be > 0, weight_decay >= 0.")
    check_codes(inputs)
    layers = keras.layers
    tensors: dict[str, Any] = {}
    parts: list[Any] = []
    for name, spec in inputs.items():
        if "codes" in spec:
            # int32: a code is never larger, and jax has no int64 unless it is told to; it would warn of the cut.
            tensors[name] = keras.Input((), name=name, dtype="int32")
            size = min(embedding_size, spec["codes"])
            parts.append(layers.Embedding(spec["codes"], size, name=f"{name}_embedding")(tensors[name]))
        else:
            tensors[name] = keras.Input(tuple(spec["shape"]), name=name, dtype="float32")
            # Reshape, not Flatten: that one leaves a number a row as it is, without an axis to join on.
            flat = layers.Reshape((len(spec["mean"]),))(tensors[name])
            scale = 1 / np.asarray(spec["std"], dtype=np.float32)
            parts.append(
                layers.Rescaling(scale.tolist(), (-np.asarray(spec["mean"], dtype=np.float32) * scale).tolist())(flat)
            )
    hidden_layer = parts[0] if len(parts) == 1 else layers.Concatenate()(parts)
    for units in hidden:
        hidden_layer = layers.Dropout(dropout)(layers.Dense(units, activation="relu")(hidden_layer))
    output = layers.Rescaling(target["std"], target["mean"])(layers.Dense(1)(hidden_layer))
    if baseline is not None:
        output = layers.Add()([output, layers.Reshape((1,))(tensors[baseline])])
    # A lone feature arrives as the tensor itself.
    model = keras.Model(tensors if len(tensors) > 1 else next(iter(tensors.values())), output)
    model.compile(
        optimizer=keras.optimizers.AdamW(lr, weight_decay=weight_decay),
        loss="mean_squared_error",
        metrics=[keras.metrics.RootMeanSquaredError(name="rmse"), keras.metrics.MeanAbsoluteError(name="mae")],
    )
    return model
