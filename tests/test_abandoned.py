"""Readers that are let go of, or interrupted: nothing runs on, stays open or lies about."""

import contextlib
import gc
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from fileset_integrations import FileSetReader
from tests.support import ROOT
from tests.support.data import numbered

MODES = ["stream", "memory", "disk"]


@pytest.fixture
def fs(tmp_path):
    return numbered(tmp_path / "data", [300] * 12)


def opened() -> list[str]:
    """What this process has open, but for the folder that is read to find out."""
    found = []
    for link in Path("/proc/self/fd").iterdir():
        with contextlib.suppress(FileNotFoundError):
            found.append(str(link.readlink()))
    return sorted(target for target in found if not target.startswith("/proc/"))


def by_reader(reader):
    return reader.iter_batches()


def by_index(reader):
    return (reader.batch(index) for index in range(len(reader)))


def by_torch(reader):
    pytest.importorskip("torch")
    from fileset_integrations.torch import FileSetIterableDataset

    dataset = FileSetIterableDataset(reader.fileset, batch_size=8, shuffle=True)
    dataset.reader = reader
    return iter(dataset)


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="needs /proc")
@pytest.mark.parametrize("blocks", MODES)
@pytest.mark.parametrize("way", [by_reader, by_index, by_torch])
def test_a_reader_abandoned_mid_epoch_leaves_no_thread_no_open_file_and_no_temporary_file(
    fs, tmp_path, monkeypatch, blocks, way
):
    list(way(FileSetReader(fs, batch_size=8, blocks="memory")))  # what Python and Arrow open once
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    gc.collect()
    files, threads = opened(), set(threading.enumerate())

    reader = FileSetReader(fs, batch_size=8, shuffle=True, blocks=blocks, cache_dir=tmp_path / "cache")
    batches = way(reader)
    for _ in range(5):
        next(batches)
    begun = set(threading.enumerate()) - threads
    del batches, reader
    gc.collect()

    for thread in begun:
        thread.join(60)
    assert set(threading.enumerate()) <= threads
    assert opened() == files
    assert list(temporary.iterdir()) == []
    assert [path for path in (tmp_path / "cache").rglob("*") if path.suffix == ".part" or "tmp" in path.name] == []


SCRIPT = """
import sys, time
from fileset_integrations import FileSet, FileSetReader

def forever(make):
    while True:
        for number, batch in enumerate(make()):
            if number == 3:
                print("reading", flush=True)

if __name__ == "__main__":
    folder, cache, how = sys.argv[1:]
    fs = FileSet.from_parquet(folder)
    options = {"batch_size": 8, "shuffle": True, "cache_dir": cache}
    if how == "workers":
        from torch.utils.data import DataLoader
        loader = DataLoader(fs.to_torch_dataset(**options), batch_size=None, num_workers=2)
        forever(lambda: loader)
    elif how == "idle":
        kept = FileSetReader(fs, blocks="stream", **options).iter_batches()  # its threads wait for a consumer
        next(kept)
        print("reading", flush=True)
        while True:
            time.sleep(0.05)  # a signal that comes just before a sleep is seen after it only
    else:
        reader = FileSetReader(fs, blocks=how, **options)
        forever(reader.iter_batches)
"""


@pytest.mark.slow
@pytest.mark.parametrize("how", [*MODES, "idle", "workers"])
def test_an_interrupt_ends_a_process_that_reads(fs, tmp_path, how):
    if how == "workers":
        pytest.importorskip("torch")
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(script), str(tmp_path / "data"), str(tmp_path / "cache"), how],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
        text=True,
    )
    try:
        assert process.stdout.readline() == "reading\n"
        begun = time.monotonic()
        process.send_signal(signal.SIGINT)
        _, errors = process.communicate(timeout=10)  # by itself: what hangs is killed below, and fails
        print(f"{how}: ended {time.monotonic() - begun:.2f} s after the interrupt")  # pytest -rA shows it
    finally:
        process.kill()
        process.wait()

    assert process.returncode == -signal.SIGINT
    assert "KeyboardInterrupt" in errors
