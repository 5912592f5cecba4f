"""Which rows go into which batch. No file is opened here: row counts go in, (block, row) pairs come out."""

import itertools
import math
from collections import Counter

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from fileset_integrations import plan as plan_module
from fileset_integrations.errors import FileSetError, SpecError
from fileset_integrations.plan import Plan, check_generator, cut_blocks, transform_generator
from fileset_integrations.spec import BatchSpec, Shard, ShuffleSpec
from tests.support import SOAK, count
from tests.support.golden import (
    GOLDEN_BATCH_SIZE,
    GOLDEN_BATCHES,
    GOLDEN_FILE_ROWS,
    GOLDEN_FULL_BATCHES,
    GOLDEN_IDS,
    GOLDEN_SEED,
    GOLDEN_STREAMS,
)
from tests.support.reference import batch_sizes, epoch_order, rank_order

Rows = list[tuple[int, int]]

# Blocks as they come: none, empty ones, blocks of one row, fewer of them than ranks.
BLOCK_ROWS = st.lists(st.one_of(st.integers(0, 2), st.integers(0, 40)), max_size=9)
SEEDS = st.integers(0, 2**63 - 1)
EPOCHS = st.integers(0, 3)


@st.composite
def sharings(draw):
    """A world size and a number of streams that it divides, or None."""
    world_size = draw(st.integers(1, 8))
    return world_size, draw(st.sampled_from([None, world_size, 2 * world_size, 3 * world_size]))


def make_plan(
    block_rows, batch_size, *, shuffle=True, drop_last_batch=True, seed=0, streams=None, rank=0, world_size=1
) -> Plan:
    spec = BatchSpec(batch_size, drop_last_batch)
    return Plan(np.array(block_rows, np.int64), spec, ShuffleSpec(shuffle, seed, streams), Shard(rank, world_size))


def rows_read(plan: Plan, epoch: int, start: int, stop: int) -> Rows:
    """The rank's rows [start, stop), as the pieces say."""
    found: list[tuple[int, int] | None] = [None] * (stop - start)
    epoch_plan = plan.epoch(epoch)
    for piece in epoch_plan.pieces(start, stop):
        order = epoch_plan.row_order(piece.block)
        for place, at in enumerate(range(piece.start, piece.stop)):
            out = piece.out + place * piece.step
            assert found[out] is None, "two rows for one place in a batch"
            found[out] = (piece.block, at if order is None else int(order[at]))
    assert None not in found, "a place in a batch without a row"
    return found


def batches_of(plan: Plan, epoch: int) -> list[Rows]:
    return [rows_read(plan, epoch, *plan.batch_bounds(index)) for index in range(plan.num_batches)]


def every_row(block_rows) -> Rows:
    return [(block, row) for block, rows in enumerate(block_rows) for row in range(rows)]


# --- the order -------------------------------------------------------------------------------------------------------


@given(block_rows=BLOCK_ROWS, sharing=sharings(), seed=SEEDS, epoch=EPOCHS, shuffle=st.booleans())
def test_each_rank_reads_the_rows_that_the_order_contract_gives_it(block_rows, sharing, seed, epoch, shuffle):
    world_size, streams = sharing

    for rank in range(world_size):
        plan = make_plan(block_rows, 3, shuffle=shuffle, seed=seed, streams=streams, rank=rank, world_size=world_size)
        order = {"shuffle": shuffle, "seed": seed, "epoch": epoch, "streams": plan.streams}
        expected = rank_order(block_rows, **order, rank=rank, world_size=world_size)

        assert plan.local_rows == len(expected)
        assert rows_read(plan, epoch, 0, plan.local_rows) == expected


