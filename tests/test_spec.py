"""The values that say how a FileSet is read: one that exists is valid, and a wrong one says what would be right."""

import pickle

import numpy as np
import pytest

from fileset_integrations import Shard
from fileset_integrations.errors import FileSetError, SpecError
from fileset_integrations.spec import MAX_SEED, BatchSpec, ShuffleSpec


@pytest.mark.parametrize(
    "spec", [Shard(1, 2), BatchSpec(3, False), ShuffleSpec(True, 7, 2)], ids=["Shard", "BatchSpec", "ShuffleSpec"]
)
def test_a_spec_prints_as_the_call_that_made_it_and_is_a_frozen_value(spec):
    namespace = {"Shard": Shard, "BatchSpec": BatchSpec, "ShuffleSpec": ShuffleSpec}

    assert eval(repr(spec), namespace) == spec
    assert pickle.loads(pickle.dumps(spec)) == spec
    assert len({spec, pickle.loads(pickle.dumps(spec))}) == 1
    with pytest.raises(AttributeError):
        spec.__setattr__(type(spec).__slots__[0], 1)


@pytest.mark.parametrize(("rank", "world_size"), [(2, 2), (3, 2), (-1, 2), (0, 0), (0, -1)])
def test_a_rank_lies_below_the_world_size(rank, world_size):
    with pytest.raises(SpecError, match=rf"Shard\({rank}, {world_size}\).*rank first, counted from 0") as raised:
        Shard(rank, world_size)

    assert isinstance(raised.value, FileSetError)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize(
    ("make", "named"),
    [
        (lambda: Shard("0", 2), "rank='0'"),
        (lambda: Shard(0, 2.0), "world_size=2.0"),
        (lambda: Shard(True, 2), "rank=True"),
        (lambda: BatchSpec("8"), "batch_size='8'"),
        (lambda: BatchSpec(8.5), "batch_size=8.5"),
        (lambda: BatchSpec(None), "batch_size=None"),
        (lambda: ShuffleSpec(True, "7"), "seed='7'"),
        (lambda: ShuffleSpec(True, 0, 1.5), "streams=1.5"),
        (lambda: BatchSpec.of(None, "8", 1, True), "global_batch_size='8'"),
    ],
)
def test_what_is_no_whole_number_is_refused_by_the_name_of_its_argument(make, named):
    with pytest.raises(SpecError, match="not an integer") as raised:
        make()

    assert named in str(raised.value)


def test_numpy_integers_are_integers():
    assert Shard(np.int64(1), np.int32(4)) == Shard(1, 4)
    assert type(Shard(np.int64(1), np.int32(4)).rank) is int
    assert type(ShuffleSpec(True, np.uint64(9)).seed) is int


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_holds_at_least_one_row(batch_size):
    with pytest.raises(SpecError, match=f"batch_size={batch_size}.*>= 1"):
        BatchSpec(batch_size)


@pytest.mark.parametrize(("batch_size", "global_batch_size"), [(None, None), (4, 4)])
def test_a_batch_size_is_given_per_rank_or_for_all_ranks_together(batch_size, global_batch_size):
    with pytest.raises(SpecError, match="exactly one of the two"):
        BatchSpec.of(batch_size, global_batch_size, 2, True)


def test_a_global_batch_is_shared_equally():
    assert BatchSpec.of(None, 12, 4, True) == BatchSpec(3)
    assert BatchSpec.of(3, None, 4, False) == BatchSpec(3, False)


@pytest.mark.parametrize(
    ("total", "world_size", "advice"), [(10, 4, "8 or 12"), (3, 4, "such as 4"), (0, 4, "such as 4"), (-1, 2, "2")]
)
def test_a_global_batch_that_cannot_be_shared_is_refused_with_the_sizes_that_can(total, world_size, advice):
    with pytest.raises(SpecError, match=f"global_batch_size={total} .* {world_size} ranks") as raised:
        BatchSpec.of(None, total, world_size, True)

    assert advice in str(raised.value)


@pytest.mark.parametrize("seed", [-1, MAX_SEED + 1])
def test_a_seed_has_63_bits(seed):
    with pytest.raises(SpecError, match=f"seed={seed} .*63"):
        ShuffleSpec(True, seed)

    assert ShuffleSpec(True, MAX_SEED).seed == 2**63 - 1


@pytest.mark.parametrize("streams", [0, -8])
def test_at_least_one_stream_is_read(streams):
    with pytest.raises(SpecError, match=f"streams={streams}"):
        ShuffleSpec(True, 0, streams)


@pytest.mark.parametrize(
    ("world_size", "streams"), [(1, 8), (2, 8), (3, 9), (4, 8), (5, 10), (7, 14), (8, 8), (9, 9), (16, 16)]
)
def test_streams_are_by_default_the_least_multiple_of_the_world_size_that_is_at_least_8(world_size, streams):
    assert ShuffleSpec(True).streams_for(world_size) == streams


def test_a_world_size_that_does_not_divide_streams_is_refused_with_those_that_do():
    with pytest.raises(SpecError, match=r"streams=6 .* 4 ranks") as raised:
        ShuffleSpec(True, 0, 6).streams_for(4)

    assert "1, 2, 3, 6" in str(raised.value)
    assert "streams=8" in str(raised.value)
