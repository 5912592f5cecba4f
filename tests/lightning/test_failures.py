"""Whatever ends a training early: it ends with the cause on top, and nothing is left behind."""

import contextlib
import gc
import multiprocessing
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import pytest

from fileset_integrations.errors import FileSetCorruptError
from fileset_integrations.lightning import FileSetDataModule
from tests.support import ROOT
from tests.support.data import numbered
from tests.support.fitting import BATCH, ID_COLUMNS, Recorder, SaveEverywhere, fit, quiet_trainer
from tests.support.torch_loading import loader


def in_shared_memory():
    """What torch has in shared memory; its names say which process they are of."""
    folder = Path("/dev/shm")
    return {path.name for path in folder.glob(f"torch_{os.getpid()}_*")} if folder.exists() else set()


@pytest.fixture
def temporary():
    """A folder for temporary files. Its path is short: sockets lie in it, whose paths may have 107 characters."""
    folder = Path(tempfile.mkdtemp(prefix="left-", dir="/tmp"))
    yield folder
    with contextlib.suppress(OSError):
        folder.rmdir()  # multiprocessing keeps a folder in there until its process ends


@contextlib.contextmanager
def nothing_left(folder, monkeypatch):
    """Whatever happens inside leaves no thread, process, temporary file or shared memory, without a collection."""
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    gc.collect()
    gc.disable()
    threads, shared = set(threading.enumerate()), in_shared_memory()
    try:
        yield
        for thread in set(threading.enumerate()) - threads:
            thread.join(20)
        for process in multiprocessing.active_children():
            process.join(2)
        assert multiprocessing.active_children() == []
        assert set(threading.enumerate()) <= threads
        assert [path.name for path in folder.rglob("*") if not path.name.startswith("pymp-")] == []
        assert in_shared_memory() <= shared
    finally:
        gc.enable()


@pytest.fixture
def long(tmp_path):
    """A FileSet of many more batches than are read ahead."""
    return numbered(tmp_path / "long", [210] * 6)


def module(fs, tmp_path, **options):
    return FileSetDataModule(
        train=fs, val=fs, columns=ID_COLUMNS, batch_size=BATCH, cache_dir=str(tmp_path / "cache"), **options
    )


class Failing(Recorder):
    """Fails in the third step of an epoch, or the second of its validation."""

    def __init__(self, where):
        super().__init__()
        self.where = where

    def training_step(self, batch, batch_idx):
        if self.where == "training" and batch_idx == 2:
            raise RuntimeError("the model's own")
        return super().training_step(batch, batch_idx)

    def validation_step(self, batch, batch_idx, dataloader_idx=0):
        if self.where == "validation" and batch_idx == 1:
            raise RuntimeError("the model's own")
        super().validation_step(batch, batch_idx, dataloader_idx)


def failure(error, run):
    """The error that a run ends with, without its traceback, which would hold all that was under way."""
    try:
        run()
    except error as raised:
        raised.__traceback__ = None
        return raised
    raise AssertionError(f"no {error.__name__} was raised")


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("where", ["training", "validation"])
def test_an_exception_in_the_model_ends_training_with_it(where, num_workers, long, tmp_path, monkeypatch, temporary):
    with nothing_left(temporary, monkeypatch):
        dm = module(long, tmp_path, num_workers=num_workers)
        trainer = quiet_trainer(val_check_interval=5)
        error = failure(RuntimeError, lambda: trainer.fit(Failing(where), dm))

    assert str(error) == "the model's own" and error.__cause__ is None


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_exception_in_the_reader_ends_training_with_it(num_workers, long, tmp_path, monkeypatch, temporary):
    (tmp_path / "long" / "data_4.parquet").write_bytes(b"torn")

    with nothing_left(temporary, monkeypatch):
        dm = module(long, tmp_path, num_workers=num_workers)
        model = Recorder()
        error = failure(FileSetCorruptError, lambda: quiet_trainer().fit(model, dm))

    assert "data_4.parquet" in str(error)


