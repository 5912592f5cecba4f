"""The documents: every code block runs as it is written and prints what is said; the site builds without a warning."""

import contextlib
import re
import shutil
import subprocess
import sys
import tomllib
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import pytest

from tests.support import ROOT
from tests.support.documents import printed_by
from tests.support.module_diagram import svg
from tests.support.pages import blocks, pages, run_page

NAMES = [str(page.relative_to(ROOT)) for page in pages()]
# Pages that have a test of their own, which runs their commands and looks closer.
ELSEWHERE = {"README.md", "docs/cli.md", "docs/configs.md", "docs/sweeps.md"}
RUN = [name for name in NAMES if name not in ELSEWHERE and any(block.runs for block in blocks(ROOT / name))]
# These run in a process of their own, all others in one together, so that what they import is imported once.
ALONE = {"docs/hydra.md", "docs/tensorflow.md"}
# What is not run here: it is what `make` itself does, takes an hour, or needs an account. `test_commands` reads it.
NOT_RUN = {
    "README.md": ["make train"],
    "docs/live.md": ["pytest -m live --connection-name NAME"],
    "docs/performance.md": ["make bench"],
}
LANGUAGES = {"python", "bash", "text", "console", "yaml", ""}  # "" for drawings


# --- the blocks ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_block_has_a_language_and_few_do_not_run(name):
    found = blocks(ROOT / name)

    assert {block.language for block in found} <= LANGUAGES
    assert [block.line for block in found if block.language == "text"] == [], "text shows the output of the block above"
    not_run = [block.code for block in found if block.language == "console"]
    assert [code.splitlines()[0].split(" #")[0].strip() for code in not_run] == NOT_RUN.get(name, [])
    fences = re.findall(r"^\s*```", (ROOT / name).read_text(encoding="utf-8"), re.MULTILINE)
    assert len(fences) == 2 * (len(found) + sum(block.output is not None for block in found)), "a fence is not read"


def test_the_picture_of_the_modules_is_that_of_the_code():
    drawn = (ROOT / "docs/images/modules.svg").read_text(encoding="utf-8")

    assert drawn == svg(), "renew it: python -m tests.support.module_diagram docs/images/modules.svg"


@pytest.mark.slow
@pytest.mark.timeout(600)  # the first page waits for all that run with it
@pytest.mark.parametrize("name", RUN)
def test_every_block_of_a_page_runs_and_prints_what_is_said(name, documented_snowflake):
    together = (name,) if name in ALONE else tuple(one for one in RUN if one not in ALONE)

    printed_by(name, together, documented_snowflake)


LYING = [
    ('```python\nprint("a\\nb")\n```\n\n```text\na\n```\n', "the page says"),
    ("```python\nx = 1\n```\n\n```python\nprint(y)\n```\n", "NameError"),
    ("```bash\nfalse\necho done\n```\n", "fails"),
    ('```bash\ncat there.txt\n```\n\n```yaml title="there.txt"\na: 1\n```\n', "No such file"),
]


@pytest.mark.parametrize(("page", "said"), LYING, ids=["output", "name", "command", "file"])
def test_a_page_that_does_not_hold_is_told_with_its_line(page, said, tmp_path):
    (tmp_path / "page.md").write_text(page, encoding="utf-8")

    with pytest.raises(AssertionError, match=rf"page\.md:\d+ (?s:.*){said}"):
        run_page(tmp_path / "page.md", tmp_path)


def test_blocks_share_names_and_files_and_those_for_the_console_are_left_out(tmp_path):
    page = """# A
```yaml title="conf/a.yaml"
a: 1
```
```console
exit 1
```
## B
```python
from pathlib import Path
text = Path("conf/a.yaml").read_text()
```
```python
print(text, 0.123)
```
```text
a: 1
...
```
```bash
cat conf/a.yaml
```
"""
    (tmp_path / "page.md").write_text(page, encoding="utf-8")

    with contextlib.chdir(tmp_path):
        printed = run_page(tmp_path / "page.md", tmp_path)

    assert printed == {"B": "a: 1\n 0.123\na: 1\n"}


# --- the site --------------------------------------------------------------------------------------------------------


class Links(HTMLParser):
    """What a page of the site points at, what it loads, and where one can point at in it."""

    def __init__(self, page: Path) -> None:
        super().__init__()
        self.links: list[str] = []
        self.loaded: list[str] = []
        self.anchors: set[str] = set()
        self.feed(page.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        values = {name: value for name, value in attributes if value}
        self.anchors.update(values[name] for name in ("id", "name") if name in values)
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        if "src" in values:
            self.loaded.append(values["src"])
        if tag == "link" and "href" in values:
            self.loaded.append(values["href"])


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The site, built as `make docs` does."""
    folder = tmp_path_factory.mktemp("site")
    shutil.copy(ROOT / "zensical.toml", folder)
    shutil.copytree(ROOT / "docs", folder / "docs")
    command = [sys.executable, "-m", "zensical", "build", "--strict"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    told = re.sub(r"\x1b\[[0-9;]*m", "", done.stdout + done.stderr)
    assert done.returncode == 0, told
    assert "griffe" not in told, told  # what it says of docstrings is no warning to Zensical
    return folder / "site"


@pytest.mark.checkout
def test_every_page_has_its_place_in_the_navigation():
    config = tomllib.loads((ROOT / "zensical.toml").read_text(encoding="utf-8"))

    def leaves(node: Any) -> list[str]:
        if isinstance(node, str):
            return [node]
        return [leaf for child in (node.values() if isinstance(node, dict) else node) for leaf in leaves(child)]

    assert sorted(leaves(config["project"]["nav"])) == [
        str(page.relative_to(ROOT / "docs")) for page in sorted((ROOT / "docs").rglob("*.md"))
    ]


@pytest.mark.checkout
def test_the_site_builds_and_every_link_in_it_leads_somewhere(site):
    found = {page: Links(page) for page in site.rglob("*.html") if page.name != "404.html"}
    wrong = []
    for page, links in found.items():
        for link in links.links + links.loaded:
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (page.parent / unquote(parts.path)).resolve() if parts.path else page
            target = target / "index.html" if target.is_dir() else target
            if not target.exists():
                wrong.append(f"{page.relative_to(site)}: {link}")
            elif parts.fragment and target in found and unquote(parts.fragment) not in found[target].anchors:
                wrong.append(f"{page.relative_to(site)}: {link} (no such anchor)")

    assert len(found) >= 10
    assert wrong == []


@pytest.mark.checkout
def test_the_site_loads_nothing_from_elsewhere(site):
    loaded = [one for page in site.rglob("*.html") for one in Links(page).loaded]

    assert loaded
    assert [one for one in loaded if urlsplit(one).netloc] == []


@pytest.mark.checkout
def test_the_reference_has_every_public_name(site):
    import fileset_integrations

    anchors = Links(site / "api.html").anchors

    documented = {anchor.rpartition(".")[2] for anchor in anchors}
    assert set(fileset_integrations.__all__) <= documented
