"""What a job leaves behind for its sweep: `result.json` in its folder."""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal

FILE_NAME = "result.json"


@dataclass(frozen=True)
class Result:
    """How one job ended, or that it has begun.

    Attributes:
        job: Its number in the sweep.
        overrides: What distinguishes it, as given: value by key.
        status: "started" until it ends; so a job whose process died says so.
        metrics: What the evaluation measured of the model.
        lower_is_better: Whether a smaller value of them is better.
        seconds: From its start to its end.
        error: What went wrong, in one line.
    """

    job: int
    overrides: dict[str, str] = field(default_factory=dict)
    status: Literal["started", "done", "failed"] = "started"
    metrics: dict[str, float] = field(default_factory=dict)
    lower_is_better: bool = True
    seconds: float = 0.0
    error: str = ""

    def write(self, folder: Path) -> None:
        """Write it into the job's folder, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        partial = folder / f".{FILE_NAME}.{os.getpid()}"
        partial.write_text(json.dumps(asdict(self), indent=1), encoding="utf-8")
        partial.replace(folder / FILE_NAME)

    @classmethod
    def read(cls, folder: Path) -> Result:
        """The result that lies in a job's folder.

        Raises:
            OSError: There is none.
            ValueError: The file holds something else.
        """
        text = (folder / FILE_NAME).read_text(encoding="utf-8")
        try:
            return cls(**json.loads(text))
        except TypeError as error:
            raise ValueError(f"{folder / FILE_NAME} is not the result of a job: {error}") from error

    def failed(self, error: str, seconds: float) -> Result:
        """The same job, ended by an error."""
        return replace(self, status="failed", error=error, seconds=seconds)


def read_all(sweep_dir: Path) -> list[Result]:
    """The results of a sweep's jobs, by their numbers. What others left there under that name is passed over."""
    found = []
    for path in sweep_dir.rglob(FILE_NAME):
        try:
            found.append(Result.read(path.parent))
        except ValueError:
            continue
    return sorted(found, key=lambda result: result.job)
