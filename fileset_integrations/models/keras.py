"""Keras models of the recipes, for any backend. Import this module after KERAS_BACKEND is set."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
import numpy as np

from fileset_integrations.summary import (
    InputSpec,
    check_baseline,
    check_codes,
    check_dropout,
    check_layers,
    check_optimizer,
    check_text,
)


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
    check_baseline(inputs, baseline)
    check_optimizer(lr, weight_decay)
    layers = keras.layers
    tensors, last = _hidden_layers(inputs, hidden, embedding_size, dropout)
    output = layers.Rescaling(target["std"], target["mean"])(layers.Dense(1)(last))
    if baseline is not None:
        output = layers.Add()([output, layers.Reshape((1,))(tensors[baseline])])
    metrics = [keras.metrics.RootMeanSquaredError(name="rmse"), keras.metrics.MeanAbsoluteError(name="mae")]
    return _compiled(tensors, output, "mean_squared_error", metrics, lr, weight_decay)


def tabular_classifier(
    inputs: dict[str, InputSpec],
    num_classes: int,
    hidden: Sequence[int] = (128, 64),
    embedding_size: int = 8,
    dropout: float = 0.1,
    lr: float = 0.002,
    weight_decay: float = 0.01,
) -> Any:
    """A compiled model: hidden layers over numbers and categories, and a score for each class.

    Args:
        inputs: Description of every feature (`Summary.inputs`).
        num_classes: Labels are integers in [0, num_classes).
        hidden: Units of each hidden layer.
        embedding_size: Longest vector of a category; one with few codes gets a shorter one.
        dropout: Share of hidden units left out in training.
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.

    Returns:
        A `keras.Model` from a dict of features to scores before the softmax, shape (batch, num_classes). It reports
        `loss` (cross entropy) and `accuracy`.
    """
    check_optimizer(lr, weight_decay)
    tensors, last = _hidden_layers(inputs, hidden, embedding_size, dropout)
    return _classifier(tensors, keras.layers.Dense(num_classes)(last), lr, weight_decay)


def text_classifier(
    inputs: dict[str, InputSpec],
    text: str,
    num_classes: int,
    vocabulary_size: int = 256,
    embedding_size: int = 16,
    channels: int = 128,
    width: int = 5,
    dropout: float = 0.2,
    lr: float = 0.002,
    weight_decay: float = 0.01,
) -> Any:
    """A compiled model: a learnt vector for each element of a text, a convolution, and the strongest answer of each.

    Args:
        inputs: Description of the features (`Summary.inputs`).
        text: Feature that holds the texts, integers of shape (batch, length); 0 is what short texts are filled with.
        num_classes: Labels are integers in [0, num_classes).
        vocabulary_size: Elements are integers in [0, vocabulary_size), unless `inputs` says how many codes there are.
        embedding_size: Of each element's vector.
        channels: Of the convolution.
        width: Elements in a run, an odd number.
        dropout: Share of channels left out in training.
        lr: Learning rate of AdamW.
        weight_decay: Of AdamW.

    Returns:
        As `tabular_classifier`.
    """
    check_optimizer(lr, weight_decay)
    check_dropout(dropout)
    shape = check_text(inputs, text, width)
    layers = keras.layers
    # Features that it does not read are inputs all the same: Keras hands it every one of them.
    tensors = {
        name: keras.Input(tuple(spec.get("shape", ())), name=name, dtype="int32" if name == text else None)
        for name, spec in inputs.items()
    }
    vectors = layers.Embedding(inputs[text].get("codes", vocabulary_size), embedding_size)(tensors[text])
    found = layers.Conv1D(channels, width, padding="same", activation="relu")(vectors)
    strongest = layers.Dropout(dropout)(layers.MaxPooling1D(shape[0])(found))
    return _classifier(tensors, layers.Dense(num_classes)(layers.Flatten()(strongest)), lr, weight_decay)


def _hidden_layers(
    inputs: dict[str, InputSpec], hidden: Sequence[int], embedding_size: int, dropout: float
) -> tuple[dict[str, Any], Any]:
    """The input of each feature, and what the last hidden layer makes of them all."""
    check_codes(inputs)
    check_layers(hidden, embedding_size, dropout)
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
    last = parts[0] if len(parts) == 1 else layers.Concatenate()(parts)
    for units in hidden:
        last = layers.Dropout(dropout)(layers.Dense(units, activation="relu")(last))
    return tensors, last


def _classifier(tensors: dict[str, Any], scores: Any, lr: float, weight_decay: float) -> Any:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    metrics = [keras.metrics.SparseCategoricalAccuracy(name="accuracy")]
    return _compiled(tensors, scores, loss, metrics, lr, weight_decay)


def _compiled(
    tensors: dict[str, Any], output: Any, loss: Any, metrics: list[Any], lr: float, weight_decay: float
) -> Any:
    # A lone feature arrives as the tensor itself.
    model = keras.Model(tensors if len(tensors) > 1 else next(iter(tensors.values())), output)
    model.compile(optimizer=keras.optimizers.AdamW(lr, weight_decay=weight_decay), loss=loss, metrics=metrics)
    return model
