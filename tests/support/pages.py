"""The code blocks of the README and of docs/, run as a reader would: in order, each page in an empty directory.

    python -m tests.support.pages PAGE ...      runs the pages in this one process, and prints what came of each as JSON

- `python` blocks of a page share one namespace, `bash` blocks its directory.
- A block with a title, such as ```yaml title="configs/data/mine.yaml", is a file, written before the blocks behind it.
- A `text` block right behind one that runs is what that one prints; "..." stands for anything.
- `console` blocks are not run. There are few, and `test_docs` says which. Blocks without a language are drawings.
"""

from __future__ import annotations

import contextlib
import doctest
import io
import json
import linecache
import os
import re
import subprocess
import sys
import tempfile
import traceback
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tests.support import ROOT

FENCE = re.compile(r"^```(\w*)(?: title=\"([^\"]+)\")?\n(.*?)^```$", re.MULTILINE | re.DOTALL)
HEADING = re.compile(r"^#+ (.*)$", re.MULTILINE)
SHOWN_AS = doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE
# docs/from_snowflake_ml.md shows the ancestor's own snippet, and says that it runs here with only its import changed.
RENAMED_IMPORTS = {"from snowflake.ml.fileset.fileset import FileSet": "from fileset_integrations import FileSet"}


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, the file that it is (or None), what stands in it, and where it begins."""

    language: str
    title: str | None
    code: str
    line: int
    section: str  # the heading above it
    output: str | None  # what it is said to print

    @property
    def runs(self) -> bool:
        return self.title is None and self.language in ("python", "bash")


def pages() -> list[Path]:
    """The README and every page of docs/."""
    return [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in order; those of output belong to the block in front of them."""
    text = page.read_text(encoding="utf-8")
    found: list[Block] = []
    end = -1
    for fence in FENCE.finditer(text):
        language, title, code = fence.groups()
        line = text.count("\n", 0, fence.start()) + 2
        headings = HEADING.findall(FENCE.sub("", text[: fence.start()]))
        if language == "text" and found and found[-1].runs and not text[end : fence.start()].strip():
            last = found.pop()
            found.append(replace(last, output=code))
        else:
            found.append(Block(language, title, code, line, headings[-1] if headings else "", None))
        end = fence.end()
    return found


def run_page(page: Path, folder: Path) -> dict[str, str]:
    """Run a page's blocks in a directory; returns what they print, by the headings that they stand under.

    Raises:
        AssertionError: A block fails, or prints something else than the page says.
    """
    namespace: dict[str, Any] = {"__name__": "__main__"}
    everything: dict[str, str] = {}
    for block in blocks(page):
        where = f"{page.name}:{block.line}"
        if block.title:
            (folder / block.title).parent.mkdir(parents=True, exist_ok=True)
            (folder / block.title).write_text(block.code, encoding="utf-8")
        if not block.runs:
            continue
        printed = run_python(block, where, namespace) if block.language == "python" else run_bash(block, where, folder)
        everything[block.section] = everything.get(block.section, "") + printed
        if block.output is not None and not doctest.OutputChecker().check_output(block.output, printed, SHOWN_AS):
            raise AssertionError(f"{where} prints\n{printed}\nand the page says\n{block.output}")
    return everything


def run_python(block: Block, where: str, namespace: dict[str, Any]) -> str:
    code = block.code
    for theirs, ours in RENAMED_IMPORTS.items():
        code = code.replace(theirs, ours)
    printed = io.StringIO()
    linecache.cache[where] = (len(code), None, code.splitlines(keepends=True), where)
    try:
        with contextlib.redirect_stdout(printed):
            exec(compile(code, where, "exec", dont_inherit=True), namespace)
    except BaseException as error:
        raise AssertionError(f"{where} fails: {traceback.format_exc()}\nIt printed {printed.getvalue()}") from error
    return printed.getvalue()


def run_bash(block: Block, where: str, folder: Path) -> str:
    environment = {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "COLUMNS": "100",
    }
    done = subprocess.run(
        ["bash", "-euc", block.code], cwd=folder, env=environment, capture_output=True, text=True, timeout=250
    )
    if done.returncode:
        raise AssertionError(f"{where} fails: {done.stdout[-3000:]}{done.stderr[-3000:]}")
    return done.stdout


@contextlib.contextmanager
def empty_folder() -> Iterator[Path]:
    """A directory of a page's own, which is the current one."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory(prefix="page-", ignore_cleanup_errors=True) as folder:
        os.chdir(folder)
        try:
            yield Path(folder)
        finally:
            os.chdir(before)


def main(names: list[str]) -> None:
    results = {}
    for name in names:
        with empty_folder() as folder:
            try:
                results[name] = {"printed": run_page(ROOT / name, folder), "error": None}
            except AssertionError as error:
                results[name] = {"printed": {}, "error": str(error)}
    print(json.dumps(results))


if __name__ == "__main__":
    main(sys.argv[1:])
