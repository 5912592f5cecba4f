"""Signals that arrive while the embedded engine runs."""

import os
import signal
import threading
import time

import pytest

from fileset_integrations.engines.duckdb import connect
from fileset_integrations.engines.interrupting import interruptible

ENDLESS = "SELECT sum(hash(a.i * b.i)) FROM range(100000000) a(i), range(100000) b(i)"


def send(number, after_s):
    threading.Timer(after_s, lambda: os.kill(os.getpid(), number)).start()


@pytest.mark.parametrize("after_s", [0.05, 0.2, 0.5])
def test_ctrl_c_stops_a_query_that_runs(after_s):
    with connect() as connection:
        with pytest.raises(KeyboardInterrupt), interruptible(connection):
            send(signal.SIGINT, after_s)
            connection.sql(ENDLESS).fetchall()

        assert connection.sql("SELECT 1").fetchall() == [(1,)]


def test_another_signals_own_handler_decides_what_is_raised():
    def stop(number, frame):
        raise SystemExit(number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        with connect() as connection, pytest.raises(SystemExit, match="15"), interruptible(connection):
            send(signal.SIGTERM, 0.2)
            connection.sql(ENDLESS).fetchall()
    finally:
        signal.signal(signal.SIGTERM, before)


def test_without_a_signal_errors_and_handlers_are_what_they_were():
    before = signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)
    with connect() as connection:
        with pytest.raises(ZeroDivisionError), interruptible(connection):
            raise ZeroDivisionError
        with interruptible(connection):
            time.sleep(0)

    assert (signal.getsignal(signal.SIGINT), signal.set_wakeup_fd(-1)) == before
    assert not [thread for thread in threading.enumerate() if thread.name == "fileset-interrupt"]


def test_in_other_threads_it_stands_aside():
    answers = []

    def work():
        with connect() as connection, interruptible(connection):
            answers.append(connection.sql("SELECT 1").fetchall())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()

    assert answers == [[(1,)]]
