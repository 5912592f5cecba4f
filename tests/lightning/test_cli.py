"""LightningCLI takes the data module as it is: every argument by its type, columns as their own arguments."""

import pytest
import torch
import yaml

from fileset_integrations import Columns, FileSet, FileSetReader
from fileset_integrations.columns import Category
from fileset_integrations.lightning import FileSetDataModule
from tests.support.data import ids
from tests.support.fitting import Recorder, natural

pytest.importorskip("jsonargparse")
from lightning.pytorch.cli import LightningCLI

COLUMNS = {
    "features": {
        "id": "id",
        "x": ["x"],
        "parity": {"class_path": "fileset_integrations.columns.Category", "init_args": {"column": "parity"}},
    },
    "label": "y",
    "nulls": {"x": 0.5},
}


@pytest.fixture
def config(tmp_path):
    """A config file over two FileSets."""
    for name, rows in (("flights", 20), ("late", 6)):
        FileSet.make(
            target_stage_loc=tmp_path / "sets",
            name=name,
            query=f"SELECT i AS id, i / 4 AS x, -i AS y, 'p' || i % 2 AS parity FROM range({rows}) t(i)",
        )
    data = {
        "train": f"{tmp_path}/sets/flights",
        "val": [f"{tmp_path}/sets/late", f"{tmp_path}/sets/flights"],
        "test": f"{tmp_path}/sets/late",
        "columns": COLUMNS,
        "batch_size": 4,
        "seed": 3,
    }
    trainer = {
        "accelerator": "cpu",
        "devices": 1,
        "max_epochs": 2,
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "num_sanity_val_steps": 0,
        "default_root_dir": str(tmp_path),
    }
    path = tmp_path / "flights.yaml"
    path.write_text(yaml.safe_dump({"data": data, "trainer": trainer, "seed_everything": 1}))
    return path


@pytest.fixture
def run(config, monkeypatch):
    """Runs a command of the script that a user would write, and returns its LightningCLI."""

    def run(command, *overrides):
        monkeypatch.setattr("sys.argv", ["train.py", command, "--config", str(config), *overrides])
        return LightningCLI(Recorder, FileSetDataModule)

    return run


def test_a_config_of_the_command_line_trains(run, tmp_path):
    cli = run("fit", "--data.batch_size=5", "--data.num_workers=2", "--trainer.max_epochs=1")

    dm = cli.datamodule
    reader = FileSetReader(dm.hparams["train"], batch_size=5, shuffle=True, seed=3)
    assert cli.model.epochs() == [ids(reader.iter_batches(0))]
    assert [seen for _, at, seen in cli.model.val_seen if at == 0] == natural(6, 5)
    assert dm.columns.spec.features == Columns({"id": "id", "x": ["x"], "parity": Category("parity")}).features
    assert dm.columns.vocabularies == {"parity": ("p0", "p1")}
    (checkpoint,) = tmp_path.rglob("*.ckpt")
    assert torch.load(checkpoint, weights_only=True)["datamodule_hyper_parameters"]["batch_size"] == 5


def test_the_command_line_tests_too(run):
    cli = run("test")

    assert cli.model.test_seen == [(0, batch) for batch in natural(6, 4)]


@pytest.mark.parametrize(("override", "named"), [("batch_size=many", "data.batch_size"), ("blocks=ram", "data.blocks")])
def test_a_wrong_argument_is_refused_by_name(override, named, run, capsys):
    with pytest.raises(SystemExit):
        run("fit", f"--data.{override}")

    assert named in capsys.readouterr().err
