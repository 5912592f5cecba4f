"""A process that makes or fetches: `python -m tests.support.fetch_process make|fetch NAME CACHE_BYTES`.

It says "ready" once the FileSet is open (or the query is about to run), and the number of rows at its end.
"""

from __future__ import annotations

import sys

from fileset_integrations import FileSet, FileSetReader
from tests.support.staged import PROFILE, STAGE


def main() -> None:
    what, name, cache_bytes = sys.argv[1], sys.argv[2], int(sys.argv[3]) or None
    place = {"target_stage_loc": f"{STAGE}/sets", "name": name, "connection_name": PROFILE}
    if what == "make":
        print("ready", flush=True)
        made = FileSet.make(query="SELECT * FROM DB1.S1.NUMBERS", max_file_bytes=2000, **place)
        print(made.num_rows, flush=True)
        return
    fs = FileSet(**place)
    print("ready", flush=True)
    reader = FileSetReader(fs, batch_size=50, shuffle=True, drop_last_batch=False, cache_bytes=cache_bytes)
    print(sum(len(batch["id"]) for batch in reader.iter_batches()), flush=True)


if __name__ == "__main__":
    main()
