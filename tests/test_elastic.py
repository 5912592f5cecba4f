"""The same global batches, order included, on any number of ranks and workers, and from one number to another."""

import itertools
import json
import re

import pytest

from fileset_integrations import FileSetReader, Shard
from fileset_integrations.errors import SpecError
from tests.support import SOAK, count
from tests.support.data import ids, numbered

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")

WORLD_SIZES = (1, 2, 4, 8)
ORDER = {"global_batch_size": 16, "shuffle": True, "streams": 8, "seed": 5}
BATCHES = 11  # of 16 rows; 6 are dropped


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("numbered"), (40, 0, 1, 75, 30, 5, 23, 8))


@pytest.fixture(scope="module")
def uninterrupted(fs):
    """The global batches of an epoch."""
    reader = FileSetReader(fs, **ORDER)
    return lambda epoch: ids(reader.iter_batches(epoch))


def together(ranks) -> list[list[int]]:
    """Global batches from those of each rank: their rows in turn."""
    return [list(itertools.chain.from_iterable(zip(*rows, strict=True))) for rows in zip(*ranks, strict=True)]


def readers(fs, world_size, **options) -> list[FileSetReader]:
    return [FileSetReader(fs, **ORDER, shard=Shard(rank, world_size), **options) for rank in range(world_size)]


MATRIX = list(itertools.product(WORLD_SIZES, range(5)))
FEW = [*((world_size, 0) for world_size in WORLD_SIZES), (1, 4), (2, 2), (4, 1)]


@pytest.mark.parametrize(("world_size", "num_workers"), MATRIX if SOAK else FEW)
def test_global_batches_are_the_same_sequence_on_any_number_of_ranks_and_workers(
    world_size, num_workers, fs, uninterrupted
):
    data = pytest.importorskip("torch.utils.data")
    from fileset_integrations.torch import FileSetIterableDataset

    loaders = [
        data.DataLoader(
            FileSetIterableDataset(fs, **ORDER, shard=Shard(rank, world_size)), batch_size=None, num_workers=num_workers
        )
        for rank in range(world_size)
    ]

    for epoch in range(count(1, 3)):
        assert together([ids(loader) for loader in loaders]) == uninterrupted(epoch)


@pytest.mark.parametrize("streams", [8, 12])
def test_a_number_of_ranks_either_works_or_is_refused_with_those_that_do(streams, fs):
    works = [w for w in range(1, streams + 1) if streams % w == 0]

    for world_size in range(1, 26):
        order = {"batch_size": 2, "shuffle": True, "streams": streams, "shard": Shard(0, world_size)}
        if world_size in works:
            assert len(FileSetReader(fs, **order)) == 182 // (2 * world_size)
        else:
            with pytest.raises(SpecError, match=f"World sizes that do: {', '.join(map(str, works))}"):
                FileSetReader(fs, **order)


def run_for(fs, world_size, state, batches, options):
    """Some global batches from a state on (None: to the end of the epoch), and the state that all ranks have then."""
    iterators = [reader.iter_batches() for reader in readers(fs, world_size, **options)]
    for iterator in iterators:
        iterator.load_state_dict(state)
    taken = [ids(itertools.islice(iterator, batches)) for iterator in iterators]
    states = [json.dumps(iterator.state_dict()) for iterator in iterators]
    assert len(set(states)) == 1
    return together(taken), json.loads(states[-1])


def least_memory(fs, world_size) -> int:
    with pytest.raises(SpecError) as raised:
        readers(fs, world_size, memory_bytes=1)
    return int(re.search(r"memory_bytes=(\d+) or more", str(raised.value))[1])


@pytest.mark.parametrize("step", range(BATCHES + 1))
def test_an_epoch_goes_on_at_every_step_through_8_2_4_and_8_ranks(step, fs, tmp_path, uninterrupted):
    legs = [
        (8, {"blocks": "stream"}),
        (2, {"blocks": "memory"}),
        (4, {"blocks": "disk", "cache_dir": tmp_path}),
        (8, {"blocks": "stream", "memory_bytes": least_memory(fs, 8)}),  # nothing is read ahead
    ]
    state = readers(fs, 1)[0].state(3, 0)
    seen = []

    for (world_size, options), batches in zip(legs, (step, 2, 1, None), strict=True):
        found, state = run_for(fs, world_size, state, batches, options)
        seen += found

    assert seen == uninterrupted(3)
    assert state == readers(fs, 1)[0].state(3, BATCHES)
    assert run_for(fs, 4, state, None, {})[0] == []  # past the end there is nothing


@pytest.mark.parametrize("step", range(0, BATCHES + 1, count(5, 1)))
@pytest.mark.parametrize("num_workers", count([2], [0, 1, 2, 3, 4]))
def test_an_epoch_goes_on_with_other_ranks_and_workers(step, num_workers, fs, uninterrupted):
    data = pytest.importorskip("torch.utils.data")
    from fileset_integrations.torch import FileSetIterableDataset

    state = readers(fs, 8)[3].state(1, step)
    ranks = []
    for rank in range(2):
        dataset = FileSetIterableDataset(fs, **ORDER, shard=Shard(rank, 2))
        dataset.load_state_dict(state)
        ranks.append(ids(data.DataLoader(dataset, batch_size=None, num_workers=num_workers)))

    assert together(ranks) == uninterrupted(1)[step:]
