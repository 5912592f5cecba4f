"""Which columns become which tensors: specs, what they learn from the training data, and the way from Arrow to arrays.

`Columns` is a plain value. `Columns.fit` learns vocabularies and statistics from a FileSet and gives `FittedColumns`,
which evaluation and serving use unchanged. `bind` checks either against a schema, before any row is read, and gives a
`Decoder`.
"""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_type_hints

import pyarrow as pa

from fileset_integrations.binding import bind_all, bind_specs, bound_types, nan_columns
from fileset_integrations.column_specs import (
    FIRST_CODE,
    NULL_CODE,
    OOV_CODE,
    Binding,
    Category,
    Hashed,
    Image,
    Learned,
    Numeric,
    Ragged,
    Scaled,
    Source,
    Spec,
    SpecLike,
    Stack,
    Timestamp,
    Tokens,
    as_spec,
    learn,
    spec_from_json,
)
from fileset_integrations.decoder import Decoder, Rows, TensorSpec, find_type, storage_type
from fileset_integrations.errors import ColumnError
from fileset_integrations.nulls import Nulls, Rule, check_nans_argument, check_nulls_argument, rule_of
from fileset_integrations.serving import as_table

__all__ = [
    "FIRST_CODE",
    "NULL_CODE",
    "OOV_CODE",
    "Category",
    "Columns",
    "Decoder",
    "FittedColumns",
    "Hashed",
    "Image",
    "Numeric",
    "Ragged",
    "Scaled",
    "Stack",
    "TensorSpec",
    "Timestamp",
    "Tokens",
    "bind",
]

LABEL, WEIGHT = "label", "weight"  # names of their tensors in a reader's batch
FORMAT = 2  # of a fit's JSON; 1 held vocabularies and tensors, but not the types that serving must know


