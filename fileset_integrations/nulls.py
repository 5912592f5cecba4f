"""What becomes of nulls: the policies that `Columns` takes, and the rule that follows for one column."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from fileset_integrations.errors import ColumnError

Fill = bool | int | float | str | None
Nulls = Fill | Mapping[str, Fill]

NAMED = ("error", "drop", "mean", "mask")
_PASS = "pass 'error', 'drop', 'mean', 'mask'"

Kind = Literal["error", "drop", "fill", "mean", "mask", "code", "keep"]


@dataclass(frozen=True, slots=True)
class Rule:
    """What becomes of the nulls of one column.

    Attributes:
        kind: "error"; "drop", the row is left out; "fill", a value stands in for them; "mean", that of the training
            data does; "mask", a tensor beside it says where they are; "code", they have a code of their own; "keep",
            they stay what they are: NaN in floats, None in lists of strings.
        fill: The value of "fill".
    """

    kind: Kind
    fill: Fill = None

    @property
    def given(self) -> str:
        """The policy as the user wrote it."""
        return repr(self.fill if self.kind == "fill" else self.kind)


def rule_of(policy: Fill) -> Rule:
    """The rule that a policy asks for."""
    for kind in NAMED:
        if policy == kind:
            return Rule(kind)  # type: ignore[arg-type]
    return Rule("fill", policy)


def check_nulls_argument(nulls: Any, sources: list[str]) -> Nulls:
    """The `nulls` argument of `Columns`, as plain values.

    Args:
        nulls: A policy, or column -> policy.
        sources: Columns in use.

    Raises:
        ColumnError: It is no policy, or names a column that is not in use.
    """
    if isinstance(nulls, Mapping):
        _check_names("nulls", nulls, sources)
        policies = {name: _plain_value(policy) for name, policy in nulls.items()}
        for name, policy in policies.items():
            if not isinstance(policy, bool | int | float | str):
                raise ColumnError(f"nulls={{{name!r}: {policy!r}}}: {_PASS}, a number or a string.")
        return policies
    policy = _plain_value(nulls)
    if not isinstance(policy, bool | int | float | str) or (isinstance(policy, str) and policy not in NAMED):
        raise ColumnError(f"nulls={nulls!r}: {_PASS}, a number, or a dict of column -> policy.")
    return policy


def check_nans_argument(nans: Any, sources: list[str]) -> str | Mapping[str, str]:
    """The `nans` argument of `Columns`.

    Raises:
        ColumnError: It says neither "keep" nor "null", or names a column that is not in use.
    """
    if isinstance(nans, Mapping):
        _check_names("nans", nans, sources)
    for value in nans.values() if isinstance(nans, Mapping) else (nans,):
        if not isinstance(value, str) or value not in ("keep", "null"):
            raise ColumnError(f"nans={nans!r}: pass 'keep' or 'null', or a dict of column -> one of them.")
    return dict(nans) if isinstance(nans, Mapping) else str(nans)


def _check_names(argument: str, policies: Mapping[str, Any], sources: list[str]) -> None:
    unknown = [name for name in policies if name not in sources]
    if unknown:
        raise ColumnError(
            f"{argument} names {', '.join(map(repr, unknown))}, which no feature, label or weight uses. "
            f"Columns in use: {', '.join(sources)}."
        )


def _plain_value(policy: Any) -> Any:
    return policy.item() if isinstance(policy, np.generic) else policy  # a mean that NumPy computed
