"""Files that fail, and readers in other processes."""

import itertools
import multiprocessing
import pickle

import pyarrow.parquet as pq
import pytest

from fileset_integrations import FileSetReader
from fileset_integrations.errors import FileSetCorruptError
from tests.support.data import add_noise, flat, ids, numbered, numbered_tables

FILE_ROWS = [7, 0, 1, 12, 30, 5]


@pytest.fixture(scope="module")
def fs(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("numbered"), FILE_ROWS)


# --- files that fail -------------------------------------------------------------------------------------------------

FAILURES = {
    "vanished": lambda path: path.unlink(),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[:-10]),
    "replaced by fewer rows": lambda path: pq.write_table(numbered_tables([5])[0], path),
    "replaced by more rows": lambda path: pq.write_table(numbered_tables([50])[0], path),
    "of another type": lambda path: pq.write_table(numbered_tables([20])[0].set_column(0, "id", [[1.5] * 20]), path),
}


@pytest.mark.parametrize("failure", FAILURES)
@pytest.mark.parametrize("shuffle", [False, True])
@pytest.mark.parametrize("blocks", ["stream", "memory", "disk"])
def test_a_file_that_fails_is_named_at_the_batch_that_needs_it(tmp_path, failure, shuffle, blocks):
    fs = numbered(tmp_path, [20] * 6)
    options = {"batch_size": 4, "shuffle": shuffle, "streams": 1, "blocks": blocks, "cache_dir": tmp_path / "cache"}
    expected = ids(FileSetReader(fs, **{**options, "blocks": "stream"}))
    reader = FileSetReader(fs, **options)
    needing = [index for index in range(len(reader)) if (reader.rows(index)[:, 0] == 3).any()]
    FAILURES[failure](tmp_path / "data_3.parquet")

    iterator = reader.iter_batches()
    delivered = ids(itertools.islice(iterator, needing[0]))

    assert delivered == expected[: needing[0]]
    for _ in range(2):
        with pytest.raises(FileSetCorruptError, match=r"data_3\.parquet"):
            next(iterator)
    assert iterator.state_dict()["batches"] == needing[0]
    with pytest.raises(FileSetCorruptError, match=r"data_3\.parquet"):
        reader.batch(needing[0])
    rest = ids(FileSetReader(fs, **options).iter_batches(start=needing[-1] + 1))
    assert rest == expected[needing[-1] + 1 :]


@pytest.mark.parametrize("blocks", ["stream", "memory", "disk"])
def test_a_file_that_vanishes_mid_epoch_is_named_at_the_batch_that_needs_it(tmp_path, blocks):
    fs = numbered(tmp_path, [400] * 12)  # many more batches than are gathered ahead
    options = {"batch_size": 4, "shuffle": True, "streams": 2, "blocks": blocks, "cache_dir": tmp_path / "cache"}
    reader = FileSetReader(fs, **options)
    used = [set(reader.rows(index)[:, 0].tolist()) for index in range(len(reader))]
    last = (used[-1] - set.union(*used[: len(used) // 2])).pop()  # far from what is read ahead at the start
    first = next(index for index, files in enumerate(used) if last in files)
    expected = ids(FileSetReader(fs, **{**options, "blocks": "stream"}))

    iterator = reader.iter_batches()
    delivered = ids(itertools.islice(iterator, 2))
    (tmp_path / f"data_{last}.parquet").unlink()
    delivered += ids(itertools.islice(iterator, first - 2))

    assert delivered == expected[:first]
    with pytest.raises(FileSetCorruptError, match=rf"data_{last}\.parquet"):
        next(iterator)


def test_a_file_that_is_mended_is_read_by_the_next_iterator(tmp_path):
    fs = numbered(tmp_path, [20] * 3)
    reader = FileSetReader(fs, batch_size=4, blocks="memory")
    path = tmp_path / "data_1.parquet"
    data = path.read_bytes()
    path.write_bytes(b"")
    with pytest.raises(FileSetCorruptError):
        list(reader)

    path.write_bytes(data)

    assert flat(ids(reader)) == list(range(60))


# --- processes -------------------------------------------------------------------------------------------------------


def _ids_of(reader, results):
    results.put((ids(reader.iter_batches(1)), ids([reader.batch(2, 1)])))


@pytest.mark.parametrize(("method", "blocks"), [("spawn", "disk"), ("fork", "stream"), ("fork", "memory")])
def test_a_reader_works_in_other_processes(fs, method, blocks):
    reader = FileSetReader(fs, batch_size=4, shuffle=True, blocks=blocks, transform=add_noise)
    expected = ids(reader.iter_batches(1))
    iterator = reader.iter_batches()
    next(iterator)  # with threads of the parent under way
    context = multiprocessing.get_context(method)
    results = context.SimpleQueue()

    process = context.Process(target=_ids_of, args=(reader, results))
    process.start()
    found = results.get()
    process.join()

    assert found == (expected, expected[2:3])


def test_a_reader_pickles_without_its_blocks(tmp_path):
    fs = numbered(tmp_path, [50_000])
    reader = FileSetReader(fs, batch_size=4, shuffle=True, blocks="memory")
    expected = ids([reader.batch(1)])

    data = pickle.dumps(reader)

    assert len(data) < 20_000
    assert ids([pickle.loads(data).batch(1)]) == expected
