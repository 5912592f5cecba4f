"""Values as codes: by a vocabulary learned from the training data (`Category`), or by their hash (`Hashed`)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from fileset_integrations.column_specs.base import (
    Binding,
    BoundColumn,
    Learned,
    Learner,
    Spec,
    check_choice,
    check_column,
    check_whole,
    no_tensor,
    spec,
)
from fileset_integrations.column_specs.learning import Count, Key, is_key, is_written, keys
from fileset_integrations.decoder import Bound, Rows, TensorSpec
from fileset_integrations.errors import ColumnError
from fileset_integrations.kernels.hashing import buckets
from fileset_integrations.nulls import Kind, Rule
from fileset_integrations.tensors import fill_scalar, is_text, nulls_found

NULL_CODE = 0  # code of null, unless a Category says otherwise
OOV_CODE = 1  # code of values outside the vocabulary, likewise
FIRST_CODE = 2  # code of the vocabulary's first value then

_LARGEST = pa.scalar(2**63 - 1, pa.uint64())

Vocabulary = Sequence[Key]


@spec("category")
@dataclass(frozen=True, slots=True)
class Category(Spec):
    """A column as codes of a vocabulary that is learned from the training data; int64, shape (batch,).

    Code 0 is null, code 1 every value that the vocabulary lacks, and the vocabulary follows from code 2 on: the most
    frequent value first, equal frequencies by value. Columns of strings, integers, booleans, dates, times, timestamps
    and decimals can be categories.

    A fill value for nulls (`nulls={column: value}`) is always in the vocabulary: behind the others where the training
    data lacks it, or it is too rare to be in it.

    Attributes:
        column: Name of the column.
        order: "frequency", or "value": the vocabulary is sorted, so that codes keep the values' own order.
        min_count: Values that occur less often in the training data are left out of the vocabulary.
        max_size: The vocabulary holds so many values at most, the most frequent ones. None: all.
        null_code: Code of null.
        oov_code: Code of values outside the vocabulary ("out of vocabulary"). The vocabulary begins at the first code
            above both: with `null_code=-100, oov_code=-100` at 0, as classes of a label do.
    """

    column: str
    order: Literal["frequency", "value"] = "frequency"
    min_count: int = 1
    max_size: int | None = None
    null_code: int = NULL_CODE
    oov_code: int = OOV_CODE

    has_null_code: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_column(self, self.column)
        check_choice(self, "order", self.order, ("frequency", "value"))
        check_whole(self, "min_count", self.min_count, 1)
        if self.max_size is not None:
            check_whole(self, "max_size", self.max_size, 1)
        for argument in ("null_code", "oov_code"):
            check_whole(self, argument, getattr(self, argument), -(2**31))

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.column,)

    @property
    def first_code(self) -> int:
        """Code of the vocabulary's first value."""
        return max(self.null_code, self.oov_code, -1) + 1

    def learners(self, binding: Binding) -> dict[str, Learner]:
        return {"counts": Count(self.column, is_text(binding.type(self.column)))}

    def learn(self, binding: Binding, found: Mapping[str, Any]) -> Learned:
        counts: Counter[Key] = found.get("counts", Counter())
        often = [(value, count) for value, count in counts.items() if count >= self.min_count]
        often.sort(key=lambda item: (-item[1], item[0]))
        values = [value for value, _ in often[: self.max_size]]
        if self.order == "value":
            values.sort()
        fill = self._fill(binding)
        if fill is not None and fill not in values:
            values.append(fill)
        return {"vocabulary": values}

    def bind(self, binding: Binding) -> Bound:
        type_ = binding.type(self.column)
        if not is_key(type_) and not is_written(type_):
            instead = f"CAST({self.column} AS VARCHAR) in the query, or use it as a number"
            if pa.types.is_struct(type_):
                instead = "Name one of its fields: " + ", ".join(
                    f"Category('{self.column}.{field.name}')" for field in type_
                )
            raise ColumnError(
                f"Category({self.column!r}): the column is {binding.types[self.column]}; categories are strings, "
                f"integers, booleans, dates, times or decimals. {instead}; or Hashed({self.column!r}, ...) for bytes."
            )
        rule = binding.rule(self.column, "fill", "code")
        fill = self._fill(binding)
        vocabulary = None if binding.learned is None else binding.learned["vocabulary"]
        return BoundCategory(binding.name, self, rule, fill, type_, vocabulary)

    def _fill(self, binding: Binding) -> Key | None:
        """The value that stands in for nulls, as the vocabulary holds it."""
        rule = binding.rules[self.column]
        if rule.kind != "fill":
            return None
        scalar = fill_scalar(rule.fill, binding.type(self.column), self.column)
        key: Key = keys(pa.chunked_array([pa.array([scalar.as_py()], scalar.type)]))[0].as_py()
        return key


