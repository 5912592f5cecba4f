"""One process of a distributed Keras training: `python -m tests.support.keras_ranks WAY FOLDER RANK PORTS`.

FOLDER holds Parquet files in data/. What the process saw is written to FOLDER/rank-N.json.

"devices": one process, two virtual devices of jax, `keras.distribution.DataParallel`. "jax": two processes of jax.
"tensorflow": two processes, `tf.distribute.MultiWorkerMirroredStrategy` and a loop of one's own, since Keras's fit does
not work there (keras-team/keras#20585).
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

GLOBAL_BATCH_SIZE, SEED, EPOCHS = 16, 3, 2
ORDER: dict[str, Any] = {"global_batch_size": GLOBAL_BATCH_SIZE, "shuffle": True, "seed": SEED}


def by_keras(folder: Path, rank: int, world_size: int) -> dict[str, Any]:
    """Keras's own fit: this rank's batches, and what the training came to."""
    import keras

    from fileset_integrations import Columns, FileSet, Shard
    from fileset_integrations.keras import FileSetPyDataset, fit

    keras.utils.set_random_seed(0)
    shape = {"devices": ["cpu:0", "cpu:1"]} if world_size == 1 else {"auto_shard_dataset": False}
    keras.distribution.set_distribution(keras.distribution.DataParallel(**shape))
    ds = FileSetPyDataset(
        FileSet.from_parquet(folder / "data"),
        columns=Columns({"x": ["x", "id"]}, label="y"),
        shard=Shard(rank, world_size),
        **ORDER,
    )
    model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(1 / 200), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.1), loss="mse")
    slow = keras.callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: time.sleep(0 if rank else 1))
    history = fit(model, ds, epochs=1, resume=folder / "state", callbacks=[slow], verbose=0)
    assert history.epoch == [0]
    # Every rank finds the state of rank 0, though that was slow to save it.
    history = fit(model, ds, epochs=EPOCHS, resume=folder / "state", verbose=0)
    return {
        "sizes": [len(ds[index][0]) for index in range(len(ds))],
        "loss": history.history["loss"],
        "weights": [weight.tolist() for weight in model.get_weights()],
        "evaluate": float(model.evaluate(ds, verbose=0)),
    }


def by_tensorflow(folder: Path, rank: int, world_size: int) -> dict[str, Any]:
    """A loop over `to_tf_dataset`."""
    import tensorflow as tf

    strategy = tf.distribute.MultiWorkerMirroredStrategy()
    import keras

    from fileset_integrations import Columns, FileSet, Shard

    keras.utils.set_random_seed(0)
    with strategy.scope():
        model = keras.Sequential([keras.Input((2,)), keras.layers.Rescaling(1 / 200), keras.layers.Dense(1)])
        optimizer = keras.optimizers.SGD(0.1)
        optimizer.build(model.trainable_variables)
        loss_of = keras.losses.MeanSquaredError(reduction="sum")
    sizes: list[int] = []

    def local(context: Any) -> Any:
        shard = Shard(context.input_pipeline_id, context.num_input_pipelines)
        assert (shard.rank, shard.world_size) == (rank, world_size)
        fileset = FileSet.from_parquet(folder / "data")
        columns = Columns({"x": ["x", "id"]}, label="y")
        return fileset.to_tf_dataset(
            batch_size=GLOBAL_BATCH_SIZE // world_size, shuffle=True, seed=SEED, columns=columns, shard=shard
        )

    def one_step(batch: dict[str, Any]) -> Any:
        with tf.GradientTape() as tape:
            loss = loss_of(batch["label"], model(batch["x"])[:, 0]) / GLOBAL_BATCH_SIZE
        optimizer.apply_gradients(
            zip(tape.gradient(loss, model.trainable_variables), model.trainable_variables, strict=True)
        )
        return loss

    @tf.function
    def step(batch: dict[str, Any]) -> Any:
        return strategy.reduce("SUM", strategy.run(one_step, args=(batch,)), axis=None)

    dataset = strategy.distribute_datasets_from_function(local)
    losses = []
    for _ in range(EPOCHS):
        sizes = []
        total = 0.0
        for batch in dataset:
            sizes.append(int(strategy.experimental_local_results(batch["x"])[0].shape[0]))
            total += float(step(batch))
        losses.append(total / len(sizes))
    return {"sizes": sizes, "loss": losses, "weights": [weight.tolist() for weight in model.get_weights()]}


def main() -> None:
    way, folder, rank, ports = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), json.loads(sys.argv[4])
    os.environ["KERAS_BACKEND"] = "tensorflow" if way == "tensorflow" else "jax"
    if way == "tensorflow":
        workers = [f"127.0.0.1:{port}" for port in ports]
        os.environ["TF_CONFIG"] = json.dumps(
            {"cluster": {"worker": workers}, "task": {"type": "worker", "index": rank}}
        )
        found = by_tensorflow(folder, rank, 2)
    elif way == "jax":
        import keras

        keras.distribution.initialize(f"127.0.0.1:{ports[0]}", num_processes=2, process_id=rank)
        found = by_keras(folder, rank, 2)
    else:
        os.environ["XLA_FLAGS"] = "--xla_force_host_platform_device_count=2"
        found = by_keras(folder, 0, 1)
    (folder / f"rank-{rank}.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main()