@dataclass(frozen=True, slots=True, eq=False)
class Columns:
    """Which columns become which tensors of a batch.

    Args:
        features: Feature name -> spec. A column's name keeps its dtype, shape (batch,). A list of names is
            `Stack(names)`: float32, shape (batch, number of names). Else one of the specs of this module. Fields of
            structs are named by their path, such as "address.city".
        label: Spec of the target, in the batch as "label".
        weight: Spec of the sample weight, in the batch as "weight".
        nulls: What becomes of nulls: "error" (decided when a reader is made), "drop" (the row is left out), a value
            that stands in for them, "mean" (the training data's mean does), or "mask" (zeros, and a tensor beside the
            feature's, named with "_mask" behind, that is True where there is a value). A mapping gives a policy for
            each column it names; others have "error". A value, "mean" or "mask" for all columns spares the label, whose
            nulls are never filled unless it is named. Columns that are codes have one for null and follow a policy only
            where they are named, or are numbers of another tensor too.
        nans: "keep": a NaN is a number like others, and no null. "null": NaN in columns of floats count as nulls. A
            mapping says so for each column it names.

    Raises:
        ColumnError: The spec contradicts itself.
    """

    features: Mapping[str, Spec]
    label: Spec | None = None
    weight: Spec | None = None
    nulls: Nulls = "error"
    nans: str | Mapping[str, str] = "keep"

    def __init__(
        self,
        features: Mapping[str, SpecLike],
        label: SpecLike | None = None,
        weight: SpecLike | None = None,
        nulls: Nulls = "error",
        nans: str | Mapping[str, str] = "keep",
    ) -> None:
        if not isinstance(features, Mapping) or not features:
            raise ColumnError(
                f"features={features!r}: pass a dict of feature name -> column, list of columns, or a spec, "
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
        object.__setattr__(self, "nulls", check_nulls_argument(nulls, self.sources))
        object.__setattr__(self, "nans", check_nans_argument(nans, self.sources))

    @property
    def sources(self) -> list[str]:
        """Every column that is read, each once."""
        return list(dict.fromkeys(name for _, spec in self.tensors() for name in spec.sources))

    def tensors(self) -> Iterator[tuple[str, Spec]]:
        """Name and spec of every feature, the label and the weight."""
        yield from self.features.items()
        if self.label is not None:
            yield LABEL, self.label
        if self.weight is not None:
            yield WEIGHT, self.weight

    def rule(self, column: str) -> Rule:
        """What becomes of the nulls of a column."""
        if isinstance(self.nulls, Mapping) and column in self.nulls:
            return rule_of(self.nulls[column])
        if all(spec.has_null_code for _, spec in self.tensors() if column in spec.sources):
            return Rule("code")
        if isinstance(self.nulls, Mapping):
            return Rule("error")
        rule = rule_of(self.nulls)
        spared = (self.label, self.weight) if rule.kind == "mask" else (self.label,)
        if rule.kind not in ("error", "drop") and any(one is not None and column in one.sources for one in spared):
            return Rule("error")
        return rule

    def fit(self, source: Source, progress: bool | None = None) -> FittedColumns:
        """Learn the vocabularies and statistics that the specs ask for from a FileSet, of all its rows.

        The files are read once, only the columns concerned, by several threads; the result is the same for any order
        of the rows.

        Args:
            source: The FileSet of the training data, or a view of one.
            progress: Whether to show a bar; None: on a terminal.

        Raises:
            ColumnError: A column is missing or cannot be used as asked.
        """
        decoder = bind(self, source.schema)
        types = {name: find_type(source.schema, name) for name in self.sources}
        bindings = {name: self._binding(name, spec, types) for name, spec in self.tensors()}
        asked = {name: spec.learners(bindings[name]) for name, spec in self.tensors()}
        learners = list(dict.fromkeys(learner for ones in asked.values() for learner in ones.values()))

        def rows(table: pa.Table) -> Rows:
            return Rows(table, {name: storage_type(type_) for name, type_ in types.items()}, decoder.nan_is_null)

        found = learn(source, rows, learners, progress)
        learned = {
            name: spec.learn(bindings[name], {key: found[learner] for key, learner in asked[name].items()})
            for name, spec in self.tensors()
        }
        return FittedColumns(self, types, {name: what for name, what in learned.items() if what})

    def input_spec(self, source: Source | pa.Schema) -> dict[str, TensorSpec]:
        """Every tensor of the features, by name, as the columns of a FileSet or schema make it; nothing is read.

        Sizes of vocabularies that are still to be learned are None; `FittedColumns.input_spec` knows them.
        """
        schema = source if isinstance(source, pa.Schema) else source.schema
        return {one.name: one for one in bind(self, schema).tensors if one.name not in (LABEL, WEIGHT)}

    def to_json(self) -> dict[str, Any]:
        """The spec as plain JSON, from which `from_json` makes an equal one."""
        data = {
            "features": {name: spec.to_json() for name, spec in self.features.items()},
            "label": None if self.label is None else self.label.to_json(),
            "weight": None if self.weight is None else self.weight.to_json(),
            "nulls": self.nulls,
        }
        return data if self.nans == "keep" else {**data, "nans": self.nans}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Columns:
        """The spec that `to_json` gave."""
        return cls(
            {name: spec_from_json(spec) for name, spec in data["features"].items()},
            None if data["label"] is None else spec_from_json(data["label"]),
            None if data["weight"] is None else spec_from_json(data["weight"]),
            data["nulls"],
            data.get("nans", "keep"),
        )

    def __eq__(self, other: object) -> bool:
        # By their text, in which 0, 0.0 and False differ as fill values do, and a NaN equals itself.
        return isinstance(other, Columns) and self._key() == other._key()

    def __hash__(self) -> int:
        return hash(self._key())

    def _key(self) -> str:
        return json.dumps(self.to_json())

    def _bind(self, schema: pa.Schema, fitted: FittedColumns | None, features_only: bool = False) -> Decoder:
        trained, learned = (None, None) if fitted is None else (fitted.types, fitted.learned)
        tensors = list(self.features.items()) if features_only else list(self.tensors())
        types = bound_types(schema, dict.fromkeys(column for _, spec in tensors for column in spec.sources), trained)
        bindings = [(spec, self._binding(name, spec, types, learned)) for name, spec in tensors]
        rules = {name: self.rule(name) for name in types}
        return bind_specs(schema, bindings, types, rules, nan_columns(self.nans, types))

    def _binding(
        self, name: str, spec: Spec, types: Mapping[str, pa.DataType], learned: Mapping[str, Learned] | None = None
    ) -> Binding:
        rules = {column: self.rule(column) for column in spec.sources}
        if spec.has_null_code:  # "mean" and "mask" are for the tensors in which the column is a number
            numbers = {column for _, one in self.tensors() if not one.has_null_code for column in one.sources}
            rules |= {name: Rule("code") for name in numbers & set(rules) if rules[name].kind in ("mean", "mask")}
        what = None if learned is None else learned.get(name, {})
        return Binding(name, {column: types[column] for column in rules}, rules, what, name in self.features)


# Lightning's command line (jsonargparse) would take the types of the fields, which are narrower, for those of the
# arguments: it does so with dataclasses as long as annotations are text.
Columns.__init__.__annotations__.update(get_type_hints(Columns.__init__))


@dataclass(frozen=True, slots=True, eq=False)
class FittedColumns:
    """Columns with what they learned from a training FileSet. Pass it wherever `columns=` is taken.

    Attributes:
        spec: What was asked for.
        types: Column -> its type in the training data, to which others' columns are cast.
        learned: Feature, "label" or "weight" -> what its spec learned, as JSON.
    """

    spec: Columns
    types: Mapping[str, pa.DataType]
    learned: Mapping[str, Learned]

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features, in order."""
        return tuple(self.spec.features)

    @property
    def tensors(self) -> tuple[TensorSpec, ...]:
        """Name, shape and dtype of every tensor of a batch."""
        return bind(self, pa.schema(list(self.types.items()))).tensors

    @property
    def vocabularies(self) -> dict[str, tuple[str | int | bool, ...]]:
        """Category feature -> its values, by code: the first has the category's first code, 2 unless it says else."""
        return {name: tuple(what["vocabulary"]) for name, what in self.learned.items() if "vocabulary" in what}

    @property
    def vocabulary_sizes(self) -> dict[str, int]:
        """Feature made of codes -> how many there are, those of null and of unknown values included."""
        return {name: one.vocabulary_size for name, one in self.input_spec().items() if one.vocabulary_size is not None}

    @property
    def feature_shapes(self) -> dict[str, tuple[int, ...]]:
        """Feature -> shape of one row of its tensor."""
        return {name: one.shape for name, one in self.input_spec().items() if name in self.spec.features}

    def input_spec(self) -> dict[str, TensorSpec]:
        """Every tensor of the features, by name: what a model must know of its inputs before it sees a batch."""
        return {one.name: one for one in self.tensors if one.name not in (LABEL, WEIGHT)}

    def to_json(self) -> str:
        """The fit as JSON, from which `from_json` makes an equal one."""
        schema = pa.schema(list(self.types.items())).serialize().to_pybytes()
        data = {
            "format": FORMAT,
            "columns": self.spec.to_json(),
            "types": {name: str(type_) for name, type_ in self.types.items()},  # for people
            "schema": base64.b64encode(schema).decode(),  # the same for `from_json`: an Arrow schema, as IPC writes it
            "learned": self.learned,
        }
        return json.dumps(data, ensure_ascii=False, indent=1)

    @classmethod
    def from_json(cls, text: str) -> FittedColumns:
        """The fit that `to_json` gave.

        Raises:
            ColumnError: Another version wrote it.
        """
        data = json.loads(text)
        written = data.get("format", 1 if "vocabularies" in data else None)
        if written is not None and written != FORMAT:
            raise ColumnError(
                f"These fitted columns have format {written!r}, this version reads {FORMAT}. Fit the columns again on "
                "their training data, or use the version that wrote them."
            )
        schema = pa.ipc.read_schema(pa.py_buffer(base64.b64decode(data["schema"])))
        return cls(
            Columns.from_json(data["columns"]), dict(zip(schema.names, schema.types, strict=True)), data["learned"]
        )

    def save(self, path: str | Path) -> None:
        """Write as JSON."""
        Path(path).write_text(self.to_json(), encoding="utf-8")

    @classmethod
    def load(cls, path: str | Path) -> FittedColumns:
        """Read what `save` wrote.

        Raises:
            ColumnError: The file is not such a JSON, or another version wrote it.
        """
        try:
            return cls.from_json(Path(path).read_text(encoding="utf-8"))
        except ColumnError as error:
            raise ColumnError(f"{path}: {error}") from error
        except (ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
            raise ColumnError(
                f"{path}: not fitted columns ({error!r}). Write them with FittedColumns.save()."
            ) from error

    def transform(self, rows: pa.Table | Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        """Tensors of rows that come from elsewhere, exactly as training saw them; for serving.

        Args:
            rows: A table, a dict of columns, or a list of dicts. Only the features' columns are needed.

        Returns:
            Name -> array with one row for each row given, of every tensor of the features. Rows are never dropped:
            where the policy is "drop", nulls are an error.

        Raises:
            ColumnError: A column is missing, or is of another kind than in the training data; names it.
        """
        table = as_table(rows, self.types)
        return dict(self.spec._bind(table.schema, self, features_only=True).decode(table))


def bind(columns: Columns | FittedColumns | None, schema: pa.Schema) -> Decoder:
    """Check columns against a schema; nothing is read.

    Args:
        columns: What is asked for; None: every column as a tensor of its own, structs field by field.
        schema: Schema of the files.

    Raises:
        ColumnError: A column is missing or has no tensor form as asked; names it, its type and the way out.
    """
    if columns is None:
        return bind_all(schema)
    if isinstance(columns, FittedColumns):
        return columns.spec._bind(schema, columns)
    return columns._bind(schema, None)
