"""The README: every block runs as it is written, and what it shows learns and does what is said."""

import re

import pytest

from tests.support import ROOT
from tests.support.documents import printed_by
from tests.support.pages import blocks


@pytest.fixture(scope="module")
def printed(documented_snowflake):
    """What the README's blocks print, by heading."""
    return printed_by("README.md", ("README.md",), documented_snowflake)


def test_there_is_an_example_for_each_way_in():
    ways = {block.section: block.language for block in blocks(ROOT / "README.md") if block.runs}

    assert ways == {
        **dict.fromkeys(("Lightning", "Keras", "Plain PyTorch", "TensorFlow", "Splits", "Snowflake"), "python"),
        **dict.fromkeys(("Hydra", "In a terminal"), "bash"),
    }


def last_number(text: str) -> float:
    return float(re.findall(r"\d+\.\d+(?:e-?\d+)?", text)[-1])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_examples_run_as_written_and_learn(printed):
    # The variance of the targets is 0.33, 3333, 0.75 and 0.75: a loss far below shows that it learnt something.
    assert last_number(printed["Lightning"]) < 0.1
    assert last_number(printed["Keras"]) < 1000
    assert last_number(printed["Plain PyTorch"]) < 0.05
    assert last_number(printed["TensorFlow"]) < 0.05
    assert printed["Splits"].strip() in (ROOT / "README.md").read_text(encoding="utf-8")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_the_commands_run_as_written_and_do_what_is_said(printed):
    assert '"num_rows": 1000' in printed["In a terminal"]
    assert "files are what was written" in printed["In a terminal"]
    assert printed["Hydra"].count("RMSE") >= 4
