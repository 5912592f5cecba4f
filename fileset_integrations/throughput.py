"""How fast FileSets were read on this machine: a line of JSON for each measurement, in the cache directory.

```
runs/throughput.jsonl    {"at": "2026-01-31T12:00:00+00:00", "what": "bench", "snapshot_id": ..., "num_rows": ..., ...}
```
It holds sizes and times: no rows, no names of machines, no paths.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import filelock

from fileset_integrations.fileset import FileSet
from fileset_integrations.storage.cache import cache_root, write_atomically

_MAX_BYTES = 256 * 2**10  # about a thousand lines; the older half of them goes beyond


def record_throughput(
    fs: FileSet,
    what: str,
    *,
    num_rows: int,
    seconds: float,
    cache_dir: str | os.PathLike[str] | None = None,
    **facts: str | int | float | None,
) -> None:
    """Note how fast rows of a FileSet were read or trained on. A cache that cannot be written to is left as it is.

    Args:
        fs: The FileSet, or a view of one.
        what: What read them: "bench", "lightning", ...
        num_rows: Rows that were read.
        seconds: In how many seconds.
        cache_dir: The cache directory; None: `FILESET_CACHE_DIR`, else the user's.
        **facts: More to be known of it, such as streams.
    """
    line = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "what": what,
        "snapshot_id": fs.snapshot_id,
        "num_rows": num_rows,
        "seconds": round(seconds, 6),
        **facts,
    }
    with suppress(OSError):
        path = _path(cache_dir)
        path.parent.mkdir(exist_ok=True, mode=0o700)
        with filelock.FileLock(path.with_suffix(".lock")):
            lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
            lines = [one for one in lines if one.endswith(b"\n")]
            if sum(map(len, lines)) > _MAX_BYTES:
                lines = lines[len(lines) // 2 :]
            write_atomically(path, b"".join(lines) + json.dumps(line).encode() + b"\n")


def throughputs(
    snapshot_id: str, cache_dir: str | os.PathLike[str] | None = None, last: int = 20
) -> list[Mapping[str, Any]]:
    """The last measurements of a snapshot and of its parts, oldest first. Damaged lines are passed over."""
    found: list[Mapping[str, Any]] = []
    try:
        lines = _path(cache_dir).read_bytes().splitlines()
    except OSError:
        return found
    for line in lines:
        with suppress(ValueError, KeyError, TypeError, AttributeError):
            one = json.loads(line)
            numbers = isinstance(one["num_rows"], int) and isinstance(one["seconds"], int | float)
            if numbers and (one["snapshot_id"] == snapshot_id or one["snapshot_id"].startswith(f"{snapshot_id}/")):
                found.append(one)
    return found[-last:]


def _path(cache_dir: str | os.PathLike[str] | None) -> Path:
    return cache_root(cache_dir) / "runs" / "throughput.jsonl"
