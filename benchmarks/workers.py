"""The processes that are measured, seen from the driver: started, asked, watched, ended."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import shutil
import subprocess
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.protocol import Data

ROOT = Path(__file__).parent.parent
_TICK_S = 0.03  # between looks at a process's memory


class WorkerError(Exception):
    """A process could not do what it was asked for; says why in one line."""


@dataclass
class Memory:
    """Anonymous memory of a process and its children, in bytes; None where the system does not say."""

    highest: int | None = None

    def look(self, pid: int) -> None:
        found = _anonymous(pid)
        if found is not None:
            self.highest = max(found, self.highest or 0)


class Worker:
    """One process, for one entry.

    Args:
        python: Its interpreter.
        module: The module of the entry.
        entry: The entry's name; "" for requests only.
        data: What it reads.
        batch_size: Rows per batch.
        log: File that takes what it prints.

    Raises:
        WorkerError: It did not start.
    """

    def __init__(self, python: Path, module: str, entry: str, data: Data, batch_size: int, log: Path) -> None:
        self._scratch = tempfile.mkdtemp(prefix="fileset-bench-", dir=log.parent)
        self._log = log
        with log.open("a") as errors:
            self._process = subprocess.Popen(
                [str(python), "-m", "benchmarks.protocol"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=errors,
                text=True,
                cwd=ROOT,
                env=_environment(Path(self._scratch)),
            )
        self._answers: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._listen, daemon=True).start()
        begin = {"module": module, "entry": entry, "data": data.to_json(), "batch_size": batch_size}
        try:
            self.version = self.ask(begin | {"scratch": self._scratch}, 300)["version"]
        except WorkerError:
            self.close()
            raise

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._answers.put(line)
        self._answers.put(None)

    def ask(self, request: dict[str, Any], timeout_s: float) -> dict[str, Any]:
        """Its answer, with the most memory it was seen to hold ("anon") and what else was busy ("others").

        "others" is the number of cores that other processes kept busy meanwhile.

        Raises:
            WorkerError: It failed, ended, or did not answer in time.
        """
        assert self._process.stdin is not None
        memory = Memory()
        busy, began = _busy_s(), time.monotonic()
        try:
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
        except OSError as error:
            raise WorkerError("the process ended") from error
        while True:
            memory.look(self._process.pid)
            try:
                line = self._answers.get(timeout=_TICK_S)
                break
            except queue.Empty:
                if time.monotonic() - began > timeout_s:
                    self._process.kill()
                    raise WorkerError(f"no answer within {timeout_s:.0f} s") from None
        took = time.monotonic() - began
        if line is None:
            raise WorkerError(f"the process ended with status {self._process.wait()}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise WorkerError(answer["error"])
        answer["anon"] = memory.highest
        now = _busy_s()
        if busy is not None and now is not None and "cpu_s" in answer:
            answer["others"] = max(now - busy - answer["cpu_s"], 0.0) / took
        return answer

    def close(self) -> None:
        """End the process and remove what it wrote."""
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(OSError):
            self._process.stdin.close()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._process.stdout.close()
        shutil.rmtree(self._scratch, ignore_errors=True)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, kind: type[BaseException] | None, value: BaseException | None, at: TracebackType | None) -> None:
        self.close()


def _environment(scratch: Path) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "PYTHONSTARTUP")}
    return kept | {
        "PYTHONPATH": str(ROOT),
        "PYTHONNOUSERSITE": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "FILESET_CACHE_DIR": str(scratch / "fileset"),
        "HF_DATASETS_CACHE": str(scratch / "huggingface"),
        "HF_HOME": str(scratch / "huggingface"),
        "HF_HUB_OFFLINE": "1",
        "TF_CPP_MIN_LOG_LEVEL": "2",
    }


def _anonymous(pid: int) -> int | None:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return None
    own = next((int(line.split()[1]) * 1024 for line in status.splitlines() if line.startswith("RssAnon:")), None)
    if own is None:
        return None
    return own + sum(_anonymous(int(child)) or 0 for child in children)


def _busy_s() -> float | None:
    """Seconds of processor time that all processes together have taken since the machine started."""
    try:
        fields = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:]
    except OSError:
        return None
    user, nice, system, _, _, irq, softirq, *_ = (int(value) for value in fields)
    return (user + nice + system + irq + softirq) / os.sysconf("SC_CLK_TCK")
