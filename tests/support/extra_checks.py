"""What works with an extra, and what is said where another one is missing: run inside an environment that has no more.

    ENVIRONMENT/bin/python -I tests/support/extra_checks.py lightning [EXTRA ...]      the extras that were installed

It imports nothing of tests/: the environment holds the package and what the extras bring. Each check either works or
ends with the command that installs exactly what it lacks; prints a line for each. Status 1: one does otherwise.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
import tempfile
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

QUERY = "SELECT i, (i % 7)::FLOAT AS x, (2 * (i % 7))::FLOAT AS y FROM range(64) t(i)"
INSTALL = re.compile(r'Install it with: pip install "fileset-integrations\[([a-z0-9,]+)\]"$')
# matplotlib, of the recipes, brings Pillow; TensorFlow requires Keras.
ALSO = {
    "recipes": ("lightning", "keras", "images"),
    "all": ("recipes", "tensorflow", "jax", "ray", "s3", "snowflake", "sweep"),
    "tensorflow": ("keras",),
}
NOBODY = "http://127.0.0.1:9"
THOROUGH = os.environ.get("FILESET_SOAK") == "1"


@dataclass(frozen=True)
class Check:
    """Something that a user does.

    Attributes:
        name: What.
        extras: What brings all that it takes.
        do: Does it, or raises what says that something is missing.
        backend: Of Keras.
        first: What is named where it is missing, whatever else is.
        among: Tried only where one of these is installed; everywhere without.
        heavy: Takes a cluster or a network: done in `make soak` only, where it is to work.
    """

    name: str
    extras: tuple[str, ...]
    do: Callable[[], None]
    backend: str = "torch"
    first: str | None = None
    among: tuple[str, ...] = ()
    heavy: bool = False

    def named(self, installed: set[str]) -> str:
        """The extras that its error is to name; "" where it is to work."""
        missing = [extra for extra in self.extras if extra not in installed]
        return self.first if self.first in missing else ",".join(missing)


# --- from Python -----------------------------------------------------------------------------------------------------


def made(name="rows", location="sets"):
    from fileset_integrations import FileSet

    return FileSet.make(target_stage_loc=location, name=name, query=QUERY, if_exists="open")


def columns():
    from fileset_integrations import Columns

    return Columns(features={"x": ["x"]}, label="y")


def core():
    import fileset_integrations
    from fileset_integrations import FileSetReader, Shard, shuffle_report

    assert fileset_integrations.__version__
    parts = made().split(train=0.5, val=0.5)
    reader = FileSetReader(parts["train"], columns=columns(), batch_size=8, shard=Shard(1, 2))
    assert [len(next(iter(batch.values()))) for batch in reader.iter_batches(epoch=1)] == [8, 8]
    assert shuffle_report(reader)
    made(location="memory://bucket/sets").copy_to("copies")


def torch_dataset():
    pipe = made().to_torch_datapipe(batch_size=16, shuffle=True)
    from torch.utils.data import DataLoader

    assert [batch["x"].shape[0] for batch in DataLoader(pipe, batch_size=None)] == [16] * 4


def lightning_fit():
    from fileset_integrations import FileSetDataModule

    data = FileSetDataModule(train=made(), val=made(), columns=columns(), batch_size=32)
    import lightning
    import torch

    from fileset_integrations.lightning import DataWait

    class Line(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.line = torch.nn.Linear(1, 1)

        def training_step(self, batch, index):
            x, y = batch
            return torch.nn.functional.mse_loss(self.line(x)[:, 0], y)

        def validation_step(self, batch, index):
            self.log("val_loss", self.training_step(batch, index), batch_size=len(batch[1]))

        def configure_optimizers(self):
            return torch.optim.SGD(self.parameters(), 0.01)

    quiet = dict.fromkeys(("logger", "enable_checkpointing", "enable_progress_bar", "enable_model_summary"), False)
    trainer = lightning.Trainer(max_epochs=1, accelerator="cpu", callbacks=[DataWait()], **quiet)
    trainer.fit(Line(), data)
    assert trainer.global_step == 2 and "val_loss" in trainer.callback_metrics


def keras_fit():
    for name in [name for name in sys.modules if name.partition(".")[0] == "keras"]:
        del sys.modules[name]  # left by an import that failed, with the backend of then
    from fileset_integrations import FileSetPyDataset

    data = FileSetPyDataset(made(), columns=columns(), batch_size=32, shuffle=True)
    import keras

    from fileset_integrations.keras import fit

    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile(optimizer="sgd", loss="mse")
    assert len(fit(model, data, epochs=1, verbose=0).history["loss"]) == 1


def tensorflow_dataset():
    assert len(list(made().to_tf_dataset(batch_size=32))) == 2


def ray_face():
    import fileset_integrations.ray

    try:
        fileset_integrations.ray.current_shard()
    except ValueError as error:
        assert "no worker of Ray Train" in str(error)
    if THOROUGH:
        assert made().to_ray_dataset().count() == 64  # starts a cluster


def images():
    from fileset_integrations import Columns, FileSet, FileSetReader
    from fileset_integrations.columns import Image

    # A PNG of one black pixel, as its specification has it.
    png = "89504E470D0A1A0A0000000D49484452000000010000000108000000003A7E9B550000000A49444154789C6360000000020001"
    png += "48AFA4710000000049454E44AE426082"
    query = f"SELECT unhex('{png}') AS png FROM range(2)"
    fs = FileSet.make(target_stage_loc="sets", name="images", query=query, if_exists="open")
    pixels = Columns(features={"x": Image("png", height=1, width=1, channels=1)})
    [batch] = FileSetReader(fs, columns=pixels, batch_size=2).iter_batches(epoch=0)
    assert batch["x"].sum() == 0


def bucket():
    from fileset_integrations import FileSet, FileSetError

    # Nobody listens there: that it is tried shows that the driver is there.
    options = {"endpoint_url": NOBODY, "key": "none", "secret": "none"}
    try:
        FileSet.open("s3://bucket/sets/rows", storage_options=options)
    except ImportError:
        raise
    except FileSetError as error:
        assert NOBODY in str(error), error


def stage():
    from fileset_integrations import FileSet

    fs = FileSet.make(
        target_stage_loc="@db1.s1.st/sets",
        name=f"rows_{os.getpid()}",
        query="SELECT 1 AS A UNION ALL SELECT 2",
        connection_name=os.environ.get("FILESET_TEST_PROFILE"),
    )
    fs.pull(progress=False)
    assert fs.to_arrow()["A"].to_pylist() == [1, 2]


# --- from the command line -------------------------------------------------------------------------------------------


def called(main, *words):
    """Status, output and errors of a command, called here; a missing package is told in one line."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    with (
        mock.patch.object(sys, "argv", [str(word) for word in words]),
        mock.patch.object(sys, "stdin", io.TextIOWrapper(io.BytesIO(QUERY.encode()))),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        try:
            main()
        except SystemExit as end:
            status = end.code or 0
    if status:
        raise Told(status, out.getvalue(), err.getvalue())
    return out.getvalue()


