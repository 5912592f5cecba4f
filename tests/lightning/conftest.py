"""What tests of Lightning train on, and what they expect of it."""

import pytest

from fileset_integrations import FileSetReader
from fileset_integrations.lightning import FileSetDataModule
from tests.support.data import ids, numbered
from tests.support.fitting import BATCH, FILE_ROWS, ID_COLUMNS, SEED, VAL_FILE_ROWS


@pytest.fixture(scope="session")
def train(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("train"), FILE_ROWS)


@pytest.fixture(scope="session")
def val(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("val"), VAL_FILE_ROWS)


@pytest.fixture(scope="session")
def expected(train):
    """The reader's training batches: expected(epoch) is a list of lists of ids."""
    reader = FileSetReader(train, batch_size=BATCH, shuffle=True, seed=SEED)
    return lambda epoch: ids(reader.iter_batches(epoch))


@pytest.fixture
def datamodule(train, val):
    """Makes a data module of `train` and `val`; options go before what it gives."""

    def make(**options):
        given = {"train": train, "val": val, "columns": ID_COLUMNS, "batch_size": BATCH, "seed": SEED}
        return FileSetDataModule(**given | options)

    return make
