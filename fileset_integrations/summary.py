"""What a model must know of its data before it is built, gathered in one pass over the training batches.

Means and spreads come from the training rows alone. They go into the model as plain numbers, so that a checkpoint holds
them and validation cannot touch them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from fileset_integrations.decoder import TensorSpec
from fileset_integrations.errors import SpecError

Batch = Mapping[str, NDArray[Any]]


class InputSpec(TypedDict, total=False):
    """One tensor of the features, as a model sees it: codes or numbers."""

    codes: int  # codes: how many there are, those for null and for unseen values included
    shape: list[int]  # shape of one row's tensor; left out where a row is one code
    mean: list[float]  # numbers: per element, flattened
    std: list[float]


class Moments:
    """Running mean and standard deviation of vectors, in float64.

    Batches are merged by Chan's formula: sums of squares alone would lose the spread of a column far from zero.
    """

    def __init__(self) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(0)
        self._squares: NDArray[np.float64] = np.zeros(0)

    def update(self, values: NDArray[Any]) -> None:
        """Take in rows, shape (rows, ...); everything after the first axis is flattened."""
        count = len(values)
        if count == 0:
            return
        # One column at a time where there is only one: reshape(count, -1) keeps (rows,) and (rows, ...) alike.
        rows = values.reshape(count, -1).astype(np.float64)
        mean = rows.mean(axis=0)
        squares = np.square(rows - mean).sum(axis=0)
        if self.count == 0:
            self.mean, self._squares = mean, squares
        else:
            total = self.count + count
            delta = mean - self.mean
            self.mean = self.mean + delta * (count / total)
            self._squares = self._squares + squares + np.square(delta) * (self.count * count / total)
        self.count += count

    @property
    def std(self) -> NDArray[np.float64]:
        """Standard deviation; 1 where a column never changes, so that dividing by it is harmless."""
        spread = np.sqrt(self._squares / max(self.count, 1))
        # A constant column's spread may be a rounding error instead of 0.
        return np.where(spread > 1e-9 * np.maximum(np.abs(self.mean), 1.0), spread, 1.0)


class Summary:
    """Moments of every tensor of numbers and of the label, and the number of codes of every other.

    Args:
        tensors: The features' tensors by name (`FittedColumns.input_spec`).
        baseline: Feature to which the model adds its output: the target's moments are those of label minus this
            feature.
    """

    def __init__(self, tensors: Mapping[str, TensorSpec], baseline: str | None = None) -> None:
        self._tensors = dict(tensors)
        self._baseline = baseline
        self._features = {name: Moments() for name, one in tensors.items() if one.vocabulary_size is None}
        self._target = Moments()

    def update(self, batch: Batch) -> None:
        """Take in one batch of a reader: a dict of arrays, with `label` where there is one.

        Raises:
            SpecError: The baseline is not a feature with one number a row.
        """
        if self._baseline is not None and (self._baseline not in self._features or batch[self._baseline].ndim != 1):
            raise SpecError(
                f"model.baseline is {self._baseline!r}, which must be a feature with one number a row. "
                f"Numeric features: {', '.join(self._features) or 'none'}. Name such a one, or null."
            )
        for name, moments in self._features.items():
            moments.update(batch[name])
        if "label" in batch and batch["label"].dtype.kind in "iuf":
            label = batch["label"].astype(np.float64)
            self._target.update(label if self._baseline is None else label - batch[self._baseline])

    @property
    def num_rows(self) -> int:
        """Rows seen."""
        return self._target.count

    def inputs(self) -> dict[str, InputSpec]:
        """Every tensor's description, codes last, as plain values."""
        inputs: dict[str, InputSpec] = {
            name: {
                "shape": list(self._tensors[name].shape),
                "mean": moments.mean.tolist(),
                "std": moments.std.tolist(),
            }
            for name, moments in self._features.items()
        }
        for name, tensor in self._tensors.items():
            if tensor.vocabulary_size is not None:
                inputs[name] = {"codes": tensor.vocabulary_size}
                if tensor.shape:
                    inputs[name]["shape"] = list(tensor.shape)
        return inputs

    def target(self) -> dict[str, float]:
        """Mean and standard deviation of the model's target: the label, or its distance from the baseline."""
        return {"mean": float(self._target.mean[0]), "std": float(self._target.std[0])}


