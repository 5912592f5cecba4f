"""How long training waits: sums, shares and words, by a clock that the tests set."""

import pickle
import threading

import pytest

from fileset_integrations.counters import ReaderStats
from fileset_integrations.waiting import NextClock, ThreadClock, Wait, WaitMeter, Watch, Watched, in_words, together


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


class Source:
    """A loader that is told what to tell."""

    def __init__(self, waited_s=None, rows=None, stats=None):
        self.waited_s, self.rows, self.stats = waited_s, rows, stats

    def watch(self):
        return Watch(self.waited_s, self.rows, self.stats)


def step(meter, clock, gap, work, rows=4):
    clock.now += gap
    meter.ready()
    clock.now += work
    meter.done(rows)


def test_the_gap_before_a_step_is_what_was_waited():
    clock = Clock()
    meter = WaitMeter(clock=clock)

    step(meter, clock, gap=0.5, work=1.5)
    step(meter, clock, gap=0.25, work=1.75)
    clock.now += 99  # after the last step nothing counts: validation, checkpoints

    wait = meter.total()
    assert wait == Wait(steps=2, rows=8, seconds=4.0, waited_s=0.75, stats=None)
    assert (wait.share, wait.rows_per_s) == (0.1875, 2.0)


def test_validation_between_steps_is_neither_waited_nor_trained():
    clock = Clock()
    meter = WaitMeter(clock=clock)
    meter.resume()  # of what was never paused

    step(meter, clock, gap=0.5, work=1.5)
    clock.now += 0.125
    meter.pause()
    clock.now += 1000
    meter.resume()
    step(meter, clock, gap=0.125, work=1.75)

    assert meter.total() == Wait(2, 8, 4.0, 0.75, None)


def test_a_loader_that_times_itself_is_believed_and_its_earlier_epochs_left_out():
    clock, source = Clock(), Source(7.0, 1000, ReaderStats(file_bytes=50, blocks_decoded=2))
    meter = WaitMeter([source], clock=clock)

    step(meter, clock, gap=0.5, work=1.5)
    source.waited_s, source.rows, source.stats = 7.125, 1006, ReaderStats(80, 0, 3, 1)

    assert meter.total() == Wait(1, 6, 2.0, 0.125, ReaderStats(file_bytes=30, blocks_decoded=1, memory_hits=1))


def test_several_loaders_add_up_and_one_that_does_not_know_leaves_the_gap():
    clock = Clock()
    one, other = Source(1.0, 3, ReaderStats(1)), Source(2.0, 5, ReaderStats(2))
    both = WaitMeter([one, other], clock=clock)
    half = WaitMeter([one, Source()], clock=clock)
    one.waited_s, other.waited_s, one.rows, one.stats = 1.25, 2.5, 10, ReaderStats(5)

    for meter in (both, half):
        meter._mark = clock.now
        step(meter, clock, gap=0.5, work=0.5)

    assert both.total() == Wait(1, 7, 1.0, 0.75, ReaderStats(4))
    assert half.total() == Wait(1, 4, 1.0, 0.5, None)


def test_where_a_gap_says_nothing_nothing_is_said():
    clock = Clock()
    meter = WaitMeter(gaps=False, clock=clock)

    step(meter, clock, gap=0.5, work=0.5, rows=None)

    wait = meter.total()
    assert (wait.waited_s, wait.share, wait.rows, wait.rows_per_s) == (None, None, None, None)
    assert wait.numbers() == {}


def test_laps_are_what_lies_between_and_the_total_is_their_sum():
    clock, source = Clock(), Source(0.0, 0, ReaderStats())
    meter = WaitMeter([source], clock=clock)
    laps = []
    for steps in (1, 2, 3):
        for _ in range(steps):
            source.waited_s += 0.25
            source.rows += 2
            source.stats += ReaderStats(disk_hits=1)
            step(meter, clock, gap=0.25, work=0.75)
        laps.append(meter.lap())

    assert [(lap.steps, lap.rows, lap.waited_s, lap.seconds, lap.stats.cache_hits) for lap in laps] == [
        (1, 2, 0.25, 1.0, 1),
        (2, 4, 0.5, 2.0, 2),
        (3, 6, 0.75, 3.0, 3),
    ]
    assert meter.total() == Wait(6, 12, 6.0, 1.5, ReaderStats(disk_hits=6))


