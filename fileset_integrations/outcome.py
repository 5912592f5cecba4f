"""How well a model does on rows it has not seen, beside answers that need no model.

An evaluation sees the training batches once (`learn`), to know its baselines, and the validation batches once
(`score`). It keeps sums, and a bounded sample of rows for the plots; so the number of rows does not matter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from fileset_integrations.errors import SpecError
from fileset_integrations.summary import Batch, Moments

Predict = Callable[[Batch], NDArray[Any]]
# Points in a scatter plot: more of them only make it blacker.
_MAX_POINTS = 20_000


@dataclass(frozen=True)
class Score:
    """One line of the table: who answered, and how well."""

    name: str
    values: dict[str, float]


@dataclass(frozen=True)
class Outcome:
    """What an evaluation found.

    Attributes:
        scores: The model first, then the baselines. Their values have the same keys.
        metrics: The model's values as a sweep names them: `val_rmse` and the like.
        lower_is_better: Whether a smaller value is a better one.
        unit: Unit of the values, or "".
        draw: Writes the evaluation's plots into a folder and returns their paths.
    """

    scores: list[Score]
    metrics: dict[str, float]
    lower_is_better: bool
    unit: str
    num_rows: int
    draw: Callable[[Path], list[Path]] = field(repr=False)

    def verdict(self) -> str:
        """In words: whether the model beats every baseline, by the first of the values."""
        model, *baselines = self.scores
        measure = next(iter(model.values))
        sign = 1.0 if self.lower_is_better else -1.0
        # A value that is not a number beats nothing.
        unbeaten = [
            other.name for other in baselines if not sign * model.values[measure] < sign * other.values[measure]
        ]
        if not unbeaten:
            return f"The model beats every baseline in {measure}."
        return f"The model does NOT beat this in {measure}: {'; '.join(unbeaten)}."


class Evaluation(Protocol):
    """What `fileset-train` asks of an evaluation."""

    @property
    def metric_names(self) -> tuple[str, ...]:
        """Keys of the outcome's `metrics`; a sweep compares by the first unless told otherwise."""

    @property
    def lower_is_better(self) -> bool:
        """Whether a smaller value of them is a better one."""

    def learn(self, batch: Batch) -> None:
        """Take in one batch of training rows, for the baselines."""

    def score(self, batches: Iterable[Batch], predict: Predict, *, num_rows: int) -> Outcome:
        """Compare the model's predictions, and the baselines', with the labels of validation rows."""


