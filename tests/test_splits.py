"""Which rows of each file belong to which part. No file is opened here: row counts go in, masks come out."""

import itertools
import math
import pickle
from decimal import Decimal
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from fileset_integrations.errors import SpecError
from fileset_integrations.splits import PartRows, Split, shown
from tests.support import count

# Files as they come: none, empty ones, many of one row, and larger ones.
FILE_ROWS = st.lists(st.one_of(st.integers(0, 2), st.integers(0, 60)), max_size=12)
SEEDS = st.integers(0, 2**63 - 1)


@st.composite
def splits(draw, max_parts=5):
    """Shares of whole numbers of a whole, so that they sum to 1 exactly."""
    weights = draw(st.lists(st.integers(1, 9), min_size=1, max_size=max_parts))
    shares = {f"part_{place}": Fraction(weight, sum(weights)) for place, weight in enumerate(weights)}
    return Split.of(shares, draw(SEEDS))


def part_rows(split: Split, part: str, file_rows) -> PartRows:
    return PartRows(split, part, np.array(file_rows, np.int64))


def rows_of(split: Split, part: str, file_rows) -> list[tuple[int, int]]:
    """The part's rows as (file, row)."""
    selection = part_rows(split, part, file_rows)
    found = []
    for file, rows in enumerate(file_rows):
        mask = selection.mask(file)
        chosen = range(rows) if mask is None else np.flatnonzero(mask).tolist()
        assert len(chosen) == selection.rows[file], "the count is known before the mask is drawn"
        found += [(file, row) for row in chosen]
    return found


def names(split: Split) -> list[str]:
    return [name for name, _ in split.shares]


@given(file_rows=FILE_ROWS, split=splits())
def test_parts_are_disjoint_and_together_whole(file_rows, split):
    every_row = [(file, row) for file, rows in enumerate(file_rows) for row in range(rows)]

    dealt = [row for part in names(split) for row in rows_of(split, part, file_rows)]

    assert sorted(dealt) == every_row


@given(file_rows=FILE_ROWS, split=splits())
def test_a_cut_gives_each_file_the_rows_that_the_contract_says(file_rows, split):
    # floor(q * (c + n)) - floor(q * c) rows before the cut q, in a file of n rows with c before it.
    starts = np.cumsum([0, *file_rows]).tolist()
    cuts = [sum(share for _, share in split.shares[:place]) for place in range(len(split.shares) + 1)]
    before = [[math.floor(q * c) for c in starts] for q in cuts]
    between = np.diff(np.diff(before, axis=0), axis=1).tolist()  # of each part, in each file

    # The first part's rows are these in any case; and so are all, unless a part were to give rows back.
    found = [part_rows(split, part, file_rows).rows.tolist() for part in names(split)]

    assert found[0] == between[0]
    if min(itertools.chain([0], *between)) == 0:
        assert found == between


@given(file_rows=FILE_ROWS, seed=SEEDS, cut=st.fractions(0, 1).filter(lambda cut: 0 < cut < 1))
def test_any_fraction_will_do(file_rows, seed, cut):
    split = Split.of({"first": cut, "rest": 1 - cut}, seed)
    starts = np.cumsum([0, *file_rows]).tolist()
    expected = [math.floor(cut * (c + n)) - math.floor(cut * c) for c, n in zip(starts, file_rows, strict=False)]

    assert part_rows(split, "first", file_rows).rows.tolist() == expected
    rest = [n - taken for n, taken in zip(file_rows, expected, strict=True)]
    assert part_rows(split, "rest", file_rows).rows.tolist() == rest


@given(file_rows=FILE_ROWS, split=splits())
def test_every_part_is_spread_evenly_however_the_rows_lie_in_files(file_rows, split):
    # After any number of files, each part holds its share of the rows so far, but for its own rounding and that of
    # the parts before it.
    starts = np.cumsum([0, *file_rows])
    for place, (part, share) in enumerate(split.shares):
        so_far = np.cumsum([0, *part_rows(split, part, file_rows).rows])

        assert (abs(so_far - starts * float(share)) < 1 + place + 1e-9).all()


def test_one_row_files_with_cuts_that_would_cross_still_give_each_row_to_one_part():
    # floor(q * (c + n)) - floor(q * c) for q = 0.5 and 0.7 is 1 and 0 at the fourth row.
    split = Split.of({"a": 0.5, "b": 0.2, "c": 0.3}, 0)
    rows = np.array([part_rows(split, part, [1] * 10).rows for part in "abc"])

    assert (rows.sum(0) == 1).all()
    assert rows.sum(1).tolist() == [5, 2, 3]


def test_the_golden_split_is_what_it_was():
    # A change here changes every view's rows under the same snapshot_id: never mend this test, mend the arithmetic.
    split = Split.of({"train": 0.6, "val": 0.2, "test": 0.2}, 7)

    dealt = {part: rows_of(split, part, (7, 1, 0, 9, 6)) for part in names(split)}

    train = {0: [0, 1, 3, 6], 3: [0, 1, 3, 4, 5, 6], 4: [0, 2, 3]}
    val = {0: [2], 1: [0], 3: [7], 4: [4, 5]}
    test = {0: [4, 5], 3: [2, 8], 4: [1]}
    golden = {"train": train, "val": val, "test": test}
    assert dealt == {part: [(file, row) for file in of for row in of[file]] for part, of in golden.items()}


