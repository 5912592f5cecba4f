"""Every code block of the README runs as it is written, in a fresh process and an empty directory."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support import ROOT

README = (ROOT / "README.md").read_text(encoding="utf-8")
SECTIONS = re.split(r"^## (.*)\n", README, flags=re.MULTILINE)[1:]


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def blocks(language: str) -> dict[str, str]:
    """Title of a section -> its first block of the language."""
    found = {}
    for title, text in zip(SECTIONS[::2], SECTIONS[1::2], strict=True):
        if code := re.search(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
            found[title] = code[1]
    return found


def test_the_readme_has_an_example_for_each_way_in():
    assert set(blocks("python")) == {"Lightning", "Keras", "Plain PyTorch", "TensorFlow", "Splits"}
    assert set(blocks("bash")) == {"Two commands", "Hydra", "In a terminal"}


@pytest.mark.slow
@pytest.mark.parametrize("title", [title for title in blocks("python") if title != "Splits"])
def test_an_example_runs_as_written_and_learns(title, tmp_path):
    (tmp_path / "example.py").write_text(blocks("python")[title], encoding="utf-8")

    printed = run([sys.executable, "-W", "error::UserWarning:fileset_integrations", "example.py"], tmp_path)

    last_number = float(re.findall(r"\d+\.\d+(?:e-?\d+)?", printed)[-1])
    # The variance of the targets is 3333, 0.33 and 0.75: a loss far below shows that there was something to learn from.
    assert last_number < {"Keras": 1000, "Lightning": 0.1}.get(title, 0.05)


@pytest.mark.slow
def test_the_split_is_as_written(tmp_path):
    code = (
        blocks("python")["Splits"]
        + """
for module, rows in ((data, 8000), (both, 9000)):
    module.setup()
    assert len(module.train_dataloader()) == rows // 1024
"""
    )
    (tmp_path / "example.py").write_text(code, encoding="utf-8")

    printed = run([sys.executable, "example.py"], tmp_path)

    assert printed.strip() in code


@pytest.mark.slow
def test_the_terminal_commands_run_as_written(tmp_path):
    printed = run(["bash", "-ec", blocks("bash")["In a terminal"]], tmp_path)

    assert '"num_rows": 1000' in printed
    assert "files are what was written" in printed
    assert not (tmp_path / "data/filesets/squares").exists()


@pytest.mark.slow
def test_the_training_commands_run_as_written(tmp_path):
    printed = run(["bash", "-ec", blocks("bash")["Hydra"]], tmp_path)

    assert printed.count("RMSE") >= 4
