"""What running the documents takes: a Snowflake as they describe it, and a process for some pages."""

from __future__ import annotations

import functools
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.support import ROOT
from tests.support.snowflake_server import Server
from tests.support.staged import run as run_statements


def prepare(server: Server, home: Path) -> dict[str, str]:
    """Put into a Snowflake what the pages take for granted: a stage, a table, a FileSet of Snowpark ML's.

    Args:
        server: The Snowflake; it forgets what it holds.
        home: Directory for connections.toml.

    Returns:
        The environment in which the profile `dev` reaches it.
    """
    server.reset()
    server.create("MYDB", "MYSCHEMA")
    run_statements(
        server,
        "CREATE STAGE MYDB.MYSCHEMA.MYSTAGE ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')",
    )
    server.load("MYDB.MYSCHEMA.FLIGHTS", flights(5_000))
    for part, rows in enumerate((20, 30)):  # a FileSet as Snowpark ML leaves it
        sink = io.BytesIO()
        pq.write_table(flights(rows), sink)
        query_id = "01b2c3d4-0000-1111-2222-333300000001"
        path = f"@MYDB.MYSCHEMA.MYSTAGE/mydir/old/data_{query_id}_0{part}_0_0.snappy.parquet"
        server.put(path, sink.getvalue())
    server.write_profile(home, "dev", database="MYDB", schema="MYSCHEMA")
    return {"SNOWFLAKE_HOME": str(home)}


def flights(rows: int) -> pa.Table:
    number = np.arange(rows)
    return pa.table(
        {
            "FLIGHT_ID": number,
            "CARRIER": [("AA", "UA", "DL")[i % 3] for i in number],
            "DISTANCE": (200.0 + number % 2000).astype(np.float64),
            "DEP_DELAY": (number % 60).astype(np.float64),
            "ARR_DELAY": (number % 60 - 5.0 + number % 7).astype(np.float64),
        }
    )


@functools.cache
def results_of(group: tuple[str, ...], environment: tuple[tuple[str, str], ...]) -> dict[str, dict[str, Any]]:
    command = [sys.executable, "-W", "error::UserWarning:fileset_integrations", "-m", "tests.support.pages", *group]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={**os.environ, **dict(environment), "OMP_NUM_THREADS": "1"},  # the models are small: more is slower
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=580,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    results: dict[str, dict[str, Any]] = json.loads(done.stdout.splitlines()[-1])
    return results


def printed_by(name: str, together: tuple[str, ...], environment: Mapping[str, str]) -> dict[str, str]:
    """What the blocks of a page print, by heading; the page has run as it is written, in one process with others."""
    result = results_of(together, tuple(environment.items()))[name]
    assert result["error"] is None, result["error"]
    printed: dict[str, str] = result["printed"]
    return printed
