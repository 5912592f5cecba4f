"""What of the columns is worth knowing before one trains on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from fileset_integrations.profiles.measure import ColumnProfile

_NAMED = 12  # columns of a remark; the others are counted


@dataclass(frozen=True, slots=True)
class Remark:
    """One thing that is true of some columns.

    Attributes:
        badge: It in a word, for a column's own card.
        text: It in a sentence.
        places: Places of the columns, at most a dozen; of those that it is truest of where a measure orders them.
        more: How many other columns it is true of as well.
    """

    badge: str
    text: str
    places: tuple[int, ...]
    more: int


def remarks_on(profiles: Sequence[ColumnProfile]) -> list[Remark]:
    """The remarks that any column gives rise to; none of a FileSet without rows."""
    found = []
    for badge, text, applies in _KINDS:
        places = [place for place, one in enumerate(profiles) if one.rows and applies(one)]
        if places:
            found.append(Remark(badge, text, tuple(places[:_NAMED]), len(places) - len(places[:_NAMED])))
    return found


def badges_of(profile: ColumnProfile) -> list[str]:
    """In a word each, what is to be remarked of a column."""
    return [badge for badge, _, applies in _KINDS if profile.rows and applies(profile)]


def _all_null(one: ColumnProfile) -> bool:
    return one.nulls == one.rows


def _constant(one: ColumnProfile) -> bool:
    return one.rows > 1 and one.distinct == 1 and not one.nulls and not one.nans


def _some_null(one: ColumnProfile) -> bool:
    return 0 < one.nulls < one.rows


def _infinite(one: ColumnProfile) -> bool:
    return "inf" in (one.minimum, one.maximum) or "-inf" in (one.minimum, one.maximum)


def _unique(one: ColumnProfile) -> bool:
    # Floats that all differ are nothing out of the ordinary.
    whole = one.kind in ("text", "bytes") or "int" in one.type
    return whole and one.rows > 1 and not one.approximate and one.distinct == one.rows


_KINDS: tuple[tuple[str, str, Callable[[ColumnProfile], bool]], ...] = (
    ("all null", "Nothing but nulls", _all_null),
    ("constant", "One and the same value in every row", _constant),
    ("nulls", "Nulls (the argument nulls= says what becomes of them)", _some_null),
    ("NaN", "NaN", lambda one: one.nans > 0),
    ("infinite", "Infinities", _infinite),
    ("all different", "A different value in every row, as an identifier has", _unique),
)