class Regression:
    """RMSE and MAE beside the training mean and, where a feature is an answer by itself, beside that feature.

    Args:
        baseline: Feature that is nearly the label (a delay at departure, for one at arrival). Its mean difference from
        the
            label on the training rows is added to it.
        unit: Unit of the label, for the table and the plots.
    """

    def __init__(self, baseline: str | None = None, unit: str = "") -> None:
        self._baseline = baseline
        self._unit = unit
        self.metric_names = ("val_rmse", "val_mae")
        self.lower_is_better = True
        self._label = Moments()
        self._difference = Moments()

    def learn(self, batch: Batch) -> None:
        """Take in one batch of training rows."""
        label = self._label_of(batch)
        self._label.update(label)
        if self._baseline is not None:
            self._difference.update(label - self._baseline_of(batch))

    def score(self, batches: Iterable[Batch], predict: Predict, *, num_rows: int) -> Outcome:
        """Compare predictions with labels.

        Args:
            batches: Validation rows, each once.
            predict: From a batch to its predictions, shape (rows,).
            num_rows: How many rows `batches` hold, to choose every n-th of them for the plot.
        """
        names = ["model", "training mean"]
        if self._baseline is not None:
            names.append(f"{self._baseline} {self._difference.mean[0]:+.2f} (its mean difference)")
        squares, absolutes, rows = np.zeros(len(names)), np.zeros(len(names)), 0
        stride = max(1, -(-num_rows // _MAX_POINTS))
        sample: list[NDArray[Any]] = []
        for batch in batches:
            label = self._label_of(batch)
            answers = [np.asarray(predict(batch), dtype=np.float64), np.broadcast_to(self._label.mean, label.shape)]
            if self._baseline is not None:
                answers.append(self._baseline_of(batch) + self._difference.mean[0])
            for i, answer in enumerate(answers):
                squares[i] += np.square(answer - label).sum()
                absolutes[i] += np.abs(answer - label).sum()
            # Every n-th row of the whole, not of each batch.
            sample.append(np.stack([label, answers[0]])[:, -rows % stride :: stride])
            rows += len(label)
        if rows == 0:
            raise SpecError("There are no validation rows to compare the model with. Check data.val and its query.")
        scores = [
            Score(name, {"RMSE": float(np.sqrt(square / rows)), "MAE": float(absolute / rows)})
            for name, square, absolute in zip(names, squares, absolutes, strict=True)
        ]
        points = np.concatenate(sample, axis=1)

        def draw(folder: Path) -> list[Path]:
            from fileset_integrations import plots

            path = folder / "predicted.png"
            return [plots.predicted_against_true(path, *points, unit=self._unit, num_rows=rows)]

        return Outcome(
            scores=scores,
            metrics={"val_rmse": scores[0].values["RMSE"], "val_mae": scores[0].values["MAE"]},
            lower_is_better=self.lower_is_better,
            unit=self._unit,
            num_rows=rows,
            draw=draw,
        )

    def _label_of(self, batch: Batch) -> NDArray[np.float64]:
        label = batch["label"]
        if label.ndim != 1 or label.dtype.kind not in "iuf":
            raise SpecError(
                f"The label has dtype {label.dtype} and shape {('batch', *label.shape[1:])}; a regression needs "
                "one number a row. Name one numeric column as columns.label."
            )
        return label.astype(np.float64)

    def _baseline_of(self, batch: Batch) -> NDArray[np.float64]:
        assert self._baseline is not None
        if self._baseline not in batch:
            raise SpecError(
                f"evaluation.baseline is {self._baseline!r}, which is not a feature; there are: "
                f"{', '.join(name for name in batch if name not in ('label', 'weight'))}. Name one of them, or null."
            )
        return batch[self._baseline].astype(np.float64)


class Classification:
    """Accuracy beside answers that need no model, of which the commonest class is always one.

    Args:
        num_classes: Labels are integers in [0, num_classes).
        features: Name of a numeric feature: the class whose mean is nearest to it is an answer; None for none.
        baseline: Name of a feature of codes, such as a category: the commonest class among the training rows of the
            same code is an answer; None for none.
    """

    def __init__(self, num_classes: int, features: str | None = None, baseline: str | None = None) -> None:
        if num_classes < 2:
            raise SpecError(f"evaluation.num_classes is {num_classes}; there must be at least 2 classes.")
        self._num_classes = num_classes
        self.metric_names = ("val_accuracy",)
        self.lower_is_better = False
        self._features, self._baseline = features, baseline
        self._counts = np.zeros(num_classes, dtype=np.int64)
        self._sums: NDArray[np.float64] | None = None
        self._counts_of_code: dict[int, NDArray[np.int64]] = {}

    def learn(self, batch: Batch) -> None:
        """Take in one batch of training rows."""
        label = self._labels_of(batch)
        self._counts += np.bincount(label, minlength=self._num_classes)
        if self._features is not None:
            values = self._values_of(batch)
            if self._sums is None:
                self._sums = np.zeros((self._num_classes, values.shape[1]))
            np.add.at(self._sums, label, values)
        if self._baseline is not None:
            codes = self._codes_of(batch)
            for code in np.unique(codes).tolist():
                counts = self._counts_of_code.setdefault(code, np.zeros(self._num_classes, dtype=np.int64))
                counts += np.bincount(label[codes == code], minlength=self._num_classes)

    def score(self, batches: Iterable[Batch], predict: Predict, *, num_rows: int) -> Outcome:
        """Compare predictions with labels.

        Args:
            batches: Validation rows, each once.
            predict: From a batch to its predicted classes, shape (rows,).
            num_rows: How many rows `batches` hold; unused here.
        """
        names = ["model", f"always {int(self._counts.argmax())}, the commonest"]
        means = None
        if self._sums is not None:
            names.append("the nearest class mean")
            means = self._sums / np.maximum(self._counts, 1)[:, None]
            means[self._counts == 0] = np.inf  # a class that training never saw is nearest to nothing
        if self._baseline is not None:
            names.append(f"the commonest of its {self._baseline}")
        right, rows = np.zeros(len(names), dtype=np.int64), 0
        confusion = np.zeros((self._num_classes, self._num_classes), dtype=np.int64)
        for batch in batches:
            label = self._labels_of(batch)
            answers = [np.asarray(predict(batch)), np.full_like(label, self._counts.argmax())]
            if means is not None:
                values = self._values_of(batch)
                answers.append(np.stack([np.square(values - mean).sum(axis=1) for mean in means]).argmin(axis=0))
            if self._baseline is not None:
                codes, inverse = np.unique(self._codes_of(batch), return_inverse=True)
                commonest = [self._counts_of_code.get(code, self._counts).argmax() for code in codes.tolist()]
                answers.append(np.asarray(commonest, dtype=np.int64)[inverse])
            right += [int((answer == label).sum()) for answer in answers]
            np.add.at(confusion, (label, answers[0]), 1)
            rows += len(label)
        if rows == 0:
            raise SpecError("There are no validation rows to compare the model with. Check data.val and its query.")
        scores = [Score(name, {"accuracy": float(count / rows)}) for name, count in zip(names, right, strict=True)]

        def draw(folder: Path) -> list[Path]:
            from fileset_integrations import plots

            return [plots.confusion(folder / "confusion.png", confusion)]

        return Outcome(
            scores=scores,
            metrics={"val_accuracy": scores[0].values["accuracy"]},
            lower_is_better=self.lower_is_better,
            unit="",
            num_rows=rows,
            draw=draw,
        )

    def _labels_of(self, batch: Batch) -> NDArray[np.int64]:
        label: NDArray[np.int64] = batch["label"].astype(np.int64)
        if len(label) and not (label.min() >= 0 and label.max() < self._num_classes):
            raise SpecError(
                f"The label column has classes outside [0, {self._num_classes}). "
                "Set evaluation.num_classes and model.num_classes, and count the classes from 0 in the query."
            )
        return label

    def _values_of(self, batch: Batch) -> NDArray[np.float64]:
        values = self._feature(batch, "features", self._features)
        return values.reshape(len(values), -1).astype(np.float64)

    def _codes_of(self, batch: Batch) -> NDArray[Any]:
        codes = self._feature(batch, "baseline", self._baseline)
        if codes.ndim != 1 or codes.dtype.kind not in "iu":
            raise SpecError(
                f"evaluation.baseline is {self._baseline!r}, of dtype {codes.dtype} and shape "
                f"{('batch', *codes.shape[1:])}; it must be one code a row. Name a category, or null."
            )
        return codes

    def _feature(self, batch: Batch, argument: str, name: str | None) -> NDArray[Any]:
        if name is None or name not in batch:
            raise SpecError(
                f"evaluation.{argument} is {name!r}, which is not a feature; there are: "
                f"{', '.join(one for one in batch if one not in ('label', 'weight'))}. Name one of them, or null."
            )
        return batch[name]
