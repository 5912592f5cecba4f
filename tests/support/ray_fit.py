"""Training on a Ray cluster of two nodes: `python -m tests.support.ray_fit FOLDER` prints JSON.

FOLDER holds the Parquet files in train/ and val/. Each worker writes the rows it sees into FOLDER/seen-RANK.jsonl, a
line a batch; rank 1 kills itself once, in the middle of the second epoch.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import ray
import ray.train
from hydra import compose, initialize_config_module
from lightning.pytorch import Callback, LightningModule, Trainer
from ray.cluster_utils import Cluster
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment, prepare_trainer
from ray.train.torch import TorchConfig, TorchTrainer

from fileset_integrations import Columns, FileSet, schemas
from fileset_integrations.callbacks.ray import RayCheckpoint
from fileset_integrations.columns import Category
from fileset_integrations.lightning import FileSetDataModule
from fileset_integrations.ray import current_shard, last_checkpoint
from fileset_integrations.train import run
from tests.support.fitting import ID_COLUMNS, Recorder, ids_of, quiet_trainer

BATCH_SIZE = 4  # per rank
SEED = 7
EPOCHS = 2
EVERY = 3  # steps between checkpoints
DIES_AT = 10  # steps taken before; six make an epoch


class Noted(Callback):
    """Writes down every batch, and ends one worker once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        died = self.folder / "died"
        if trainer.global_rank == 1 and trainer.global_step == DIES_AT and not died.exists():
            died.touch()
            time.sleep(1.0)  # until Ray has taken up the last checkpoint, as it does at its next health check
            os.kill(os.getpid(), signal.SIGKILL)
        with (self.folder / f"seen-{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps([trainer.current_epoch, batch_idx, ids_of(batch)]) + "\n")


def train(config: dict[str, str]) -> None:
    folder = Path(config["folder"])
    shard = current_shard()
    dm = FileSetDataModule(
        train=FileSet.from_parquet(folder / "train"), columns=ID_COLUMNS, batch_size=BATCH_SIZE, seed=SEED
    )
    trainer: Trainer = prepare_trainer(
        quiet_trainer(
            devices="auto",
            max_epochs=EPOCHS,
            strategy=RayDDPStrategy(),
            plugins=[RayLightningEnvironment()],
            callbacks=[Noted(folder), RayCheckpoint(every_n_steps=EVERY)],
        )
    )
    assert (shard.rank, shard.world_size) == (trainer.global_rank, trainer.world_size)
    with last_checkpoint() as path:
        trainer.fit(Recorder(), dm, ckpt_path=path)


def fit(folder: Path) -> dict[str, Any]:
    """What the run reports at last, and how often it was checkpointed."""
    result = TorchTrainer(
        train,
        train_loop_config={"folder": str(folder)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=ray.train.RunConfig(
            name="fit",
            storage_path=str(folder / "storage"),
            failure_config=ray.train.FailureConfig(max_failures=1),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
        ),
    ).fit()
    return {"epoch": result.metrics["epoch"], "step": result.metrics["step"], "kept": len(result.best_checkpoints)}


def datasets(folder: Path) -> dict[str, Any]:
    """Rows as Ray's tasks read them."""
    fs = FileSet.from_parquet(folder / "train")
    part = fs.split(few=0.25, many=0.75)["few"]
    tensors = fs.to_ray_dataset(columns=Columns({"xy": ["x", "y"], "name": Category("name")}, label="id")).take_all()
    empty = FileSet.from_parquet(folder / "none").to_ray_dataset(columns=["id"])
    return {
        "whole": sorted(fs.to_ray_dataset().take_all(), key=lambda row: row["id"]),
        "columns": fs.to_ray_dataset(columns=["y", "id"]).schema().names,
        "part": sorted(row["id"] for row in part.to_ray_dataset(columns=["id"]).take_all()),
        "tensors": sorted((int(row["label"]), np.asarray(row["xy"]).tolist(), int(row["name"])) for row in tensors),
        "empty": empty.count(),
    }


def recipe(folder: Path) -> dict[str, Any]:
    """A recipe with `trainer=ray`, as `fileset-train` runs it."""
    schemas.register()
    overrides = [
        *("experiment=digits", "trainer=ray", "trainer.max_epochs=2", "ray.resources_per_worker.CPU=0.5"),
        *(f"paths.root_dir={folder}", f"paths.output_dir={folder}/run"),
    ]
    with initialize_config_module("fileset_integrations.conf", version_base="1.3"):
        config = compose("train", overrides)
    config.trainer.log_every_n_steps = 5
    return {"accuracy": run(config), "files": sorted(path.name for path in (folder / "run").rglob("*.*"))}


def main() -> None:
    folder = Path(sys.argv[1])
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        cluster.wait_for_nodes(30)
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        parts = {"datasets": datasets(folder), "fit": fit(folder), "recipe": recipe(folder)}
        found = {"nodes": len(ray.nodes()), **parts}
    finally:
        ray.shutdown()
        cluster.shutdown()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
