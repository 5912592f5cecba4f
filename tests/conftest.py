"""Settings of every test run: environment and Hypothesis profiles."""

import logging
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

# The environment comes before anything that reads it: Keras takes its backend at import, the cache directory is read at
# first use, and the subprocesses of tests inherit all of it. Each xdist worker makes a cache directory of its own.
_CACHE_DIR = tempfile.mkdtemp(prefix="fileset-tests-")
os.environ["FILESET_CACHE_DIR"] = _CACHE_DIR
os.environ.setdefault("KERAS_BACKEND", "torch")
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
# The Snowflake connector would ask the network which cloud this is, at every login.
os.environ["SNOWFLAKE_DISABLE_PLATFORM_DETECTION"] = "true"
if not os.environ.get("FILESET_TEST_GPU"):
    os.environ["CUDA_VISIBLE_DEVICES"] = ""
    os.environ.setdefault("JAX_PLATFORMS", "cpu")

import pytest  # noqa: E402
from hypothesis import settings  # noqa: E402

from tests.support import SOAK, s3_server  # noqa: E402
from tests.support import snowflake_server as local_snowflake  # noqa: E402
from tests.support.leaks import LeakCheck  # noqa: E402

# "fast" draws the same examples each time: what fails in CI fails at the desk. "soak" looks for new ones.
settings.register_profile("fast", max_examples=60, deadline=None, derandomize=True)
settings.register_profile("soak", max_examples=2000, deadline=None, print_blob=True)
settings.load_profile("soak" if SOAK else "fast")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--connection-name", help="profile in connections.toml, for `-m live` against a real account")


def pytest_configure(config: pytest.Config) -> None:
    # Secrets of tests without a server hold the second of these words.
    config.pluginmanager.register(LeakCheck([local_snowflake.MARK, "hunter2"]), "leaks")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    # Files with slow tests first, since a file stays with a worker: none begins with one when the others are done.
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_unconfigure() -> None:
    shutil.rmtree(_CACHE_DIR, ignore_errors=True)


@pytest.fixture(scope="session")
def soak() -> bool:
    """Whether this is `make soak`. For a number, `tests.support.count` is shorter."""
    return SOAK


@pytest.fixture(scope="session")
def snowflake_process() -> Iterator[local_snowflake.Server]:
    """The local Snowflake of this test process."""
    with local_snowflake.start() as server:
        yield server


@pytest.fixture(scope="session")
def kept_snowflake_connection(snowflake_process: local_snowflake.Server) -> Iterator[Any]:
    """A genuine connection that is kept from test to test, since a login takes longer than most: not to be closed."""
    with closing(snowflake_process.connect()) as connection:
        yield connection
        snowflake_process.clear_faults()  # those of the last test would strike the logout


@pytest.fixture
def snowflake_server(snowflake_process: local_snowflake.Server) -> local_snowflake.Server:
    """The local Snowflake, with nothing in it but the empty schema DB1.S1, no faults and no logs."""
    snowflake_process.reset()
    return snowflake_process


@pytest.fixture
def snowflake_connection(snowflake_server: local_snowflake.Server) -> Iterator[Any]:
    """A genuine connection to `snowflake_server`, which stands in DB1.S1."""
    with closing(snowflake_server.connect()) as connection:
        yield connection


@pytest.fixture
def snowflake_profile(
    snowflake_server: local_snowflake.Server, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Name of a profile for `snowflake_server` in connections.toml."""
    from tests.support.staged import PROFILE

    home = tmp_path_factory.mktemp("snowflake-home")
    snowflake_server.write_profile(home, PROFILE)
    monkeypatch.setenv("SNOWFLAKE_HOME", str(home))
    return PROFILE


@pytest.fixture
def stage(snowflake_server: local_snowflake.Server, snowflake_profile: str, caplog: pytest.LogCaptureFixture) -> str:
    """A stage that is encrypted on the server, in `snowflake_server`, which `snowflake_profile` reaches.

    All logs are on, for the search for secrets. The connector's own below INFO hold the headers of its requests.
    """
    from tests.support.staged import make_stage

    caplog.set_level(logging.DEBUG)
    caplog.set_level(logging.INFO, logger="snowflake")
    return make_stage(snowflake_server)


@pytest.fixture(scope="module")
def documented_snowflake(
    snowflake_process: local_snowflake.Server, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, str]:
    """The environment in which `snowflake_process` is the account that the documents speak of."""
    from tests.support.documents import prepare

    return prepare(snowflake_process, tmp_path_factory.mktemp("snowflake-home"))


@pytest.fixture(scope="session")
def s3_process() -> Iterator[s3_server.Server]:
    """The local S3 of this test process."""
    with s3_server.start() as server:
        yield server


@pytest.fixture
def s3(s3_process: s3_server.Server, monkeypatch: pytest.MonkeyPatch) -> s3_server.Server:
    """The local S3, with nothing in it; the environment is such that drivers find it without being told."""
    s3_process.reset()
    for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN"):
        monkeypatch.delenv(name, raising=False)
    for name, value in s3_process.environment().items():
        monkeypatch.setenv(name, value)
    return s3_process


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache directory of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("FILESET_CACHE_DIR", str(folder))
    return folder
