"""What tests of plain PyTorch read, and what they expect of it."""

import pytest

from fileset_integrations import FileSetReader
from tests.support.data import ids, numbered
from tests.support.torch_loading import FILE_ROWS, ORDER


@pytest.fixture(scope="session")
def fs(tmp_path_factory):
    return numbered(tmp_path_factory.mktemp("numbered"), FILE_ROWS)


@pytest.fixture(scope="session")
def expected(fs):
    """What the reader yields: expected(epoch) is a list of lists of ids."""
    reader = FileSetReader(fs, **ORDER)
    return lambda epoch: ids(reader.iter_batches(epoch))
