"""Training on a Ray cluster of two nodes: `python -m tests.support.ray_fit FOLDER [loop]`.

FOLDER holds Parquet files in train/ and none/. There is a run of `fileset-train` with `trainer=ray` and, if asked for,
one of a loop as docs/distributed.md has it. In each, rank 1 kills itself once, in the middle of the second epoch, and
workers write down what they see: FOLDER/RUN/rank-RANK.json, and FOLDER/RUN/seen-RANK.jsonl, a line a batch. All else
that was found is FOLDER/found.json.
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
QUERY = "SELECT i AS id, i + 0.25 AS x, (-i)::FLOAT AS y FROM range(68) t(i)"  # four rows of five to train on


class Noted(Callback):
    """Writes down every batch, and ends one worker once."""

    def __init__(self, folder: str) -> None:
        self.folder = Path(folder)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        shard = current_shard()
        assert (shard.rank, shard.world_size) == (trainer.global_rank, trainer.world_size)
        found = [shard.rank, shard.world_size, ray.get_runtime_context().get_node_id()]
        (self.folder / f"rank-{shard.rank}.json").write_text(json.dumps(found))

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        died = self.folder / "died"
        if trainer.global_rank == 1 and trainer.global_step == DIES_AT and not died.exists():
            died.touch()
            ray.train.get_all_reported_checkpoints()  # returns when Ray has taken them all up
            os.kill(os.getpid(), signal.SIGKILL)
        x = batch[0]
        ids = ids_of(batch) if isinstance(x, dict) else x[:, 0].int().tolist()
        with (self.folder / f"seen-{trainer.global_rank}.jsonl").open("a") as file:
            file.write(json.dumps([trainer.current_epoch, batch_idx, ids]) + "\n")


def recipe(folder: Path) -> dict[str, Any]:
    """A recipe with `trainer=ray`, as `fileset-train` runs it."""
    own = folder / "recipe"
    own.mkdir()
    schemas.register()
    overrides = [
        *("experiment=query", "trainer=ray", f"filesets.sql.query='{QUERY}'", "model.hidden=[4]"),
        *("columns.features.x=[id,x]", "columns.label=y", f"data.batch_size={BATCH_SIZE}"),
        *(f"seed={SEED}", f"trainer.max_epochs={EPOCHS}", f"ray.every_n_steps={EVERY}", "ray.max_failures=1"),
        *("+callbacks.noted._target_=tests.support.ray_fit.Noted", f"+callbacks.noted.folder={own}"),
        *(f"paths.root_dir={own}", f"paths.output_dir={own}/run"),
    ]
    with initialize_config_module("fileset_integrations.conf", version_base="1.3"):
        value = run(compose("train", overrides))
    return {"value": value, "files": sorted(path.name for path in (own / "run").rglob("*.*"))}


def train(config: dict[str, str]) -> None:
    folder = Path(config["folder"])
    dm = FileSetDataModule(
        train=FileSet.from_parquet(folder / "train"), columns=ID_COLUMNS, batch_size=BATCH_SIZE, seed=SEED
    )
    trainer: Trainer = prepare_trainer(
        quiet_trainer(
            devices="auto",
            max_epochs=EPOCHS,
            strategy=RayDDPStrategy(),
            plugins=[RayLightningEnvironment()],
            callbacks=[Noted(str(folder / "loop")), RayCheckpoint(every_n_steps=EVERY)],
        )
    )
    with last_checkpoint() as path:
        trainer.fit(Recorder(), dm, ckpt_path=path)


def loop(folder: Path) -> dict[str, Any]:
    """What a loop of one's own reports at last, and how often it was checkpointed."""
    own = folder / "loop"
    own.mkdir()
    result = TorchTrainer(
        train,
        train_loop_config={"folder": str(folder)},
        torch_config=TorchConfig(backend="gloo"),
        scaling_config=ray.train.ScalingConfig(num_workers=2),
        run_config=ray.train.RunConfig(
            name="loop",
            storage_path=str(own / "storage"),
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


def wait_for_nodes(number: int) -> None:
    """As long as it takes: the caller's limit holds."""
    while sum(node["Alive"] for node in ray.nodes()) < number:
        time.sleep(0.1)


def main() -> None:
    folder = Path(sys.argv[1])
    # One core each: two ranks, which ask for one each, come to lie on two nodes. Without what only watches the cluster.
    node = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_log_monitor": False}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False, "no_monitor": True})
    try:
        ray.init(address=cluster.address, log_to_driver=False, configure_logging=False)
        found: dict[str, Any] = {"datasets": datasets(folder)}  # on one node: each starts processes of its own
        cluster.add_node(**node, wait=False)
        wait_for_nodes(2)
        found["recipe"] = recipe(folder)
        if "loop" in sys.argv[2:]:
            found["loop"] = loop(folder)
    finally:
        ray.shutdown()
        cluster.shutdown()
    (folder / "found.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
