"""A headless Chromium that a test looks at pages with, by its DevTools protocol."""

import base64
import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect
from websockets.sync.connection import Connection

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = ("--headless --no-sandbox --disable-gpu --disable-background-networking --disable-dev-shm-usage "
           "--remote-debugging-port=0 --window-size=1320,1500")  # fmt: skip
LIMIT_S = 60.0
LOOK_S = 0.2
TEXTS = """(() => {
  const texts = [];
  const visit = (node) => {
    if (node.nodeType === Node.TEXT_NODE) texts.push(node.textContent);
    if (node.tagName === "STYLE" || node.tagName === "SCRIPT") return;
    if (node.shadowRoot) visit(node.shadowRoot);
    node.childNodes.forEach(visit);
  };
  visit(document.body);
  return texts.join(" ");
})()"""
"""All text of a page; Bokeh keeps its own in shadow roots, out of sight of innerText."""


class Tab:
    """The only tab of a browser."""

    def __init__(self, socket: Connection) -> None:
        self._socket, self._number = socket, 0

    def ask(self, method: str, **parameters: Any) -> dict[str, Any]:
        """Send a command and return its answer; events in between are dropped."""
        self._number += 1
        self._socket.send(json.dumps({"id": self._number, "method": method, "params": parameters}))
        while True:
            said = json.loads(self._socket.recv(timeout=LIMIT_S))
            if said.get("id") == self._number:
                assert "error" not in said, said
                return said["result"]

    def open(self, url: str) -> None:
        self.ask("Page.enable")
        self.ask("Page.navigate", url=url)

    def value(self, script: str) -> Any:
        """Return what a script gives."""
        return self.ask("Runtime.evaluate", expression=script, returnByValue=True)["result"].get("value")

    def wait(self, script: str, limit_s: float = LIMIT_S) -> Any:
        """Wait until a script gives something true, and return it."""
        end_s = time.monotonic() + limit_s
        while time.monotonic() < end_s:
            if found := self.value(script):
                return found
            time.sleep(LOOK_S)
        pytest.fail(f"in {limit_s:.0f} s {script} gave nothing; the page says {self.value(TEXTS)}")

    def picture(self, path: Path) -> None:
        """Write the whole page as PNG."""
        data = self.ask("Page.captureScreenshot", captureBeyondViewport=True)["data"]
        path.write_bytes(base64.b64decode(data))


@contextmanager
def browser() -> Iterator[Tab]:
    """Yield the tab of a new browser; the test is skipped where there is none."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        pytest.skip("no Chromium is installed")
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *OPTIONS.split(), f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                with connect(_address(Path(profile)), max_size=None, proxy=None) as socket:
                    yield Tab(socket)
            finally:
                process.terminate()


def _address(profile: Path) -> str:
    """Wait until the browser has written its port, and return the address of its tab."""
    note = profile / "DevToolsActivePort"
    end_s = time.monotonic() + LIMIT_S
    while time.monotonic() < end_s:
        if note.is_file() and (lines := note.read_text().splitlines()):
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://127.0.0.1:{lines[0]}/json/list", timeout=LIMIT_S) as answer:
                tabs = [one for one in json.load(answer) if one["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(LOOK_S)
    pytest.fail(f"Chromium must say its port within {LIMIT_S:.0f} s")
