"""The search of the whole suite for secrets: that it finds them, wherever they come out."""

import re

import pytest

from tests.support import ROOT

pytest_plugins = ["pytester"]

# In two pieces, so that the tests of the tests may be shown.
CONFTEST = """
import sys
sys.path.insert(0, {root!r})
from tests.support.leaks import LeakCheck

def pytest_configure(config):
    config.pluginmanager.register(LeakCheck(["ses" + "ame"]))
"""
LEAKS = """
import logging, sys, zipfile
import pytest
from fileset_integrations.errors import FileSetCorruptError, FileSetError, SnowflakeError

SECRET = "open-ses" + "ame-7"

def test_printed(): print("the url is", SECRET)
def test_printed_to_stderr(): print(SECRET, file=sys.stderr)
def test_logged(): logging.getLogger("any.where").warning("connecting with %s", SECRET)
def test_logged_with_an_error():
    try:
        raise ValueError(SECRET)
    except ValueError:
        logging.getLogger("any").exception("failed")
def test_in_an_error_that_is_caught():
    with pytest.raises(FileSetError):
        raise FileSetCorruptError(f"{SECRET}: cannot be read")
def test_in_an_error_of_snowflakes():
    with pytest.raises(SnowflakeError, match="no"):
        raise SnowflakeError("no " + SECRET, 1)
def test_in_a_note():
    FileSetError("x").add_note(SECRET)
def test_in_an_assertion(): assert SECRET == ""
def test_in_a_config(tmp_path):
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text("password: " + SECRET)
def test_in_a_checkpoint(tmp_path):
    with zipfile.ZipFile(tmp_path / "last.ckpt", "w") as file:
        file.writestr("data.pkl", SECRET)
def test_at_the_end_of_a_large_file(tmp_path):
    (tmp_path / "big").write_bytes(bytes(9_000_000) + SECRET.encode())

@pytest.fixture
def leaking_fixture():
    yield
    print(SECRET)
def test_when_it_is_torn_down(leaking_fixture): pass
"""
SILENT = """
import logging
import pytest
from fileset_integrations.errors import FileSetCorruptError, FileSetNotFoundError, SnowflakeError

SECRET = "open-ses" + "ame-7"

def test_used(tmp_path):
    print("open ses", "ame")
    logging.getLogger().warning("fine")
    (tmp_path / "connections.toml").write_text("password = " + SECRET)
    (tmp_path / "link").symlink_to(tmp_path / "connections.toml")
    with pytest.raises(OSError) as caught:
        raise FileSetCorruptError("a file is torn")
    assert (str(caught.value), caught.value.args) == ("a file is torn", ("a file is torn",))
    with pytest.raises(FileNotFoundError, match="gone"):
        raise FileSetNotFoundError("gone")
    assert SnowflakeError("said", 2003).errno == 2003
"""


def test_a_secret_fails_the_test_in_which_it_comes_out_and_no_other(pytester: pytest.Pytester) -> None:
    pytester.makeconftest(CONFTEST.format(root=str(ROOT)))
    pytester.makepyfile(test_leaks=LEAKS, test_silent=SILENT)

    done = pytester.runpytest_subprocess("-p", "no:xdist", "-p", "no:randomly", "-rA", "--tb=short")

    leaks = re.findall(r"^def (test_\w+)", LEAKS, re.MULTILINE)
    said = [line for line in done.outlines if "A secret came out" in line or line.startswith(("FAILED", "ERROR"))]
    told = {name for name in leaks if any(f"::{name}" in line for line in said)}
    assert told == set(leaks)
    done.assert_outcomes(passed=2, failed=len(leaks) - 1, errors=1)  # the body of the last one passes
    assert sum("A secret came out" in line for line in done.outlines) >= len(leaks)