def test_numbers_are_named_and_plain():
    wait = Wait(2, 8, 4.0, 1.0, ReaderStats(100, 3, 2, 5, 6, 1, 70))

    assert wait.numbers("data/", "_epoch") == {
        "data/wait_s_epoch": 1.0,
        "data/wait_share_epoch": 0.25,
        "data/rows_per_s_epoch": 2.0,
        "data/bytes_read_epoch": 100.0,
        "data/bytes_fetched_epoch": 70.0,
        "data/cache_hits_epoch": 11.0,
        "data/cache_misses_epoch": 2.0,
    }
    assert all(type(value) is float for value in wait.numbers().values())
    assert Wait().share is None and Wait(waited_s=0.0).share == 0.0 and Wait(rows=0).rows_per_s is None


def test_ranks_together_wait_as_long_as_the_one_that_waits_most():
    ranks = [Wait(5, 50, 4.0, 0.5, ReaderStats(1)), Wait(5, 49, 4.5, 2.25, ReaderStats(2))]

    assert together(ranks) == Wait(5, 99, 4.5, 2.25, ReaderStats(3))
    assert together([*ranks, Wait(5, None, 4.0, None, None)]) == Wait(5, None, 4.5, None, None)


@pytest.mark.parametrize(
    ("waited_s", "words"),
    [
        (0.0, "waited 0.00 s for data (0.0%): data is not the bottleneck."),
        (0.49, "waited 0.49 s for data (4.9%): data is not the bottleneck."),
        (2.0, "waited 2.00 s for data (20.0%): data costs time, without waiting it were 1.2 times as fast."),
        (7.5, "waited 7.50 s for data (75.0%): data is the bottleneck, without waiting it were 4.0 times as fast."),
        (10.0, "data is the bottleneck, without waiting it were 1000.0 times as fast."),
    ],
)
def test_words_say_whether_data_is_the_bottleneck(waited_s, words):
    said = in_words(3, [Wait(1000, 50_000, 10.0, waited_s, ReaderStats(memory_hits=7))])

    assert said.startswith("Epoch 3: 1,000 steps in 10.00 s, 5,000 rows/s; ")
    assert words in said
    assert said.endswith(" 0 blocks decoded (0.0 KiB read), 7 from caches.")


def test_words_name_the_rank_that_waits_most():
    ranks = [Wait(9, 9, 10.0, 0.1, ReaderStats()), Wait(9, 9, 10.0, 3.0, ReaderStats())]

    assert "on 2 ranks" in in_words(0, ranks) and "That is rank 1, which waited most." in in_words(0, ranks)
    assert "rank 0" not in in_words(0, [ranks[0]] * 2)


def test_words_say_what_would_help_and_what_is_not_known():
    slow = Wait(9, 9, 10.0, 3.0, ReaderStats(3 * 2**20, 4, 4, files_fetched=2, fetched_bytes=5 * 2**20))

    assert (
        "4 blocks decoded (3.0 MiB read), 0 from caches; 2 files fetched (5.0 MiB); with blocks='memory'"
        in in_words(1, [slow])
    )
    assert "blocks=" not in in_words(1, [slow], first=True)  # everything must be read once
    unknown = in_words(0, [Wait(9, None, 10.0)], unseen="nobody knows")
    assert unknown == "Epoch 0: 9 steps in 10.00 s; nobody knows. What other processes read for it is not counted here."


def test_a_clock_of_nexts_hands_items_on_and_lets_go_of_what_it_reads():
    clock, closed = NextClock(), []

    def items():
        try:
            yield from range(3)
        finally:
            closed.append(True)

    assert list(clock.over(items())) == [0, 1, 2] and closed == [True]
    rest = clock.over(items())
    assert next(rest) == 0
    rest.close()
    assert closed == [True, True] and clock.seconds > 0

    def fails():
        yield 0
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        list(clock.over(fails()))


def test_a_clock_of_threads_keeps_them_apart_and_begins_anew_elsewhere():
    clock = ThreadClock()

    def work():
        with clock:
            pass

    other = threading.Thread(target=work)
    other.start()
    other.join()

    assert clock.here() == 0.0 < clock.everywhere()
    work()
    assert 0.0 < clock.here() < clock.everywhere()
    assert pickle.loads(pickle.dumps(clock)).everywhere() == 0.0


def test_loaders_can_be_told_apart():
    assert isinstance(Source(), Watched) and not isinstance([], Watched)
