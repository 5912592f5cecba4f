"""Where Keras keeps what its workers read ahead: looked for inside it, tried, and done without where it is gone."""

import importlib

import pytest

pytest.importorskip("keras", reason="keras is optional")

import keras

from fileset_integrations import Columns
from fileset_integrations.keras import FileSetPyDataset, ahead
from tests.support import ROOT
from tests.support.data import numbered

COLUMNS = Columns({"x": ["id", "y"]}, label="y")


@pytest.fixture
def afresh():
    """What is known of the installed Keras is found out again, now and after the test."""
    ahead.lacking.cache_clear()
    yield
    ahead.lacking.cache_clear()


def test_this_keras_has_all_that_is_looked_for_inside_it(afresh):
    """Versions 3.8 to 3.15 have. Should another one lack it: `ahead` says what is needed, and why."""
    assert ahead.lacking() == "", f"Keras {keras.__version__}; tried were {ahead.TRIED}"


def test_the_oldest_version_that_was_tried_is_the_oldest_that_may_be_installed():
    assert f'"keras>={ahead.TRIED.split()[0]},<4"' in (ROOT / "pyproject.toml").read_text()


def without_its_module(monkeypatch):
    monkeypatch.setattr(ahead, "_ADAPTERS", "keras.src.elsewhere")


def with_an_adapter_that_is_not_found(monkeypatch):
    def another_name(self):
        self.py_dataset.on_epoch_end()

    adapters = importlib.import_module(ahead._ADAPTERS)
    monkeypatch.setattr(adapters.PyDatasetAdapter, "on_epoch_end", another_name)


def with_threads_of_another_kind(monkeypatch):
    adapters = importlib.import_module(ahead._ADAPTERS)
    monkeypatch.delattr(adapters.OrderedEnqueuer, "_run")
    monkeypatch.delattr(adapters.PyDatasetEnqueuer, "_run")


@pytest.mark.parametrize(
    ("another_keras", "message"),
    [
        (without_its_module, "No module named 'keras.src.elsewhere'"),
        (with_an_adapter_that_is_not_found, "the queues of its adapter"),
        (with_threads_of_another_kind, "has no attribute '_run'"),
    ],
)
@pytest.mark.parametrize("options", [{"workers": 3}, {"workers": 1, "use_multiprocessing": True}])
def test_where_it_is_gone_batches_are_made_in_the_training_and_a_warning_says_so(
    another_keras, message, options, afresh, monkeypatch, tmp_path
):
    fs = numbered(tmp_path, (7, 0, 1, 12, 9))
    another_keras(monkeypatch)

    with pytest.warns(UserWarning, match=rf"Keras {keras.__version__} .*3\.8 to .*{message}.*Pass that"):
        ds = FileSetPyDataset(fs, columns=COLUMNS, batch_size=4, shuffle=True, **options)

    assert (ds.workers, ds.use_multiprocessing) == (1, False)


def test_nobody_is_warned_who_reads_nothing_ahead(afresh, monkeypatch, tmp_path, recwarn):
    fs = numbered(tmp_path, (7, 0, 1, 12, 9))
    without_its_module(monkeypatch)

    for workers in (0, 1):
        FileSetPyDataset(fs, columns=COLUMNS, batch_size=4, workers=workers)

    assert not [one for one in recwarn if "Keras" in str(one.message)]
