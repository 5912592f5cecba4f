"""How the report says numbers, times and texts: as people read them, and nothing that is not seen."""

from __future__ import annotations

import math
import unicodedata

from fileset_integrations.profiles.leaves import Plain
from fileset_integrations.progress import amount

_SHOWN = 120  # characters of a value or a name
_JOINERS = "\u200c\u200d"  # between letters of some scripts, and in emoji of several people


def number(value: Plain) -> str:
    """A number, time or text of a column."""
    if value is None:
        return "–"
    if isinstance(value, str):
        return tidy(value)
    if isinstance(value, int):
        # Years, codes and times of day such as 1345 stay in one piece.
        return str(value) if abs(value) < 10_000 else f"{value:,}"
    if 1e6 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    shown = f"{value:,.{7 if abs(value) >= 1e5 else 6}g}"  # 999,999.5, not 1e+06
    return shown if abs(value) >= 10_000 else shown.replace(",", "")


def about(value: Plain) -> str:
    """A mean, a deviation or an estimate, of which more digits than four say nothing."""
    if not isinstance(value, float) or not math.isfinite(value) or value == int(value) or abs(value) >= 1000:
        return number(round(value) if isinstance(value, float) and 1000 <= abs(value) < 1e15 else value)
    return f"{value:.4g}"


def instant(value: Plain, coarse: bool = False) -> str:
    """A time of a column, with a space for the T of ISO 8601 and nothing for its Z.

    Args:
        value: Text, as a profile has it; a duration or a date stays as it is.
        coarse: Leave out fractions of a second, as of a mean.
    """
    if not isinstance(value, str):
        return number(value)
    shown = value.removesuffix("Z").replace("T", " ")
    return tidy(shown.partition(".")[0] if coarse and ":" in shown else shown)


def count(number_: int, one: str, many: str = "") -> str:
    """How many there are of something: "1 file", "2,000 files"."""
    return f"{number_:,} {one if number_ == 1 else many or one + 's'}"


def percent(part: float, whole: float) -> str:
    """A share in percent: never 0 or 100 % where it is not, and two digits where it is small."""
    share = 100 * part / whole if whole else 0.0
    if share in (0.0, 100.0):
        return f"{share:.0f} %"
    if share < 0.01:
        return "< 0.01 %"
    return "> 99.9 %" if share > 99.9 else f"{share:.{2 if share < 1 else 1}f} %"


def size(num_bytes: int) -> str:
    """A number of bytes in the unit that suits it."""
    return amount(num_bytes, "bytes")


def times(ratio: float) -> str:
    """How many times as much something is."""
    return "–" if math.isnan(ratio) else f"{ratio:,.{1 if ratio < 100 else 0}f}"


def duration(seconds: float) -> str:
    """A span of time in the greatest unit that it is more than two of."""
    for name, unit in (("days", 86_400), ("hours", 3_600), ("minutes", 60)):
        if seconds > 2 * unit:
            number_ = seconds / unit
            return f"{number_:,.0f} {name}" if number_ >= 1000 else f"{number_:.4g} {name}"
    return f"{seconds:.4g} s"


def tidy(text: object, limit: int = _SHOWN) -> str:
    """Text in which nothing but characters that are seen is left, cut where it is long."""
    shown = str(text)
    if len(shown) > limit:
        shown = shown[: limit - 1] + "…"
    return "".join(
        one if _seen(one) or _joins(shown, place) else f"\\u{ord(one):04x}" for place, one in enumerate(shown)
    )


def _seen(character: str) -> bool:
    # Neither control characters nor those that turn the direction of what follows.
    return character == " " or unicodedata.category(character)[0] not in "CZ"


def _joins(text: str, place: int) -> bool:
    """Whether a character joins those beside it, which only emoji and scripts beyond Latin have a use for."""
    around = text[place - 1 : place] + text[place + 1 : place + 2] if place else ""
    return text[place] in _JOINERS and len(around) == 2 and all(ord(one) > 0x2FF and _seen(one) for one in around)