def test_files_and_seeds_have_permutations_of_their_own():
    masks = [
        part_rows(Split.of({"a": 0.5, "b": 0.5}, seed), "a", [400, 400]).mask(file)
        for seed in (0, 1)
        for file in (0, 1)
    ]

    for place, one in enumerate(masks):
        for other in masks[place + 1 :]:
            assert 0.4 < (one == other).mean() < 0.6


def test_a_larger_share_holds_the_rows_of_a_smaller_one():
    few, many = (
        set(rows_of(Split.of({"train": share, "val": 1 - Fraction(share)}, 3), "train", [50, 1, 30]))
        for share in ("0.3", "0.7")
    )

    assert few < many


@pytest.mark.parametrize(
    "shares", [(0.1,) * 10, ("1/3",) * 3, (Fraction(1, 7), Fraction(6, 7)), (Decimal("0.05"), 0.95)]
)
def test_shares_are_exact(shares):
    split = Split.of({f"p{place}": share for place, share in enumerate(shares)}, 0)

    assert sum(share for _, share in split.shares) == 1
    assert sum(part_rows(split, name, [1000, 9]).rows.sum() for name in names(split)) == 1009


def test_a_float_of_numpy_is_the_decimal_that_it_prints():
    shares = {"a": np.float32(0.8), "b": np.float64(0.2)}

    assert Split.of(shares, 0) == Split.of({"a": "0.8", "b": "0.2"}, 0)


def test_products_beyond_64_bits_are_exact():
    share = Fraction(10**15 - 1, 3 * 10**15)  # times 3 * 10**12 rows: more than 2**63
    file_rows = [10**12, 1, 2 * 10**12]
    split = Split.of({"a": share, "b": 1 - share}, 0)
    starts = [0, 10**12, 10**12 + 1, 3 * 10**12 + 1]

    rows = part_rows(split, "a", file_rows).rows

    assert rows.tolist() == [math.floor(share * b) - math.floor(share * a) for a, b in itertools.pairwise(starts)]


@pytest.mark.parametrize(
    ("shares", "message"),
    [
        ({}, "names no part"),
        ({"train": 0.8, "val": 0.1}, r"train=0\.8, val=0\.1 sum to 0\.9, not to 1"),
        ({"train": 1 / 3, "val": 2 / 3}, r"sum to .*fractions\.Fraction\(1, 3\)"),
        ({"train": 1.2, "val": -0.2}, r"val=.*-0\.2.*above 0"),
        ({"train": 1, "val": 0}, r"val=0: .*above 0"),
        ({"train": "most", "val": 0.1}, r"train='most'"),
        ({"train": float("nan"), "val": 0.1}, r"train='nan'"),
        ({"train": None, "val": 1}, r"train=None"),
        ({"train": True}, r"train=True"),
        ({"train": [0.8], "val": 0.2}, r"train=\[0\.8\]"),
        ({"train": "1/0"}, r"train='1/0'"),
    ],
)
def test_shares_that_cannot_be_are_refused(shares, message):
    with pytest.raises(SpecError, match=message):
        Split.of(shares, 0)


@pytest.mark.parametrize(
    ("seed", "message"), [(-1, "outside"), (2**63, "outside"), (0.5, "seed=0.5"), ("1", "seed='1'")]
)
def test_seeds_that_cannot_be_are_refused(seed, message):
    with pytest.raises(SpecError, match=message):
        Split.of({"train": 1}, seed)


def test_shares_are_shown_as_they_are_written():
    assert [shown(Fraction(text)) for text in ("0.8", "1/3", "1e-7", "1")] == ["0.8", "1/3", "1e-07", "1.0"]
    assert str(Split.of({"train": 0.75, "val": "1/4"}, 5)) == "train=0.75, val=0.25, seed=5"
    assert str(Split.of({"train": "2/3", "val": "1/3"}, 5)) == "train='2/3', val='1/3', seed=5"


# --- masks -----------------------------------------------------------------------------------------------------------


def test_a_part_of_a_million_files_is_known_without_a_mask():
    file_rows = np.full(count(100_000, 1_000_000), 1_000, np.int64)

    selection = PartRows(Split.of({"train": 0.8, "val": 0.2}, 0), "val", file_rows)

    assert selection.rows.sum() == 200 * len(file_rows)
    assert not selection._drawn


def test_masks_are_kept_as_bits_within_a_bound(monkeypatch):
    monkeypatch.setattr("fileset_integrations.splits._KEPT_MASK_BYTES", 250)
    selection = part_rows(Split.of({"a": 0.5, "b": 0.5}, 0), "a", [800] * 10)  # 100 bytes each

    first = [selection.mask(file) for file in range(10)]
    again = [selection.mask(file) for file in range(10)]

    assert sum(bits.nbytes for bits in selection._drawn.values()) <= 250
    assert all((one == other).all() for one, other in zip(first, again, strict=True))


def test_a_mask_is_drawn_once_while_it_is_kept(monkeypatch):
    selection = part_rows(Split.of({"a": 0.5, "b": 0.5}, 0), "a", [100])
    first = selection.mask(0)
    monkeypatch.setattr("fileset_integrations.splits.split_generator", None)

    assert (selection.mask(0) == first).all() and selection.mask(0).dtype == np.bool_


def test_a_part_travels_between_processes_without_its_masks():
    selection = part_rows(Split.of({"a": 0.5, "b": 0.5}, 0), "a", [100_000])
    mask = selection.mask(0)

    sent = pickle.dumps(selection)

    assert len(sent) < 1_000
    assert (pickle.loads(sent).mask(0) == mask).all()
