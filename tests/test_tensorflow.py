"""tf.data: shapes and dtypes from the schema alone, a known length, a new epoch for each iteration."""

import itertools

import numpy as np
import pyarrow as pa
import pytest

from fileset_integrations import Columns, FileSetReader, Shard
from fileset_integrations.columns import Category, Stack
from fileset_integrations.views import as_fileset
from tests.support.data import fileset_of, numbered, table

tf = pytest.importorskip("tensorflow", reason="tensorflow is optional")

FILE_ROWS = (7, 0, 1, 12, 9)
ROWS = sum(FILE_ROWS)  # 29
ORDER = {"batch_size": 4, "shuffle": True, "seed": 3, "drop_last_batch": False}


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("numbered"), FILE_ROWS)


@pytest.fixture(scope="module")
def expected(fs):
    reader = FileSetReader(fs, **ORDER)
    return lambda epoch: [batch["id"].tolist() for batch in reader.iter_batches(epoch)]


def ids(batches):
    return [batch["id"].numpy().tolist() for batch in batches]


@pytest.mark.parametrize(("drop_last_batch", "rows"), [(True, 4), (False, None)])
def test_the_spec_of_elements_follows_from_the_schema(drop_last_batch, rows, fs):
    dataset = fs.to_tf_dataset(batch_size=4, drop_last_batch=drop_last_batch)

    assert dataset.element_spec == {
        "id": tf.TensorSpec((rows,), tf.int64),
        "x": tf.TensorSpec((rows,), tf.float64),
        "y": tf.TensorSpec((rows,), tf.float32),
        "name": tf.TensorSpec((rows,), tf.string),
    }


def test_the_spec_is_the_same_though_every_value_is_null(tmp_path):
    schema = {"x": pa.float32(), "name": pa.string(), "v": pa.list_(pa.float64(), 3)}
    full = table({"x": ([1], schema["x"]), "name": (["a"], schema["name"]), "v": ([[1, 2, 3]], schema["v"])})
    empty = pa.table({name: pa.array([], type_) for name, type_ in schema.items()})

    of_full = fileset_of(tmp_path / "full", full).to_tf_dataset(batch_size=4)
    of_empty = fileset_of(tmp_path / "empty", empty).to_tf_dataset(batch_size=4)

    assert of_full.element_spec == of_empty.element_spec
    assert of_full.element_spec["v"].shape == (4, 3)


@pytest.mark.parametrize(("drop_last_batch", "batches"), [(True, 7), (False, 8)])
def test_the_cardinality_is_the_number_of_batches(drop_last_batch, batches, fs):
    dataset = fs.to_tf_dataset(batch_size=4, drop_last_batch=drop_last_batch)

    assert dataset.cardinality().numpy() == len(dataset) == len(list(dataset)) == batches


@pytest.mark.parametrize(
    "arrow",
    [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.float32(), pa.float64(), pa.bool_()],
    ids=str,
)
def test_a_column_keeps_its_dtype(arrow, tmp_path):
    fs = fileset_of(tmp_path, pa.table({"value": pa.array([0, 1, 1]).cast(arrow)}))

    (batch,) = fs.to_tf_dataset(batch_size=3)

    assert batch["value"].dtype.as_numpy_dtype == np.dtype(arrow.to_pandas_dtype())
    assert batch["value"].shape == (3,)
    assert batch["value"].numpy().tolist() == [0, 1, 1]


def test_strings_and_bytes_are_bytes_and_null_strings_are_empty(tmp_path):
    fs = fileset_of(
        tmp_path,
        table({"name": (["a", None, "ç"], pa.string()), "raw": ([b"\x00\xff", b"", b"b"], pa.binary())}),
    )

    (batch,) = fs.to_tf_dataset(batch_size=3)

    assert batch["name"].dtype == batch["raw"].dtype == tf.string
    assert batch["name"].numpy().tolist() == [b"a", b"", "ç".encode()]
    assert batch["raw"].numpy().tolist() == [b"\x00\xff", b"", b"b"]


def test_list_columns_and_features_have_their_shapes(tmp_path):
    fs = fileset_of(
        tmp_path,
        table(
            {
                "pixels": ([[1, 2, 3, 4], [5, 6, 7, 8], [9, 10, 11, 12]], pa.list_(pa.int16())),
                "carrier": (["AA", "B6", "AA"], pa.string()),
                "distance": ([1.0, 2.0, 3.0], pa.float64()),
            }
        ),
    )
    columns = Columns(
        {"pixels": Stack("pixels", shape=(2, 2)), "carrier": Category("carrier")}, label="distance", weight="distance"
    )

    dataset = fs.to_tf_dataset(batch_size=2, columns=columns, drop_last_batch=False)
    first, last = dataset

    assert dataset.element_spec["pixels"] == tf.TensorSpec((None, 2, 2), tf.float32)
    assert first["pixels"].numpy().tolist() == [[[1, 2], [3, 4]], [[5, 6], [7, 8]]]
    assert first["carrier"].numpy().tolist() == [2, 3]
    assert first["carrier"].dtype == tf.int64
    assert last["label"].numpy().tolist() == last["weight"].numpy().tolist() == [3.0]