@given(block_rows=BLOCK_ROWS, sharing=sharings(), seed=SEEDS, epoch=EPOCHS, shuffle=st.booleans())
def test_shards_are_disjoint_and_together_whole(block_rows, sharing, seed, epoch, shuffle):
    world_size, streams = sharing
    plans = [
        make_plan(block_rows, 1, shuffle=shuffle, seed=seed, streams=streams, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]

    visited = [row for plan in plans for row in rows_read(plan, epoch, 0, plan.local_rows)]

    assert sorted(visited) == every_row(block_rows)
    assert max(plan.local_rows for plan in plans) - min(plan.local_rows for plan in plans) <= 1


@given(
    block_rows=BLOCK_ROWS,
    batch_size=st.integers(1, 9),
    sharing=sharings(),
    seed=SEEDS,
    epoch=EPOCHS,
    shuffle=st.booleans(),
    drop_last_batch=st.booleans(),
)
def test_the_batches_of_a_rank_are_its_rows_in_order(
    block_rows, batch_size, sharing, seed, epoch, shuffle, drop_last_batch
):
    world_size, streams = sharing
    counts = set()

    for rank in range(world_size):
        options = {"shuffle": shuffle, "seed": seed, "streams": streams, "rank": rank, "world_size": world_size}
        try:
            plan = make_plan(block_rows, batch_size, drop_last_batch=drop_last_batch, **options)
        except SpecError:
            assert not drop_last_batch
            continue
        batches = batches_of(plan, epoch)
        whole = rows_read(plan, epoch, 0, plan.local_rows)

        joined = [row for batch in batches for row in batch]
        assert joined == whole[: len(joined)]
        assert [len(batch) for batch in batches] == batch_sizes(
            plan.num_rows,
            batch_size,
            drop_last_batch=drop_last_batch,
            rank_rows=plan.local_rows,
            world_size=world_size,
        )
        counts.add(len(batches))

    assert len(counts) <= 1  # the same on every rank


@given(block_rows=BLOCK_ROWS, seed=SEEDS, epoch=EPOCHS, batch_size=st.integers(1, 3))
def test_the_sequence_of_rows_is_the_same_for_1_2_4_and_8_ranks(block_rows, seed, epoch, batch_size):
    order = epoch_order(block_rows, shuffle=True, seed=seed, epoch=epoch, streams=8)
    total = 8 * batch_size
    expected = [order[start : start + total] for start in range(0, len(order) - total + 1, total)]

    for world_size in (1, 2, 4, 8):
        ranks = [
            batches_of(
                make_plan(block_rows, total // world_size, seed=seed, streams=8, rank=rank, world_size=world_size),
                epoch,
            )
            for rank in range(world_size)
        ]
        # Element j * W + r of a global batch is element j of rank r's batch.
        together = [
            [row for rows in zip(*batches, strict=True) for row in rows] for batches in zip(*ranks, strict=True)
        ]

        assert together == expected


def test_the_golden_order_is_what_it_was():
    starts = np.cumsum([0, *GOLDEN_FILE_ROWS])
    options = {"seed": GOLDEN_SEED, "streams": GOLDEN_STREAMS}

    for epoch in (0, 1):
        whole = batches_of(make_plan(GOLDEN_FILE_ROWS, GOLDEN_BATCH_SIZE, drop_last_batch=False, **options), epoch)
        full = batches_of(make_plan(GOLDEN_FILE_ROWS, GOLDEN_BATCH_SIZE, **options), epoch)

        assert [[starts[block] + row for block, row in batch] for batch in whole] == GOLDEN_BATCHES[epoch]
        assert [[starts[block] + row for block, row in batch] for batch in full] == GOLDEN_FULL_BATCHES[epoch]
        assert sorted(GOLDEN_IDS[epoch]) == list(range(sum(GOLDEN_FILE_ROWS)))


def test_seeds_epochs_and_blocks_have_orders_of_their_own():
    plan = make_plan([500, 500], 4, seed=1)
    orders = [
        plan.epoch(0).row_order(0),
        plan.epoch(0).row_order(1),
        plan.epoch(1).row_order(0),
        make_plan([500, 500], 4, seed=2).epoch(0).row_order(0),
    ]
    block_orders = [make_plan([1] * 500, 4, seed=seed).epoch(epoch).order for seed in (1, 2) for epoch in (0, 1)]

    for one, other in itertools.combinations([*orders, *block_orders], 2):
        assert (one == other).mean() < 0.05


def test_a_batch_of_as_many_rows_as_streams_takes_one_row_of_each_span():
    plan = make_plan([50] * 8, 8, streams=8)

    for batch in batches_of(plan, 0):
        assert sorted(block for block, _ in batch) == list(range(8))


@pytest.mark.parametrize("world_size", [1, 2, 4, 8])
def test_a_rank_opens_only_the_files_of_its_own_spans(world_size):
    opened = []
    for rank in range(world_size):
        plan = make_plan([50] * 8, 8, streams=8, rank=rank, world_size=world_size)
        opened.append({visit.block for visit in plan.epoch(0).visits()})

    assert all(len(blocks) == 8 // world_size for blocks in opened)
    assert set().union(*opened) == set(range(8))


def test_without_shuffling_rows_come_in_natural_order():
    plan = make_plan([3, 0, 1, 4], 3, shuffle=False, drop_last_batch=False)

    assert batches_of(plan, 0) == [[(0, 0), (0, 1), (0, 2)], [(2, 0), (3, 0), (3, 1)], [(3, 2), (3, 3)]]
    assert batches_of(plan, 5) == batches_of(plan, 0)


@given(num_rows=st.integers(0, 60), size=st.integers(2, 9), world_size=st.integers(1, 5))
def test_places_without_shuffling_number_every_row_once_over_all_ranks(num_rows, size, world_size):
    assume(not 0 < num_rows < world_size)
    plans = [
        make_plan([num_rows], size, shuffle=False, drop_last_batch=False, rank=rank, world_size=world_size)
        for rank in range(world_size)
    ]

    places = [[list(plan.places(index)) for index in range(plan.num_batches)] for plan in plans]

    assert [place for rank in places for batch in rank for place in batch] == list(range(num_rows))
    assert places == [[[row for _, row in batch] for batch in batches_of(plan, 0)] for plan in plans]


def test_without_shuffling_any_number_of_ranks_will_do_whatever_streams_says():
    plan = make_plan([10], 2, shuffle=False, streams=4, world_size=3, rank=2)

    assert plan.streams == 1
    assert rows_read(plan, 0, 0, plan.local_rows) == [(0, 6), (0, 7), (0, 8), (0, 9)]


# --- the end of an epoch ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shuffle", [False, True])
def test_without_dropping_every_row_comes_once_in_equally_many_batches_or_the_error_says_what_would_do(shuffle):
    for num_rows, world_size, size in itertools.product(
        range(1, count(61, 241)), range(1, count(6, 10)), range(1, count(5, 9))
    ):
        block_rows = [num_rows // 3, 0, num_rows - num_rows // 3]
        plans, errors = [], []
        for rank in range(world_size):
            try:
                plans.append(
                    make_plan(
                        block_rows, size, shuffle=shuffle, drop_last_batch=False, rank=rank, world_size=world_size
                    )
                )
            except SpecError as error:
                errors.append(str(error))

        impossible = num_rows < world_size or (size == 1 and num_rows % world_size != 0)
        assert len(errors) == (world_size if impossible else 0), (num_rows, world_size, size)
        for plan in plans:
            bounds = [plan.batch_bounds(index) for index in range(plan.num_batches)]
            assert plan.num_batches == math.ceil(math.ceil(num_rows / world_size) / size)
            assert [bounds[0][0], *(stop for _, stop in bounds)] == [*(start for start, _ in bounds), plan.local_rows]
            assert all(1 <= stop - start <= size for start, stop in bounds), (num_rows, world_size, size)
        assert impossible or sum(plan.local_rows for plan in plans) == num_rows


def test_a_rank_one_row_short_of_its_last_batch_moves_one_row_there():
    plans = [
        make_plan([17], 4, shuffle=False, drop_last_batch=False, rank=rank, world_size=2) for rank in range(2)
    ]  # 8 and 9 rows

    sizes = [[len(batch) for batch in batches_of(plan, 0)] for plan in plans]

    assert sizes == [[4, 3, 1], [4, 4, 1]]


def test_too_few_rows_for_the_ranks_are_refused_with_the_number_of_ranks_that_would_do():
    with pytest.raises(SpecError, match=r"3 rows .* 4 ranks.*at most 3 ranks"):
        make_plan([3], 2, drop_last_batch=False, world_size=4)


def test_batches_of_one_row_that_do_not_come_out_even_are_refused_with_what_would_do():
    with pytest.raises(SpecError, match=r"batch_size=1 .*batch_size >= 2"):
        make_plan([7], 1, drop_last_batch=False, world_size=2)


@given(num_rows=st.integers(0, 200), batch_size=st.integers(1, 9), world_size=st.integers(1, 8), shuffle=st.booleans())
def test_with_dropping_every_rank_yields_as_many_full_batches_as_there_are_full_global_batches(
    num_rows, batch_size, world_size, shuffle
):
    for rank in range(world_size):
        plan = make_plan([num_rows], batch_size, shuffle=shuffle, rank=rank, world_size=world_size)

        assert plan.num_batches == num_rows // (batch_size * world_size)
        bounds = [plan.batch_bounds(index) for index in range(plan.num_batches)]
        assert all(stop - start == batch_size for start, stop in bounds)
        assert all(stop <= plan.local_rows for _, stop in bounds)


@pytest.mark.parametrize("drop_last_batch", [False, True])
@pytest.mark.parametrize("block_rows", [[], [0], [0, 0, 0]])
def test_no_rows_give_no_batches(block_rows, drop_last_batch):
    plan = make_plan(block_rows, 4, drop_last_batch=drop_last_batch, world_size=3)

    assert plan.num_batches == 0
    assert list(plan.epoch(0).visits()) == []


# --- blocks ----------------------------------------------------------------------------------------------------------


@given(
    block_rows=BLOCK_ROWS,
    sharing=sharings(),
    seed=SEEDS,
    shuffle=st.booleans(),
    start=st.integers(0, 60),
)
def test_visits_are_the_stays_in_blocks_that_the_pieces_read_by_first_use(block_rows, sharing, seed, shuffle, start):
    world_size, streams = sharing
    for rank in range(world_size):
        plan = make_plan(block_rows, 2, shuffle=shuffle, seed=seed, streams=streams, rank=rank, world_size=world_size)
        epoch, stop = plan.epoch(0), plan.local_rows
        start = min(start, stop)

        visits = list(epoch.visits(start))
        visited = Counter(
            (row, visit.block) for visit in visits for row in range(visit.first, visit.last + 1, plan.lanes)
        )

        read = Counter(
            (start + piece.out + place * piece.step, piece.block)
            for piece in epoch.pieces(start, stop)
            for place in range(piece.stop - piece.start)
        )
        assert visited == read
        assert [visit.first for visit in visits] == sorted(visit.first for visit in visits)


@given(
    files=st.lists(st.lists(st.integers(0, 30), max_size=8), max_size=6),
    block_rows=st.integers(1, 40),
)
def test_files_above_block_rows_are_cut_between_row_groups_as_long_as_a_run_stays_within(files, block_rows):
    expected = []
    for file, groups in enumerate(files):
        if sum(groups) <= block_rows:
            expected.append((file, 0, 0, -1, sum(groups)))
            continue
        runs: list[list[int]] = [[]]
        for group in range(len(groups)):
            rows = sum(groups[other] for other in runs[-1])
            if rows and rows + groups[group] > block_rows:
                runs.append([])
            runs[-1].append(group)
        for run in runs:
            expected.append((file, sum(groups[: run[0]]), run[0], len(run), sum(groups[group] for group in run)))

    file_rows = np.array([sum(groups) for groups in files], np.int64)
    table = cut_blocks(file_rows, {file: np.array(groups) for file, groups in enumerate(files)}, block_rows)

    columns = (table.file, table.first_row, table.first_group, table.num_groups, table.rows)
    assert list(zip(*(column.tolist() for column in columns), strict=True)) == expected
    assert len(table) == len(expected)
    assert all(column.dtype == np.int64 for column in columns)


def test_a_row_group_above_block_rows_is_a_block_of_its_own():
    table = cut_blocks(np.array([100]), {0: np.array([10, 70, 10, 10])}, 50)

    assert table.rows.tolist() == [10, 70, 20]
    assert table.first_row.tolist() == [0, 10, 80]


def test_a_million_files_are_planned_batch_by_batch():
    files = count(100_000, 1_000_000)
    plan = make_plan(np.full(files, 1000), 1024, seed=3)
    epoch = plan.epoch(4)

    for index in (0, plan.num_batches // 2, plan.num_batches - 1):
        pieces = list(epoch.pieces(*plan.batch_bounds(index)))
        assert sum(piece.stop - piece.start for piece in pieces) == 1024
        assert len(pieces) <= 16  # 8 streams of 128 rows, in files of 1000
    assert len(list(itertools.islice(epoch.visits(), 20))) == 20  # lazily: the rest costs nothing


# --- random streams --------------------------------------------------------------------------------------------------


def test_a_numpy_that_draws_otherwise_is_refused(monkeypatch):
    check_generator()
    monkeypatch.setattr(plan_module, "_GENERATOR_CHECK", tuple(range(16)))

    with pytest.raises(FileSetError, match=r"NumPy .* other permutations"):
        check_generator.__wrapped__()


def test_a_transforms_generator_follows_from_seed_epoch_and_batch():
    def draw(*key):
        return transform_generator(*key).integers(0, 2**62, 4).tolist()

    keys = list(itertools.product((0, 1), (0, 1), (0, 1)))
    drawn = [draw(*key) for key in keys]

    assert [draw(*key) for key in keys] == drawn
    assert len({tuple(numbers) for numbers in drawn}) == len(keys)


@pytest.mark.skipif(not SOAK, reason="soak only")
@given(num_rows=st.integers(1, 20_000), world_size=st.integers(1, 64), batch_size=st.integers(1, 600), seed=SEEDS)
def test_large_epochs_hold_the_same_promises(num_rows, world_size, batch_size, seed):
    block_rows = [num_rows // 7, num_rows - num_rows // 7]
    found = []
    for rank in range(world_size):
        plan = make_plan(block_rows, batch_size, seed=seed, rank=rank, world_size=world_size)
        found += rows_read(plan, 0, 0, plan.local_rows)

    assert sorted(found) == every_row(block_rows)
