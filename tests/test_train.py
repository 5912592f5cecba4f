"""`fileset-train` from the inside: what a run leaves, what the table says, and which mistakes are one line."""

import csv
import io
import json
import re
import sys
import types
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_module
from omegaconf import DictConfig, OmegaConf
from rich.console import Console

from fileset_integrations import schemas, train
from fileset_integrations.fileset import FileSet
from fileset_integrations.outcome import Outcome, Score
from fileset_integrations.runs import Trained
from fileset_integrations.runs.filesets import make_filesets
from fileset_integrations.runs.printing import show
from fileset_integrations.throughput import throughputs

CONF = Path(str(files("fileset_integrations.conf")))


def small(root: Path, *overrides: str, of: int = 40) -> DictConfig:
    """The flights task on one flight of `of`."""
    schemas.register()
    with initialize_config_module("fileset_integrations.conf", version_base="1.3"):
        config = compose(
            "train",
            [
                f"paths.root_dir={root}",
                f"paths.output_dir={root}/run",
                "trainer.max_epochs=2",
                "data.batch_size=256",
                "callbacks=model_checkpoint",
                *overrides,
            ],
        )
    if "log_every_n_steps" in config.trainer:
        config.trainer.log_every_n_steps = 5  # Lightning warns where an epoch is shorter
    config.filesets.sql.departures += f"  AND f.flight_id % {of} = 0\n"
    return config


# --- a run -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A small run: its folder, what it returned, what it printed."""
    root = tmp_path_factory.mktemp("train")
    printed = io.StringIO()
    train.show = lambda console, *rest: show(Console(file=printed, width=100), *rest)
    try:
        value = train.run(small(root))
    finally:
        train.show = show
    return types.SimpleNamespace(root=root, value=value, text=printed.getvalue())


def test_the_table_holds_the_model_beside_both_baselines(finished):
    delays = {}
    for name in ("train", "val"):
        table = FileSet(target_stage_loc=finished.root / "data" / "filesets", name=f"flights_{name}").to_arrow()
        delays[name] = table["arr_delay"].to_numpy(), table["dep_delay"].to_numpy()
    (train_label, train_dep), (label, dep) = delays["train"], delays["val"]
    shift = (train_label - train_dep).mean()

    lines = [[cell.strip() for cell in line.split("│")[1:-1]] for line in finished.text.splitlines() if "│" in line]
    table = {name: (float(rmse), float(mae)) for name, rmse, mae in lines}

    assert f"{len(label):,} validation rows" in finished.text
    assert list(table) == ["model", "training mean", f"dep_delay {shift:+.2f} (its mean difference)"]
    for errors, name in ((label - train_label.mean(), "training mean"), (label - dep - shift, list(table)[2])):
        assert table[name] == pytest.approx((np.sqrt(np.square(errors).mean()), np.abs(errors).mean()), abs=1e-3)
    assert finished.value == pytest.approx(table["model"][0], abs=1e-3)
    assert table["model"][0] < table["training mean"][0]


def test_the_verdict_agrees_with_the_table(finished):
    lines = [line.split("│")[1:-1] for line in finished.text.splitlines() if "│" in line]
    model, *baselines = [float(line[1]) for line in lines]

    assert ("beats every baseline" in finished.text) == (model < min(baselines))
    assert ("does NOT beat" in finished.text) == (model >= min(baselines))


def test_the_table_and_the_frameworks_own_validation_agree(finished):
    with (finished.root / "run" / "csv" / "metrics.csv").open() as file:
        logged = [float(row["val_rmse"]) for row in csv.DictReader(file) if row["val_rmse"]]

    assert len(logged) == 2
    assert finished.value == pytest.approx(logged[-1], rel=1e-5)


def test_speed_waiting_and_files_are_printed_and_there(finished):
    assert " rows/s); " in finished.text and " s of it waiting for data" in finished.text
    for path in ("plots/loss.png", "plots/predicted.png", "checkpoints/epoch_001.ckpt"):
        assert path in finished.text
        assert (finished.root / "run" / path).stat().st_size > 5_000


def test_its_speed_is_noted_for_the_report(finished):
    fs = FileSet(target_stage_loc=finished.root / "data/filesets", name="flights_train")

    noted = throughputs(fs.snapshot_id)[0]

    assert (noted["what"], noted["batch_size"]) == ("lightning", 256)
    assert noted["num_rows"] > 1000 and noted["seconds"] > noted["waiting_s"] > 0