def check_codes(inputs: Mapping[str, InputSpec]) -> None:
    """Refuse features of several codes a row, for models that learn a vector of one code.

    Raises:
        SpecError: There is such a feature; names it.
    """
    for name, spec in inputs.items():
        if "codes" in spec and spec.get("shape"):
            raise SpecError(
                f"Feature {name!r} holds codes of shape {tuple(spec['shape'])} a row, this model takes one code a row. "
                "Leave it out of columns.features, or choose a model for sequences."
            )


def check_layers(hidden: Sequence[int], embedding_size: int, dropout: float) -> None:
    """Refuse sizes that no layer can have.

    Raises:
        SpecError: Names the model's key and what would do.
    """
    if any(units < 1 for units in hidden):
        raise SpecError(f"model.hidden is {list(hidden)}; a hidden layer has at least 1 unit. [] is no hidden layer.")
    if embedding_size < 1:
        raise SpecError(f"model.embedding_size is {embedding_size}; a category's vector has at least 1 element.")
    check_dropout(dropout)


def check_dropout(dropout: float) -> None:
    """Refuse shares that leave nothing to train.

    Raises:
        SpecError: Says what would do.
    """
    if not 0 <= dropout < 1:
        raise SpecError(f"model.dropout is {dropout}; it must lie in [0, 1): the share of units left out.")


def check_optimizer(lr: float, weight_decay: float) -> None:
    """Refuse what AdamW cannot learn by.

    Raises:
        SpecError: Says what would do.
    """
    if not lr > 0 or not weight_decay >= 0:
        raise SpecError(f"model.lr is {lr} and model.weight_decay {weight_decay}; lr must be > 0, weight_decay >= 0.")


def check_text(inputs: Mapping[str, InputSpec], text: str, width: int) -> list[int]:
    """Refuse a text, or a width of its convolution, that a text classifier cannot read.

    Returns:
        Shape of one row's text: its length.

    Raises:
        SpecError: Names the model's key and what would do.
    """
    way = "Stack(column, shape=(length,), dtype='int64') makes it of a list"
    shape = _shape_of(inputs, "text", text, ("length",), way)
    if width < 1 or width % 2 == 0:
        raise SpecError(f"model.width is {width}; the convolution needs an odd number of elements, such as 5.")
    return shape


def check_image(inputs: Mapping[str, InputSpec], image: str) -> list[int]:
    """Refuse an image that a classifier of single-channel images cannot read.

    Returns:
        Shape of one row's image: its height and width.

    Raises:
        SpecError: Names the model's key and what would do.
    """
    way = "Stack(column, shape=(height, width)) makes an image of a list column"
    return _shape_of(inputs, "image", image, ("height", "width"), way)


def _shape_of(inputs: Mapping[str, InputSpec], key: str, name: str, axes: tuple[str, ...], way: str) -> list[int]:
    shape = list(inputs[name].get("shape", [])) if name in inputs else None
    if shape is None or len(shape) != len(axes):
        wanted = ", ".join(axes) if len(axes) > 1 else f"{axes[0]},"
        raise SpecError(
            f"model.{key} is {name!r}, which must be a feature of shape ({wanted}); "
            f"{'there is none of that name' if shape is None else f'its shape is {tuple(shape)}'}. "
            f"Features: {', '.join(inputs)}. {way}."
        )
    return shape


def check_baseline(inputs: Mapping[str, InputSpec], baseline: str | None) -> None:
    """Refuse a baseline to which no output can be added.

    Raises:
        SpecError: It is no feature with one number a row; names those that are.
    """
    numbers = [name for name, spec in inputs.items() if list(spec.get("shape", [-1])) == []]
    if baseline is not None and baseline not in numbers:
        raise SpecError(
            f"model.baseline is {baseline!r}, which must be a feature with one number a row; "
            f"there are: {', '.join(numbers) or 'none'}. Name one of them, or null."
        )
