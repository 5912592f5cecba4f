"""The `fileset` command, as a terminal's user calls it."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer.main
from typer.testing import CliRunner

from fileset_integrations import cli
from fileset_integrations.cli.application import EXIT_CODES
from fileset_integrations.cli.reference import replaced
from fileset_integrations.cli.sizes import as_bytes
from fileset_integrations.errors import SpecError
from fileset_integrations.fileset import FileSet
from fileset_integrations.reader import FileSetReader
from fileset_integrations.storage.cache import write_atomically
from fileset_integrations.storage.lru import LruFiles
from tests.support import ROOT
from tests.support.staged import PROFILE

QUERY = "SELECT i, 'row [' || i || ']' AS name FROM range(1000) t(i)"
PROGRAM = "from fileset_integrations.cli import main; main()"


def call(*arguments, text=None):
    return CliRunner().invoke(cli.app, [str(one) for one in arguments], input=text)


def found(*arguments, text=None):
    done = call(*arguments, "--json", text=text)
    assert done.exit_code == 0, done.output
    assert done.stdout.count("\n") == 1
    return json.loads(done.stdout)


@pytest.fixture
def made(tmp_path):
    done = call("make", tmp_path / "sets", "rows", text=QUERY)
    assert done.exit_code == 0, done.output
    return tmp_path / "sets"


# --- making and looking ----------------------------------------------------------------------------------------------


def test_make_reads_the_query_from_standard_input(made):
    fs = FileSet(target_stage_loc=made, name="rows")

    assert fs.num_rows == 1000
    assert fs.manifest.query == QUERY


def test_make_reads_the_query_from_a_file_and_takes_its_options(tmp_path):
    (tmp_path / "q.sql").write_text(QUERY)
    options = ("--shuffle", "--seed", 3, "--shuffle-key", "i", "--max-file-bytes", "8 KiB", "--no-store-query")

    facts = found("make", tmp_path, "x", "-q", tmp_path / "q.sql", *options)

    assert (facts["shuffle"], facts["seed"], facts["shuffle_key"], facts["query"]) == (True, 3, ["i"], None)
    assert FileSet(target_stage_loc=tmp_path, name="x").to_arrow(limit=3)["i"].to_pylist() != [0, 1, 2]


def test_make_prints_what_other_commands_read(made):
    again = call("make", made, "rows", "--if-exists", "open", text=QUERY)

    assert again.stdout == f"{made}/rows\n"
    assert found("info", text=again.stdout)["num_rows"] == 1000
    facts = call("make", made, "more", "--json", text=QUERY).stdout
    assert found("info", text=facts)["name"] == "more"


def test_info_as_json_has_the_attributes_of_the_fileset(made):
    facts = found("info", made / "rows")

    fs = FileSet(target_stage_loc=made, name="rows")
    assert facts["num_rows"] == fs.num_rows
    assert facts["snapshot_id"] == fs.snapshot_id
    assert facts["schema"] == {"i": "int64", "name": "string"}


def test_without_json_a_pipe_gets_lines_of_cells_between_tabs(made):
    snapshot_id = FileSet(target_stage_loc=made, name="rows").snapshot_id

    assert f"snapshot_id\t{snapshot_id}\n" in call("info", made / "rows").stdout
    assert call("ls", made).stdout.startswith("rows\t1000\t1\t")
    assert call("head", made / "rows", "-n", 2).stdout == "0\trow [0]\n1\trow [1]\n"
    assert call("head", made / "rows", "-n", 1, "--column", "name").stdout == "row [0]\n"


def test_values_that_would_command_a_terminal_are_written_out(tmp_path):
    call("make", tmp_path, "x", text="SELECT chr(27) || '[2J' || chr(9) || chr(10) || 'é' AS s")

    assert call("head", tmp_path / "x").stdout == "\\x1b[2J\\t\\né\n"


def test_ls_and_head_as_json(made):
    assert [one["name"] for one in found("ls", made)] == ["rows"]
    assert found("head", made / "rows", "-n", 1) == [{"i": 0, "name": "row [0]"}]


def test_ls_lists_the_others_where_one_is_damaged(made):
    call("make", made, "damaged", text=QUERY)
    (made / "damaged/manifest").write_bytes(b"no manifest")

    done = call("ls", made)

    assert done.stdout.startswith("rows\t") and done.stdout.count("\n") == 1
    assert done.exit_code == 5 and str(made / "damaged") in done.stderr


def test_copy_prints_where_the_copy_is(made, tmp_path):
    assert call("copy", made / "rows", tmp_path / "there", "--name", "again").stdout == f"{tmp_path}/there/again\n"
    assert found("copy", made / "rows", tmp_path / "there")["num_rows"] == 1000


def test_pull_has_nothing_to_do_for_a_directory(made):
    assert found("pull", made / "rows")["num_files"] == 1


# --- checking and removing -------------------------------------------------------------------------------------------


def test_verify_passes_and_names_an_altered_file(made):
    assert call("verify", made / "rows").exit_code == 0
    with Path(FileSet(target_stage_loc=made, name="rows").files()[0]).open("ab") as file:
        file.write(b"x")

    failed = call("verify", made / "rows")

    assert failed.exit_code == 5
    assert "data_0.parquet" in failed.stdout
    assert failed.stderr.count("\n") == 1
    assert json.loads(call("verify", made / "rows", "--json").stdout)["problems"] == [failed.stdout.strip()]


def test_rm_asks_and_removes(made):
    for answer in ("n\n", ""):
        refused = call("rm", made / "rows", text=answer)
        assert refused.exit_code == 1 and "nothing has changed" in refused.stderr
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


# --- what goes wrong -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("code", "arguments"),
    [
        (2, ["info", "{made}/rows", "--no-such-option"]),
        (2, ["no-such-command"]),
        (2, ["info"]),
        (2, ["make", "{made}", "x", "--max-file-bytes", "much"]),
        (2, ["make", "{made}", "x", "--seed", "-1"]),
        (2, ["head", "{made}/rows", "--column", "absent"]),
        (2, ["stats", "{made}/rows", "--column", "absent"]),
        (2, ["bench", "{made}/rows", "--streams", "0"]),
        (2, ["cache", "prune"]),
        (3, ["info", "{made}/absent"]),
        (3, ["ls", "{made}/absent"]),
        (3, ["make", "{made}", "x", "--query", "{made}/absent.sql"]),
        (4, ["make", "{made}", "rows"]),
        (1, ["report", "{made}/rows", "-o", "{made}/absent/page.html"]),
        (3, ["info", "rows"]),
    ],
)
def test_a_mistake_is_one_line_and_has_its_exit_code(code, arguments, made):
    done = call(*(one.format(made=made) for one in arguments), text="" if arguments == ["info"] else "SELECT 1 AS i")

    assert done.exit_code == code
    assert done.stdout == ""
    assert done.stderr.startswith("fileset: ") and done.stderr.count("\n") == 1


@pytest.mark.parametrize("query", ["", "SELEC", "SELECT 1; SELECT 2", "SELECT error('no') FROM range(3)"])
def test_a_query_that_fails_has_an_exit_code_of_its_own(query, tmp_path):
    done = call("make", tmp_path, "x", text=query)

    assert done.exit_code == 6
    assert done.stderr.count("\n") == 1
    assert [path for path in tmp_path.iterdir() if path.suffix != ".lock"] == []


def test_a_query_that_is_no_utf_8_is_refused_in_any_locale(tmp_path):
    (tmp_path / "q.sql").write_bytes(b"SELECT 1 AS \xff")
    environment = {**os.environ, "LC_ALL": "C"}  # in which Python reads what it cannot decode as surrogates

    done = subprocess.run(
        f"{sys.executable} -c '{PROGRAM}' make sets x < q.sql",
        shell=True,
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
    )

    assert done.returncode == 6
    assert "no UTF-8" in done.stderr and done.stderr.count("\n") == 1


@pytest.mark.parametrize("closed", ["<", ">", "2>"])
def test_a_closed_stream_is_none_that_anybody_reads(closed, made):
    command = f"{sys.executable} -c '{PROGRAM}' info {made}/rows {closed}&-"

    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("place", [0, 2])
def test_debug_shows_the_trace_wherever_it_stands(place, made):
    arguments = ["info", str(made / "absent")]

    done = call(*arguments[:place], "--debug", *arguments[place:])

    assert done.exit_code == 3
    assert "Traceback" in done.stderr and done.stderr.splitlines()[-1].startswith("fileset: ")


def test_a_mistake_of_the_programs_is_one_line_too(made, monkeypatch):
    def broken(self, columns=None, limit=None):
        raise RuntimeError("of ours")

    monkeypatch.setattr(FileSet, "to_arrow", broken)

    done = call("head", made / "rows")

    assert done.exit_code == 1
    assert done.stderr.startswith("fileset: RuntimeError: of ours") and done.stderr.count("\n") == 1


# --- as a process ----------------------------------------------------------------------------------------------------


def test_it_works_in_a_pipe_and_stays_quiet(tmp_path):
    (tmp_path / "q.sql").write_text(QUERY)
    fileset = f"{sys.executable} -c '{PROGRAM}'"
    jq = (
        "jq .num_rows"
        if shutil.which("jq")
        else f"{sys.executable} -c 'import json; print(json.loads(input())[\"num_rows\"])'"
    )
    lines = [
        f"{fileset} make sets rows < q.sql | {fileset} info --json | {jq}",
        f"{fileset} head sets/rows -n 1000 | head -n 1; echo ${{PIPESTATUS[0]}}",
    ]

    done = subprocess.run(
        ["bash", "-c", "\n".join(lines)], cwd=tmp_path, capture_output=True, text=True, timeout=120, check=True
    )

    first, second, status = done.stdout.splitlines()
    assert (first, second) == ("1000", "0\trow [0]")
    assert status in ("0", "141")  # whether `head` was gone before the last line is chance
    assert done.stderr == ""


def test_what_nobody_reads_any_more_ends_the_command_quietly(made):
    command = f"{sys.executable} -c '{PROGRAM}' head {made}/rows -n 1000 | true; echo ${{PIPESTATUS[0]}}"

    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=120, check=True)

    assert (done.stdout, done.stderr) == ("141\n", "")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_command_that_is_stopped_leaves_nothing_half_written(number, code, tmp_path):
    query = "SELECT i, hash(i) AS h FROM range(1000000000) t(i) ORDER BY h"  # takes minutes, most of them in one call
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "make", "sets", "rows"],
        cwd=tmp_path,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONUNBUFFERED": "1"},
    )
    process.stdin.write(query)
    process.stdin.close()
    process.stdin = None
    while not list(tmp_path.glob("sets/.rows.*.partial")):
        assert process.poll() is None
        time.sleep(0.02)
    time.sleep(0.2)  # it is within the query now

    process.send_signal(number)
    _, said = process.communicate(timeout=60)

    assert process.returncode == code, said
    assert [path.name for path in (tmp_path / "sets").iterdir() if path.suffix != ".lock"] == []


# Each is stopped by SIGINT: while the program is loading; where a library swallows that, as one that is written in C
# and calls back does; while files are being removed.
LOADING = """import os, signal, sys
class Finder:
    def find_spec(self, name, *rest):
        if name == "typer":
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
"""
SWALLOWED = """import os, signal, time
from fileset_integrations.fileset import FileSet
def swallow(self, **options):
    try:
        os.kill(os.getpid(), signal.SIGINT)
    except KeyboardInterrupt:
        pass
    time.sleep(120)
