"""Batches of a FileSet as one framework gets them, written as NumPy arrays: framework_values.py FRAMEWORK DATA FIT OUT.

A program of its own, so that a test process imports one framework at most.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fileset_integrations import FileSet, FileSetReader
from fileset_integrations.columns import FittedColumns

OPTIONS = {"batch_size": 4, "shuffle": True, "seed": 7, "drop_last_batch": False}


def batches(framework: str, fs: FileSet, columns: FittedColumns) -> Iterator[dict[str, Any]]:
    """The framework's own tensors, in batches."""
    if framework == "torch":
        yield from fs.to_torch_dataset(columns=columns, **OPTIONS)
    elif framework == "tensorflow":
        yield from fs.to_tf_dataset(columns=columns, **OPTIONS)
    else:
        import jax

        jax.config.update("jax_enable_x64", True)
        for batch in FileSetReader(fs, columns=columns, **OPTIONS):
            yield {name: jax.numpy.asarray(value) for name, value in batch.items()}


def dtype_name(tensor: Any) -> str:
    """The framework's name of a tensor's dtype, as NumPy has it."""
    return getattr(tensor.dtype, "name", str(tensor.dtype)).removeprefix("torch.")


def main(framework: str, data: str, fit: str, out: str) -> None:
    fs, columns = FileSet.from_parquet(data), FittedColumns.load(fit)
    parts: dict[str, list[np.ndarray]] = {}
    dtypes: dict[str, list[str]] = {}
    for batch in batches(framework, fs, columns):
        for name, tensor in batch.items():
            parts.setdefault(name, []).append(np.asarray(tensor))
            dtypes.setdefault(name, []).append(dtype_name(tensor))
    np.savez(out, **{name: np.concatenate(arrays) for name, arrays in parts.items()})
    Path(out).with_suffix(".json").write_text(json.dumps(dtypes))


if __name__ == "__main__":
    main(*sys.argv[1:])
