"""Every command that the documents name beside their blocks: it runs as it is written, on little data.

What installs, needs an account, other machines or hours is read by whatever would run it, as far as that goes without
doing it.
"""

import contextlib
import os
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path
from unittest import mock

import pytest
from typer.testing import CliRunner

from fileset_integrations import cli
from fileset_integrations.fileset import FileSet
from tests.support import ROOT
from tests.support.app import fileset_train
from tests.support.commands import commands
from tests.support.environments import declared

COMMANDS = [command.text for command in commands()]
# These have a test of their own, which looks closer.
ELSEWHERE = {"fileset --install-completion", "fileset --show-completion"}
OTHERS_PACKAGES = {"mlflow", "wandb"}
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder with what the commands take for granted: FileSets, queries, copies of the documents."""
    folder = tmp_path_factory.mktemp("commands")
    query = "SELECT i, i * i AS square FROM range(2000) t(i)"
    for location, name in (("LOCATION", "NAME"), ("data/filesets", "shuffled")):
        FileSet.make(target_stage_loc=folder / location, name=name, query=query)
    for name in ("q", "flights"):
        (folder / f"{name}.sql").write_text(query)
    shutil.copytree(ROOT / "docs", folder / "docs")
    return folder


def in_bash(line, folder, text=""):
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    shell = ["bash", "-euo", "pipefail", "-c", line]
    done = subprocess.run(shell, cwd=folder, env=environment, input=text, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def of_fileset(line, folder):
    if "|" in line or "<" in line:
        if "jq" in line and not shutil.which("jq"):
            pytest.skip("there is no jq")
        assert in_bash(line, folder).strip()
        return
    for command in ("ls", "make") if "COMMAND" in line else ("",):
        words = shlex.split(line.replace("COMMAND", command))[1:]
        yes = ["--yes"] if words[:2] == ["cache", "prune"] else []
        if words[-1] == "prune":  # which it does to nothing without being told how much
            yes += ["--all"]
        with contextlib.chdir(folder):
            done = CliRunner().invoke(cli.app, words + yes, input="LOCATION/NAME\n")
        assert done.exit_code == 0, done.output


def of_training(line, folder, program=None):
    words = [word for word in shlex.split(line)[1:] if not word.endswith(".py")]
    if "-m" in words:  # a sweep, of which the first job is composed
        words = [word.partition(",")[0] for word in words if word != "-m"]
    composed = [] if "--help" in words or "--cfg" in words else ["--cfg", "job"]
    ended = fileset_train(folder, *composed, *words, program=program)
    assert ended.status == 0, ended.err
    given = {word.partition("=")[2] for word in words if re.match(r"(trainer|data)\.\w+=", word)}
    assert all(f": {value}\n" in ended.out for value in given)


def of_python(line, folder, monkeypatch):
    words = shlex.split(line)
    if words[1] != "-m":
        recipe = ROOT / words[1]
        of_training(line, folder, lambda: runpy.run_path(str(recipe), run_name="__main__"))
        return
    # What takes long is asked for its help; the others write into the copy of the documents.
    arguments = words[3:] or ["--help"]
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "argv", [words[2], *arguments])
    ends = pytest.raises(SystemExit, match="0") if arguments == ["--help"] else contextlib.nullcontext()
    with mock.patch.dict(sys.modules), ends:
        sys.modules.pop(words[2], None)
        runpy.run_module(words[2], run_name="__main__", alter_sys=True)
    for name in words[3:]:
        assert (folder / name).read_bytes() == (ROOT / name).read_bytes()


def of_make(line, folder, monkeypatch):
    words = [word for word in shlex.split(line) if word != "..."]
    if not (ROOT / "Makefile").exists():
        pytest.skip("the Makefile is part of the checkout")
    targets = [word for word in words[1:] if "=" not in word]
    stated = in_bash(f"make -C {shlex.quote(str(ROOT))} help", folder)
    assert all(f"make {target} " in stated for target in targets)
    for variable in set(words[1:]) - set(targets):
        name, _, value = variable.partition("=")
        assert re.search(rf"^{name} \?=", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
        if targets == ["bench"]:
            of_benchmarks(shlex.split(value), monkeypatch)
        if name == "PYTEST_ARGS":
            of_pytest(shlex.split(value), "tests/test_plan.py")


def of_benchmarks(arguments, monkeypatch):
    from benchmarks import __main__ as benchmarks

    class Parsed(Exception):
        pass

    def driver(*given, **options):
        raise Parsed

    monkeypatch.setattr(benchmarks, "Driver", driver)
    with pytest.raises(Parsed):
        benchmarks.main(arguments)


def of_pytest(arguments, file):
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", *arguments, file]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"[1-9]\d*(/\d+)? tests", done.stdout), done.stdout


def of_pip(line):
    for wanted in shlex.split(line)[2:]:
        name, _, extras = wanted.rstrip("]").partition("[")
        assert name == "fileset-integrations" or name in OTHERS_PACKAGES
        assert set(filter(None, extras.split(","))) <= set(declared())


def of_the_checkout(line, folder):
    if line == "bash .ci/run":
        if (ROOT / ".ci/run").exists():
            in_bash(f"bash -n {shlex.quote(str(ROOT / '.ci/run'))}", folder)
        return
    program, *arguments = shlex.split(line)
    assert program == ".venv/bin/pre-commit"
    repository = folder / "repository"
    repository.mkdir()
    shutil.copy(ROOT / ".pre-commit-config.yaml", repository)
    in_bash(f"git init -q && {shlex.quote(sys.executable)} -m pre_commit {shlex.join(arguments)}", repository)
    assert (repository / ".git/hooks/pre-commit").exists()


@pytest.mark.parametrize("line", COMMANDS)
def test_a_command_in_the_documents_is_one(line, folder, cache, monkeypatch):
    program = re.sub(r"^[A-Z_]+=\S+ ", "", line)
    match program.split()[0]:
        case "fileset":
            if line not in ELSEWHERE:
                of_fileset(line, folder)
        case "fileset-train":
            of_training(line, folder)
        case "python":
            of_python(program, folder, monkeypatch)
        case "make":
            of_make(line, folder, monkeypatch)
        case "pip":
            of_pip(line)
        case "pytest":
            of_pytest(shlex.split(line)[1:], "tests/test_live.py")
        case _:
            of_the_checkout(line, folder)


def test_the_documents_name_commands_of_every_kind():
    assert len(COMMANDS) > 50
    assert {line.split()[0] for line in COMMANDS} >= {"fileset", "fileset-train", "make", "pip", "pytest", "python"}
