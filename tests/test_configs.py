"""The configs: each composes, says what its target takes, can be made, and refuses what is wrong by its name."""

import functools
import inspect
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import MISSING, fields
from importlib.resources import files
from pathlib import Path
from typing import Any

import hydra.utils
import omegaconf
import pytest
from hydra import compose, initialize_config_module
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf

from fileset_integrations import schemas
from fileset_integrations.fileset import FileSet

CONF = Path(str(files("fileset_integrations.conf")))
GROUPS = sorted(folder.name for folder in CONF.iterdir() if folder.is_dir() and any(folder.glob("*.yaml")))
OPTIONS = [(group, path.stem) for group in GROUPS for path in sorted((CONF / group).glob("*.yaml"))]
# Hydra's own keys, and those that the config leaves to train.py because they come from the data or from other groups.
HYDRA_KEYS = {"_target_", "_convert_", "_partial_", "_recursive_"}
FROM_ELSEWHERE = {
    "fileset_integrations.lightning.FileSetDataModule": {"storage_options"},  # may hold secrets
    "fileset_integrations.models.lightning.TabularRegressor": {"inputs", "target"},
    "fileset_integrations.models.keras.tabular_regressor": {"inputs", "target"},
    "fileset_integrations.models.lightning.ImageClassifier": {"inputs"},
    "fileset_integrations.models.lightning.TextClassifier": {"inputs"},
    # What the groups logger and callbacks hold, and what Lightning deprecates or runs as a whole.
    "lightning.Trainer": {"logger", "callbacks", "enable_autolog_hparams", "model_registry"},
}
# What a model is told of the data, as `Summary.inputs` says it.
INPUTS = {
    "x": {"shape": [2], "mean": [0.0, 1.0], "std": [1.0, 2.0]},
    "dep_delay": {"shape": [], "mean": [0.0], "std": [1.0]},
    "carrier": {"codes": 5},
    "pixels": {"shape": [8, 8], "mean": [0.0] * 64, "std": [1.0] * 64},
    "bytes": {"shape": [48], "mean": [0.0] * 48, "std": [1.0] * 48},
}


@functools.cache  # composing takes about half a second; nobody changes what it returns
def composed(*overrides: str, root: Path | str = "/nowhere") -> DictConfig:
    schemas.register()
    with initialize_config_module("fileset_integrations.conf", version_base="1.3"):
        # Outside a job there is no hydra: resolver's output folder.
        return compose("train", [f"paths.root_dir={root}", f"paths.output_dir={root}/run", *overrides])


