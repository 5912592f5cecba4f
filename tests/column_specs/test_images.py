"""Images: tensors of one size, of encoded or raw pixels."""

import io

import numpy as np
import PIL.Image
import pyarrow as pa
import pytest

from fileset_integrations.columns import Image
from fileset_integrations.errors import ColumnError
from tests.support.columns import fitted_rows


def test_images_are_tensors_of_one_size_encoded_or_raw_and_nulls_are_blank_or_masked():
    pixels = np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)
    sink = io.BytesIO()
    PIL.Image.fromarray(pixels).save(sink, "PNG")
    encoded = pa.array([sink.getvalue(), None], pa.binary())
    raw = pa.array([pixels.reshape(-1).tolist(), None], pa.list_(pa.uint8()))

    for column in (encoded, raw):
        found = fitted_rows(Image("a", 2, 3), column, nulls="mask")
        assert (found["x"].dtype, found["x_mask"].tolist()) == (np.uint8, [True, False])
        assert found["x"].tolist() == [pixels.transpose(2, 0, 1).tolist(), np.zeros((3, 2, 3)).tolist()]
    last = fitted_rows(Image("a", 2, 3, layout="HWC", dtype="float32"), encoded, nulls={"a": 255})["x"]
    assert (last.dtype, last[0].tolist(), last[1].min()) == (np.float32, pixels.tolist(), 255)
    with pytest.raises(ColumnError, match="'a'"):
        fitted_rows(Image("a", 2, 4), encoded, nulls="mask")
