"""What `fileset-train --help` says: every choice, every line short, and commands that compose."""

import re
import shlex
from importlib.resources import files
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from tests.support.app import fileset_train

CONF = Path(str(files("fileset_integrations.conf")))


@pytest.fixture(scope="module")
def helped(tmp_path_factory):
    folder = tmp_path_factory.mktemp("help")
    (folder / "mine" / "model").mkdir(parents=True)
    (folder / "mine" / "model" / "of_my_own.yaml").write_text("lr: 1\n")
    done = fileset_train(folder, "--config-dir", "mine", "--help")
    assert (done.status, done.err) == (0, "")
    return done.out


def test_every_choice_is_listed_and_so_are_those_of_a_folder_of_ones_own(helped):
    listed = dict(re.findall(r"^  ([a-z_/]+)  +((?:.+\n)(?: {10,}.+\n)*)", helped, re.MULTILINE))
    names = {group: set(re.findall(r"[a-z0-9_]+", text)) for group, text in listed.items()}

    for folder in CONF.iterdir():
        options = {path.stem for path in folder.glob("*.yaml")} if folder.is_dir() else set()
        if options and folder.name != "hydra":
            assert options <= names[folder.name], folder.name
    assert "of_my_own" in names["model"]
    assert {"basic", "joblib"} <= names["hydra/launcher"]
    assert "schema" not in names


def test_it_is_a_page_that_a_terminal_shows(helped):
    lines = helped.rstrip().splitlines()

    assert max(map(len, lines)) <= 120
    assert len(lines) < 60


def test_what_it_tells_to_type_composes(helped, tmp_path):
    commands = [shlex.split(one) for one in re.findall(r"^  (fileset-train .*?)  ", helped, re.MULTILINE)]
    values = [
        one
        for one in re.findall(r"^  ([a-z_.]+=[^ ]+)  ", helped, re.MULTILINE)
        if one.partition("=")[2][0].islower() or one[-1].isdigit()
    ]
    alone = {"experiment=query": ["columns.features.x=[a]", "columns.label=b"]}

    assert len(commands) == 5 and len(values) >= 5
    for _, *words in [*commands, ["", "data=digits", *values]]:
        single = [word.partition(",")[0] for word in words if word != "-m"]
        done = fileset_train(tmp_path, "--cfg", "job", *single, *alone.get(single[0], []))
        assert done.status == 0, done.err
        assert "trainer" in OmegaConf.create(done.out)
