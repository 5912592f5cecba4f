"""Each extra alone: what belongs to it works, and what does not says which extra to install."""

import os
import shutil
import subprocess
import sys
import venv
from pathlib import Path

import pytest

from tests.support import ROOT, SOAK
from tests.support.environments import closure, declared, linked

CHECKS = ROOT / "tests" / "support" / "extra_checks.py"
TOOLS = {"dev", "docs"}  # for whoever works on the package; `docs` is tried by pip only
ALONE = sorted(set(declared()) - TOOLS - {""})
# Keras needs a backend beside it. Those without torch and TensorFlow share an environment where time is short.
TOGETHER = [["keras", "jax"], ["keras", "tensorflow"], ["recipes", "sweep"]]
FEW = [["images", "jax", "snowflake", "sweep"], ["tensorflow"], ["recipes"]]
TRIED = [[one] for one in ALONE if one != "all"] + TOGETHER if SOAK else FEW
PROFILE = "extras"


@pytest.fixture
def environment(snowflake_server, tmp_path):
    """What the checks run in: a profile for the local Snowflake, and nothing of Python's that leads elsewhere."""
    from tests.support.staged import run

    snowflake_server.create("DB1", "S1")
    run(snowflake_server, "CREATE STAGE DB1.S1.ST ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')")
    snowflake_server.write_profile(tmp_path, PROFILE)
    theirs = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    return {**theirs, "SNOWFLAKE_HOME": str(tmp_path), "FILESET_TEST_PROFILE": PROFILE, "OMP_NUM_THREADS": "1"}


def check(python: Path, extras: list[str], environment: dict[str, str], folder: Path) -> None:
    """Run the checks in an environment; each differs from what it should do, or none."""
    command = [python, "-I", CHECKS, *extras]
    done = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout + done.stderr[-3000:]
    assert done.stdout.count("works") >= 2, done.stdout


# --- what is installed here, by links --------------------------------------------------------------------------------


def test_the_bare_package_works_and_says_which_extra_brings_what_it_lacks(environment, tmp_path):
    check(linked(tmp_path / "bare", []), [], environment, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("extras", TRIED, ids=",".join)
def test_an_extra_works_and_says_which_others_bring_what_it_lacks(extras, environment, tmp_path):
    absent = closure(extras)[1]
    if absent:
        pytest.skip(f"{', '.join(absent)}: not installed here; `make soak` installs each extra by pip")

    check(linked(tmp_path / "alone", extras), extras, environment, tmp_path)


def test_the_extra_all_brings_every_other_one():
    [everything] = declared()["all"]

    assert everything.extras == set(ALONE) - {"all"}


# --- the wheel, by pip -----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from a copy of the checkout."""
    folder = tmp_path_factory.mktemp("wheel")
    for part in ("fileset_integrations", "conf", "pyproject.toml", "setup.py", "README.md", "LICENSE"):
        source = ROOT / part
        copy = shutil.copytree if source.is_dir() else shutil.copy
        copy(source, folder / part)
    subprocess.run(
        [sys.executable, "-m", "build", "--quiet", "--wheel", "--no-isolation", "--outdir", folder / "dist", folder],
        check=True,
        timeout=300,
    )
    [built] = (folder / "dist").glob("*.whl")
    return built


@pytest.mark.checkout
@pytest.mark.slow
@pytest.mark.skipif(not SOAK, reason="installs gigabytes; `make soak` does")
@pytest.mark.parametrize("extras", [[], *([one] for one in [*ALONE, "docs"]), *TOGETHER], ids=",".join)
def test_an_extra_of_the_wheel_as_pip_installs_it_works(extras, wheel, environment, tmp_path):
    folder = tmp_path / "venv"
    venv.EnvBuilder(symlinks=True, with_pip=True).create(folder)
    pip = [folder / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-compile", "-c", ROOT / "constraints.txt"]
    wanted = [f"fileset-integrations[{','.join(extras)}] @ {wheel.as_uri()}"]
    if "torch" in closure(extras)[0]:  # alone and first, as in the Makefile
        subprocess.run([*pip, "torch"], check=True, timeout=1800)

    try:
        subprocess.run([*pip, *wanted], check=True, timeout=3600)

        subprocess.run([folder / "bin" / "fileset", "--version"], check=True, timeout=60)
        if extras == ["docs"]:
            shutil.copy(ROOT / "zensical.toml", tmp_path)
            shutil.copytree(ROOT / "docs", tmp_path / "docs")
            command = [folder / "bin" / "python", "-m", "zensical", "build", "--strict"]
            subprocess.run(command, cwd=tmp_path, check=True, timeout=300)
        check(folder / "bin" / "python", extras, environment, tmp_path)
    finally:
        shutil.rmtree(folder)  # some take gigabytes
