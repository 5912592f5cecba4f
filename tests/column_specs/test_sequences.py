"""Lists and texts: padded and cut to one length, with what says which elements are there."""

import datetime as dt
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from fileset_integrations import Columns, FileSetReader
from fileset_integrations.columns import Ragged, Tokens
from fileset_integrations.errors import ColumnError, NullValueError
from tests.support.columns import CHARACTERS, fitted_rows
from tests.support.data import fileset_of

LISTS = [[1, 2, 3], [], None, [4]]
LIST_TYPES = [pa.list_(pa.int16()), pa.large_list(pa.int16()), pa.list_view(pa.int16()), pa.large_list_view(pa.int16())]


@pytest.mark.parametrize("type_", LIST_TYPES, ids=str)
def test_lists_of_unequal_lengths_are_padded_and_cut(type_):
    column = pa.chunked_array([pa.array([[9], *LISTS[:2]], type_)[1:], pa.array(LISTS[2:], type_)])

    found = fitted_rows(Ragged("a", 2), column, nulls=0)
    assert {name: (value.dtype.name, value.tolist()) for name, value in found.items()} == {
        "x": ("int16", [[1, 2], [0, 0], [0, 0], [4, 0]]),
        "x_lengths": ("int64", [2, 0, 0, 1]),
    }
    masked = fitted_rows(Ragged("a", 2, truncate="left", padding=-1, beside="mask", dtype="float32"), column, nulls=0)
    assert {name: (value.dtype.name, value.tolist()) for name, value in masked.items()} == {
        "x": ("float32", [[2, 3], [-1, -1], [-1, -1], [4, -1]]),
        "x_mask": ("bool", [[True, True], [False, False], [False, False], [True, False]]),
    }


def test_nulls_of_lists_and_in_lists_follow_the_policy(tmp_path):
    values = [[1, None], None, [], [2]]
    fs = fileset_of(tmp_path, pa.table({"a": pa.array(values, pa.list_(pa.int64()))}))

    def read(nulls):
        batches = list(FileSetReader(fs, columns=Columns({"x": Ragged("a", 2)}, nulls=nulls), batch_size=1))
        return {name: np.concatenate([batch[name] for batch in batches]).tolist() for name in batches[0]}

    assert read("drop") == {"x": [[0, 0], [2, 0]], "x_lengths": [0, 1]}
    assert read({"a": 7}) == {"x": [[1, 7], [0, 0], [0, 0], [2, 0]], "x_lengths": [2, 0, 0, 1]}
    assert read("mask") == {
        "x": [[1, 0], [0, 0], [0, 0], [2, 0]],
        "x_lengths": [2, 0, 0, 1],
        "x_mask": [[True, False], [False, False], [False, False], [True, False]],
    }
    with pytest.raises(NullValueError, match=r"'a' .*2 nulls in 4 rows"):
        read("error")
    no_nulls = fileset_of(tmp_path / "empty", pa.table({"a": [[1], []]}))
    assert len(FileSetReader(no_nulls, columns=Columns({"x": Ragged("a", 2)}), batch_size=1)) == 2


@pytest.mark.parametrize(
    ("leaf", "values", "expected"),
    [
        (pa.bool_(), [True, False], [True, False, False]),
        (pa.float16(), [np.float16(1.5)], [1.5, 0, 0]),
        (pa.decimal128(9, 2), [Decimal("1.25")], [1.25, 0, 0]),
        (pa.date32(), [dt.date(1970, 1, 3)], [2, 0, 0]),
        (pa.uint64(), [2**64 - 1], [2**64 - 1, 0, 0]),
    ],
    ids=str,
)
def test_lists_of_every_kind_of_number_are_padded(leaf, values, expected):
    assert fitted_rows(Ragged("a", 3), [values], pa.list_(leaf))["x"].tolist() == [expected]


def test_text_becomes_the_tokens_of_a_function_found_by_its_path():
    texts = ["ab", "", "\U0001f642c", None]
    spec = Tokens("a", 3, tokenizer=CHARACTERS, truncate="left", beside="lengths")

    found = fitted_rows(spec, texts, nulls={"a": "zzzz"})
    assert found["x"].tolist() == [[97, 98, 0], [0, 0, 0], [0x1F642, 99, 0], [122, 122, 122]]
    assert found["x_lengths"].tolist() == [2, 0, 2, 3]
    coded = fitted_rows(spec, pa.array(texts).dictionary_encode(), nulls={"a": "zzzz"})
    assert coded["x"].tolist() == found["x"].tolist()
    masked = fitted_rows(Tokens("a", 2, tokenizer=CHARACTERS), texts, nulls="mask")
    assert masked["x_mask"].tolist() == [[True, True], [False, False], [True, True], [False, False]]


def test_a_tokenizer_that_returns_something_else_is_refused():
    for name, said in (("one_too_few", "given 2 texts and returned 1 lists"), ("of_floats", "list of integers")):
        with pytest.raises(ColumnError, match=said):
            fitted_rows(Tokens("a", 3, tokenizer=f"tests.support.tokenizers:{name}"), ["a", "b"])


def test_lists_of_tokens_are_checked_against_the_size_of_their_vocabulary():
    fitted = fitted_rows(Tokens("a", 2, vocabulary_size=5), [[4, 0], [1]])

    assert (fitted["x"].tolist(), fitted["x_mask"].tolist()) == ([[4, 0], [1, 0]], [[True, True], [True, False]])
    for values in ([[5]], [[-1]]):
        with pytest.raises(ColumnError, match=r"'a', vocabulary_size=5.*outside \[0, 5\)"):
            fitted_rows(Tokens("a", 2, vocabulary_size=5), values)
