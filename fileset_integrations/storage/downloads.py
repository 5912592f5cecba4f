"""One file on its way to the disk: what arrived, and how long to try."""

from __future__ import annotations

import hashlib
import random
import time
from dataclasses import dataclass, field
from pathlib import Path

from fileset_integrations.errors import FileSetFetchError

_CHUNK_BYTES = 2**20
_ATTEMPTS = 6  # without a byte received; waits of 0.2, 0.4, ... 3.2 s between them
_ALL_ATTEMPTS = 30
_FIRST_WAIT_S = 0.2
_LONGEST_WAIT_S = 10.0


@dataclass(slots=True)
class Download:
    """A file that was downloaded.

    Attributes:
        sha256: Of what arrived, hex.
        md5: Likewise; "" where it was not asked for.
        stated_md5: What the responses say of the file's md5, hex; empty where they say nothing.
    """

    sha256: str
    md5: str
    stated_md5: set[str] = field(default_factory=set)


class Patience:
    """Counts failures of one transfer that may pass, and waits longer after each."""

    def __init__(self, what: str) -> None:
        self._what = what
        self._fruitless = self._failures = 0

    def progress(self) -> None:
        """Note that bytes arrived."""
        self._fruitless = 0

    def wait(self, cause: str, seconds: float | None = None) -> None:
        """Wait for the next attempt.

        Args:
            cause: What failed.
            seconds: How long the server asks to wait.

        Raises:
            FileSetFetchError: It has failed too often.
        """
        self._fruitless += 1
        self._failures += 1
        if self._fruitless >= _ATTEMPTS or self._failures >= _ALL_ATTEMPTS:
            raise FileSetFetchError(
                f"{self._what}: cannot be fetched, {cause}; {self._failures} attempts. What is fetched already stays: "
                "run it again once the stage answers."
            )
        growing = _FIRST_WAIT_S * 2 ** (self._fruitless - 1) * random.uniform(0.75, 1.25)
        time.sleep(min(max(growing, seconds or 0.0), _LONGEST_WAIT_S))


def digest_file(path: Path, with_md5: bool) -> Download:
    """Digests of a file."""
    sha256, md5 = hashlib.sha256(), hashlib.md5(usedforsecurity=False)
    buffer = memoryview(bytearray(_CHUNK_BYTES))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            sha256.update(buffer[:count])
            if with_md5:
                md5.update(buffer[:count])
    return Download(sha256.hexdigest(), md5.hexdigest() if with_md5 else "")
