"""Specs and columns brought together: a `Decoder` for tensors that are asked for, or for every column as it is."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import pyarrow as pa

from fileset_integrations.column_specs import Binding, Column, Spec
from fileset_integrations.decoder import Bound, BoundValues, Decoder, find_type, like, storage_type, unlike
from fileset_integrations.errors import ColumnError
from fileset_integrations.nulls import Rule
from fileset_integrations.tensors import is_bytes, is_text, plain_dtype


def bound_types(
    schema: pa.Schema, columns: Iterable[str], trained: Mapping[str, pa.DataType] | None
) -> dict[str, pa.DataType]:
    """The type that each column is decoded as: that of the training data, where there is a fit.

    Raises:
        ColumnError: A column is missing, or its values cannot become those of the training data's type.
    """
    types: dict[str, pa.DataType] = {}
    for name in columns:
        types[name] = find_type(schema, name)
        if trained is not None:
            if not like(types[name], trained[name]):
                raise unlike(name, types[name], trained[name])
            types[name] = trained[name]
    return types


def nan_columns(nans: str | Mapping[str, str], types: Mapping[str, pa.DataType]) -> frozenset[str]:
    """Columns of floats whose NaN count as nulls.

    Raises:
        ColumnError: A column is named that holds no NaN.
    """
    named = nans if isinstance(nans, Mapping) else dict.fromkeys(types, nans)
    floats = {name for name, type_ in types.items() if pa.types.is_floating(storage_type(type_))}
    for name, policy in named.items():
        if policy == "null" and name in types and name not in floats and isinstance(nans, Mapping):
            raise ColumnError(
                f"nans={{{name!r}: 'null'}}: the column is {types[name]}, which holds no NaN; floats do. Leave it out "
                "of nans."
            )
    return frozenset(name for name, policy in named.items() if policy == "null" and name in floats)


def bind_specs(
    schema: pa.Schema,
    bindings: Sequence[tuple[Spec, Binding]],
    types: Mapping[str, pa.DataType],
    rules: Mapping[str, Rule],
    nan_is_null: frozenset[str],
) -> Decoder:
    """The decoder of the tensors that specs make.

    Args:
        schema: Schema of the files.
        bindings: Each spec, and what it is bound to.
        types: The type that each column is decoded as.
        rules: What becomes of the nulls of each.
        nan_is_null: Columns of floats whose NaN count as nulls.

    Raises:
        ColumnError: A column has no tensor form as asked, or two tensors have one name.
    """
    bounds = [spec.bind(binding) for spec, binding in bindings]
    for bound, (_, binding) in zip(bounds, bindings, strict=True):
        if not binding.is_feature and len(bound.tensors) > 1:
            column = bound.columns[0]
            raise ColumnError(
                f"The {binding.name}, made of column {column!r} ({types[column]}), is several tensors: "
                f"{', '.join(tensor.name for tensor in bound.tensors)}. It must be one: pad the lists in the query and "
                f"ask for Stack({column!r}, shape=(...))."
            )
    names = [tensor.name for bound in bounds for tensor in bound.tensors]
    for name in names:
        if names.count(name) > 1:
            raise ColumnError(f"Two tensors of a batch are named {name!r}. Give one of the features another name.")
    stored = {name: storage_type(type_) for name, type_ in types.items()}
    return Decoder(schema, bounds, stored, rules, nan_is_null)


def bind_all(schema: pa.Schema) -> Decoder:
    """Every column as a tensor of its own: floats with NaN for null, strings and bytes as values, structs by field.

    Raises:
        ColumnError: A column has no tensor form; names it, its type and the way out.
    """
    types = dict(_leaves(schema))
    bounds: list[Bound] = []
    rules: dict[str, Rule] = {}
    for name, type_ in types.items():
        kind = storage_type(type_)
        dtype = plain_dtype(kind)
        rules[name] = Rule("keep" if dtype is not None and dtype.kind == "f" else "error")
        if is_text(kind) or is_bytes(kind):
            rules[name] = Rule("keep")
            bounds.append(BoundValues(name, name))
        else:
            bounds.append(Column(name).bind(Binding(name, types, {name: rules[name]})))
    return Decoder(schema, bounds, {name: storage_type(type_) for name, type_ in types.items()}, rules)


def _leaves(schema: pa.Schema) -> Iterator[tuple[str, pa.DataType]]:
    """Every column of a schema; structs as their fields."""
    names = list(schema.names)
    while names:
        name = names.pop(0)
        type_ = find_type(schema, name)
        if pa.types.is_struct(type_) and type_.num_fields:
            names = [f"{name}.{field.name}" for field in type_] + names
        else:
            yield name, type_