def test_each_iteration_is_the_next_epoch(fs, expected):
    dataset = fs.to_tf_dataset(**ORDER)

    broken_off = ids(itertools.islice(dataset, 2))
    whole = ids(dataset)
    last = ids(dataset)

    assert broken_off == expected(0)[:2]
    assert whole == expected(1)
    assert last == expected(2)
    assert sorted(row for batch in whole for row in batch) == list(range(ROWS))


def test_repeat_goes_through_the_epochs(fs, expected):
    assert ids(fs.to_tf_dataset(**ORDER).repeat(2)) == expected(0) + expected(1)


def test_a_second_iteration_while_the_first_is_open_disturbs_neither(fs, expected):
    dataset = fs.to_tf_dataset(**ORDER)

    left, right = zip(*zip(dataset, dataset, strict=True), strict=True)

    assert ids(left) == expected(0)
    assert ids(right) == expected(1)


def test_a_fileset_without_rows_is_an_empty_dataset(tmp_path):
    dataset = numbered(tmp_path, (0,)).to_tf_dataset(batch_size=4)

    assert dataset.cardinality().numpy() == 0
    assert list(dataset) == []
    assert dataset.element_spec["x"] == tf.TensorSpec((4,), tf.float64)


def test_a_transform_says_what_the_elements_are(fs):
    def noisy(batch, generator):
        return {"x": np.stack([batch["x"], generator.standard_normal(len(batch["x"]))], axis=1)}

    dataset = fs.to_tf_dataset(batch_size=4, transform=noisy, shuffle=True, seed=5)

    batches = list(dataset)
    reader = FileSetReader(fs, batch_size=4, transform=noisy, shuffle=True, seed=5)
    assert dataset.element_spec == {"x": tf.TensorSpec((4, 2), tf.float64, "x")}
    assert [batch["x"].numpy().tolist() for batch in batches] == [batch["x"].tolist() for batch in reader]


def test_shards_are_disjoint_and_tf_is_told_to_leave_them_alone(fs):
    shares = [fs.to_tf_dataset(**ORDER, shard=Shard(rank, 2)) for rank in range(2)]

    seen = [[row for batch in ids(share) for row in batch] for share in shares]

    policy = shares[0].options().experimental_distribute.auto_shard_policy
    assert sorted(seen[0] + seen[1]) == list(range(ROWS))
    assert len(shares[0]) == len(shares[1])
    assert policy == tf.data.experimental.AutoShardPolicy.OFF


@pytest.mark.parametrize("rows", [9, 29, 133])
@pytest.mark.parametrize("world_size", [1, 2])
def test_batches_are_those_of_the_reader_on_every_rank_whatever_is_left_for_the_last_ones(rows, world_size, tmp_path):
    fs = numbered(tmp_path, (rows // 2, rows - rows // 2))

    for rank in range(world_size):
        order = {"batch_size": 4, "shuffle": True, "shard": Shard(rank, world_size)}
        for drop_last_batch in (False, True):
            dataset = fs.to_tf_dataset(**order, drop_last_batch=drop_last_batch)
            reader = FileSetReader(fs, **order, drop_last_batch=drop_last_batch)
            assert ids(dataset) == [batch["id"].tolist() for batch in reader]
            assert len(dataset) == len(reader)


def test_an_epoch_can_be_mapped_and_prefetched(fs, expected):
    dataset = fs.to_tf_dataset(**ORDER).map(lambda batch: batch["id"] + 1).prefetch(tf.data.AUTOTUNE)

    assert [(batch - 1).numpy().tolist() for batch in dataset] == expected(0)


def test_views_are_read_as_filesets_are(fs):
    parts = fs.split(train=0.7, val=0.3, seed=1)

    for view in (parts["train"], as_fileset([parts["val"], fs])):
        dataset = view.to_tf_dataset(**ORDER)
        reader = FileSetReader(view, **ORDER)
        assert [ids(dataset), ids(dataset)] == [
            [batch["id"].tolist() for batch in reader.iter_batches(epoch)] for epoch in (0, 1)
        ]
        assert sum(len(batch) for batch in ids(dataset)) == view.num_rows
