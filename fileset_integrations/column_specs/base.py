"""What a spec is: a frozen value that says how tensors are made of columns.

Adding a spec is adding one class here or beside: a frozen dataclass that derives from `Spec`, registered by `@spec`.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, TypeVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from fileset_integrations.decoder import Bound, Rows, TensorSpec, storage_type
from fileset_integrations.errors import ColumnError
from fileset_integrations.nulls import Kind, Rule
from fileset_integrations.tensors import is_bytes, is_list, is_text, nulls_found, rows_with_nulls

Partial = Any
Learned = dict[str, Any]  # what a spec learned from the training data, as plain JSON


class Learner(Protocol):
    """Something to be learned from all rows of the training data, in parts that come in any order. Hashable."""

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that it reads."""

    @property
    def dictionaries(self) -> tuple[str, ...]:
        """Those of them that it takes as dictionaries."""

    def of(self, rows: Rows) -> Partial:
        """What some rows say."""

    def merge(self, one: Partial, other: Partial) -> Partial:
        """What two parts say together, the same for any order and grouping of parts."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a spec is bound to.

    Attributes:
        name: The feature's name, or "label", or "weight".
        types: Type of each of the spec's columns.
        rules: What becomes of the nulls of each.
        learned: What `Spec.learn` gave; None before that.
        is_feature: Whether it is a feature: a mask can stand beside features only.
    """

    name: str
    types: Mapping[str, pa.DataType]
    rules: Mapping[str, Rule]
    learned: Learned | None = None
    is_feature: bool = True

    def type(self, column: str) -> pa.DataType:
        """Type of a column, as tensors are made of it."""
        return storage_type(self.types[column])

    def rule(self, column: str, *kinds: Kind) -> Rule:
        """What becomes of a column's nulls, checked to be one of the kinds, or "error" or "drop".

        Raises:
            ColumnError: It is none of them; names the column, its type and what else to pass.
        """
        rule = self.rules[column]
        possible = ("error", "drop", *kinds)
        if rule.kind == "mask" and not self.is_feature:
            raise ColumnError(
                f"nulls={{{column!r}: 'mask'}}: {column!r} ({self.types[column]}) is the {self.name}; a mask stands "
                f"beside features only. Pass 'drop' or a value, and make `{column} IS NULL` a column in the query."
            )
        if rule.kind not in possible:
            words = {"fill": "a fill value", "code": "nothing (null has a code of its own)"}
            others = ", ".join(words.get(kind, repr(kind)) for kind in possible if kind != "keep")
            raise ColumnError(
                f"nulls={{{column!r}: {rule.given}}} means nothing for {self.name!r}, made of column {column!r} "
                f"({self.types[column]}). Pass one of: {others}."
            )
        return rule

    def mask(self, rules: Sequence[Rule], shape: tuple[int, ...]) -> TensorSpec | None:
        """The mask beside the tensor, where one of the rules asks for it."""
        if not any(rule.kind == "mask" for rule in rules):
            return None
        return TensorSpec(mask_name(self.name), shape, np.dtype(np.bool_))


def mask_name(name: str) -> str:
    """Name of the mask beside a tensor: True where there is a value."""
    return f"{name}_mask"


def lengths_name(name: str) -> str:
    """Name of the lengths beside a padded tensor."""
    return f"{name}_lengths"


class Spec(ABC):
    """How tensors are made of columns.

    A spec is a frozen dataclass, made by `@spec("its name in JSON")`; its fields are JSON's values, tuples for lists.
    """

    __slots__ = ()

    spec_name: ClassVar[str]
    has_null_code: ClassVar[bool] = False  # nulls have a code, and follow a policy only where the column is named

    @property
    @abstractmethod
    def sources(self) -> tuple[str, ...]:
        """Columns that it reads; a field of a struct by its path, such as "address.city"."""

    @abstractmethod
    def bind(self, binding: Binding) -> Bound:
        """Its tensors, made of columns of known types.

        Raises:
            ColumnError: A column has no such tensors; names it, its type and what to write instead.
        """

    def learners(self, binding: Binding) -> dict[str, Learner]:
        """What is to be learned from the training data, by a name of the spec's own; nothing in most."""
        return {}

    def learn(self, binding: Binding, found: Mapping[str, Partial]) -> Learned:
        """What is kept of that: plain JSON, from which `bind` makes tensors, in serving too."""
        return {}

    def to_json(self) -> Any:
        """The spec as plain JSON; arguments at their default are left out."""
        data: dict[str, Any] = {"spec": self.spec_name}
        for field in dataclasses.fields(self):  # type: ignore[arg-type]
            value = getattr(self, field.name)
            if value != field.default:
                data[field.name] = list(value) if isinstance(value, tuple) else value
        return data


