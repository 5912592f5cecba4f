"""Types of the configs' keys, registered with Hydra, so that a wrong key or a wrong type is refused by its name.

Each class is the shape of one config file: the constructor's arguments, in its order, with its defaults. A file asks
for its shape in its defaults list (`/schema/data@_here_`); a user's own file need not. A test compares each with the
constructor. Plain dataclasses, and no framework is imported: the shapes exist before anything is instantiated.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import Enum
from typing import Any

from hydra.core.config_store import ConfigStore
from omegaconf import MISSING

# OmegaConf reads the annotations at run time. `Any` stands where the constructor takes unions that OmegaConf cannot
# check (int | str | list); the constructor checks those itself.


class Framework(Enum):
    """What trains the model."""

    lightning = "lightning"
    keras = "keras"


class KerasBackend(Enum):
    """What Keras computes with."""

    torch = "torch"
    tensorflow = "tensorflow"
    jax = "jax"


@dataclass
class KerasConf:
    """Settings that must be known before keras is imported."""

    backend: KerasBackend = KerasBackend.torch


@dataclass
class TrainConf:
    """The whole of `train.yaml`; the groups' own shapes are below."""

    task_name: str = MISSING
    framework: Framework = Framework.lightning
    keras: KerasConf = field(default_factory=KerasConf)
    seed: int = 0
    torch_threads: int | None = None
    optimized_metric: str | None = None
    ckpt_path: str | None = None
    source: Any = MISSING
    filesets: Any = MISSING
    columns: Any = MISSING
    data: Any = MISSING
    model: Any = MISSING
    evaluation: Any = MISSING
    trainer: Any = MISSING
    ray: Any = None
    callbacks: dict[str, Any] | None = None
    logger: dict[str, Any] | None = None
    paths: Any = MISSING


@dataclass
class SourceConf:
    """Where a task's FileSets live; a connection is named, never described."""

    location: str = MISSING
    connection_name: str | None = None
    storage_options: dict[str, Any] = field(default_factory=dict)


@dataclass
class MakeConf:
    """Arguments of `FileSet.make`, but those that come from elsewhere: location, name, connection."""

    query: str = MISSING
    shuffle: bool = False
    seed: int = 0
    shuffle_key: Any = None
    max_file_bytes: int = 32 * 2**20
    store_query: bool = True
    digest: str | None = None


@dataclass
class FileSetsConf:
    """The FileSets that a task needs, the connection that makes them, and the SQL that their queries share.

    `split` holds arguments of `FileSet.split` (shares and seed) by the names of FileSets that are shared out.
    """

    connection: dict[str, Any] | None = None
    sql: dict[str, str] = field(default_factory=dict)
    make: dict[str, MakeConf] = field(default_factory=dict)
    split: dict[str, dict[str, Any]] = field(default_factory=dict)


@dataclass
class ColumnsConf:
    """Arguments of `fileset_integrations.columns.Columns`."""

    _target_: str = "fileset_integrations.columns.Columns"
    # Without it, a Category that Hydra has built becomes a config node again.
    _convert_: str = "object"
    features: dict[str, Any] = MISSING
    label: Any = None
    weight: Any = None
    nulls: Any = "error"
    nans: Any = "keep"


@dataclass
class DataConf:
    """Arguments of `fileset_integrations.lightning.FileSetDataModule`; Keras takes those of them that it has."""

    _target_: str = "fileset_integrations.lightning.FileSetDataModule"
    # Checkpoints hold hyperparameters: a ListConfig among them cannot be loaded again.
    _convert_: str = "object"
    train: Any = None
    val: Any = None
    test: Any = None
    predict: Any = None
    columns: Any = None
    batch_size: int = 1024
    shuffle: bool = True
    drop_last_batch: bool = True
    seed: int = 0
    num_workers: int = 0
    pin_memory: bool | None = None
    pull: bool = False
    streams: int | None = None
    blocks: str = "auto"
    memory_bytes: int = 2 * 2**30
    cache_dir: str | None = None
    cache_bytes: int | None = None
    transform: Any = None


@dataclass
class TabularRegressorConf:
    """Arguments of the regressors in `fileset_integrations.models`; `inputs` and `target` come from the data."""

    _target_: str = MISSING
    _convert_: str = "object"
    baseline: str | None = None
    hidden: list[int] = field(default_factory=lambda: [128, 64])
    embedding_size: int = 8
    dropout: float = 0.1
    lr: float = MISSING
    weight_decay: float = 0.01


@dataclass
class TabularClassifierConf:
    """Arguments of the classifiers of rows in `fileset_integrations.models`; `inputs` comes from the data."""

    _target_: str = MISSING
    _convert_: str = "object"
    num_classes: int = MISSING
    hidden: list[int] = field(default_factory=lambda: [128, 64])
    embedding_size: int = 8
    dropout: float = 0.1
    lr: float = MISSING
    weight_decay: float = 0.01


