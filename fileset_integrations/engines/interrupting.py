"""Ctrl-C while the embedded engine runs: Python notices signals between its own steps only, and a query is one step."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import duckdb

_STOPPING = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP}


@contextmanager
def interruptible(connection: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """While this is held, SIGINT, SIGTERM and SIGHUP stop the query that runs on a connection.

    Without it, KeyboardInterrupt comes when the query is done, which may be hours later. The signal's own handler runs
    as ever, and decides what is raised; where DuckDB swallows that, it is asked again. Only the main thread has
    handlers; elsewhere this does nothing.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    reading, writing = os.pipe()
    os.set_blocking(writing, False)
    seen: list[int] = []

    def watch() -> None:
        while numbers := os.read(reading, 64):
            seen.extend(number for number in numbers if number in _STOPPING)
            if seen:
                connection.interrupt()
            if 0 in numbers:
                return

    thread = threading.Thread(target=watch, name="fileset-interrupt", daemon=True)
    thread.start()
    before = signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def stop_watching() -> None:
        signal.set_wakeup_fd(before)
        os.write(writing, b"\0")  # no signal has that number
        thread.join()
        os.close(reading)
        os.close(writing)

    try:
        yield
    except Exception:
        stop_watching()
        # DuckDB looks for signals itself now and then, and what their handlers raise there ends as its own error.
        if seen and callable(handler := signal.getsignal(seen[0])):
            handler(seen[0], None)
        raise
    except BaseException:
        stop_watching()
        raise
    stop_watching()
