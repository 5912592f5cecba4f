"""TensorFlow: a `tf.data.Dataset` of whole batches."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from typing import Any

import numpy as np

from fileset_integrations.columns import Columns, FittedColumns
from fileset_integrations.errors import MissingDependencyError, how_to_install
from fileset_integrations.reader import BlockMode, FileSetReader, Transform
from fileset_integrations.spec import Shard
from fileset_integrations.views import FileSetLike

try:
    import tensorflow as tf
except ImportError as error:  # pragma: no cover - seen only where tensorflow is not installed
    raise MissingDependencyError(f"{error}. TensorFlow is optional. {how_to_install('tensorflow')}") from error

# A call of Python's from TensorFlow costs some 0.4 ms of processor time. With groups of 8 all took 0.5 times as much at
# 64 rows of 20 floats a batch, 0.8 at 1,024 rows; copying took as much as that saved from some 700 KB a batch on.
_GROUP_BATCHES = 8
_GROUP_BYTES = 2**20


def to_tf_dataset(
    fs: FileSetLike,
    *,
    batch_size: int | None = None,
    global_batch_size: int | None = None,
    shuffle: bool = False,
    drop_last_batch: bool = True,
    seed: int = 0,
    columns: Columns | FittedColumns | None = None,
    streams: int | None = None,
    shard: Shard = Shard(0, 1),  # noqa: B008 - frozen
    blocks: BlockMode = "auto",
    memory_bytes: int = 2 * 2**30,
    cache_dir: str | os.PathLike[str] | None = None,
    cache_bytes: int | None = None,
    transform: Transform | None = None,
) -> tf.data.Dataset:
    """Batches of a FileSet as dicts of tensors, one a column, or one a feature where `columns` are given.

    Strings and bytes are tf.string; null strings are empty. Each new iteration over the dataset is the next epoch,
    counted from 0. The dataset knows its length, and its batch dimension where every batch is full. It is already
    sharded, so tf.distribute is told to leave it as it is: pass it through `distribute_datasets_from_function`, with a
    shard of each pipeline. (`experimental_distribute_dataset` cuts batches all the same: seen with TensorFlow 2.21.)

    Nothing of it can be saved: tf.data's own checkpoints do not hold what Python has read. To go on in the middle of an
    epoch, train by `fileset_integrations.keras.fit`, or read by `FileSetReader`, whose iterators have a state.

    Args:
        fs: The FileSet, or what else `FileSetReader` takes.
        batch_size: Rows per batch of this rank.
        global_batch_size: Rows per batch of all ranks together; exactly one of the two is given.
        shuffle: Draw a new order of rows for every epoch.
        drop_last_batch: Leave out the last batch where it is not full.
        seed: Base seed of the order.
        columns: Which columns become which tensors; None: all, each as a tensor of its own.
        streams: See `FileSetReader`.
        shard: This rank's share.
        blocks: See `FileSetReader`.
        memory_bytes: See `FileSetReader`.
        cache_dir: See `FileSetReader`.
        cache_bytes: See `FileSetReader`.
        transform: See `FileSetReader`; sees NumPy arrays. It is run once on the first batch, to learn what it returns.

    Raises:
        FileSetError: As `FileSetReader` does.
    """
    reader = FileSetReader(
        fs,
        columns=columns,
        batch_size=batch_size,
        global_batch_size=global_batch_size,
        shuffle=shuffle,
        drop_last_batch=drop_last_batch,
        seed=seed,
        streams=streams,
        shard=shard,
        blocks=blocks,
        memory_bytes=memory_bytes,
        cache_dir=cache_dir,
        cache_bytes=cache_bytes,
        transform=transform,
    )
    dataset = _by_groups(reader) if transform is None and _is_even(reader) else _by_batches(reader)
    options = tf.data.Options()
    options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.OFF
    return dataset.apply(tf.data.experimental.assert_cardinality(len(reader))).with_options(options)


def _is_even(reader: FileSetReader) -> bool:
    """Whether all batches but the last are full. A rank may have two that are not, so that no rank lacks a batch."""
    before_last = max(len(reader) - 1, 0)
    return not len(reader) or reader.plan.batch_bounds(before_last)[0] == before_last * reader.batch_size


def _by_batches(reader: FileSetReader) -> tf.data.Dataset:
    """Each batch by a call of its own, with whatever a transform made of its rows."""
    epochs = itertools.count()
    return tf.data.Dataset.from_generator(
        lambda: map(_texts, reader.iter_batches(next(epochs))), output_signature=_signature(reader)
    )


def _by_groups(reader: FileSetReader) -> tf.data.Dataset:
    """The same batches, several of them by a call; TensorFlow cuts their rows apart, every `batch_size` of them."""
    epochs = itertools.count()
    batch_bytes = max(reader.batch_size * reader.row_bytes, 1)
    most = max(1, min(_GROUP_BATCHES, _GROUP_BYTES // batch_bytes))

    def groups() -> Iterator[dict[str, Any]]:
        batches = map(_texts, reader.iter_batches(next(epochs)))
        count = 1  # nobody waits for a second batch before the first one
        while group := list(itertools.islice(batches, count)):
            yield {name: np.concatenate([batch[name] for batch in group]) for name in group[0]}
            count = min(2 * count, most)

    signature = {
        name: tf.TensorSpec((None, *spec.shape[1:]), spec.dtype, name) for name, spec in _signature(reader).items()
    }
    dataset = tf.data.Dataset.from_generator(groups, output_signature=signature)
    return dataset.rebatch(reader.batch_size, drop_remainder=reader.plan.batch.drop_last_batch)


def _signature(reader: FileSetReader) -> dict[str, tf.TensorSpec]:
    rows = reader.batch_size if reader.plan.batch.drop_last_batch else None
    if reader.transform is not None and len(reader):
        return {
            name: tf.TensorSpec((rows, *np.shape(value)[1:]), tf.as_dtype(np.asarray(value).dtype), name)
            for name, value in _texts(reader.batch(0)).items()
        }
    return {
        tensor.name: tf.TensorSpec(
            (rows, *tensor.shape), tf.string if tensor.dtype.kind == "O" else tf.as_dtype(tensor.dtype), tensor.name
        )
        for tensor in reader.tensors
    }


def _texts(batch: dict[str, Any]) -> dict[str, Any]:
    # TensorFlow has no null string.
    return {
        name: np.array([b"" if text is None else text for text in value], object) if isinstance(value, list) else value
        for name, value in batch.items()
    }