class BoundColumn(Bound):
    """One column as one tensor, each row from the value there alone.

    Args:
        binding: Where it is bound.
        column: The column.
        tensor: The tensor.
        values: From the column without its nulls to the rows of the tensor; it can be pickled.
        fill: What stands in the tensor for a null, where the rule is "fill" or "code".
        kinds: Rules for nulls that it has, beside "error" and "drop".
        dictionaries: Whether it takes the column as a dictionary.
        mask_shape: Shape of a row of the mask; None: that of the tensor.
    """

    def __init__(
        self,
        binding: Binding,
        column: str,
        tensor: TensorSpec,
        values: Callable[[pa.ChunkedArray], NDArray[Any]],
        *,
        fill: Any = None,
        kinds: Sequence[Kind] = ("fill", "mask"),
        dictionaries: bool = False,
        mask_shape: tuple[int, ...] | None = None,
    ) -> None:
        self._rule = binding.rule(column, *kinds)
        self._mask = binding.mask([self._rule], tensor.shape if mask_shape is None else mask_shape)
        self.tensors = (tensor,) if self._mask is None else (tensor, self._mask)
        self.columns = (column,)
        self.dictionaries = self.columns if dictionaries else ()
        self._values, self._fill = values, 0 if self._rule.kind == "mask" else fill

    def put(self, rows: Rows, out: Mapping[str, NDArray[Any]]) -> None:
        name = self.columns[0]
        column, target = rows[name], out[self.tensors[0].name]
        nulls = rows_with_nulls(column) if column.null_count else None
        if nulls is None:
            target[...] = self._values(column)
        elif self._rule.kind in ("error", "drop"):
            raise nulls_found(name, column.type)
        else:
            target[~nulls] = self._values(column.drop_null())
            target[nulls] = self._fill
        if self._mask is not None:
            mask = out[self._mask.name]
            mask[...] = True
            if nulls is not None:
                mask[nulls] = False


SPECS: dict[str, type[Spec]] = {}
_S = TypeVar("_S", bound=type[Spec])


def spec(name: str) -> Callable[[_S], _S]:
    """Register a class of specs under its name in JSON."""

    def register(made: _S) -> _S:
        made.spec_name = name
        SPECS[name] = made
        return made

    return register


def check_column(spec: Spec, column: Any) -> None:
    """Refuse what is no column's name, in the words of a spec's constructor."""
    if not isinstance(column, str) or not column:
        raise ColumnError(f"{type(spec).__name__}({column!r}): pass the name of one column.")


def check_choice(spec: Spec, argument: str, value: Any, choices: Sequence[Any]) -> None:
    """Refuse an argument that is none of the choices."""
    if not any(value is choice or (value == choice and type(value) is type(choice)) for choice in choices):
        raise ColumnError(
            f"{type(spec).__name__}({spec.sources[0]!r}, {argument}={value!r}): pass "
            f"{', '.join(map(repr, choices[:-1]))} or {choices[-1]!r}."
        )


def check_whole(spec: Spec, argument: str, value: Any, least: int) -> None:
    """Refuse an argument that is no whole number, or too small a one."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ColumnError(
            f"{type(spec).__name__}({spec.sources[0]!r}, {argument}={value!r}): pass a whole number, at least {least}."
        )


def check_dtype(spec: Spec, dtype: Any) -> str:
    """The NumPy name of a number's dtype."""
    try:
        checked = np.dtype(dtype)
    except TypeError:
        checked = np.dtype(object)
    if checked.kind not in "iufb":
        names = spec.sources[0] if len(spec.sources) == 1 else list(spec.sources)
        raise ColumnError(
            f"{type(spec).__name__}({names!r}, dtype={dtype!r}): pass the name of a number's dtype, like 'float32'."
        )
    return str(checked.name)


def no_tensor(column: str, type_: pa.DataType) -> ColumnError:
    """The error of a column whose type is no number and that was asked for as if it were."""
    kind = storage_type(type_)
    what = "which has no tensor form"
    if is_text(kind):
        what, instead = (
            "not a number",
            (
                f"Make it categories with Category({column!r}) or Hashed({column!r}, num_buckets=...), tokens with "
                f"Tokens({column!r}, ...), or CAST({column} AS DOUBLE) in the query"
            ),
        )
    elif pa.types.is_fixed_size_binary(kind):
        instead = f"Make it codes with Hashed({column!r}, num_buckets=...)"
    elif is_bytes(kind):
        instead = (
            f"Decode it with Image({column!r}, height=..., width=...), make it codes with Hashed({column!r}, "
            f"num_buckets=...), or CAST it to a list of numbers in the query"
        )
    elif pa.types.is_interval(kind):
        instead = f"Take seconds from it in the query, such as epoch({column})"
    elif pa.types.is_temporal(kind):
        what, instead = (
            "no number to stack",
            (
                f"Ask for Timestamp({column!r}), its epoch or features of the calendar, or take a number from it in "
                f"the query, such as epoch({column}) or hour({column})"
            ),
        )
    elif pa.types.is_struct(kind):
        fields = ", ".join(repr(f"{column}.{field.name}") for field in kind)
        instead = f"Name its fields: {fields or 'it has none'}"
    elif pa.types.is_null(kind):
        instead = f"Nothing says of what type its values are: CAST({column} AS DOUBLE) in the query"
    elif is_list(kind):
        instead = "CAST its values to numbers in the query, or make each of them a column"
    elif pa.types.is_map(kind):
        instead = f"Take a value from it in the query, such as {column}['key']"
    else:
        instead = "CAST it to a number or a list of numbers in the query"
    return ColumnError(
        f"Column {column!r} is {type_}, {what}. {instead}; or leave it out, naming the columns you want with "
        "columns=Columns(...)."
    )
