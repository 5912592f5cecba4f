"""Every type and spec through each framework: the values of the reader to the bit, and its dtype in every batch."""

import json
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

from fileset_integrations import Columns, FileSetReader
from fileset_integrations.columns import Category, Hashed, Numeric, Ragged, Timestamp, Tokens
from tests.support import ROOT
from tests.support.data import fileset_of
from tests.support.framework_values import OPTIONS
from tests.support.typed import TYPED, column

NUMBERS = [name for name, typed in TYPED.items() if typed.dtype != "object"]
COLUMNS = Columns(
    {
        **{name: name for name in NUMBERS},
        "category": Category("string"),
        "hashed": Hashed("uuid", 32),
        "scaled": Numeric(["int8", "uint16"], log=True, clip=(0, None)),
        "clock": Timestamp("timestamp_berlin", features=["hour_of_day", "year"]),
        "lists": Ragged("lists", 2),
        "tokens": Tokens("lists", 2),
    },
    label="bool",
    nulls="mask",
)


def tables() -> list[pa.Table]:
    """Files whose batches differ in nulls and lengths: the values at the edges, nothing but nulls, some of each."""
    lists = [[1], [2, 3, 4], [], None, [5, None]]
    parts = []
    for rows in (5, 3, 9):
        every = {name: [*typed.edges] * 9 for name, typed in TYPED.items()}
        values = {name: [None] * 3 if rows == 3 else edges[:rows] for name, edges in every.items()}
        if rows == 9:
            values = {
                name: [None if place % 4 == 1 else one for place, one in enumerate(v)] for name, v in values.items()
            }
        made = {name: column(name, one) for name, one in values.items()}
        made["bool"] = pa.array([True, False, True] * 3, pa.bool_())[:rows]  # the label
        parts.append(pa.table({**made, "lists": pa.array((lists * 2)[:rows], pa.list_(pa.int64()))}))
    return parts


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """A folder with the files, a fit of the columns, and what the reader gives."""
    folder = tmp_path_factory.mktemp("types")
    reader = FileSetReader(fileset_of(folder / "data", *tables(), row_group_size=2), columns=COLUMNS, **OPTIONS)
    reader.columns.save(folder / "columns.json")
    batches = list(reader)
    return folder, {name: np.concatenate([batch[name] for batch in batches]) for name in batches[0]}, len(batches)


@pytest.mark.slow
@pytest.mark.parametrize("framework", ["torch", "tensorflow", "jax"])
def test_a_framework_gets_the_values_of_the_reader_in_the_same_dtype_in_every_batch(framework, data, tmp_path):
    folder, expected, batches = data
    out = tmp_path / "values.npz"
    arguments = [framework, folder / "data", folder / "columns.json", out]

    done = subprocess.run(
        [sys.executable, "-m", "tests.support.framework_values", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=240,
    )

    assert done.returncode == 0, done.stderr[-3000:]
    dtypes = json.loads(out.with_suffix(".json").read_text())
    with np.load(out, allow_pickle=False) as found:
        assert set(found.files) == set(expected) == set(dtypes)
        for name, values in expected.items():
            assert dtypes[name] == [values.dtype.name] * batches, name
            assert found[name].tobytes() == values.tobytes(), name
