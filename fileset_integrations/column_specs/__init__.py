"""How tensors are made of columns: the specs, one class each, and their forms as the user writes them and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from fileset_integrations.column_specs.base import SPECS, Binding, Learned, Learner, Spec
from fileset_integrations.column_specs.categories import FIRST_CODE, NULL_CODE, OOV_CODE, Category, Hashed
from fileset_integrations.column_specs.fitting import Source, learn
from fileset_integrations.column_specs.images import Image
from fileset_integrations.column_specs.numbers import Column, Stack
from fileset_integrations.column_specs.scaling import Numeric, Scaled
from fileset_integrations.column_specs.sequences import Ragged, Tokens
from fileset_integrations.column_specs.times import Timestamp
from fileset_integrations.errors import ColumnError

__all__ = [
    "FIRST_CODE",
    "NULL_CODE",
    "OOV_CODE",
    "SPECS",
    "Binding",
    "Category",
    "Column",
    "Hashed",
    "Image",
    "Learned",
    "Learner",
    "Numeric",
    "Ragged",
    "Scaled",
    "Source",
    "Spec",
    "SpecLike",
    "Stack",
    "Timestamp",
    "Tokens",
    "as_spec",
    "learn",
    "spec_from_json",
]

SpecLike = str | Sequence[str] | Spec


def as_spec(spec: SpecLike, name: str) -> Spec:
    """A spec as the user wrote it: a name is a column as it is, a list of names is a `Stack`."""
    if isinstance(spec, Spec):
        return spec
    if isinstance(spec, str):
        return Column(spec)
    if isinstance(spec, Sequence) and all(isinstance(column, str) for column in spec):
        return Stack(spec)
    kinds = ", ".join(made.__name__ for made in SPECS.values() if made is not Column)
    raise ColumnError(f"{name}: {spec!r} is no spec. Pass a column's name, a list of names, or one of {kinds}.")


def spec_from_json(data: Any) -> Spec:
    """The spec that `Spec.to_json` gave.

    Raises:
        ColumnError: There is no spec of that name, or it does not take these arguments.
    """
    if isinstance(data, str):
        return Column(data)
    arguments = dict(data)
    name = arguments.pop("spec")
    if name not in SPECS:
        raise ColumnError(f"There is no spec {name!r}; a later version wrote it. Specs: {', '.join(SPECS)}.")
    try:
        return SPECS[name](**{key: tuple(v) if isinstance(v, list) else v for key, v in arguments.items()})
    except TypeError as error:
        raise ColumnError(f"{name}: {error}; a later version wrote it.") from error
