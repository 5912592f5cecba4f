"""A training's state in a folder: facts and arrays, replaced as a whole or not at all.

```
FOLDER/
    .lock                    held by the training that writes here
    save-00000041/           the last whole one: it was renamed into place
        arrays.npz
        facts.json
    .save-00000042.partial/  being written, or left by a process that was killed
```
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from fileset_integrations.errors import CheckpointError
from fileset_integrations.storage.directory import to_disk

FORMAT = 1
_LOCK_SECONDS = 5.0  # worker processes of a training that was killed hold its lock until they notice
_SAVE = re.compile(r"save-(\d{8,})")
_OURS = re.compile(r"\.lock|save-\d{8,}|\.save-\d{8,}\.(partial|old)")


class CheckpointFolder:
    """A folder with the last state of one training.

    Args:
        path: The folder; made at the first save.

    Raises:
        CheckpointError: It is a file, or holds something else.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path).absolute()  # a training may change its working directory
        self._lock = FileLock(self.path / ".lock")
        try:
            names = [entry.name for entry in os.scandir(self.path)]
        except FileNotFoundError:
            names = []
        except OSError as error:
            raise CheckpointError(f"{self.path}: cannot be read as a folder ({error}). Name another one.") from error
        if others := sorted(name for name in names if not _OURS.fullmatch(name)):
            raise CheckpointError(
                f"{self.path} holds {others[0]!r}, which no training's state has. Name an empty folder, or a new one: "
                "what is there is not touched."
            )

    def _saves(self) -> list[tuple[int, Path]]:
        """Number and path of what is whole, the last one last."""
        if not self.path.is_dir():
            return []
        found = ((match, entry) for entry in self.path.iterdir() if (match := _SAVE.fullmatch(entry.name)))
        return sorted((int(match[1]), entry) for match, entry in found)

    def load(self) -> tuple[dict[str, Any], dict[str, NDArray[Any]]] | None:
        """Facts and arrays of the last save; None where there is none.

        Raises:
            CheckpointError: It is damaged; names the file.
        """
        saves = self._saves()
        if not saves:
            return None
        _, folder = saves[-1]
        facts = _read_facts(folder / "facts.json", folder)
        arrays = folder / "arrays.npz"
        try:
            with np.load(arrays, allow_pickle=False) as stored:
                found = {name: stored[name] for name in stored.files}  # zip's CRC-32 of each is checked by reading it
        except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile, NotImplementedError) as error:
            raise _damaged(arrays, folder, error) from error
        return facts, found

    def facts(self) -> dict[str, Any] | None:
        """Facts of the last save alone.

        Raises:
            CheckpointError: They are damaged, or were replaced in this moment.
        """
        saves = self._saves()
        return _read_facts(saves[-1][1] / "facts.json", saves[-1][1]) if saves else None

    def save(self, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        """Write a new state, and only then remove the one before: whoever is killed in between leaves a whole one.

        Args:
            facts: What JSON can say.
            arrays: Arrays of numbers by name.

        Raises:
            CheckpointError: The disk refuses it.
        """
        number = self._saves()[-1][0] + 1 if self._saves() else 0
        try:
            self._write(f"save-{number:08d}", facts, arrays)
        except OSError as error:
            raise CheckpointError(f"{self.path}: the training's state cannot be written ({error}).") from error

    def _write(self, name: str, facts: Mapping[str, Any], arrays: Mapping[str, NDArray[Any]]) -> None:
        self.path.mkdir(parents=True, exist_ok=True)
        partial = self.path / f".{name}.partial"
        shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed at this very save
        partial.mkdir()
        with (partial / "arrays.npz").open("xb") as file:
            np.savez(file, allow_pickle=False, **arrays)
        body = json.dumps({"format": FORMAT, **facts})
        with (partial / "facts.json").open("x", encoding="utf-8") as text:
            json.dump({"sha256": _digest(body), "facts": body}, text)
        for written in (partial / "arrays.npz", partial / "facts.json", partial):
            to_disk(written)
        partial.rename(self.path / name)
        to_disk(self.path)
        for entry in list(self.path.iterdir()):
            if entry.name != name and entry.name != ".lock" and _OURS.fullmatch(entry.name):
                self._remove(entry)

    def _remove(self, entry: Path) -> None:
        # Under another name first: a save that is half removed must not look like one.
        aside = entry.with_name(f".{entry.name}.old") if _SAVE.fullmatch(entry.name) else entry
        entry.rename(aside)
        shutil.rmtree(aside)

    def acquire(self) -> None:
        """Keep other trainings out until `release`; the lock dies with the process.

        Raises:
            CheckpointError: Another one writes here.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=_LOCK_SECONDS)
        except Timeout:
            raise CheckpointError(
                f"{self.path}: another training keeps its state here. Wait for it to end, or name another folder."
            ) from None
        except OSError as error:
            raise CheckpointError(f"{self.path}: the training's state cannot be written ({error}).") from error

    def release(self) -> None:
        """Let others write here."""
        self._lock.release()


def _read_facts(path: Path, folder: Path) -> dict[str, Any]:
    try:
        outer = json.loads(path.read_text(encoding="utf-8"))
        body = outer["facts"]
        if _digest(body) != outer["sha256"]:
            raise ValueError("its digest is another one")
        facts = json.loads(body)
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise _damaged(path, folder, error) from error
    if facts["format"] != FORMAT:
        raise CheckpointError(
            f"{folder} has format {facts['format']}, and this version of the package reads format {FORMAT}. "
            "Go on with the version that wrote it, or name another folder to train anew."
        )
    assert isinstance(facts, dict)
    return facts


def _damaged(path: Path, folder: Path, error: Exception) -> CheckpointError:
    return CheckpointError(
        f"{path} is damaged ({type(error).__name__}: {error}), so training cannot go on from it. "
        f"Remove {folder}, or name another folder, to train anew."
    )


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()