def targets(node: Any, key: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node of a config that says what makes it, with its key."""
    if isinstance(node, DictConfig):
        if "_target_" in node:
            yield key, node
        for name in node:
            yield from targets(node._get_node(name), f"{key}.{name}".lstrip("."))


def parameters(target: str) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(hydra.utils.get_object(target)).parameters)
    return {name: parameter for name, parameter in found.items() if name not in ("self", "args", "kwargs")}


def test_every_group_has_options():
    assert set(GROUPS) >= {
        *("callbacks", "columns", "data", "evaluation", "experiment", "filesets", "hparams_search", "logger", "model"),
        *("paths", "source", "trainer"),
    }


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_every_option_composes_and_resolves(group, option):
    config = composed(f"{group}={option}")

    assert config.task_name
    assert OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize(("group", "option"), OPTIONS)
def test_keys_are_the_arguments_of_what_they_make(group, option):
    for key, node in targets(composed(f"{group}={option}")):
        names = [name for name in node if name not in HYDRA_KEYS]
        taken = list(parameters(node._target_))

        assert set(names) <= set(taken), f"{key}: {node._target_} does not take these"
        if node._target_.startswith("fileset_integrations") or node._target_ == "lightning.Trainer":
            left_out = FROM_ELSEWHERE.get(node._target_, set())
            if node._target_.startswith("fileset_integrations.columns."):  # of a spec only what it changes need be said
                left_out = {name for name in taken if name not in node}
            assert names == [name for name in taken if name not in left_out], f"{key}: names and order"


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        (schemas.ColumnsConf, "fileset_integrations.columns.Columns"),
        (schemas.DataConf, "fileset_integrations.lightning.FileSetDataModule"),
        (schemas.TabularRegressorConf, "fileset_integrations.models.lightning.TabularRegressor"),
        (schemas.TabularRegressorConf, "fileset_integrations.models.keras.tabular_regressor"),
        (schemas.ImageClassifierConf, "fileset_integrations.models.lightning.ImageClassifier"),
        (schemas.TextClassifierConf, "fileset_integrations.models.lightning.TextClassifier"),
        (schemas.RegressionConf, "fileset_integrations.outcome.Regression"),
        (schemas.ClassificationConf, "fileset_integrations.outcome.Classification"),
        (schemas.LightningTrainerConf, "lightning.Trainer"),
        (schemas.KerasTrainerConf, "fileset_integrations.runs.keras.KerasTrainer"),
    ],
)
def test_a_shape_has_the_defaults_of_what_it_makes(shape, target):
    taken = parameters(target)

    for field in fields(shape):
        if field.name in HYDRA_KEYS:
            continue
        default = field.default_factory() if field.default is MISSING else field.default
        if default == omegaconf.MISSING:
            continue
        theirs = taken[field.name].default
        assert default == (list(theirs) if isinstance(theirs, tuple) else theirs), field.name


def test_the_shape_of_a_fileset_has_the_arguments_of_make():
    taken = inspect.signature(FileSet.make).parameters
    elsewhere = (
        "target_stage_loc",
        "name",
        "sf_connection",
        "snowpark_session",
        "connection_name",
        "duckdb_connection",
    )

    names = [field.name for field in fields(schemas.MakeConf)]

    assert names == [name for name in taken if name not in (*elsewhere, "if_exists", "storage_options")]
    for field in fields(schemas.MakeConf):
        if field.name != "query":
            assert field.default == taken[field.name].default


@pytest.mark.parametrize(
    ("group", "option"), [(group, option) for group, option in OPTIONS if group not in ("experiment", "hparams_search")]
)
def test_every_option_can_be_made(group, option, tmp_path):
    if (group, option) == ("trainer", "gpu"):
        pytest.skip("Lightning refuses it where there is no GPU")
    config = composed(f"{group}={option}", root=tmp_path)
    node = config[group]
    (tmp_path / "run" / "checkpoints").mkdir(parents=True)  # as runs.keras does

    for key, child in targets(node):
        # Objects do not pass through OmegaConf on their way in, and train.py offers a model what it takes.
        offered = {"inputs": INPUTS, "target": {"mean": 0.0, "std": 1.0}}
        taken = parameters(child._target_)
        made = hydra.utils.instantiate(child, _partial_=True)(**{n: offered[n] for n in offered if n in taken})

        assert made is not None, key


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("data.batchsize=3", r"batchsize.*DataConf"),
        ("data.batch_size=oops", r"'oops'.*Integer.*data\.batch_size"),
        ("data.shuffle=perhaps", r"perhaps.*data\.shuffle"),
        ("data=nope", r"data/nope.*digits\s+flights\s+languages"),
        ("model.learning_rate=1", r"learning_rate.*TabularRegressorConf"),
        ("model.lr=fast", r"'fast'.*Float.*model\.lr"),
        ("trainer.max_epoch=3", r"max_epoch.*LightningTrainerConf"),
        ("trainer.max_epochs=many", r"'many'.*Integer.*trainer\.max_epochs"),
        ("columns.labels=x", r"labels.*ColumnsConf"),
        ("evaluation.base=x", r"base.*RegressionConf"),
        ("filesets.make.flights_train.sql=x", r"sql.*MakeConf"),
        ("filesets.make.flights_train.seed=x", r"'x'.*Integer.*flights_train\.seed"),
        ("filesets.split=x", r"filesets\.split"),
        ("source.path=x", r"path.*SourceConf"),
        ("paths.logs=x", r"logs.*PathsConf"),
        ("callbacks.progress.rate=1", r"callbacks\.progress\.rate"),
        ("logger.csv.directory=x", r"logger\.csv\.directory"),
        ("sede=1", r"sede.*TrainConf"),
        ("seed=one", r"'one'.*Integer.*seed"),
        ("framework=jax", r"'jax'.*\[lightning, keras\].*framework"),
        ("keras.backend=mxnet", r"'mxnet'.*\[torch, tensorflow, jax\].*keras\.backend"),
    ],
)
def test_a_wrong_key_type_or_choice_is_refused_by_name(override, message):
    with pytest.raises(HydraException) as caught:
        composed(override)

    text = f"{caught.value}\n{caught.value.__cause__ or ''}"
    assert re.search(message, text, re.DOTALL), text


def test_a_users_own_node_needs_no_shape(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "mine.yaml").write_text("_target_: mine.Model\nwidth: 3\n")

    config = composed(f"hydra.searchpath=[file://{tmp_path}]", "model=mine")

    assert OmegaConf.to_container(config.model) == {"_target_": "mine.Model", "width": 3}


def test_what_reaches_a_checkpoint_is_plain():
    # A ListConfig in the hyperparameters makes a checkpoint that Lightning cannot load.
    made = hydra.utils.instantiate(composed("columns=digits").columns)

    assert type(made.features) is dict
    assert made.features["pixels"].shape == (8, 8) and type(made.features["pixels"].shape) is tuple
    for group, option in OPTIONS:
        nodes = dict(targets(composed(f"{group}={option}")))
        for key, node in nodes.items():
            if any(key.startswith(f"{outer}.") for outer in nodes):
                continue  # the outer node's choice holds inside it
            if any(isinstance(node._get_node(name), omegaconf.ListConfig | DictConfig) for name in node):
                assert node.get("_convert_") == "object", f"{group}={option}: {key}"


@pytest.mark.parametrize("given", [True, False])
def test_the_root_folder_is_the_environments_or_the_current_one(given, tmp_path):
    here, root = tmp_path / "here", tmp_path / "root"
    here.mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "FILESET_ROOT"}
    program = "from fileset_integrations.train import main; main()"

    done = subprocess.run(
        [sys.executable, "-c", program, "--cfg", "job", "--resolve", "paths.output_dir=unused"],
        cwd=here,
        env={**environment, "FILESET_ROOT": str(root)} if given else environment,
        capture_output=True,
        text=True,
        timeout=120,
    )

    config = OmegaConf.create(done.stdout)
    assert done.returncode == 0, done.stderr
    assert config.source.location == f"{root if given else here}/data/filesets"
    assert config.data.train == f"{root if given else here}/data/filesets/flights_train"
    assert list(here.iterdir()) == []


def test_the_seed_of_a_sweep_never_touches_the_filesets():
    nodes = [
        composed(f"seed={seed}", f"experiment={name}").filesets for seed in (0, 7) for name in ("flights", "digits")
    ]

    assert nodes[0] == nodes[2] and nodes[1] == nodes[3]
