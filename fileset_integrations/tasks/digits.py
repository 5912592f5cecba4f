"""Scikit-learn's handwritten digits, 1,797 images of 8 x 8 pixels, as a DuckDB table with a list column."""

from __future__ import annotations

import duckdb
import numpy as np
import pyarrow as pa

from fileset_integrations.errors import MissingDependencyError, how_to_install


def connect() -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB connection with the table digits(row_id BIGINT, pixels FLOAT[64], label BIGINT).

    `pixels` holds the rows of the image one after another, each value in [0, 16]; `row_id` counts from 0.

    Raises:
        MissingDependencyError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError(
            f"The digits table is read from scikit-learn, which is not installed. {how_to_install('recipes')}"
        ) from error
    digits = load_digits()
    images, labels = digits.data, digits.target
    table = pa.table(
        {
            "row_id": pa.array(np.arange(len(labels))),
            "pixels": pa.FixedSizeListArray.from_arrays(pa.array(images.astype("float32").ravel()), images.shape[1]),
            "label": pa.array(labels, pa.int64()),
        }
    )
    connection = duckdb.connect()
    connection.register("digits", table)
    return connection
