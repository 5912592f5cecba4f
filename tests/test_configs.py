"""The configs: each composes, says what its target takes, can be made, and refuses what is wrong by its name."""

import functools
import inspect
import os
import re
import shutil
import subprocess
import sys
import tempfile
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
from fileset_integrations.study import StudySweeper

CONF = Path(str(files("fileset_integrations.conf")))
ROOT_DIR = tempfile.mkdtemp(prefix="fileset-configs-")  # of all configs composed here: what they make may write there
OPTIONS = sorted(
    (path.parent.relative_to(CONF).as_posix(), path.stem) for path in CONF.rglob("*.yaml") if path.parent != CONF
)
GROUPS = {group for group, _ in OPTIONS}
# What a user must say beside the choice itself.
GIVEN = {
    ("data", "query"): ("columns.features.x=[a]", "columns.label=b", "filesets.sql.query=SELECT"),
    ("filesets", "query"): ("filesets.sql.query=SELECT",),
    ("columns", "query"): ("columns.features.x=[a]", "columns.label=b"),
    ("evaluation", "classification"): ("evaluation.num_classes=3",),
    ("model", "classes_lightning"): ("evaluation=digits",),
    ("model", "classes_keras"): ("evaluation=digits",),
    ("model", "digits_keras"): ("evaluation=digits",),
    ("source", "s3"): ("source.location=s3://bucket/prefix",),
}
GIVEN["experiment", "query"] = GIVEN["data", "query"]
GIVEN["experiment", "query_classes"] = (*GIVEN["data", "query"], "evaluation.num_classes=3")
# They hold differences to the whole config, or what belongs to Hydra, and make nothing of their own.
OF_THE_WHOLE = {"debug", "experiment", "framework", "hparams_search", "hydra/sweeper"}
# Hydra's own keys, and those that are left to fileset-train because they come from the data or from other groups.
HYDRA_KEYS = {"_target_", "_convert_", "_partial_", "_recursive_"}
FROM_ELSEWHERE = {
    "fileset_integrations.lightning.FileSetDataModule": {"storage_options"},  # may hold secrets
    "fileset_integrations.models.lightning.TabularRegressor": {"inputs", "target"},
    "fileset_integrations.models.keras.tabular_regressor": {"inputs", "target"},
    "fileset_integrations.models.lightning.TabularClassifier": {"inputs"},
    "fileset_integrations.models.keras.tabular_classifier": {"inputs"},
    "fileset_integrations.models.keras.text_classifier": {"inputs"},
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
def composed(*overrides: str) -> DictConfig:
    schemas.register()
    with initialize_config_module("fileset_integrations.conf", version_base="1.3"):
        # Outside a job there is no hydra: resolver's output folder.
        return compose("train", [f"paths.root_dir={ROOT_DIR}", f"paths.output_dir={ROOT_DIR}/run", *overrides])


def option(group: str, name: str) -> DictConfig:
    """The whole config with one choice made, and what that choice asks for."""
    return composed(f"{group}={name}", *GIVEN.get((group, name), ()))


@pytest.fixture(scope="module", autouse=True)
def root_dir() -> Iterator[None]:
    yield
    shutil.rmtree(ROOT_DIR, ignore_errors=True)


def targets(node: Any, key: str = "") -> Iterator[tuple[str, DictConfig]]:
    """Every node of a config that says what makes it, with its key."""
    if isinstance(node, DictConfig) and not node._is_none():
        if "_target_" in node:
            yield key, node
        for name in node:
            yield from targets(node._get_node(name), f"{key}.{name}".lstrip("."))


def parameters(target: str) -> dict[str, inspect.Parameter]:
    found = dict(inspect.signature(hydra.utils.get_object(target)).parameters)
    return {name: parameter for name, parameter in found.items() if name not in ("self", "args", "kwargs")}


def test_every_group_has_options():
    assert set(GROUPS) >= {
        *("callbacks", "columns", "data", "debug", "evaluation", "experiment", "filesets", "framework"),
        *("hparams_search", "hydra/sweeper", "logger", "model", "paths", "source", "trainer"),
    }
    assert {name for group, name in OPTIONS if group == "trainer"} >= {"cpu", "gpu", "ddp", "ddp_spawn", "keras"}
    assert {name for group, name in OPTIONS if group == "logger"} >= {"csv", "tensorboard", "mlflow", "wandb"}
    assert {name for group, name in OPTIONS if group == "debug"} == {"fdr", "limit", "overfit", "profiler"}


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_every_option_composes_and_resolves(group, name):
    config = option(group, name)

    assert config.task_name
    assert OmegaConf.to_container(config, resolve=True, throw_on_missing=True)


@pytest.mark.parametrize(("group", "name"), OPTIONS)
def test_keys_are_the_arguments_of_what_they_make(group, name):
    for key, node in targets(option(group, name)):
        names = [name for name in node if name not in HYDRA_KEYS]
        taken = list(parameters(node._target_))

        assert set(names) <= set(taken), f"{key}: {node._target_} does not take these"
        if node._target_.startswith("fileset_integrations") or node._target_ == "lightning.Trainer":
            left_out = FROM_ELSEWHERE.get(node._target_, set())
            if node._target_.startswith("fileset_integrations.columns."):  # of a spec only what it changes need be said
                left_out = {name for name in taken if name not in node}
            assert names == [name for name in taken if name not in left_out], f"{key}: names and order"


def test_the_keys_of_the_study_are_the_sweepers_arguments():
    keys = [name for name in OmegaConf.load(CONF / "hydra" / "sweeper" / "study.yaml") if name not in HYDRA_KEYS]

    assert keys == [name for name in inspect.signature(StudySweeper).parameters if name != "self"]


@pytest.mark.parametrize("framework", ["lightning", "keras"])
@pytest.mark.parametrize("task", ["digits", "flights", "languages", "query"])
def test_a_task_and_a_framework_are_two_choices(task, framework):
    config = composed(f"data={task}", f"framework={framework}")

    makes = {"lightning": "fileset_integrations.models.lightning.", "keras": "fileset_integrations.models.keras."}
    assert config.framework.value == framework
    assert config.model._target_.startswith(makes[framework])
    assert config.trainer._target_ == {"lightning": "lightning.Trainer"}.get(
        framework, "fileset_integrations.runs.keras.KerasTrainer"
    )
    assert f"/{task}" in config.data.train and any(name.startswith(task) for name in config.filesets.make)


@pytest.mark.parametrize(
    ("shape", "target"),
    [
        (schemas.ColumnsConf, "fileset_integrations.columns.Columns"),
        (schemas.DataConf, "fileset_integrations.lightning.FileSetDataModule"),
        (schemas.TabularRegressorConf, "fileset_integrations.models.lightning.TabularRegressor"),
        (schemas.TabularRegressorConf, "fileset_integrations.models.keras.tabular_regressor"),
        (schemas.TabularClassifierConf, "fileset_integrations.models.lightning.TabularClassifier"),
        (schemas.TabularClassifierConf, "fileset_integrations.models.keras.tabular_classifier"),
        (schemas.TextClassifierConf, "fileset_integrations.models.keras.text_classifier"),
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

    assert names == [name for name in taken if name not in (*elsewhere, "if_exists", "storage_options", "progress")]
    for field in fields(schemas.MakeConf):
        if field.name != "query":
            assert field.default == taken[field.name].default


@pytest.mark.parametrize(("group", "name"), [(group, name) for group, name in OPTIONS if group not in OF_THE_WHOLE])
def test_every_option_can_be_made(group, name):
    if (group, name) == ("trainer", "gpu"):
        pytest.skip("Lightning refuses it where there is no GPU")
    if group == "logger" and name in ("mlflow", "wandb"):
        pytest.importorskip(name)
    config = option(group, name)
    node = config[group]
    (Path(ROOT_DIR) / "run" / "checkpoints").mkdir(parents=True, exist_ok=True)  # as runs.keras does

    for key, child in targets(node):
        # Objects do not pass through OmegaConf on their way in, and fileset-train offers a model what it takes.
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
        ("data=nope", r"data/nope.*digits\s+flights\s+languages\s+query"),
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
        ("framework=jax", r"framework/jax.*keras\s+lightning"),
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
    for group, name in OPTIONS:
        nodes = dict(targets(option(group, name)))
        for key, node in nodes.items():
            if any(key.startswith(f"{outer}.") for outer in nodes):
                continue  # the outer node's choice holds inside it
            if any(isinstance(node._get_node(one), omegaconf.ListConfig | DictConfig) for one in node):
                assert node.get("_convert_") == "object", f"{group}={name}: {key}"


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
