"""Files of a stage are fetched before training where that is asked for, and only those that the run reads."""

import pytest

from fileset_integrations.lightning import FileSetDataModule
from tests.support.fitting import ID_COLUMNS, Recorder, quiet_trainer
from tests.support.staged import staged_numbers


@pytest.fixture
def filesets(snowflake_server, stage, cache):
    return {name: staged_numbers(snowflake_server, [12] * 3, name) for name in ("train", "val", "test")}


def fetched(server, filesets):
    """The names of the FileSets whose files were fetched, with how many."""
    counts = {
        name: len([path for path in server.fetches() if fs.manifest.files["path"][0].as_py().split("/")[0] in path])
        for name, fs in filesets.items()
    }
    return {name: number for name, number in counts.items() if number}


def test_files_are_fetched_before_training_where_asked_to(filesets, snowflake_server):
    class Noting(Recorder):
        def on_train_batch_start(self, batch, batch_idx):
            at_first.append(fetched(snowflake_server, filesets))

    at_first = []
    dm = FileSetDataModule(**filesets, columns=ID_COLUMNS, batch_size=6, seed=4, pull=True)

    quiet_trainer().fit(Noting(), dm)
    after_the_first = dict(snowflake_server.fetches())
    quiet_trainer().fit(Noting(), dm)
    after_the_second = dict(snowflake_server.fetches())
    quiet_trainer().test(Noting(), dm, verbose=False)

    assert at_first[0] == {"train": 3, "val": 3}
    assert after_the_second == after_the_first  # they stay in the cache
    assert fetched(snowflake_server, filesets) == {"train": 3, "val": 3, "test": 3}


def test_columns_that_are_to_be_fitted_need_the_training_files_in_any_run(filesets, snowflake_server):
    dm = FileSetDataModule(**filesets, columns=ID_COLUMNS, batch_size=6, pull=True)

    quiet_trainer().test(Recorder(), dm, verbose=False)

    assert fetched(snowflake_server, filesets) == {"train": 3, "test": 3}