def test_the_checkpoint_opens_and_predicts(finished):
    import torch

    from fileset_integrations.models.lightning import TabularRegressor

    model = TabularRegressor.load_from_checkpoint(finished.root / "run" / "checkpoints" / "last.ckpt").eval()
    inputs = model.hparams["inputs"]
    x = {
        name: torch.zeros(3, dtype=torch.int64) if "codes" in spec else torch.zeros(3, *spec["shape"])
        for name, spec in inputs.items()
    }

    assert set(inputs) == {"x", "dep_delay", "carrier", "origin", "dest"}
    assert model(x).shape == (3,)


def test_a_second_run_opens_the_filesets_of_the_first(finished):
    location = finished.root / "data" / "filesets"
    before = {path: path.stat().st_mtime_ns for path in location.rglob("*")}
    config = small(finished.root, "model.lr=0.1", "seed=1")

    made = make_filesets(config)

    assert {path: path.stat().st_mtime_ns for path in location.rglob("*")} == before
    assert sorted(made) == [f"{location}/flights_{name}" for name in ("train", "val")]


def test_parts_of_a_split_are_trained_on_and_validated_and_a_list_is_trained_on_as_one(finished, tmp_path):
    location = f"{finished.root}/data/filesets"
    shares = "{few:0.3,more:0.3,rest:0.4}"
    config = small(
        finished.root,
        f"paths.output_dir={tmp_path}",
        f"+filesets.split={{flights_train:{shares}}}",
        f"data.train=[{location}/flights_val,'{location}/flights_train:few']",
        f"data.val='{location}/flights_train:rest'",
        "trainer.max_epochs=1",
    )
    parts = FileSet.open(f"{location}/flights_train").split(few=0.3, more=0.3, rest=0.4)
    outcomes = []
    train.show = lambda console, task, outcome, trained, *rest: outcomes.append((outcome, trained))
    try:
        train.run(config)
    finally:
        train.show = show

    [(outcome, trained)] = outcomes
    rows = FileSet.open(f"{location}/flights_val").num_rows + parts["few"].num_rows
    assert outcome.num_rows == parts["rest"].num_rows
    assert trained.num_rows == rows // 256 * 256


@pytest.mark.slow
def test_a_run_goes_on_from_a_checkpoint_and_ends_where_it_would_have_ended(finished, tmp_path):
    # Without dropout, whose draws no checkpoint holds.
    always = ("model.dropout=0", "+callbacks.model_checkpoint.save_top_k=-1")
    whole = train.run(small(finished.root, f"paths.output_dir={tmp_path}/one", *always))
    first_epoch = tmp_path / "one" / "checkpoints" / "epoch_000.ckpt"

    resumed = train.run(small(finished.root, f"paths.output_dir={tmp_path}/two", *always, f"ckpt_path={first_epoch}"))

    assert resumed == pytest.approx(whole, rel=1e-6)
    rows = json.loads((tmp_path / "two" / "result.json").read_text())["metrics"]
    assert rows["val_rmse"] == resumed


@pytest.mark.slow
def test_a_keras_run_goes_on_from_a_folder_and_ends_where_it_would_have_ended(finished, tmp_path):
    def run(name, *overrides):
        always = ("framework=keras", "callbacks=none", "model.dropout=0", f"paths.output_dir={tmp_path / name}")
        return train.run(small(finished.root, *always, *overrides))

    whole = run("whole")
    run("first", "trainer.max_epochs=1", f"ckpt_path={tmp_path / 'state'}")

    assert run("second", f"ckpt_path={tmp_path / 'state'}") == pytest.approx(whole, rel=1e-6)


def test_an_edited_query_is_told_and_never_opens_the_old_rows(finished):
    with pytest.raises(train.TrainError, match="another query"):
        train.run(small(finished.root, of=50))


