"""The `fileset` command, as a terminal's user calls it."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from fileset_integrations import cli
from fileset_integrations.fileset import FileSet

QUERY = "SELECT i, 'row [' || i || ']' AS name FROM range(1000) t(i)"


def call(*arguments, text=None):
    return CliRunner().invoke(cli.app, [str(one) for one in arguments], input=text)


@pytest.fixture
def made(tmp_path):
    done = call("make", tmp_path / "sets", "rows", text=QUERY)
    assert done.exit_code == 0, done.output
    return tmp_path / "sets"


def test_make_reads_the_query_from_standard_input(made):
    fs = FileSet(target_stage_loc=made, name="rows")

    assert fs.num_rows == 1000
    assert fs.manifest.query == QUERY


def test_make_reads_the_query_from_a_file_and_takes_its_options(tmp_path):
    (tmp_path / "q.sql").write_text(QUERY)

    done = call(
        "make", tmp_path, "x", "-q", tmp_path / "q.sql", "--shuffle", "--seed", 3, "--shuffle-key", "i", "--json"
    )

    facts = json.loads(done.stdout)
    assert (facts["shuffle"], facts["seed"], facts["shuffle_key"]) == (True, 3, ["i"])
    assert FileSet(target_stage_loc=tmp_path, name="x").to_arrow(limit=3)["i"].to_pylist() != [0, 1, 2]


def test_info_as_json_has_the_attributes_of_the_fileset(made):
    facts = json.loads(call("info", made / "rows", "--json").stdout)

    fs = FileSet(target_stage_loc=made, name="rows")
    assert facts["num_rows"] == fs.num_rows
    assert facts["snapshot_id"] == fs.snapshot_id
    assert facts["schema"] == {"i": "int64", "name": "string"}


def test_info_and_ls_and_head_print_for_people(made):
    assert fs_id(made) in call("info", made / "rows").output
    assert "rows" in call("ls", made).output
    head = call("head", made / "rows", "-n", 2).output
    assert "row [0]" in head and "row [1]" in head and "row [2]" not in head


def fs_id(made):
    return FileSet(target_stage_loc=made, name="rows").snapshot_id


def test_ls_and_head_as_json(made):
    assert [one["name"] for one in json.loads(call("ls", made, "--json").stdout)] == ["rows"]
    assert json.loads(call("head", made / "rows", "-n", 1, "--json").stdout) == [{"i": 0, "name": "row [0]"}]


def test_verify_passes_and_names_an_altered_file(made):
    assert call("verify", made / "rows").exit_code == 0
    with Path(FileSet(target_stage_loc=made, name="rows").files()[0]).open("ab") as file:
        file.write(b"x")

    failed = call("verify", made / "rows")

    assert failed.exit_code != 0
    assert "data_0.parquet" in str(failed.exception)


def test_rm_asks_and_removes(made):
    assert call("rm", made / "rows", text="n\n").exit_code != 0
    assert (made / "rows").exists()

    assert call("rm", made / "rows", text="y\n").exit_code == 0

    assert not (made / "rows").exists()


def test_rm_orphans_removes_what_crashed_makes_left_and_nothing_else(made):
    orphan = made / ".other.00000000-0000-0000-0000-000000000000.partial"
    orphan.mkdir()
    (orphan / "data_0.parquet").write_bytes(b"half")

    done = call("rm", made, "--orphans")

    assert str(orphan) in done.output
    assert not orphan.exists()
    assert FileSet(target_stage_loc=made, name="rows").num_rows == 1000


def test_a_mistake_is_one_line_on_standard_error(tmp_path):
    program = "from fileset_integrations.cli import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "info", str(tmp_path / "nothing")], capture_output=True, text=True, timeout=60
    )

    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith("fileset: ") and done.stderr.count("\n") == 1
