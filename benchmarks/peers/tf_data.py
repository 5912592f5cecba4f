"""tf.data over tensors in memory: `from_tensor_slices`, `shuffle`, `batch`, `prefetch`, as in its performance guide.

The shuffle buffer holds 65,536 rows: one as large as the data, which a full shuffle takes, holds an object a row and is
slower still. Batches are consumed as NumPy arrays, which spares TensorFlow the cost of its eager tensors' slices.
"""

from __future__ import annotations

from typing import Any

import tensorflow as tf

from benchmarks.peers.tensors import load
from benchmarks.protocol import Epochs, Job

_BUFFER_ROWS = 65_536


def version() -> str:
    return f"tensorflow {tf.__version__}"


def shuffled(job: Job) -> Epochs:
    """The first epoch reads all files."""
    x, label = load(job.data)
    data: Any = tf.data.Dataset.from_tensor_slices({"x": x, "label": label})
    data = data.shuffle(_BUFFER_ROWS, reshuffle_each_iteration=True)
    data = data.batch(job.batch_size, drop_remainder=True, num_parallel_calls=tf.data.AUTOTUNE)
    data = data.prefetch(tf.data.AUTOTUNE)
    return lambda: data.as_numpy_iterator()


ENTRIES = {"shuffled": shuffled}
