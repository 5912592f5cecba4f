"""A pytest plugin that fails each test in which a planted secret comes out.

Every secret that tests use holds one of a few words: passwords, tokens, keys, the signatures of presigned URLs. After
each phase of a test they are looked for in what it printed and logged, in the texts of all errors of the package that
were raised meanwhile, caught or not, and in all that it wrote below its `tmp_path`: Hydra's files, logs, checkpoints,
manifests, caches. Connector profiles are where secrets belong, and are left out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from fileset_integrations.errors import FileSetError

_HOME_OF_SECRETS = "connections.toml"
_WHOLE_BYTES = 4 * 2**20  # of larger files only the ends are looked at: headers, footers
_END_BYTES = 2**20


class LeakCheck:
    """The plugin.

    Args:
        secrets: Words that each stand in secrets and nowhere else.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        self._secrets = tuple(secrets)
        self._bytes = tuple(secret.encode() for secret in self._secrets)
        self._found: list[str] = []
        self._handler = _Handler(self)

    def pytest_configure(self) -> None:
        """Listen from now on."""
        check = self

        def noted_init(error: FileSetError, *arguments: Any, **named: Any) -> None:
            super(FileSetError, error).__init__(*arguments, **named)
            check.look_at(f"{error!s}\n{error!r}\n{vars(error)!r}", f"a {type(error).__name__}")

        def noted_note(error: FileSetError, note: str) -> None:
            check.look_at(note, f"a note to a {type(error).__name__}")
            super(FileSetError, error).add_note(note)

        type.__setattr__(FileSetError, "__init__", noted_init)
        type.__setattr__(FileSetError, "add_note", noted_note)
        logging.getLogger().addHandler(self._handler)

    def pytest_unconfigure(self) -> None:
        """Leave everything as it was."""
        logging.getLogger().removeHandler(self._handler)
        del FileSetError.__init__, FileSetError.add_note  # of its bases

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(
        self, item: pytest.Item, call: pytest.CallInfo[Any]
    ) -> Generator[None, pytest.TestReport, pytest.TestReport]:
        """Fail a phase of a test in which a secret came out."""
        report = yield
        for title, text in report.sections:
            if title.endswith(call.when):  # those of earlier phases are there too
                self.look_at(text, title)
        if report.failed:
            self.look_at(report.longreprtext, "the report of its failure")
        if call.when == "call" and (folder := getattr(item, "funcargs", {}).get("tmp_path")) is not None:
            self._found += self._in_files(folder)
        found, self._found = list(dict.fromkeys(self._found)), []
        if found:
            report.outcome = "failed"
            report.longrepr = "A secret came out, in " + "; in ".join(found) + "."
        return report

    def look_at(self, text: str, where: str) -> None:
        """Note where a secret is in a text."""
        if any(secret in text for secret in self._secrets):
            self._found.append(where)

    def _in_files(self, folder: Path) -> Iterator[str]:
        for parent, _, names in os.walk(folder):
            for name in names:
                path = Path(parent, name)
                if name != _HOME_OF_SECRETS and path.is_file() and not path.is_symlink():
                    content = _content(path)
                    if any(secret in content for secret in self._bytes):
                        yield f"the file {path.relative_to(folder)}"


class _Handler(logging.Handler):
    def __init__(self, check: LeakCheck) -> None:
        super().__init__()
        self._check = check

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.exc_info:
            text += logging.Formatter().formatException(record.exc_info)
        self._check.look_at(text, f"the log of {record.name}")


def _content(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            if (size := os.fstat(file.fileno()).st_size) <= _WHOLE_BYTES:
                return file.read()
            start = file.read(_END_BYTES)
            file.seek(size - _END_BYTES)
            return start + file.read()
    except OSError:  # it went meanwhile, or may not be read
        return b""