@dataclass
class ImageClassifierConf:
    """Arguments of `fileset_integrations.models.lightning.ImageClassifier`; `inputs` comes from the data."""

    _target_: str = MISSING
    _convert_: str = "object"
    image: str = MISSING
    num_classes: int = MISSING
    channels: int = 16
    lr: float = 0.01
    weight_decay: float = 0.01


@dataclass
class TextClassifierConf:
    """Arguments of the classifiers of texts in `fileset_integrations.models`; `inputs` comes from the data."""

    _target_: str = MISSING
    _convert_: str = "object"
    text: str = MISSING
    num_classes: int = MISSING
    vocabulary_size: int = 256
    embedding_size: int = 16
    channels: int = 128
    width: int = 5
    dropout: float = 0.2
    lr: float = MISSING
    weight_decay: float = 0.01


@dataclass
class RegressionConf:
    """Arguments of `fileset_integrations.outcome.Regression`."""

    _target_: str = "fileset_integrations.outcome.Regression"
    _convert_: str = "object"
    baseline: str | None = None
    unit: str = ""


@dataclass
class ClassificationConf:
    """Arguments of `fileset_integrations.outcome.Classification`."""

    _target_: str = "fileset_integrations.outcome.Classification"
    _convert_: str = "object"
    num_classes: int = MISSING
    features: str | None = None
    baseline: str | None = None


@dataclass
class LightningTrainerConf:
    """Arguments of `lightning.Trainer`; `logger` and `callbacks` come from the groups of those names."""

    _target_: str = "lightning.Trainer"
    _convert_: str = "object"
    accelerator: str = "auto"
    strategy: str = "auto"
    devices: Any = "auto"
    num_nodes: int = 1
    precision: Any = None
    fast_dev_run: Any = False
    max_epochs: int | None = None
    min_epochs: int | None = None
    max_steps: int = -1
    min_steps: int | None = None
    max_time: Any = None
    limit_train_batches: Any = None
    limit_val_batches: Any = None
    limit_test_batches: Any = None
    limit_predict_batches: Any = None
    overfit_batches: Any = 0.0
    val_check_interval: Any = None
    check_val_every_n_epoch: int | None = 1
    num_sanity_val_steps: int | None = None
    log_every_n_steps: int | None = None
    enable_checkpointing: bool | None = None
    enable_progress_bar: bool | None = None
    enable_model_summary: bool | None = None
    accumulate_grad_batches: int = 1
    gradient_clip_val: float | None = None
    gradient_clip_algorithm: str | None = None
    deterministic: Any = None
    benchmark: bool | None = None
    inference_mode: bool = True
    use_distributed_sampler: bool = True
    profiler: Any = None
    detect_anomaly: bool = False
    barebones: bool = False
    plugins: Any = None
    sync_batchnorm: bool = False
    reload_dataloaders_every_n_epochs: int = 0
    default_root_dir: str | None = None


@dataclass
class RayConf:
    """On which workers of which Ray cluster Lightning trains: see `fileset_integrations.runs.ray`."""

    address: str | None = None
    num_workers: int = 2
    use_gpu: bool = False
    resources_per_worker: dict[str, float] = field(default_factory=lambda: {"CPU": 1})
    storage_path: str | None = None
    max_failures: int = 0
    every_n_steps: int | None = None


@dataclass
class KerasTrainerConf:
    """Arguments of `fileset_integrations.runs.keras.KerasTrainer`."""

    _target_: str = "fileset_integrations.runs.keras.KerasTrainer"
    _convert_: str = "object"
    max_epochs: int = 1
    limit_train_batches: Any = None
    limit_val_batches: Any = None
    overfit_batches: Any = 0
    fast_dev_run: Any = False
    profiler: str | None = None
    verbose: int = 2


@dataclass
class PathsConf:
    """Folders of a run."""

    root_dir: str = MISSING
    data_dir: str = MISSING
    log_dir: str = MISSING
    output_dir: str = MISSING


SHAPES: dict[str, type] = {
    "train": TrainConf,
    "source": SourceConf,
    "filesets": FileSetsConf,
    "columns": ColumnsConf,
    "data": DataConf,
    "tabular_regressor": TabularRegressorConf,
    "tabular_classifier": TabularClassifierConf,
    "image_classifier": ImageClassifierConf,
    "text_classifier": TextClassifierConf,
    "regression": RegressionConf,
    "classification": ClassificationConf,
    "lightning_trainer": LightningTrainerConf,
    "ray": RayConf,
    "keras_trainer": KerasTrainerConf,
    "paths": PathsConf,
}


def register() -> None:
    """Make the shapes known to Hydra, as the group `schema`. Safe to call again."""
    store = ConfigStore.instance()
    for name, shape in SHAPES.items():
        store.store(group="schema", name=name, node=shape)
