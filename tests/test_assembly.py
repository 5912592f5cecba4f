"""Batches come together within the memory that they were given, and in the same order whatever that is."""

import threading

import numpy as np
import pytest

from fileset_integrations.assembly import Budget, fit_budget
from fileset_integrations.blocks import StreamedBlocks
from fileset_integrations.errors import SpecError
from fileset_integrations.plan import Plan
from fileset_integrations.reader import FileSetReader
from fileset_integrations.spec import BatchSpec, Shard, ShuffleSpec
from tests.support.data import numbered


def plan_of(block_rows, streams=8, batch_size=10):
    return Plan(np.array(block_rows), BatchSpec(batch_size), ShuffleSpec(True, 0, streams), Shard())


def least_memory(plan, row_bytes):
    with pytest.raises(SpecError) as refused:
        fit_budget(1, plan, row_bytes)
    return int(str(refused.value).split("Pass memory_bytes=")[1].split()[0])


def test_a_large_memory_reads_ahead_and_gathers_many_batches_at_once():
    budget = fit_budget(2**30, plan_of([1000] * 20), 100)

    assert budget.ahead > 0 and budget.group > 1


def test_the_least_memory_that_an_error_names_is_enough_and_one_byte_less_is_not():
    plan = plan_of([1000] * 20)

    least = least_memory(plan, 100)

    assert fit_budget(least, plan, 100) == Budget(ahead=0, decoders=1, gatherers=1, group=1)
    with pytest.raises(SpecError, match=f"Pass memory_bytes={least} or more"):
        fit_budget(least - 1, plan, 100)


def test_fewer_streams_need_less_memory():
    assert least_memory(plan_of([1000] * 20, streams=1), 100) < least_memory(plan_of([1000] * 20, streams=8), 100) / 3


@pytest.mark.parametrize("file_rows", [[100] * 24, [1, 500, 3, 120, 0, 77, 300, 2, 2, 90]])
def test_memory_bytes_never_changes_the_order(file_rows, tmp_path):
    fs = numbered(tmp_path, file_rows)
    arguments = {"batch_size": 16, "shuffle": True, "blocks": "stream", "drop_last_batch": False}
    plenty = FileSetReader(fs, **arguments)
    scarce = FileSetReader(fs, memory_bytes=least_memory(plenty.plan, plenty.row_bytes), **arguments)

    batches = zip(plenty.iter_batches(3), scarce.iter_batches(3), strict=True)

    assert all(np.array_equal(one["id"], other["id"]) for one, other in batches)


def test_no_more_blocks_are_held_at_once_than_the_budget_says(tmp_path, monkeypatch):
    # 24 equal files and 8 streams: all lanes change blocks at the same row.
    fs = numbered(tmp_path, [100] * 24)
    probe = FileSetReader(fs, batch_size=16, shuffle=True, blocks="stream")
    reader = FileSetReader(
        fs, batch_size=16, shuffle=True, blocks="stream", memory_bytes=least_memory(probe.plan, probe.row_bytes)
    )
    held, most, lock = [0], [0], threading.Lock()

    class Counted(dict):
        def __init__(self, block):
            super().__init__(block)
            with lock:
                held[0] += 1
                most[0] = max(most[0], held[0])

        def __del__(self):
            with lock:
                held[0] -= 1

    decode = StreamedBlocks.decode
    monkeypatch.setattr(StreamedBlocks, "decode", lambda self, *arguments: Counted(decode(self, *arguments)))

    for _ in reader.iter_batches():
        pass

    # One more than the lanes: a block lives on in the frame that was just gathering from it.
    assert reader.plan.lanes <= most[0] <= reader.plan.lanes + reader._budget.gatherers


def test_blocks_that_memory_cannot_keep_are_refused_with_what_would_do(tmp_path):
    fs = numbered(tmp_path, [1000] * 30)

    with pytest.raises(SpecError, match=r"blocks='memory' keeps \d+ bytes, memory_bytes=900000.*'stream' or 'disk'"):
        FileSetReader(fs, batch_size=16, shuffle=True, blocks="memory", memory_bytes=900_000)


def test_iterators_one_after_the_other_share_one_arena_and_two_at_once_do_not(tmp_path):
    reader = FileSetReader(numbered(tmp_path, [100] * 10), batch_size=16, shuffle=True, blocks="stream", streams=2)
    expected = [batch["id"].tolist() for batch in reader.iter_batches(1)]
    kept = reader._store._idle
    assert kept is not None

    one, other = reader.iter_batches(1), reader.iter_batches(1)
    pairs = [(first["id"].tolist(), second["id"].tolist()) for first, second in zip(one, other, strict=True)]

    assert pairs == [(batch, batch) for batch in expected]
    assert [batch["id"].tolist() for batch in reader.iter_batches(1)] == expected


def test_batches_do_not_change_when_their_arena_is_used_again(tmp_path):
    reader = FileSetReader(numbered(tmp_path, [100] * 10), batch_size=16, shuffle=True, blocks="stream", streams=2)
    batches = list(reader.iter_batches(0))
    copies = [batch["x"].copy() for batch in batches]

    for _ in reader.iter_batches(1):
        pass

    assert all(np.array_equal(batch["x"], copy) for batch, copy in zip(batches, copies, strict=True))
