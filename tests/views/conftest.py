"""A FileSet of uneven files, its parts, and another FileSet of the same columns."""

import pytest

from fileset_integrations import FileSet
from fileset_integrations.views import as_fileset
from tests.support.data import numbered
from tests.support.views import FILE_ROWS, SHARES


@pytest.fixture(scope="module")
def fs(tmp_path_factory) -> FileSet:
    return numbered(tmp_path_factory.mktemp("numbered"), FILE_ROWS)


@pytest.fixture(scope="module")
def parts(fs) -> dict[str, FileSet]:
    return fs.split(**SHARES, seed=5)


@pytest.fixture(scope="module")
def other(tmp_path_factory) -> FileSet:
    return numbered(tmp_path_factory.mktemp("other"), (2, 5))


@pytest.fixture(scope="module", params=["part", "concatenation"])
def view(request, parts, other) -> FileSet:
    return parts["train"] if request.param == "part" else as_fileset([other, parts["train"], parts["val"]])
