"""Runs the candidates of a scenario in turns, and gathers what they answer."""

from __future__ import annotations

import os
import platform
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

from benchmarks.data import make_data
from benchmarks.environments import NotInstalledError, python_of
from benchmarks.protocol import Data
from benchmarks.scenarios import CANDIDATES, PROMISES, Candidate, Scenario
from benchmarks.workers import Worker, WorkerError

_SLOW_ROUNDS = 2
_SPARE_S = 240  # an answer may come so much later than its time is up: opening and first batches are not cut short

Say = Callable[[str], None]


@dataclass
class Results:
    """What a run found, as it goes to JSON.

    Attributes:
        setting: Machine, versions, scale and load.
        epochs: One dict for each measured epoch.
        promises: Answers to the requests of `PROMISES`.
        failures: Candidate or promise -> why it has no numbers.
    """

    setting: dict[str, Any] = field(default_factory=dict)
    epochs: list[dict[str, Any]] = field(default_factory=list)
    promises: dict[str, Any] = field(default_factory=dict)
    failures: dict[str, str] = field(default_factory=dict)


class Driver:
    """Measures scenarios and promises.

    Args:
        cache: Folder for data, environments and logs.
        scale: Multiplies the rows of every file.
        repeats: Rounds.
        seconds: An epoch is cut short so long after its first batch; the rest is taken to go on as it went until then.
        with_peers: Whether candidates that need an environment of their own take part.
        say: Takes a line on how it goes.
    """

    def __init__(self, cache: Path, scale: float, repeats: int, seconds: float, with_peers: bool, say: Say) -> None:
        self._cache, self._scale, self._repeats, self._seconds = cache.resolve(), scale, repeats, seconds
        self._with_peers, self._say = with_peers, say
        self.results = Results(setting=_setting(scale, repeats, seconds))
        (self._cache / "logs").mkdir(parents=True, exist_ok=True)

    def prepare(self, environments: Sequence[str], data: Sequence[str]) -> None:
        """Make environments and data that are not there yet."""
        for name in environments if self._with_peers else ():
            self._say(f"environment of {name}")
            try:
                python_of(name, self._cache / "environments")
            except NotInstalledError as error:
                self._say(f"  not installed: {error}")
        for name in data:
            self._say(f"data {name}")
            make_data(name, self._scale, self._cache / "data")

    def measure(self, scenario: Scenario) -> None:
        """Let the candidates of a scenario take turns; every other round goes backwards."""
        data = make_data(scenario.data, self._scale, self._cache / "data")
        with ExitStack() as stack:
            workers = dict(self._started(scenario, data, stack))
            for number in range(min(self._repeats, scenario.most_rounds)):
                turn = list(workers) if number % 2 == 0 else list(reversed(workers))
                self._say(f"{scenario.key}: round {number + 1}")
                for key in turn:
                    if key not in workers or (CANDIDATES[key].slow and number >= _SLOW_ROUNDS):
                        continue
                    try:
                        self._epochs(scenario, data, CANDIDATES[key], workers[key], number)
                    except WorkerError as error:
                        self._failed(f"{key} ({scenario.key})", error)
                        workers.pop(key).close()

    def _started(self, scenario: Scenario, data: Data, stack: ExitStack) -> Iterator[tuple[str, Worker]]:
        for key in scenario.candidates:
            candidate = CANDIDATES[key]
            if candidate.environment and not self._with_peers:
                continue
            self._say(f"{scenario.key}: starting {key}")
            try:
                python = self._python(candidate)
                log = self._cache / "logs" / f"{key}.log"
                worker = Worker(python, candidate.module, candidate.entry, data, scenario.batch_size, log)
                stack.callback(worker.close)
                self.results.setting["versions"][candidate.module] = worker.version
                # Imports and conversions are not what is measured.
                worker.ask({"do": "epoch", "fresh": True, "seconds": 0.3}, 600)
            except (NotInstalledError, WorkerError) as error:
                self._failed(key if isinstance(error, NotInstalledError) else f"{key} ({scenario.key})", error)
                continue
            yield key, worker

    def _python(self, candidate: Candidate) -> Path:
        if not candidate.environment:
            return Path(sys.executable)
        return python_of(candidate.environment, self._cache / "environments")

    def _epochs(self, scenario: Scenario, data: Data, candidate: Candidate, worker: Worker, number: int) -> None:
        for phase in candidate.phases:
            request = {"do": "epoch", "fresh": phase == "first", "seconds": self._seconds}
            _warm(data)
            answer = worker.ask(request, self._seconds + _SPARE_S)
            about: dict[str, Any] = {
                "scenario": scenario.key,
                "candidate": candidate.key,
                "phase": phase,
                "round": number,
            }
            about["data_rows"] = data.num_rows
            self.results.epochs.append(about | answer)

    def promise(self, name: str) -> None:
        """Measure something that only we promise."""
        request, data_name, arguments = PROMISES[name]
        self._say(f"{name}")
        data = make_data(data_name, self._scale, self._cache / "data")
        wanted: dict[str, Any] = {"do": request, "repeats": self._repeats} | arguments
        try:
            log = self._cache / "logs" / f"{name}.log"
            with Worker(Path(sys.executable), "benchmarks.ours", "", data, 1024, log) as worker:
                self.results.promises[name] = worker.ask(wanted, 600)
        except WorkerError as error:
            self._failed(name, error)

    def _failed(self, what: str, error: Exception) -> None:
        self._say(f"  {what}: {error}")
        self.results.failures[what] = str(error)

    def finish(self) -> Results:
        """The results, with the load at the end."""
        self.results.setting["load_at_end"] = os.getloadavg()[0]
        return self.results


def _warm(data: Data) -> None:
    """Read all files, so that they lie in the page cache: others may have driven them out meanwhile."""
    for path in data.files:
        with Path(path).open("rb", buffering=0) as file:
            while file.read(2**20):
                pass


def _setting(scale: float, repeats: int, seconds: float) -> dict[str, Any]:
    return {
        "scale": scale,
        "repeats": repeats,
        "seconds": seconds,
        "cores": os.cpu_count(),
        "processor": _processor(),
        "system": platform.system(),
        "python": platform.python_version(),
        "packages": {name: metadata.version(name) for name in ("numpy", "pyarrow")},
        "versions": {},
        "load_at_start": os.getloadavg()[0],
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
