"""Plots of a run, as PNG files. Drawn without a screen, and without touching the plotting state of whoever calls."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from fileset_integrations.errors import MissingDependencyError, how_to_install

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


def loss_curves(path: Path, history: Mapping[str, Sequence[float]]) -> Path:
    """Training and validation loss of each epoch.

    Args:
        path: PNG file to write.
        history: Values of each epoch by name; `loss` and `val_loss` are drawn.
    """
    figure, axes = _figure()
    from matplotlib.ticker import MaxNLocator

    for name, label in (("loss", "training"), ("val_loss", "validation")):
        if history.get(name):
            axes.plot(range(1, len(history[name]) + 1), history[name], marker="o", label=label)
    axes.set(xlabel="epoch", ylabel="loss", title="Loss")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    if axes.lines:
        axes.legend()
    return _save(figure, path)


def predicted_against_true(
    path: Path, true: NDArray[Any], predicted: NDArray[Any], *, unit: str, num_rows: int
) -> Path:
    """Predictions over labels, with the line on which they agree.

    Args:
        path: PNG file to write.
        true: Labels, shape (rows,).
        predicted: Predictions, shape (rows,).
        unit: For the axes; may be "".
        num_rows: Of how many rows these are a sample.
    """
    figure, axes = _figure()
    axes.scatter(true, predicted, s=4, alpha=0.3, linewidths=0)
    low, high = float(true.min()), float(true.max())
    axes.plot([low, high], [low, high], color="black", linewidth=1, label="predicted = true")
    shown = f"{len(true):,}" if len(true) == num_rows else f"{len(true):,} of {num_rows:,}"
    suffix = f" ({unit})" if unit else ""
    axes.set(xlabel=f"true{suffix}", ylabel=f"predicted{suffix}", title=f"Validation: {shown} rows")
    axes.legend()
    return _save(figure, path)


def confusion(path: Path, counts: NDArray[Any]) -> Path:
    """How often each class was taken for each.

    Args:
        path: PNG file to write.
        counts: Rows are true classes, columns predicted ones.
    """
    figure, axes = _figure()
    axes.imshow(counts, cmap="Blues")
    for (row, column), count in _cells(counts):
        axes.text(
            column, row, str(count), ha="center", va="center", color="white" if count > counts.max() / 2 else "black"
        )
    axes.set(
        xlabel="predicted", ylabel="true", title="Validation", xticks=range(len(counts)), yticks=range(len(counts))
    )
    return _save(figure, path)


def sweep(path: Path, values: Mapping[str, Sequence[str]], metric: str, measured: Sequence[float]) -> Path:
    """The metric against each key that a sweep varied, a panel for each; the first job, the best, is marked.

    Args:
        path: PNG file to write.
        values: By key, each job's value as given: numbers, or anything else as names.
        metric: Name of the metric.
        measured: Its value for each job; one that is not a number is left out.
    """
    figure, _ = _figure()
    figure.clear()
    from matplotlib.ticker import NullFormatter

    columns = min(len(values), 3)
    rows = -(-len(values) // columns)
    figure.set_size_inches(max(6.4, 4.2 * columns), 4.0 * rows)
    for i, (key, given) in enumerate(values.items()):
        axes = figure.add_subplot(rows, columns, i + 1)
        numbers = _numbers(given)
        places = numbers or _places(given)
        axes.scatter(places, measured, s=24)
        axes.scatter(places[:1], measured[:1], s=90, facecolors="none", edgecolors="C3", label="best")
        if numbers is None:
            names = list(dict.fromkeys(given))
            axes.set_xticks(range(len(names)), names, rotation=30, ha="right")
        elif min(numbers) > 0 and max(numbers) >= 30 * min(numbers):
            axes.set_xscale("log")
            axes.xaxis.set_minor_formatter(NullFormatter())  # labels of two decades would lie on one another
        axes.set(xlabel=key, ylabel=metric)
        axes.legend()
    return _save(figure, path)


def _numbers(given: Sequence[str]) -> list[float] | None:
    try:
        return [float(value) for value in given]
    except ValueError:
        return None


def _places(given: Sequence[str]) -> list[float]:
    names = list(dict.fromkeys(given))
    return [float(names.index(value)) for value in given]


def _cells(counts: NDArray[Any]) -> list[tuple[tuple[int, int], int]]:
    return [((row, column), int(counts[row, column])) for row in range(len(counts)) for column in range(len(counts))]


def require_matplotlib() -> None:
    """Say so where plots cannot be drawn.

    Raises:
        MissingDependencyError: Matplotlib is not installed.
    """
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise MissingDependencyError(f"The plots need matplotlib. {how_to_install('recipes')}") from error


def _figure() -> tuple[Figure, Axes]:
    require_matplotlib()
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    # Not pyplot: it keeps figures and a backend for the whole process.
    figure = Figure(figsize=(6.4, 4.8), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _save(figure: Figure, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120, format="png")
    return path
