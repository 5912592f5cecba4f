"""Rows that come from elsewhere than a FileSet, as a table with the types that show what they are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from fileset_integrations.errors import ColumnError


def as_table(
    rows: pa.Table | Mapping[str, Sequence[Any]] | Sequence[Mapping[str, Any]],
    types: Mapping[str, pa.DataType],
) -> pa.Table:
    """Rows as a table.

    Args:
        rows: A table, a dict of columns, or a list of dicts, which may lack keys: nulls.
        types: Types of the training data, for values that do not show theirs.

    Raises:
        ColumnError: Values of a column are of no one type; names it.
    """
    if isinstance(rows, pa.Table):
        return rows
    if not isinstance(rows, Mapping):
        rows = list(rows)
        rows = {name: [row.get(name) for row in rows] for name in dict.fromkeys(key for row in rows for key in row)}
    return pa.table({name: _as_array(values, name, types.get(name)) for name, values in rows.items()})


def _as_array(values: Any, name: str, type_: pa.DataType | None) -> pa.Array | pa.ChunkedArray:
    """Values of one column, in a type that shows what they are; `Rows` casts them where nothing is lost."""
    if isinstance(values, pa.Array | pa.ChunkedArray):
        return values
    try:
        return pa.array(values)
    except (OverflowError, TypeError, ValueError, pa.ArrowException) as error:
        try:
            return pa.array(values, type_)  # integers beyond int64, and what only the type tells apart
        except (OverflowError, TypeError, ValueError, pa.ArrowException):
            raise ColumnError(
                f"Column {name!r}: its values are of no one type ({type(error).__name__}). Pass values of the type "
                f"that it had in the training data{'' if type_ is None else f', {type_}'}."
            ) from error
