"""A training run by Lightning's Trainer on the workers of a Ray cluster: `runs.lightning`, in each of them."""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from omegaconf import OmegaConf
from ray.train.lightning import RayDDPStrategy, RayLightningEnvironment
from ray.train.torch import TorchConfig, TorchTrainer

from fileset_integrations.callbacks.lightning import of_all_ranks
from fileset_integrations.callbacks.ray import RayCheckpoint
from fileset_integrations.ray import last_checkpoint
from fileset_integrations.runs import Job, Trained
from fileset_integrations.runs.lightning import fit, predictor, trained

_WEIGHTS, _NUMBERS = "weights.pt", "trained.json"


def train(job: Job) -> Trained:
    """Fit the model of the config on `ray.num_workers` workers, and bring it here.

    Raises:
        SpecError: The config's model or trainer is not Lightning's.
    """
    # What is left to be looked up belongs to this process: Hydra's own values, and its environment.
    OmegaConf.resolve(job.config)
    settings = job.config.ray
    resources: Any = OmegaConf.to_container(settings.resources_per_worker)
    with _cluster(settings.address):
        result = TorchTrainer(
            _work,
            train_loop_config={"job": job},
            torch_config=TorchConfig(backend="nccl" if settings.use_gpu else "gloo"),
            scaling_config=ray.train.ScalingConfig(
                num_workers=settings.num_workers,
                use_gpu=settings.use_gpu,
                resources_per_worker=resources,
            ),
            run_config=ray.train.RunConfig(
                name="ray",
                storage_path=str(Path(settings.storage_path or job.output_dir).absolute()),
                failure_config=ray.train.FailureConfig(max_failures=settings.max_failures),
                checkpoint_config=ray.train.CheckpointConfig(num_to_keep=2),
            ),
        ).fit()
        assert result.checkpoint is not None
        with result.checkpoint.as_directory() as folder:
            numbers = json.loads((Path(folder) / _NUMBERS).read_text())
            weights = torch.load(Path(folder) / _WEIGHTS, map_location="cpu", weights_only=True)
    model = job.build_model()
    model.load_state_dict(weights)
    files = {name: Path(path) for name, path in numbers.pop("files").items()}
    return Trained(predict=predictor(model, job.features), files=files, **numbers)


def _work(settings: dict[str, Any]) -> None:
    """The run of one worker."""
    job: Job = settings["job"]
    with last_checkpoint() as path:
        fitted = fit(
            job,
            callbacks=[RayCheckpoint(job.config.ray.every_n_steps)],
            ckpt_path=path,
            strategy=RayDDPStrategy(),  # type: ignore[no-untyped-call]
            plugins=[RayLightningEnvironment()],  # type: ignore[no-untyped-call]
            devices="auto",
            bar=False,  # a worker's terminal is not the user's
        )
    trainer, model, stopwatch = fitted.trainer, fitted.model, fitted.stopwatch
    ranks = of_all_ranks(trainer, [stopwatch.num_rows, stopwatch.seconds, stopwatch.waiting_s])
    with tempfile.TemporaryDirectory(prefix="fileset-ray-") as folder:
        if trainer.global_rank == 0:
            torch.save(model.state_dict(), Path(folder) / _WEIGHTS)
            here = trained(fitted, job)
            numbers = {
                "history": here.history,
                "num_rows": int(sum(rows for rows, _, _ in ranks)),
                "seconds": max(seconds for _, seconds, _ in ranks),
                "waiting_s": max(waiting_s for _, _, waiting_s in ranks),
                "files": {name: str(file) for name, file in here.files.items()},
            }
            (Path(folder) / _NUMBERS).write_text(json.dumps(numbers))
        checkpoint = ray.train.Checkpoint.from_directory(folder) if trainer.global_rank == 0 else None
        ray.train.report({}, checkpoint=checkpoint)


@contextmanager
def _cluster(address: str | None) -> Iterator[None]:
    """A connection to the cluster at an address; without one, to a cluster of this machine for as long as it takes."""
    if ray.is_initialized():
        yield
        return
    if address is None:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would send statistics of its use to Ray's makers
    root = logging.getLogger()
    before = root.level, list(root.handlers)
    # Errors only: Ray's own tale of a run is a dozen lines a second where no dashboard answers it.
    quietly = ray.LoggingConfig(log_level="ERROR")
    ray.init(address=address, include_dashboard=None if address else False, logging_config=quietly)
    root.setLevel(before[0])  # it is meant for the workers
    root.handlers[:] = before[1]
    try:
        yield
    finally:
        ray.shutdown()