# --- mistakes --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["optimized_metric=val_rsme"], r"optimized_metric is 'val_rsme'.*val_rmse, val_mae"),
        (["model.baseline=distance"], r"model\.baseline is 'distance'.*dep_delay"),
        (["evaluation.baseline=carriers"], r"evaluation\.baseline is 'carriers'.*dep_delay"),
        (["columns.label=null"], r"columns\.label is null"),
        (["columns.label=arr_dellay"], r"arr_dellay"),
        (["data.val=null"], r"data\.val is missing.*LOCATION/NAME"),
        (["data.train=[a/b,3]"], r"data\.train is not a string"),
        (["data.train=[]"], r"data\.train is not a string"),
        (["data.train=[${data.val},a/b]"], r"a/b: there is no complete FileSet"),
        (["data.val=[a/b,c/d]"], r"data\.val is not a string"),
        (["data.val=${data.train}:late"], r"names the part .*flights_train:late'.*There are: none"),
        (["+filesets.split={flights_val:{a:0.5,b:0.4}}"], r"a=0\.5, b=0\.4 sum to 0\.9"),
        (["+filesets.split={flights:{a:0.5,b:0.5}}"], r"filesets\.split\.flights: .*makes: flights_train, flights_val"),
        (["data.val=${source.location}/flights_test"], r"flights_test"),
        (["data.batch_size=0"], r"batch_size"),
        (["data.batch_size=1000000"], r"no full batch"),
        (["model=flights_keras"], r"framework=lightning.*tabular_regressor.*model=flights_mlp"),
        (["trainer=keras"], r"framework=lightning.*KerasTrainer.*trainer=cpu"),
        (["trainer.accelerator=abacus"], r"`trainer`: .*abacus"),
        (["model.lr=0"], r"lr must be > 0"),
    ],
)
def test_a_mistake_is_one_line_that_names_the_key(finished, overrides, message, tmp_path):
    with pytest.raises(train.TrainError) as caught:
        train.run(small(finished.root, f"paths.output_dir={tmp_path}", *overrides))

    assert re.search(message, str(caught.value), re.DOTALL), caught.value
    assert isinstance(caught.value.__cause__, Exception)


def test_the_other_backend_of_a_loaded_keras_is_refused(tmp_path, monkeypatch):
    loaded = types.SimpleNamespace(backend=types.SimpleNamespace(backend=lambda: "torch"))
    monkeypatch.setitem(sys.modules, "keras", loaded)

    with pytest.raises(train.TrainError, match=r"keras\.backend=jax.*with torch"):
        train.run(small(tmp_path, "framework=keras", "callbacks=none", "keras.backend=jax"))


def test_an_absent_framework_names_its_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "fileset_integrations.runs.lightning", None)

    with pytest.raises(train.TrainError, match=r"pip install \"fileset-integrations\[lightning,recipes\]\""):
        train.run(small(tmp_path))


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ([], ["experiment=flights"]),
        (["-m", "model.lr=0.1,0.01"], ["-m", "experiment=flights", "model.lr=0.1,0.01"]),
        (["seed=1", "-m"], ["experiment=flights", "seed=1", "-m"]),
        (["--config-dir", "mine", "data=mine"], ["--config-dir", "mine", "experiment=flights", "data=mine"]),
        (["--cfg", "job"], ["experiment=flights", "--cfg", "job"]),
        (["experiment=mine", "seed=1"], ["experiment=mine", "seed=1"]),
        (["+experiment=mine"], ["+experiment=mine"]),
    ],
)
def test_a_recipes_choice_stands_unless_the_command_line_makes_another(arguments, expected, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["recipe.py", *arguments])
    monkeypatch.setenv("FILESET_ROOT", "unused")
    monkeypatch.setattr(train, "_hydra_main", lambda: None)

    train.main("experiment=flights")

    assert sys.argv == ["recipe.py", *expected]


# --- what is printed and written -------------------------------------------------------------------------------------


def test_waiting_that_cannot_be_seen_is_not_made_up(tmp_path):
    outcome = Outcome([Score("model", {"accuracy": 0.5})], {}, False, "", 10, lambda folder: [])
    printed = io.StringIO()

    trained = Trained(lambda batch: batch["x"], {}, 100, 2.0, None)
    show(Console(file=printed, width=80), "task", outcome, trained, tmp_path, {})

    assert "100 rows in 2.00 s (50 rows/s); the time spent waiting for data is not visible" in printed.getvalue()
    assert "50.00%" in printed.getvalue()


def test_a_config_prints_as_it_is_written():
    # What a run leaves in .hydra/config.yaml can be read, and composed again.
    schemas.register()
    with initialize_config_module("fileset_integrations.conf", version_base="1.3"):
        config = compose("train", ["experiment=digits"])

    assert OmegaConf.create(OmegaConf.to_yaml(config)).trainer.max_epochs == 10
