"""`fileset-train` in the test's own process, on a task that takes a fraction of a second."""

import contextlib
import io
import os
import re
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from unittest import mock

from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from fileset_integrations import train

# 256 rows to train on and 64 to validate with; y follows from a and b.
QUERY = (
    "SELECT i, (i % 17)::FLOAT AS a, (i % 5)::FLOAT AS b, (3 * (i % 17) + i % 5)::FLOAT AS y, (i % 17) // 6 AS c "
    "FROM range(320) t(i)"
)
TINY = (
    "experiment=query",
    "columns.features.x=[a,b]",
    "columns.label=y",
    f"filesets.sql.query='{QUERY}'",
    "data.batch_size=32",
    "trainer.max_epochs=1",
    "model.hidden=[8]",
    "callbacks=none",
    "logger=none",
)


@dataclass(frozen=True)
class Ended:
    """How a call ended: the process's status, and what it printed."""

    status: int
    out: str
    err: str


def fileset_train(folder: Path, *arguments: str, program: Callable[[], object] | None = None) -> Ended:
    """Call the app, or a program that starts it, as from a terminal in `folder`; its logs go nowhere."""
    out, err, status = io.StringIO(), io.StringIO(), 0
    quiet = ("hydra/job_logging=none", "hydra/hydra_logging=none")
    environment = {name: value for name, value in os.environ.items() if name != "FILESET_ROOT"}
    with (
        # Flags first: argparse takes positional arguments in one place only.
        mock.patch.object(sys, "argv", ["fileset-train", *sorted(arguments, key=lambda one: one != "-m"), *quiet]),
        mock.patch.dict(os.environ, environment, clear=True),
        contextlib.chdir(folder),
        contextlib.redirect_stdout(out),
        contextlib.redirect_stderr(err),
    ):
        GlobalHydra.instance().clear()
        try:
            (program or train.main)()
        except SystemExit as end:
            status = int(end.code or 0)
        finally:
            GlobalHydra.instance().clear()
            HydraConfig.instance().cfg = None
    return Ended(status, out.getvalue(), err.getvalue())


def commands_of(document: Path) -> list[tuple[str, ...]]:
    """Arguments of every `fileset-train` in the document's blocks of bash."""
    blocks = re.findall(r"^```bash\n(.*?)^```", document.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines() if line.strip()]
    found = [shlex.split(line) for line in lines]
    assert all(words[0] == "fileset-train" for words in found)
    return [tuple(words[1:]) for words in found]
