"""Ctrl-C, a model or a reader that fails: Keras's training ends at once, with the cause on top, and leaves nothing."""

import itertools
import json
import os
import subprocess
import sys

import pytest

from tests.support import ROOT, SOAK
from tests.support.data import numbered

pytest.importorskip("keras", reason="keras is optional")

THREADS = {"workers": 3, "max_queue_size": 2}
PROCESSES = {"workers": 2, "max_queue_size": 2, "use_multiprocessing": True}
CAUSES = {
    "model": ["RuntimeError", ["a model that diverges"]],
    "reader": ["RuntimeError", ["a row that cannot be read"]],
    "interrupt": ["KeyboardInterrupt", []],
}


def training(folder, backend, which, cases):
    """A process that trains in each of these ways; what it told of them, its errors, and whether it left others."""
    numbered(folder / "data", (70, 30, 200))
    temporary = folder / "temporary"
    temporary.mkdir()
    with subprocess.Popen(
        [sys.executable, "-m", "tests.support.keras_failures", str(folder), which, json.dumps(cases)],
        cwd=ROOT,
        env=os.environ | {"KERAS_BACKEND": backend, "PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,  # a group of its own, as a terminal gives it
    ) as process:
        _, errors = process.communicate(timeout=280)
    with pytest.raises(ProcessLookupError):
        os.killpg(process.pid, 0)
    assert list(temporary.iterdir()) == []
    return process.returncode, json.loads((folder / "ended.json").read_text()), errors


def semaphores():
    """Names of shared memory and semaphores of this machine that Python's multiprocessing made: joblib's are others."""
    names = {entry.name for entry in os.scandir("/dev/shm")} if os.path.isdir("/dev/shm") else set()  # noqa: PTH112
    return {name for name in names if name.startswith(("sem.mp-", "psm_"))}


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["torch", "jax", "tensorflow"] if SOAK else ["torch"])
def test_our_fit_ends_with_the_cause_and_leaves_no_thread_process_or_file(backend, tmp_path):
    pytest.importorskip(backend)
    ways = [{"workers": 1}, THREADS, PROCESSES]
    cases = [*itertools.product(("model", "reader"), ways), ("interrupt", THREADS), ("interrupt", PROCESSES)]

    code, ended, errors = training(tmp_path, backend, "fit", cases)

    for (fails, _), (kind, message, left) in zip(cases, ended, strict=True):
        if fails == "reader" and backend == "tensorflow":  # which wraps what its threads raise
            assert "RuntimeError: a row that cannot be read" in " ".join([kind, *message]) or kind.endswith("Error")
        else:
            assert [kind, message] == CAUSES[fails]
        assert left == []
    assert code == -2  # ended by SIGINT, as a shell wants to see it
    assert errors.rstrip().splitlines()[-1] == "KeyboardInterrupt"
    assert sorted(path.name for path in (tmp_path / "state").iterdir()) == [".lock"]


@pytest.mark.slow
@pytest.mark.parametrize("fails", ["model", "reader", "interrupt"] if SOAK else ["interrupt"])
def test_a_process_that_keras_own_fit_fails_in_ends_and_leaves_nothing(fails, tmp_path):
    before = semaphores()

    code, ended, errors = training(tmp_path, "torch", "model.fit", [(fails, PROCESSES)])

    assert ended == [CAUSES[fails]]
    assert code == (-2 if fails == "interrupt" else 1)
    assert CAUSES[fails][0] in errors.rstrip().splitlines()[-1]
    assert semaphores() - before == set()
