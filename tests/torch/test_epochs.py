"""Each iteration over a dataset is the next epoch, in whatever processes; and iterations stay apart."""

import copy
import gc
import itertools
import pickle
import tempfile
import threading

import numpy as np
import pytest
import torch

from fileset_integrations.errors import SpecError
from tests.support.data import ids
from tests.support.torch_loading import ORDER, WORKER_IDS, WORKERS, loader

# Three workers are more than a small machine has cores for.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


@pytest.mark.parametrize("options", WORKERS, ids=WORKER_IDS)
def test_each_new_iteration_is_the_next_epoch_though_the_one_before_was_broken_off(options, fs, expected):
    batches = loader(fs.to_torch_dataset(**ORDER), **options)

    broken_off = ids(itertools.islice(batches, 2))
    whole = ids(batches)
    again_broken_off = ids(itertools.islice(batches, 1))
    last = ids(batches)

    assert broken_off == expected(0)[:2]
    assert whole == expected(1)
    assert again_broken_off == expected(2)[:1]
    assert last == expected(3)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_two_iterators_at_once_are_two_whole_epochs(num_workers, fs, expected):
    batches = loader(fs.to_torch_dataset(**ORDER), num_workers=num_workers)

    left, right = zip(*zip(batches, batches, strict=True), strict=True)

    assert sorted([ids(left), ids(right)]) == sorted([expected(0), expected(1)])


def test_two_threads_at_once_read_two_whole_epochs(fs, expected):
    dataset = fs.to_torch_dataset(**ORDER)
    seen = []
    threads = [threading.Thread(target=lambda: seen.append(ids(dataset))) for _ in range(4)]

    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)

    assert sorted(seen) == sorted(expected(epoch) for epoch in range(4))


def test_loaders_of_one_dataset_count_its_epochs_together(fs, expected):
    dataset = fs.to_torch_dataset(**ORDER)

    epochs = [ids(loader(dataset, num_workers=workers)) for workers in (2, 0, 3)]

    assert epochs == [expected(0), expected(1), expected(2)]


@pytest.mark.parametrize("options", WORKERS, ids=WORKER_IDS)
def test_set_epoch_fixes_the_next_and_counts_on_from_there(options, fs, expected):
    dataset = fs.to_torch_dataset(**ORDER)
    batches = loader(dataset, **options)

    first = ids(batches)
    dataset.set_epoch(7)
    dataset.set_epoch(5)
    following = [ids(batches) for _ in range(2)]
    dataset.set_epoch(0)
    back = ids(batches)

    assert [first, *following, back] == [expected(0), expected(5), expected(6), expected(0)]


@pytest.mark.parametrize("epoch", [-1, 1.5, "1", True])
def test_an_epoch_that_is_no_number_from_0_on_is_refused(epoch, fs):
    with pytest.raises(SpecError, match="epoch"):
        fs.to_torch_dataset(**ORDER).set_epoch(epoch)


@pytest.mark.parametrize("num_workers", [0, 2])
def test_reseeding_torch_before_each_epoch_does_not_repeat_one(num_workers, fs, expected):
    # What names a set of workers is drawn from torch's global generator, so each set gets the same name here.
    batches = loader(fs.to_torch_dataset(**ORDER), num_workers=num_workers)

    epochs = []
    for _ in range(3):
        torch.manual_seed(0)
        epochs.append(ids(batches))

    assert epochs == [expected(0), expected(1), expected(2)]


def test_iterating_leaves_global_random_states_alone(fs):
    torch.manual_seed(1)
    np.random.seed(1)  # noqa: NPY002
    before = torch.get_rng_state(), np.random.get_state()[1].tolist()  # noqa: NPY002

    list(fs.to_torch_dataset(**ORDER))

    assert torch.equal(torch.get_rng_state(), before[0])
    assert np.random.get_state()[1].tolist() == before[1]  # noqa: NPY002


def test_the_counter_of_epochs_leaves_nothing_behind(fs, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    dataset = fs.to_torch_dataset(**ORDER)
    copies = pickle.loads(pickle.dumps(dataset)), copy.deepcopy(dataset)

    list(loader(dataset, num_workers=2))  # forked workers end here
    del copies
    gc.collect()
    kept = list(tmp_path.glob("fileset-*"))
    list(dataset)
    del dataset
    gc.collect()

    assert len(kept) == 1
    assert list(tmp_path.iterdir()) == []
