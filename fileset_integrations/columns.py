"""Which columns become which tensors: specs, what they learn from the training data, and the way from Arrow to arrays.

`Columns` is a plain value. `Columns.fit` learns vocabularies from a FileSet and gives `FittedColumns`, which evaluation
and serving use unchanged. `bind` checks either against a schema, before any row is read, and gives a `Decoder`.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from fileset_integrations.column_specs import (
    Category,
    Spec,
    SpecLike,
    Stack,
    as_spec,
    bind_column,
    bind_spec,
    sources,
    spec_from_json,
    spec_to_json,
    type_for,
)
from fileset_integrations.decoder import Decoder, TensorSpec
from fileset_integrations.errors import ColumnError
from fileset_integrations.tensors import (
    FIRST_CODE,
    NULL_CODE,
    OOV_CODE,
    Fill,
    fill_scalar,
    is_text,
    list_length,
    vocabulary_array,
)

__all__ = [
    "FIRST_CODE",
    "NULL_CODE",
    "OOV_CODE",
    "Category",
    "Columns",
    "Decoder",
    "FittedColumns",
    "Stack",
    "TensorSpec",
    "bind",
]

LABEL, WEIGHT = "label", "weight"  # names of their tensors in a reader's batch


class Source(Protocol):
    """What columns are fitted on: a FileSet, or a view of one."""

    @property
    def schema(self) -> pa.Schema:
        """Arrow schema."""

    def scan(self, columns: Sequence[str], dictionaries: Sequence[str] = ()) -> Iterator[pa.Table]:
        """Every row once, in tables of whole files."""


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Which columns become which tensors of a batch.

    Args:
        features: Feature name -> spec. A column's name keeps its dtype, shape (batch,). A list of names is
            `Stack(names)`: float32, shape (batch, number of names). Else a `Stack` or `Category`.
        label: Spec of the target, in the batch as "label".
        weight: Spec of the sample weight, in the batch as "weight".
        nulls: What becomes of nulls: "error" (decided when a reader is made), "drop" (the row is left out), or a value
            that stands in for them. A mapping gives a policy for each column it names; others have "error". A value
            for all columns spares the label, whose nulls are never filled unless it is named. Category columns have a
            code for null and follow a policy only where they are named, or are numbers of another tensor too.

    Raises:
        ColumnError: The spec contradicts itself.
    """

    features: Mapping[str, Spec]
    label: Spec | None = None
    weight: Spec | None = None
    nulls: Fill | Mapping[str, Fill] = "error"

    def __init__(
        self,
        features: Mapping[str, SpecLike],
        label: SpecLike | None = None,
        weight: SpecLike | None = None,
        nulls: Fill | Mapping[str, Fill] = "error",
    ) -> None:
        if not isinstance(features, Mapping) or not features:
            raise ColumnError(
                f"features={features!r}: pass a dict of feature name -> column, list of columns, Stack or Category, "
                "such as {'x': ['distance', 'dep_delay'], 'carrier': Category('carrier')}."
            )
        reserved = {LABEL, WEIGHT} & set(features)
        if reserved:
            raise ColumnError(
                f"A feature cannot be named {reserved.pop()!r}: batches hold label and weight under these names."
            )
        object.__setattr__(self, "features", {str(name): as_spec(spec, name) for name, spec in features.items()})
        object.__setattr__(self, "label", None if label is None else as_spec(label, LABEL))
        object.__setattr__(self, "weight", None if weight is None else as_spec(weight, WEIGHT))
        object.__setattr__(self, "nulls", self._check_nulls(nulls))

    def _check_nulls(self, nulls: Fill | Mapping[str, Fill]) -> Fill | Mapping[str, Fill]:
        if isinstance(nulls, Mapping):
            unknown = [name for name in nulls if name not in self.sources]
            if unknown:
                raise ColumnError(
                    f"nulls names {', '.join(map(repr, unknown))}, which no feature, label or weight uses. "
                    f"Columns in use: {', '.join(self.sources)}."
                )
            policies = {name: _plain_value(policy) for name, policy in nulls.items()}
            for name, policy in policies.items():
                if not isinstance(policy, bool | int | float | str):
                    raise ColumnError(f"nulls={{{name!r}: {policy!r}}}: pass 'error', 'drop', a number or a string.")
            return policies
        policy = _plain_value(nulls)
        if not isinstance(policy, bool | int | float | str) or (
            isinstance(policy, str) and policy not in ("error", "drop")
        ):
            raise ColumnError(f"nulls={nulls!r}: pass 'error', 'drop', a number, or a dict of column -> policy.")
        return policy

    @property
    def sources(self) -> list[str]:
        """Every column that is read, each once."""
        return list(dict.fromkeys(name for _, spec in self.tensors() for name in sources(spec)))

    def tensors(self) -> Iterator[tuple[str, Spec]]:
        """Name and spec of every tensor of a batch."""
        yield from self.features.items()
        if self.label is not None:
            yield LABEL, self.label
        if self.weight is not None:
            yield WEIGHT, self.weight

    def policy(self, column: str) -> Fill:
        """What becomes of the nulls of a column; None: they have a code of their own."""
        if isinstance(self.nulls, Mapping) and column in self.nulls:
            return self.nulls[column]
        if all(isinstance(spec, Category) for _, spec in self.tensors() if column in sources(spec)):
            return None
        if isinstance(self.nulls, Mapping):
            return "error"
        if self.nulls not in ("error", "drop") and self.label is not None and column in sources(self.label):
            return "error"
        return self.nulls

    def fit(self, source: Source) -> FittedColumns:
        """Learn the vocabularies of category columns from a FileSet; the files are read once, only these columns.

        Raises:
            ColumnError: A column is missing or cannot be used as asked.
        """
        tensors = bind(self, source.schema).tensors
        names = list(dict.fromkeys(spec.column for _, spec in self.tensors() if isinstance(spec, Category)))
        counts: dict[str, Counter[str | int | bool]] = {name: Counter() for name in names}
        texts = [name for name in names if is_text(source.schema.field(name).type)]
        for table in source.scan(names, texts) if names else ():
            for name, counter in counts.items():
                _count_values(table[name], counter)
        vocabularies = {
            name: tuple(value for value, _ in sorted(counter.items(), key=lambda item: (-item[1], item[0])))
            for name, counter in counts.items()
        }
        return FittedColumns(self, vocabularies, tensors)

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON, from which `from_json` makes an equal one."""
        return {
            "features": {name: spec_to_json(spec) for name, spec in self.features.items()},
            "label": None if self.label is None else spec_to_json(self.label),
            "weight": None if self.weight is None else spec_to_json(self.weight),
            "nulls": self.nulls,
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Columns:
        """The spec that `to_json` gave."""
        return cls(
            {name: spec_from_json(spec) for name, spec in data["features"].items()},
            None if data["label"] is None else spec_from_json(data["label"]),
            None if data["weight"] is None else spec_from_json(data["weight"]),
            data["nulls"],
        )

    def __eq__(self, other: object) -> bool:
        # By their text, in which 0, 0.0 and False differ as fill values do, and a NaN equals itself.
        return isinstance(other, Columns) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> str:
        return json.dumps(self.to_json())


def _plain_value(policy: Any) -> Any:
    return policy.item() if isinstance(policy, np.generic) else policy  # a mean that NumPy computed


def _count_values(column: pa.ChunkedArray, counter: Counter[Any]) -> None:
    for chunk in column.chunks:
        counted = pc.value_counts(chunk)
        values, counts = counted.field("values"), counted.field("counts").to_pylist()
        if isinstance(values, pa.DictionaryArray):
            values = values.dictionary_decode()
        for value, count in zip(values.to_pylist(), counts, strict=True):
            if value is not None:
                counter[value] += count


@dataclass(frozen=True, slots=True, eq=False)
class FittedColumns:
    """Columns with the vocabularies learned from a training FileSet. Pass it wherever `columns=` is taken.

    Attributes:
        spec: What was asked for.
        vocabularies: Category column -> its values, by code: the first has code 2.
        tensors: Name, shape and dtype of every tensor of a batch.
    """

    spec: Columns
    vocabularies: Mapping[str, tuple[str | int | bool, ...]]
    tensors: tuple[TensorSpec, ...]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(self.spec.features)

    @property
    def vocabulary_sizes(self) -> dict[str, int]:
        """Category feature -> number of its codes, those of null and of unknown values included."""
        return {
            name: len(self.vocabularies[spec.column]) + FIRST_CODE
            for name, spec in self.spec.features.items()
            if isinstance(spec, Category)
        }

    @property
    def feature_shapes(self) -> dict[str, tuple[int, ...]]:
        """Feature -> shape of one row of its tensor."""
        return {tensor.name: tensor.shape for tensor in self.tensors if tensor.name in self.spec.features}

    def to_json(self) -> str:
        """The fit as JSON, from which `from_json` makes an equal one."""
        data = {
            "columns": self.spec.to_json(),
            "vocabularies": self.vocabularies,
            "tensors": [[tensor.name, list(tensor.shape), tensor.dtype.name] for tensor in self.tensors],
        }
        return json.dumps(data, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> FittedColumns:
        """The fit that `to_json` gave."""
        data = json.loads(text)
        vocabularies = {name: tuple(values) for name, values in data["vocabularies"].items()}
        tensors = tuple(TensorSpec(name, tuple(shape), np.dtype(dtype)) for name, shape, dtype in data["tensors"])
        return cls(Columns.from_json(data["columns"]), vocabularies, tensors)

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> FittedColumns:
        """Read what `save` wrote.

        Raises:
            ColumnError: The file is not such a JSON.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ColumnError(
                f"{path}: not fitted columns ({error!r}). Write them with FittedColumns.save()."
            ) from error

    def transform(self, rows: pa.Table | Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Tensors of rows that come from elsewhere, exactly as training saw them; for serving.

        Args:
            rows: A table, a dict of columns, or a list of dicts. Only the features' columns are needed.

        Returns:
            Feature name -> array with one row for each row given. Rows are never dropped: where the policy is "drop",
            nulls are an error.
        """
        spec = Columns(self.spec.features, nulls=self._feature_nulls())
        features = FittedColumns(spec, self.vocabularies, self.tensors)
        if not isinstance(rows, pa.Table):
            rows = pa.table(dict(rows)) if isinstance(rows, Mapping) else pa.Table.from_pylist(list(rows))
        rows = self._as_trained(rows)
        return dict(bind(features, rows.schema).decode(rows))

    def _as_trained(self, rows: pa.Table) -> pa.Table:
        """The rows with types that give the tensors of training: 3 for 3.0, None alone and lists tell no type."""
        tensors = {tensor.name: tensor for tensor in self.tensors}
        for name, spec in self.spec.features.items():
            for column in sources(spec):
                if rows.schema.names.count(column) != 1:
                    continue  # `bind` says so
                place, type_ = rows.schema.get_field_index(column), rows.schema.field(column).type
                values = self.vocabularies[column] if isinstance(spec, Category) else None
                wanted = type_for(spec, tensors[name], type_, values)
                try:
                    rows = rows.set_column(place, column, rows[column].cast(wanted))
                except pa.ArrowException as error:
                    raise ColumnError(
                        f"Column {column!r} is {type_}, which does not fit feature {name!r} of the training data "
                        f"({error}). Pass values of the type that it had there."
                    ) from error
        return rows

    def _feature_nulls(self) -> Fill | Mapping[str, Fill]:
        names = {name for spec in self.spec.features.values() for name in sources(spec)}
        policies = {name: self.spec.policy(name) for name in names}
        return {name: policy for name, policy in policies.items() if policy is not None}


def bind(columns: Columns | FittedColumns | None, schema: pa.Schema) -> Decoder:
    """Check columns against a schema; nothing is read.

    Args:
        columns: What is asked for; None: every column as a tensor of its own.
        schema: Schema of the files.

    Raises:
        ColumnError: A column is missing or has no tensor form as asked; names it, its type and the way out.
    """
    spec = columns.spec if isinstance(columns, FittedColumns) else columns
    for name in schema.names if spec is None else spec.sources:
        if name not in schema.names:
            raise ColumnError(f"There is no column {name!r}. Columns: {', '.join(schema.names)}.")
        if schema.names.count(name) > 1:
            raise ColumnError(f"Two columns are named {name!r}. Give one an alias in the query.")
    if spec is None:
        return Decoder(schema, [bind_column(name, name, schema, strings=True) for name in schema.names], {}, {}, True)
    tensors = [bind_spec(name, one, schema) for name, one in spec.tensors()]
    policies = {name: policy for name in spec.sources if (policy := spec.policy(name)) is not None}
    for name, policy in policies.items():
        if policy not in ("error", "drop"):
            type_ = schema.field(name).type
            fill_scalar(policy, type_.value_type if list_length(type_) is not None else type_, name)
    vocabularies: dict[str, pa.Array] = {}
    if isinstance(columns, FittedColumns):
        for name, values in columns.vocabularies.items():
            if name in schema.names:
                vocabularies[name] = vocabulary_array(values, schema.field(name).type, name)
    return Decoder(schema, tensors, policies, vocabularies, False)
