"""The server's process: `python -m tests.support.snowflake_server FOLDER`.

Keeps its files in FOLDER and writes its port to stdout. It ends when its standard input does, so it outlives nobody; if
that comes without the word "stop", whoever started it is dead, and it removes FOLDER itself.
"""

from __future__ import annotations

import os
import shutil
import sys
import threading
from pathlib import Path

from tests.support.snowflake_server.admin import Admin
from tests.support.snowflake_server.protocol import Snowflake
from tests.support.snowflake_server.stages import Store
from tests.support.snowflake_server.web import Server


def main() -> None:
    folder = Path(sys.argv[1])
    files = folder / "files"
    files.mkdir()
    store = Store(files)
    snowflake = Snowflake(store)
    server = Server(Admin(snowflake).answer)
    port = server.server_address[1]
    snowflake.base_url = f"http://127.0.0.1:{port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    print(port, flush=True)
    if sys.stdin.read() != "stop":
        shutil.rmtree(folder, ignore_errors=True)
    os._exit(0)  # threads may wait for a client, and DuckDB's functions in Python complain when they are torn down


if __name__ == "__main__":
    main()