def refuse(batch, generator):
    raise ZeroDivisionError("the transform's own")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_exception_in_a_transform_ends_training_with_it(num_workers, long, tmp_path, monkeypatch, temporary):
    with nothing_left(temporary, monkeypatch):
        dm = module(long, tmp_path, num_workers=num_workers, transform=refuse)
        error = failure(ZeroDivisionError, lambda: quiet_trainer().fit(Recorder(), dm))

    assert "the transform's own" in str(error)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_an_interrupt_ends_training(num_workers, long, tmp_path, monkeypatch, temporary):
    class Interrupted(Recorder):
        def training_step(self, batch, batch_idx):
            if batch_idx == 4:
                os.kill(os.getpid(), signal.SIGINT)
                time.sleep(5)  # the signal's handler runs here
            return super().training_step(batch, batch_idx)

    before = signal.getsignal(signal.SIGINT)
    model = Interrupted()
    try:
        with nothing_left(temporary, monkeypatch):
            dm = module(long, tmp_path, num_workers=num_workers)
            trainer = quiet_trainer()
            failure(SystemExit, lambda: trainer.fit(model, dm))
    finally:
        signal.signal(signal.SIGINT, before)  # Lightning leaves it ignored

    assert len(model.train_seen) == 4
    assert trainer.interrupted


@pytest.mark.parametrize("num_workers", [0, 2])
def test_in_plain_torch_an_exception_ends_the_loop_with_it(num_workers, long, tmp_path, monkeypatch, temporary):
    def train():
        dataset = long.to_torch_dataset(batch_size=BATCH, shuffle=True, cache_dir=tmp_path / "cache")
        for number, _ in enumerate(loader(dataset, num_workers=num_workers)):
            if number == 3:
                raise RuntimeError("the loop's own")

    with nothing_left(temporary, monkeypatch):
        failure(RuntimeError, train)


@pytest.mark.parametrize("num_workers", [0, 2])
@pytest.mark.parametrize("struck", [1, 5])
def test_a_checkpoint_that_an_exception_leaves_has_the_batch_still_before_it(
    struck, num_workers, datamodule, expected, tmp_path
):
    class Struck(Recorder):
        def training_step(self, batch, batch_idx):
            if len(self.train_seen) == struck:
                raise RuntimeError("the model's own")
            return super().training_step(batch, batch_idx)

    class SaveLate(SaveEverywhere):
        def on_exception(self, trainer, pl_module, exception):
            self._save(trainer, pl_module, "exception")

    before, saver = Struck(), SaveLate(tmp_path)
    with pytest.raises(RuntimeError, match="the model's own"):
        quiet_trainer(max_epochs=2, callbacks=[saver]).fit(before, datamodule(num_workers=num_workers))

    after = fit(datamodule(), ckpt_path=tmp_path / f"exception-{struck}", max_epochs=2)

    assert [ids for _, ids in before.train_seen + after.train_seen] == expected(0) + expected(1)


SCRIPT = """
import faulthandler, sys
faulthandler.dump_traceback_later(100, exit=True)  # a test that hangs says where
from lightning.pytorch import Callback
from fileset_integrations import FileSet
from tests.support.fitting import Recorder, quiet_trainer
from tests.lightning.test_failures import module

class Saying(Callback):
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        if trainer.global_step == 20:
            print("training", flush=True)

if __name__ == "__main__":
    from pathlib import Path
    folder = Path(sys.argv[1])
    dm = module(FileSet.from_parquet(folder / "long"), folder, num_workers=2)
    quiet_trainer(max_epochs=-1, callbacks=[Saying()]).fit(Recorder(), dm)
"""


@pytest.mark.slow
def test_an_interrupt_of_a_whole_terminal_ends_workers_too(long, tmp_path, temporary):
    (tmp_path / "script.py").write_text(SCRIPT)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "script.py"), str(tmp_path)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(temporary)},
        text=True,
        start_new_session=True,
    )
    try:
        assert process.stdout.readline() == "training\n", process.stderr.read()
        begun = time.monotonic()
        os.killpg(process.pid, signal.SIGINT)
        _, errors = process.communicate(timeout=30)
        print(f"ended {time.monotonic() - begun:.2f} s after the interrupt")
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)  # what hangs fails above
        process.wait()

    assert process.returncode == 1, errors
    assert list(temporary.iterdir()) == []
