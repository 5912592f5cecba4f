"""What a model must know of its data before it is built, gathered in one pass over the training batches.

Means and spreads come from the training rows alone. They go into the model as plain numbers, so that a checkpoint holds
them and validation cannot touch them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypedDict

import numpy as np
from numpy.typing import NDArray

from fileset_integrations.errors import SpecError

Batch = Mapping[str, NDArray[Any]]


class InputSpec(TypedDict, total=False):
    """One feature, as a model sees it: either a category or numbers."""

    codes: int  # a category: number of codes, those for null and for unseen values included
    shape: list[int]  # numbers: shape of one row's tensor
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
    """Moments of every numeric feature and of the label, and the number of codes of every category.

    Args:
        vocabulary_sizes: Number of codes for each feature that is a category (`FittedColumns.vocabulary_sizes`).
        baseline: Feature to which the model adds its output: the target's moments are those of label minus this
        feature.
    """

    def __init__(self, vocabulary_sizes: Mapping[str, int], baseline: str | None = None) -> None:
        self._codes = dict(vocabulary_sizes)
        self._baseline = baseline
        self._features: dict[str, Moments] = {}
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._target = Moments()

    def update(self, batch: Batch) -> None:
        """Take in one batch of a reader: a dict of arrays, with `label` where there is one.

        Raises:
            SpecError: The baseline is not a feature with one number a row.
        """
        numbers = [name for name, values in batch.items() if name not in ("label", "weight", *self._codes)]
        if self._baseline is not None and (self._baseline not in numbers or batch[self._baseline].ndim != 1):
            raise SpecError(
                f"model.baseline is {self._baseline!r}, which must be a feature with one number a row. "
                f"Numeric features: {', '.join(numbers) or 'none'}. Name such a one, or null."
            )
        for name in numbers:
            self._shapes[name] = batch[name].shape[1:]
            self._features.setdefault(name, Moments()).update(batch[name])
        if "label" in batch and batch["label"].dtype.kind in "iuf":
            label = batch["label"].astype(np.float64)
            self._target.update(label if self._baseline is None else label - batch[self._baseline])

    @property
    def num_rows(self) -> int:
        """Rows seen."""
        return self._target.count

    def inputs(self) -> dict[str, InputSpec]:
        """Every feature's description, categories last, as plain values."""
        inputs: dict[str, InputSpec] = {
            name: {"shape": list(self._shapes[name]), "mean": moments.mean.tolist(), "std": moments.std.tolist()}
            for name, moments in self._features.items()
        }
        inputs.update({name: {"codes": codes} for name, codes in self._codes.items()})
        return inputs

    def target(self) -> dict[str, float]:
        """Mean and standard deviation of the model's target: the label, or its distance from the baseline."""
        return {"mean": float(self._target.mean[0]), "std": float(self._target.std[0])}
