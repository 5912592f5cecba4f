"""The lists of the frameworks' behaviours name tests that are there."""

import ast
import re
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent / "behaviours"
LISTS = sorted(path.name for path in FOLDER.glob("*.md"))
ROW = re.compile(r"^\| (?!behaviour |---)(?P<behaviour>.+) \| (?P<tests>.+) \|$", re.MULTILINE)


def test_there_is_a_list():
    assert LISTS


@pytest.mark.parametrize("name", LISTS)
def test_every_behaviour_names_tests_that_exist(name):
    rows = list(ROW.finditer((FOLDER / name).read_text(encoding="utf-8")))
    wrong = []

    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row["tests"])
        if not named:
            wrong.append(f"{row['behaviour']}: names no test")
        for path, test in named:
            file = FOLDER.parent.parent / path
            if not file.exists() or test not in functions(file):
                wrong.append(f"{row['behaviour']}: there is no {path}::{test}")

    assert rows and wrong == []


def functions(file):
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {node.name for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)}
