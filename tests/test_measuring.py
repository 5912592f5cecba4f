"""Measuring how fast a FileSet is read, and the advice that follows."""

import json

import pyarrow as pa
import pytest

from fileset_integrations.errors import ColumnError, SpecError
from fileset_integrations.fileset import FileSet
from fileset_integrations.measuring import measure, readable_columns
from tests.support.data import fileset_of, numbered, table


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("forty"), [1000] * 40)


def test_every_way_of_reading_is_measured_and_is_plain_json(fs, cache):
    found = measure(fs, batch_size=100, seconds=5, cache_dir=cache)

    assert found.columns == ("id", "x", "y", "name")
    assert (found.num_rows, found.batch_size, found.streams) == (40_000, 100, 8)
    assert [one.num_rows for one in (found.decode, found.first_epoch, found.later_epochs)] == [40_000] * 3
    assert found.decoded_bytes == 40_000 * (8 + 8 + 4 + 8)  # texts as codes
    assert found.first_batch_s > 0 and found.used_bytes > 0
    assert [one.streams for one in found.shuffles] == [8, 16, 32, 64, 128]
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["first_epoch"]["rows_per_s"] == pytest.approx(40_000 / found.first_epoch.seconds)


def test_advice_names_streams_that_mix_and_memory_that_suffices(fs, cache):
    roomy = " ".join(measure(fs, batch_size=100, seconds=1, cache_dir=cache).advice)
    tight = measure(fs, columns=["id"], batch_size=100, seconds=1, memory_bytes=400_000, cache_dir=cache)

    assert "has room for all rows" in roomy and "streams=" in roomy and "num_workers=0" in roomy
    assert tight.later_epochs is None
    assert f"memory_bytes={2 * 40_000 * 8}" in tight.advice[0]


def test_advice_knows_what_was_shuffled_when_it_was_made(tmp_path, cache):
    query = "SELECT i FROM range(20000) t(i)"
    shuffled = FileSet.make(target_stage_loc=tmp_path, name="x", query=query, shuffle=True)

    said = measure(shuffled, seconds=1, cache_dir=cache).advice

    assert any("shuffled when they were written" in one for one in said)


def test_columns_without_a_tensor_are_left_out_and_named(tmp_path):
    fs = fileset_of(
        tmp_path,
        table(
            {
                "number": ([1, None], pa.int64()),
                "text": (["a", None], pa.string()),
                "bytes": ([b"a", b"b"], pa.binary()),
                "list": ([[1], [1, 2]], pa.list_(pa.int64())),
            }
        ),
    )

    spec, left_out = readable_columns(fs)

    assert spec.sources == ["number", "text"]
    assert set(left_out) == {"bytes", "list"} and "Ragged" in left_out["list"]
    assert readable_columns(fs, ["bytes"])[0] is None
    with pytest.raises(ColumnError, match="'absent'"):
        readable_columns(fs, ["absent"])
    with pytest.raises(ColumnError, match="nothing to be measured"):
        measure(fs, columns=["bytes"])


def test_what_a_reader_refuses_is_refused_here(fs):
    with pytest.raises(SpecError, match="streams"):
        measure(fs, streams=0)


def test_there_is_nothing_to_measure_of_zero_rows(tmp_path, cache):
    with pytest.raises(SpecError, match="no rows"):
        measure(numbered(tmp_path, [0]), seconds=1, cache_dir=cache)
