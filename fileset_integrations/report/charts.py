"""Where the marks of the report's charts stand, as plain numbers: the template draws them and says what they are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 320, 90
_GAP = 0.12  # of a bar's room, left empty
_MOST_BARS = 80


@dataclass(frozen=True, slots=True)
class Bar:
    """A rectangle of a chart, in its own units.

    Attributes:
        x: Left edge.
        y: Upper edge.
        width: Its width.
        height: Its height.
        shade: How strong its colour is, in (0, 1].
        says: What it stands for; shown where the mouse rests on it.
    """

    x: float
    y: float
    width: float
    height: float
    shade: float = 1.0
    says: str = ""


def columns_of(counts: Sequence[float], says: Sequence[str] = ()) -> list[Bar]:
    """Upright bars as high as the numbers, the greatest as high as the chart; a number above 0 is always to be seen.

    Args:
        counts: The numbers.
        says: What each of them stands for; nothing without.
    """
    most = max(counts, default=0)
    if most <= 0:
        return []
    room = WIDTH / len(counts)
    gap = room * _GAP if room > 3 else 0.0
    bars = []
    for place, count in enumerate(counts):
        if count > 0:
            height = max(HEIGHT * count / most, 1.0)
            x, width = _tidy(place * room + gap / 2), _tidy(room - gap)
            said = says[place] if says else ""
            bars.append(Bar(x, _tidy(HEIGHT - height), width, _tidy(height), says=said))
    return bars


def grouped(values: Sequence[float]) -> tuple[list[float], int]:
    """Values for at most as many bars as can be told apart: means of neighbours; and how many make one bar."""
    size = -(-len(values) // _MOST_BARS)
    if size <= 1:
        return list(values), 1
    return [float(np.mean(values[start : start + size])) for start in range(0, len(values), size)], size


def cells_of(shares: NDArray[np.float64], width: float = WIDTH, height: float = 160) -> list[Bar]:
    """Cells of a map of (columns, rows), stronger where the share is greater; those without any are left out."""
    if not shares.size:
        return []
    columns, rows = shares.shape
    # As strong as can be from four times the share of a true shuffle on: else one band that stands out hides the rest.
    shades = np.minimum(shares * rows / 4, 1.0)
    # Edges are rounded, not widths: cells that overlapped by a hundredth would show as lines.
    x, y = np.linspace(0, width, columns + 1).round(2), np.linspace(0, height, rows + 1).round(2)
    wide, high = np.diff(x).tolist(), np.diff(y).tolist()
    return [
        Bar(float(x[column]), float(y[row]), _tidy(wide[column]), _tidy(high[row]), max(round(float(shade), 2), 0.02))
        for (column, row), shade in np.ndenumerate(shades)
        if shade > 0
    ]


def _tidy(number: float) -> float:
    return round(float(number), 2)
