"""What a model is told of its data: moments of numbers, numbers of codes, exact however the batches are cut."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from fileset_integrations.decoder import TensorSpec
from fileset_integrations.errors import SpecError
from fileset_integrations.summary import Moments, Summary, check_codes


@given(
    npst.arrays(np.float64, st.tuples(st.integers(1, 50), st.integers(1, 3)), elements=st.floats(-1e6, 1e6)),
    st.integers(1, 7),
)
def test_moments_of_parts_are_moments_of_the_whole(values, parts):
    moments = Moments()

    for part in np.array_split(values, parts):
        moments.update(part)

    spread = values.std(axis=0)
    assert moments.count == len(values)
    np.testing.assert_allclose(moments.mean, values.mean(axis=0), rtol=1e-9, atol=1e-6)
    constant = spread <= 1e-9 * np.maximum(np.abs(values.mean(axis=0)), 1)
    np.testing.assert_allclose(moments.std[~constant], spread[~constant], rtol=1e-6, atol=1e-6)
    assert (moments.std > 0).all()


def test_a_summary_describes_every_feature_in_plain_values():
    tensors = (
        TensorSpec("x", (2,), np.dtype("float32")),
        TensorSpec("late", (), np.dtype("int64")),
        TensorSpec("carrier", (), np.dtype("int64"), 4),
        TensorSpec("words", (3,), np.dtype("int64"), 9),
    )
    summary = Summary({tensor.name: tensor for tensor in tensors}, baseline="late")
    summary.update(
        {
            "x": np.array([[1.0, 5.0], [3.0, 5.0]], dtype=np.float32),
            "late": np.array([10, 20]),
            "carrier": np.array([2, 3]),
            "words": np.zeros((2, 3), np.int64),
            "label": np.array([11.0, 23.0], dtype=np.float32),
        }
    )

    assert summary.inputs() == {
        "x": {"shape": [2], "mean": [2.0, 5.0], "std": [1.0, 1.0]},
        "late": {"shape": [], "mean": [15.0], "std": [5.0]},
        "carrier": {"codes": 4},
        "words": {"codes": 9, "shape": [3]},
    }
    assert summary.target() == {"mean": 2.0, "std": 1.0}
    assert json.loads(json.dumps(summary.inputs())) == summary.inputs()
    with pytest.raises(SpecError, match=r"'words' holds codes of shape \(3,\) a row"):
        check_codes(summary.inputs())
