"""Environments of the peers' own: made once, under the cache folder, with the versions of `peers/*.txt`."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

PEERS = Path(__file__).parent / "peers"
_TIMEOUT_S = 1_800


class NotInstalledError(Exception):
    """A peer's environment cannot be made; says why in one line."""


def python_of(peer: str, root: Path) -> Path:
    """The interpreter of a peer's environment, which is made first unless it is there.

    Args:
        peer: Name of its `peers/*.txt`.
        root: Folder of all environments.

    Raises:
        NotInstalledError: pip could not install it, or the peer cannot be had on this Python.
    """
    requirements = PEERS / f"{peer}.txt"
    folder = root / peer
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    done = folder / ".installed"
    # Scripts and links of an environment hold its place, and packages the version of Python.
    wanted = hashlib.sha256(f"{sys.version_info[:2]}\0{folder}\0".encode() + requirements.read_bytes()).hexdigest()
    if done.exists() and done.read_text() == wanted and python.exists():
        return python
    shutil.rmtree(folder, ignore_errors=True)
    _run([sys.executable, "-m", "venv", str(folder)])
    _run([str(python), "-m", "pip", "install", "--quiet", "--no-input", "-r", str(requirements)])
    done.write_text(wanted)
    return python


def _run(command: list[str]) -> None:
    environment = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "PYTHONHOME")}
    environment |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONNOUSERSITE": "1"}
    try:
        ended = subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_TIMEOUT_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise NotInstalledError(f"{type(error).__name__} after at most {_TIMEOUT_S} s") from error
    if ended.returncode:
        raise NotInstalledError(_reason(ended.stderr or ended.stdout))


def _reason(output: str) -> str:
    """The last line that says what went wrong, without addresses: they may hold credentials."""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith("ERROR")] or lines or ["no reason given"]
    return re.sub(r"\S+://\S+", "...", errors[-1])[:200]
