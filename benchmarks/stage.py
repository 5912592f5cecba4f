"""Fetching a FileSet from a stage, against the connector's own GET: `python -m benchmarks.stage [--rounds 5]`.

64 files of 8 MB in the local Snowflake of the tests, 5 ms of latency for each. They take turns. GET writes what comes;
ours also compares md5 and sha256 with what the stage and the manifest state, and reads each footer: without digests in
the manifest (as make leaves it) both are computed, with them (make(digest="readback")) sha256 alone. All write to the
same disk, which should be one in memory (TMPDIR=/dev/shm): it is not what is measured. Processor time is that of the
client's process, whose threads the connector's are too; on a machine that others use it says more than the clock.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import os
import statistics
import tempfile
import time
import uuid
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from fileset_integrations.fileset import FileSet
from fileset_integrations.manifest import DataFile, Manifest, file_table
from tests.support.snowflake_server import Server, start
from tests.support.staged import PROFILE, STAGE, make_stage

ROWS = 2**20  # doubles: 8 MB


def put_files(server: Server, files: int) -> str:
    """Put FileSets of the same incompressible files into the stage, without and with digests; where the files are."""
    rng, run = np.random.default_rng(0), f"run-{uuid.uuid4()}"
    described = []
    for number in range(files):
        sink = io.BytesIO()
        pq.write_table(pa.table({"x": rng.random(ROWS)}), sink, use_dictionary=False, compression="none")
        data, path = sink.getvalue(), f"{run}/data_0_{number}_0.snappy.parquet"
        for name in ("plain", "digests"):
            server.put(f"{STAGE}/sets/{name}/{path}", data)
        described.append(DataFile(path, ROWS, len(data), hashlib.sha256(data).hexdigest(), (ROWS,)))
    for name in ("plain", "digests"):
        table = [file if name == "digests" else replace(file, sha256=None) for file in described]
        manifest = Manifest(
            snapshot_id=str(uuid.uuid4()),
            files=file_table(table),
            schema=pa.schema([("x", pa.float64())]),
            null_counts={"x": 0},
        )
        server.put(f"{STAGE}/sets/{name}/manifest", manifest.to_bytes())
    return f"{STAGE}/sets/plain/{run}/"


@dataclass(frozen=True, slots=True)
class Taken:
    """What one transfer took, in seconds."""

    wall: float
    processor: float

    @classmethod
    def since(cls, wall: float, processor: float) -> Taken:
        return cls(time.perf_counter() - wall, time.process_time() - processor)


def get(server: Server, directory: str, parallel: int | None) -> Taken:
    """What the connector's GET of a directory takes."""
    with tempfile.TemporaryDirectory() as folder, server.connect() as connection:
        started = time.perf_counter(), time.process_time()
        option = f" PARALLEL = {parallel}" if parallel else ""
        connection.cursor().execute(f"GET '{directory}' 'file://{folder}/'{option}").fetchall()
        return Taken.since(*started)


def pull(name: str) -> Taken:
    """What ours takes, into an empty cache."""
    with tempfile.TemporaryDirectory() as folder:
        fs = FileSet(target_stage_loc=f"{STAGE}/sets", name=name, connection_name=PROFILE).with_cache(folder, None)
        started = time.perf_counter(), time.process_time()
        fs.pull(progress=False)
        return Taken.since(*started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--files", type=int, default=64)
    parser.add_argument("--latency", type=float, default=0.005, help="seconds before each answer")
    arguments = parser.parse_args()
    with start() as server, tempfile.TemporaryDirectory() as home:
        os.environ["SNOWFLAKE_HOME"] = home
        server.write_profile(Path(home), PROFILE)
        make_stage(server)
        directory = put_files(server, arguments.files)
        server.fault("latency", file="data_", delay=arguments.latency, times=-1)
        seconds: dict[str, list[Taken]] = {}
        for _ in range(arguments.rounds):
            for transfer in ("s3", "gcs"):
                server.configure(transfer=transfer)
                seconds.setdefault(f"GET, {transfer}", []).append(get(server, directory, None))
            seconds.setdefault("GET, gcs, PARALLEL = 1", []).append(get(server, directory, 1))
            seconds.setdefault("ours, digests known", []).append(pull("digests"))
            seconds.setdefault("ours", []).append(pull("plain"))
        print(f"load {os.getloadavg()[0]:.1f}, latency {arguments.latency} s; medians")
        ours = statistics.median(one.wall for one in seconds["ours"])
        for what, taken in seconds.items():
            walls = [one.wall for one in taken]
            median, processor = statistics.median(walls), statistics.median(one.processor for one in taken)
            print(
                f"{what:24} {median:6.2f} s   {median / ours:5.2f} x ours   ({min(walls):.2f} to {max(walls):.2f})   "
                f"processor {processor:.2f} s"
            )


if __name__ == "__main__":
    main()