class BoundCategory(Bound):
    """A column as codes."""

    def __init__(
        self,
        name: str,
        category: Category,
        rule: Rule,
        fill: Key | None,
        type_: pa.DataType,
        vocabulary: Vocabulary | None,
    ) -> None:
        self.columns = (category.column,)
        self.dictionaries = self.columns if is_text(type_) else ()
        self._category, self._rule, self._type = category, rule, type_
        size = None
        if vocabulary is not None:
            size = len(vocabulary) + category.first_code
            self._vocabulary = _as_array(vocabulary, type_)
            if fill is not None:
                self._null_code = category.first_code + list(vocabulary).index(fill)
        if fill is None:
            self._null_code = category.null_code
        self.tensors = (TensorSpec(name, (), np.dtype(np.int64), size),)

    def put(self, rows: Rows, out: Mapping[str, NDArray[Any]]) -> None:
        # In the type it has there: an integer that the training data's type cannot hold is an unknown value.
        name = self.columns[0]
        column = rows[name] if is_written(self._type) else rows.as_found(name)
        if self._rule.kind in ("error", "drop") and column.null_count:
            raise nulls_found(name, column.type)
        if pa.types.is_null(column.type):
            column = column.cast(self._type)
        codes = out[self.tensors[0].name]
        at = 0
        for chunk in keys(column).chunks:
            codes[at : at + len(chunk)] = self._codes(chunk)
            at += len(chunk)

    def _codes(self, chunk: pa.Array) -> NDArray[np.int64]:
        if pa.types.is_dictionary(chunk.type):
            of_value = np.append(self._places(chunk.dictionary), self._null_code)
            indices = chunk.indices.fill_null(len(chunk.dictionary)) if chunk.indices.null_count else chunk.indices
            codes: NDArray[np.int64] = of_value[indices.to_numpy(zero_copy_only=False)]
            return codes
        return self._places(chunk)

    def _places(self, values: pa.Array) -> NDArray[np.int64]:
        category, vocabulary = self._category, self._vocabulary
        found: NDArray[np.int64]
        if len(vocabulary):
            # Unsafe: what the vocabulary's type cannot hold is made unknown below.
            index = pc.index_in(values.cast(vocabulary.type, safe=False), value_set=vocabulary)
            places = index.fill_null(-1).to_numpy(zero_copy_only=False)
            found = np.where(places < 0, category.oov_code, places.astype(np.int64) + category.first_code)
            if values.type != vocabulary.type and pa.uint64() in (values.type, vocabulary.type):
                beyond = pc.greater(values, _LARGEST) if values.type == pa.uint64() else pc.less(values, 0)
                found[beyond.fill_null(False).to_numpy(zero_copy_only=False)] = category.oov_code
        else:
            found = np.full(len(values), category.oov_code, np.int64)
        if values.null_count:
            found[values.is_null().to_numpy(zero_copy_only=False)] = self._null_code
        return found


def _as_array(vocabulary: Vocabulary, type_: pa.DataType) -> pa.Array:
    """A vocabulary as an array, to look a column's values up in."""
    if is_text(type_) or is_written(type_):
        return pa.array(vocabulary, pa.string())
    if pa.types.is_boolean(type_):
        return pa.array(vocabulary, pa.bool_())
    return pa.array(vocabulary, pa.uint64() if max(map(int, vocabulary), default=0) >= 2**63 else pa.int64())


@spec("hashed")
@dataclass(frozen=True, slots=True)
class Hashed(Spec):
    """A column as buckets of a hash: codes without a vocabulary, for more values than one could hold; int64, (batch,).

    Bucket 0 is null; values fall into buckets 1 to `num_buckets` - 1 by their XXH64 (`kernels.hashing`), the same on
    every platform, in every file and release. Columns of strings, integers, booleans, bytes and UUIDs have one.

    Attributes:
        column: Name of the column.
        num_buckets: Number of codes, that of null included.
        seed: In [0, 2**64): other seeds make other values collide.
    """

    column: str
    num_buckets: int
    seed: int = 0

    has_null_code: ClassVar[bool] = True

    def __post_init__(self) -> None:
        check_column(self, self.column)
        check_whole(self, "num_buckets", self.num_buckets, 2)
        check_whole(self, "seed", self.seed, 0)
        if self.seed >= 2**64:
            raise ColumnError(f"Hashed({self.column!r}, seed={self.seed}): pass a seed below 2**64.")

    @property
    def sources(self) -> tuple[str, ...]:
        return (self.column,)

    def bind(self, binding: Binding) -> Bound:
        type_, rule = binding.type(self.column), binding.rules[self.column]
        if pa.types.is_null(type_):
            raise no_tensor(self.column, binding.types[self.column])
        self._buckets(pa.chunked_array([], type_))  # refuses types that have no hash
        fill = NULL_CODE
        if rule.kind == "fill":
            scalar = fill_scalar(rule.fill, type_, self.column)
            fill = int(self._buckets(pa.chunked_array([pa.array([scalar.as_py()], scalar.type)]))[0])
        tensor = TensorSpec(binding.name, (), np.dtype(np.int64), self.num_buckets)
        kinds: tuple[Kind, ...] = ("fill", "code")
        return BoundColumn(
            binding, self.column, tensor, self._buckets, fill=fill, kinds=kinds, dictionaries=is_text(type_)
        )

    def _buckets(self, column: pa.ChunkedArray) -> NDArray[np.int64]:
        return buckets(column, self.num_buckets, self.seed, NULL_CODE, self.column)