class Told(Exception):
    """A command ended with a status other than 0; `args` are the status, its output and its standard error."""


def fileset(*words):
    from fileset_integrations import cli

    return called(cli.main, "fileset", *words)


def terminal():
    fileset("make", "sets", "called", "--if-exists", "open")
    assert json.loads(fileset("info", "sets/called", "--json"))["num_rows"] == 64
    assert fileset("head", "sets/called", "-n", "1").startswith("0\t")
    assert "are what was written" in fileset("verify", "sets/called")
    assert "x\tfloat" in fileset("stats", "sets/called")
    assert "rows/s" in fileset("bench", "sets/called", "--seconds", "0.01")
    fileset("report", "sets/called", "-o", "page.html")
    assert Path("page.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    fileset("cache", "ls")
    fileset("rm", "sets/called", "--yes")


def fileset_train(*words):
    from hydra.core.global_hydra import GlobalHydra
    from hydra.core.hydra_config import HydraConfig

    from fileset_integrations import train

    GlobalHydra.instance().clear()
    quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")
    try:
        return called(train.main, "fileset-train", *words, *quiet)
    finally:
        GlobalHydra.instance().clear()
        HydraConfig.instance().cfg = None


OWN = (
    "experiment=query",
    "columns.features.x=[x]",
    "columns.label=y",
    f"filesets.sql.query='{QUERY}'",
    "data.batch_size=16",
    "trainer.max_epochs=1",
    "model.hidden=[4]",
    "callbacks=none",
    "logger=none",
)


def composed():
    assert "batch_size: 16" in fileset_train("--cfg", "job", *OWN)


def training():
    assert "validation rows" in fileset_train(*OWN)


def digits():
    assert "digits: 450" in fileset_train("experiment=digits", "trainer.max_epochs=1", "callbacks=none", "logger=none")


def search():
    words = ("hparams_search=optuna", "hydra.sweeper.n_trials=1", "hydra.sweep.dir=search")
    assert "1 of 1 jobs" in fileset_train("-m", *OWN, *words)


def launched():
    assert "joblib" in fileset_train("--cfg", "hydra", "hydra/launcher=joblib", *OWN)


def bucket_in_a_terminal():
    unanswered(fileset, "ls", "s3://bucket/sets")


def bucket_of_training():
    unanswered(fileset_train, *OWN, "source=s3", "source.location=s3://bucket/sets")


def unanswered(command, *words):
    try:
        command(*words)
    except Told as told:
        if NOBODY not in told.args[2] or told.args[2].count("\n") != 1:
            raise


def stage_in_a_terminal():
    profile = os.environ.get("FILESET_TEST_PROFILE")
    fileset("ls", "@db1.s1.st/sets", *(("-c", profile) if profile else ()))


def ray_training():
    fileset_train(*OWN, "trainer=ray", "ray.num_workers=1")


TRAINS = ("lightning", "recipes")
CHECKS = (
    Check("a FileSet, made and read", (), core),
    Check("the commands", (), terminal),
    Check("fileset-train --cfg job", (), composed),
    Check("encoded images", ("images",), images),
    Check("a bucket", ("s3",), bucket, heavy=True),
    Check("a bucket in a terminal", ("s3",), bucket_in_a_terminal, heavy=True),
    Check("a stage", ("snowflake",), stage),
    Check("a stage in a terminal", ("snowflake",), stage_in_a_terminal),
    Check("a torch dataset", ("lightning",), torch_dataset),
    Check("a Lightning fit", ("lightning",), lightning_fit),
    Check("a tf.data.Dataset", ("tensorflow",), tensorflow_dataset),
    Check("a Keras fit on torch", ("keras", "lightning"), keras_fit, "torch"),
    Check("a Keras fit on tensorflow", ("keras", "tensorflow"), keras_fit, "tensorflow"),
    Check("a Keras fit on jax", ("keras", "jax"), keras_fit, "jax"),
    Check("Ray", ("ray",), ray_face),
    Check("Hydra's joblib launcher", ("sweep",), launched),
    Check("training on a query", TRAINS, training),
    Check("the digits recipe", TRAINS, digits, among=("lightning",)),
    Check("training on a bucket", (*TRAINS, "s3"), bucket_of_training, among=("recipes",), heavy=True),
    Check("training on Ray", (*TRAINS, "ray"), ray_training, among=("recipes",), heavy=True),
    Check("a search", ("sweep", *TRAINS), search, first="sweep"),
)


def surprise(check: Check, installed: set[str]) -> str | None:
    """What is not as it should be; None where all is well."""
    wanted = check.named(installed)
    os.environ["KERAS_BACKEND"] = check.backend
    try:
        check.do()
    except Told as told:
        status, out, err = told.args
        lines = (out + err).strip().splitlines()
        if "Traceback" in err or (len(lines) != 1 and check.do is not search):
            return f"it ends with {status} and more than one line:\n{out}{err}"
        said = lines[-1]
    except ImportError as error:
        if type(error).__name__ != "MissingDependencyError":
            return traceback.format_exc()
        said = str(error)
    except Exception:
        return traceback.format_exc()
    else:
        return f"it works, and {wanted} is missing" if wanted else None
    found = INSTALL.search(said)
    if not wanted or found is None or found[1] != wanted:
        return f"it should {f'name {wanted}' if wanted else 'work'}, and says: {said}"
    return None


def main(extras: list[str]) -> None:
    installed = set(extras)
    for extra in ("all", "recipes", "tensorflow"):
        installed.update(ALSO[extra] if extra in installed else ())
    warnings.simplefilter("ignore")
    surprises = 0
    with tempfile.TemporaryDirectory(prefix="extra-", ignore_cleanup_errors=True) as folder, contextlib.chdir(folder):
        os.environ["FILESET_CACHE_DIR"] = folder + "/cache"
        # Of botocore, which would otherwise look for credentials on the network.
        keys = dict.fromkeys(("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"), "none")
        os.environ.update(keys, AWS_ENDPOINT_URL=NOBODY, AWS_EC2_METADATA_DISABLED="true", AWS_MAX_ATTEMPTS="1")
        keras_works = False  # and then it has its backend, for as long as this process lives
        for check in CHECKS:
            wanted = check.named(installed)
            if (check.heavy and not wanted and not THOROUGH) or (check.among and installed.isdisjoint(check.among)):
                continue
            if check.do is keras_fit:
                if keras_works:
                    continue
                keras_works = not wanted
            start = time.perf_counter()
            wrong = surprise(check, installed)
            surprises += wrong is not None
            said = wrong or (f"names [{wanted}]" if wanted else "works")
            print(f"{time.perf_counter() - start:6.2f} s  {check.name}: {said}", flush=True)
    if surprises:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])