FileSet.find_problems = swallow
"""
REMOVING = """import os, signal
from pathlib import Path
unlink = Path.unlink
def interrupted(self, **options):
    os.kill(os.getpid(), signal.SIGINT)
    unlink(self, **options)
Path.unlink = interrupted
"""


@pytest.mark.parametrize(
    ("trouble", "command", "left"),
    [(LOADING, ("info",), ["rows"]), (SWALLOWED, ("verify",), ["rows"]), (REMOVING, ("rm", "--yes"), [])],
    ids=["loading", "swallowed", "removing"],
)
def test_ctrl_c_ends_a_command_without_a_word_and_leaves_nothing_half_done(trouble, command, left, made):
    program = [sys.executable, "-c", f"{trouble}\n{PROGRAM}", command[0], made / "rows", *command[1:]]

    done = subprocess.run(
        program,
        capture_output=True,
        text=True,
        timeout=60,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )

    assert (done.returncode, done.stdout, done.stderr) == (130, "", "")
    assert [path.name for path in made.iterdir() if path.suffix != ".lock"] == left


def test_signals_that_are_ignored_stay_so(tmp_path):
    program = f"import atexit, signal; atexit.register(lambda: print(*map(signal.getsignal, (1, 15)))); {PROGRAM}"

    done = subprocess.run(
        ["nohup", sys.executable, "-c", program, "--version"], capture_output=True, text=True, timeout=60, cwd=tmp_path
    )

    assert done.returncode == 0
    assert "1 <function _stop" in done.stdout.splitlines()[-1]  # SIG_IGN is 1


def test_help_and_mistakes_load_nothing_that_reads_data(tmp_path):
    program = f"import sys, atexit; atexit.register(lambda: print(*sys.modules, file=sys.stderr)); {PROGRAM}"

    done = subprocess.run([sys.executable, "-c", program, "--help"], capture_output=True, text=True, timeout=60)

    assert done.returncode == 0 and "fileset" in done.stdout
    loaded = {name.partition(".")[0] for name in done.stderr.split()}
    assert loaded.isdisjoint({"numpy", "pyarrow", "duckdb", "fsspec", "jinja2", "torch", "keras", "hydra"})


@pytest.mark.parametrize(
    ("shell", "typed", "offered"), [("bash", "fileset he", "head"), ("zsh", "fileset cache pr", "prune")]
)
def test_a_shell_completes_commands(shell, typed, offered):
    asked = {
        "_FILESET_COMPLETE": f"complete_{shell}",
        "COMP_WORDS": typed,
        "COMP_CWORD": str(typed.count(" ")),
        "_TYPER_COMPLETE_ARGS": typed,
    }

    done = CliRunner().invoke(cli.app, [], env=asked, prog_name="fileset")

    assert done.exit_code == 0
    assert offered in done.stdout


def test_the_installed_command_completes_in_a_bash_that_completion_was_installed_for(tmp_path):
    folder = Path(sys.executable).parent
    # Typer asks which shell it runs in; a test has none around it, and says so in the way that typer's own do.
    environment = {
        **os.environ,
        "HOME": str(tmp_path),
        "PATH": f"{folder}{os.pathsep}{os.environ['PATH']}",
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    asked = 'source ~/.bashrc; COMP_WORDS=(fileset st); COMP_CWORD=1; _fileset_completion fileset; echo "$COMPREPLY"'

    for command in ("fileset --install-completion bash", asked):
        done = subprocess.run(["bash", "-c", command], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    assert done.stdout == "stats\n"


# --- the cache -------------------------------------------------------------------------------------------------------


def test_cache_ls_and_prune_know_each_kind_and_keep_what_was_used_last(cache):
    files = LruFiles(cache / "files")
    for place, name in enumerate(["a" * 64, "b" * 64 + "-0", "c" * 64]):
        with files.lock(name):
            files.add(name, 100, lambda file: file.write(bytes(100))).close()
        os.utime(files.root / name[:2] / name, (1000 + place, 1000))
    write_atomically(cache / "columns" / ("d" * 64 + ".json"), b"{}")
    (cache / "columns" / "notes.json").write_text("somebody's")
    write_atomically(cache / "digests" / "ee" / ("e" * 64), b"{}")
    write_atomically(cache / "runs" / "throughput.jsonl", b"{}\n")

    kinds = {kind["kind"]: kind["num_bytes"] for kind in found("cache", "ls")["kinds"]}
    removed = found("cache", "prune", "--max-bytes", "250B")["removed"]

    remembered = {"fits": 2, "digests of fetched files": 2, "measured speeds": 3}
    assert kinds == {"fetched files": 200, "decoded blocks": 100, **remembered}
    assert {kind["kind"]: kind["num_bytes"] for kind in removed} == {
        "fetched files": 100,
        "decoded blocks": 0,
        **dict.fromkeys(remembered, 0),
    }
    assert [entry.name[0] for entry in files.entries()] == ["b", "c"]

    assert call("cache", "prune", "--all", text="n\n").exit_code == 1
    found("cache", "prune", "--all", "--yes")

    assert files.entries() == []
    assert found("cache", "ls")["kinds"] == []
    assert [path.name for path in (cache / "columns").iterdir()] == ["notes.json"]


def test_cache_ls_tells_blocks_from_fetched_files_as_readers_leave_them(made, cache, stage, tmp_path):
    assert call("copy", made / "rows", f"{stage}/sets", "-c", PROFILE).exit_code == 0
    fetched = FileSet.open(f"{stage}/sets/rows", connection_name=PROFILE)

    list(FileSetReader(fetched, batch_size=100, blocks="disk").iter_batches(epoch=0))

    kinds = {kind["kind"]: kind["num_files"] for kind in found("cache", "ls")["kinds"]}
    assert kinds == {"fetched files": 1, "decoded blocks": 1, "digests of fetched files": 1}


def test_prune_leaves_what_is_being_written(cache):
    files = LruFiles(cache / "files")
    name = "a" * 64
    seen = []

    def write(file):
        file.write(bytes(100))
        found("cache", "prune", "--all", "--yes")
        seen.extend(entry.complete for entry in files.entries())

    with files.lock(name):
        files.add(name, 100, write).close()

    assert seen == [False]
    assert [(entry.name, entry.complete) for entry in files.entries()] == [(name, True)]


@pytest.mark.parametrize(
    ("text", "size"),
    [("17", 17), ("2kB", 2000), ("1.5 MiB", 3 * 2**19), ("20GB", 20 * 10**9), ("1tib", 2**40), ("3B", 3)],
)
def test_sizes_are_written_as_people_write_them(text, size):
    assert as_bytes(text) == size


@pytest.mark.parametrize("text", ["", "-1", "GB", "1 XB", "1e3"])
def test_what_is_no_size_is_refused(text):
    with pytest.raises(SpecError, match="no size"):
        as_bytes(text)


# --- the documents ---------------------------------------------------------------------------------------------------


def test_the_reference_is_that_of_the_application():
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")

    assert text == replaced(text), "python -m fileset_integrations.cli.reference docs/cli.md writes it anew"
    for command in typer.main.get_command(cli.app).commands:
        assert f"### `fileset {command}" in text
    for code in EXIT_CODES:
        assert f"| {code} |" in text


@pytest.mark.slow
def test_the_commands_of_the_document_run_as_written(tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    lines = "".join(re.findall(r"^```bash\n(.*?)^```", text, re.MULTILINE | re.DOTALL)).splitlines()
    environment = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    printed = ""

    for line in lines:
        words = shlex.split(line)
        if words[0] == "fileset" and "|" not in words:  # a process takes a second to begin
            done = call(*words[1:])
            status, printed = done.exit_code, done.output
        else:
            shell = ["bash", "-eo", "pipefail", "-c", line]
            ran = subprocess.run(shell, env=environment, capture_output=True, text=True, timeout=120)
            status, printed = ran.returncode, ran.stdout + ran.stderr
        assert status == 0, f"{line}\n{printed}"
        if "--json" in words:
            assert json.loads(printed)["num_rows"] == 100_000

    assert (tmp_path / "squares.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert printed.count("\n") == 3
    assert len(lines) > 12
