"""A real Chromium without a screen, driven over a pipe by its own protocol (CDP): nothing else is installed for it.

Messages are JSON, each ended by a NUL, on file descriptors 3 and 4 of the browser (--remote-debugging-pipe).

`python -m tests.support.chromium report.html docs/images/report.png` takes the picture that the documents show.
"""

from __future__ import annotations

import base64
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")
_FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
    *("--hide-scrollbars", "--remote-debugging-pipe"),
)
_TIMEOUT_S = 60.0


def find() -> str | None:
    """Path of a Chromium on this machine; None where there is none."""
    return next(filter(None, map(shutil.which, _NAMES)), None)


class Page:
    """The one page of a browser.

    Attributes:
        told: What the page has said or failed at: console messages, exceptions, failed or refused requests.
        requested: URLs that the page has asked for.
    """

    def __init__(self, to_browser: int, from_browser: int) -> None:
        self._to, self._from, self._unread = to_browser, from_browser, b""
        self._number, self._session = 0, ""
        self.told: list[str] = []
        self.requested: list[str] = []
        self._loaded = False
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network", "Accessibility"):
            self.call(f"{domain}.enable")

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Call a method of the protocol; its result."""
        self._number += 1
        message = {"id": self._number, "method": method, "params": parameters}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer["error"]
                return answer["result"]

    def show(self, path: Path, width: int, height: int, **media: str) -> None:
        """Load a file at a size of the window, as on a phone where that is narrow; waits until it is there.

        Args:
            path: The file.
            width: Of the window, in CSS pixels.
            height: Likewise.
            **media: Features of the medium, such as prefers_color_scheme="dark"; medium="print".
        """
        self.call(
            "Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600
        )
        medium = media.pop("medium", "")
        features = [{"name": name.replace("_", "-"), "value": value} for name, value in media.items()]
        self.call("Emulation.setEmulatedMedia", media=medium, features=features)
        self._loaded = False
        self.call("Page.navigate", url=path.as_uri())
        while not self._loaded:
            self._next()

    def run(self, script: str) -> Any:
        """The value of an expression in the page."""
        found = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def screenshot(self) -> bytes:
        """What the window shows, as PNG."""
        return base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"])

    def pdf(self) -> bytes:
        """The page as it is printed, on A4."""
        paper = {"paperWidth": 8.27, "paperHeight": 11.69}
        return base64.b64decode(self.call("Page.printToPDF", printBackground=False, **paper)["data"])

    def accessible(self) -> list[tuple[str, str]]:
        """Role and name of everything that a screen reader is told of."""
        nodes = self.call("Accessibility.getFullAXTree")["nodes"]
        return [
            (node["role"]["value"], node.get("name", {}).get("value", ""))
            for node in nodes
            if not node.get("ignored") and "role" in node
        ]

    def _next(self) -> dict[str, Any]:
        until = time.monotonic() + _TIMEOUT_S
        while b"\0" not in self._unread:
            ready, _, _ = select.select([self._from], [], [], max(until - time.monotonic(), 0))
            data = os.read(self._from, 2**20) if ready else b""
            assert data, "the browser does not answer"
            self._unread += data
        line, _, self._unread = self._unread.partition(b"\0")
        message: dict[str, Any] = json.loads(line)
        self._note(message.get("method"), message.get("params", {}))
        return message

    def _note(self, event: str | None, said: dict[str, Any]) -> None:
        if event == "Page.loadEventFired":
            self._loaded = True
        elif event == "Log.entryAdded":
            self.told.append(said["entry"]["text"])
        elif event == "Runtime.consoleAPICalled":
            self.told.append(str(said["args"]))
        elif event == "Runtime.exceptionThrown":
            self.told.append(str(said["exceptionDetails"]))
        elif event == "Network.loadingFailed":
            self.told.append(said["errorText"])
        elif event == "Network.requestWillBeSent":
            self.requested.append(said["request"]["url"])


@contextmanager
def start(folder: Path) -> Iterator[Page]:
    """A browser with one page, its profile in `folder`."""
    program = find()
    assert program is not None
    from_us, to_browser = os.pipe()
    from_browser, to_us = os.pipe()

    def descriptors() -> None:  # in the child: the pipe's ends become 3 and 4, whatever numbers they have
        # Above all that is in use first, lest one overwrites the other.
        reading, writing = os.dup2(from_us, 253), os.dup2(to_us, 254)
        os.dup2(reading, 3)
        os.dup2(writing, 4)

    process = subprocess.Popen(
        [program, *_FLAGS, f"--user-data-dir={folder}"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        close_fds=False,
        preexec_fn=descriptors,
    )
    os.close(from_us)
    os.close(to_us)
    try:
        page = Page(to_browser, from_browser)
        yield page
        with suppress(AssertionError, OSError):
            page._session = ""
            page.call("Browser.close")
    finally:
        os.close(to_browser)
        os.close(from_browser)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as profile, start(Path(profile)) as shown:
        shown.show(Path(sys.argv[1]).absolute(), 1150, 1400)
        Path(sys.argv[2]).write_bytes(shown.screenshot())
