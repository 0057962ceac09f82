"""How long Chromium takes to open a page and to draw its figures."""

import json
import shutil
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
OPTIONS = "--headless --no-sandbox --disable-gpu --disable-background-networking --remote-debugging-port=0"
LIMIT_S = 120.0
LOOK_S = 0.02
STATE = """JSON.stringify({
  href: location.href,
  loaded_ms: performance.getEntriesByType("navigation")[0]?.loadEventEnd || 0,
  now_ms: performance.now(),
  expected: document.querySelectorAll("[data-root-id]").length,
  documents: window.Bokeh ? Bokeh.documents.length : 0,
  drawn: Boolean(window.Bokeh) && Bokeh.documents.every(d => d.is_idle)
})"""
"""What a page says of itself; BokehJS calls a document idle when all of its figures are painted."""


@dataclass(frozen=True)
class Opening:
    """A page that was opened. Times begin with the navigation."""

    loaded_s: float
    """Until the page's load event."""
    drawn_s: float
    """Until all figures are drawn."""
    figures: int


def open_page(path: Path) -> Opening | None:
    """Open a local page; None where there is no Chromium."""
    program = next((found for name in PROGRAMS if (found := shutil.which(name))), None)
    if program is None:
        return None
    with browser(program) as tab:
        ask(tab, "Page.navigate", url=path.resolve().as_uri())
        end = time.monotonic() + LIMIT_S
        while time.monotonic() < end:
            said = ask(tab, "Runtime.evaluate", expression=STATE)["result"]
            state = json.loads(said["value"]) if said["type"] == "string" else {}
            if is_drawn(state):
                return Opening(state["loaded_ms"] / 1e3, state["now_ms"] / 1e3, state["expected"])
            time.sleep(LOOK_S)
    raise SystemExit(f"the figures of {path} must be drawn within {LIMIT_S:.0f} s, got none by then")


def is_drawn(state: dict[str, Any]) -> bool:
    """Say whether the page is loaded and all its figures are painted."""
    if not state or state["href"] == "about:blank" or not state["loaded_ms"]:
        return False
    return bool(state["expected"] == 0 or (state["documents"] > 0 and state["drawn"]))


@contextmanager
def browser(program: str) -> Iterator[Any]:
    """Yield a connection to the only tab of a new browser."""
    from websockets.sync.client import connect

    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as profile:
        command = [program, *OPTIONS.split(), f"--user-data-dir={profile}", "about:blank"]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                with connect(tab_address(Path(profile)), max_size=None, proxy=None) as tab:
                    yield tab
            finally:
                process.terminate()


def tab_address(profile: Path) -> str:
    """Wait until the browser has written its port, and return the address of its tab."""
    note = profile / "DevToolsActivePort"
    end = time.monotonic() + LIMIT_S
    while time.monotonic() < end:
        if note.is_file() and (lines := note.read_text().splitlines()):
            opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
            with opener.open(f"http://127.0.0.1:{lines[0]}/json/list", timeout=LIMIT_S) as answer:
                tabs = [one for one in json.load(answer) if one["type"] == "page"]
            if tabs:
                return str(tabs[0]["webSocketDebuggerUrl"])
        time.sleep(LOOK_S)
    raise SystemExit(f"Chromium must say its port within {LIMIT_S:.0f} s, got none")


def ask(tab: Any, method: str, **parameters: Any) -> Any:
    """Send a command to the tab and return its answer; events in between are dropped."""
    tab.send(json.dumps({"id": 1, "method": method, "params": parameters}))
    while True:
        said = json.loads(tab.recv(timeout=LIMIT_S))
        if said.get("id") == 1:
            return said.get("result", {})
