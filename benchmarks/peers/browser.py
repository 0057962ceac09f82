"""Measure how long Chromium takes to open a page and to draw its figures."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from playwright.sync_api import sync_playwright

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
ARGUMENTS = ("--no-sandbox", "--disable-gpu", "--disable-background-networking")
LIMIT_S = 120.0
LOOK_S = 0.02
STATE = """({
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
    with (
        sync_playwright() as playwright,
        playwright.chromium.launch(executable_path=program, args=list(ARGUMENTS)) as chromium,
    ):
        page = chromium.new_page()
        page.goto(path.resolve().as_uri(), wait_until="commit")
        end_s = time.monotonic() + LIMIT_S
        # The page's policy lets Playwright's own wait not in
        while time.monotonic() < end_s:
            state = page.evaluate(STATE)
            if is_drawn(state):
                return Opening(state["loaded_ms"] / 1e3, state["now_ms"] / 1e3, state["expected"])
            time.sleep(LOOK_S)
    raise SystemExit(f"the figures of {path} must be drawn within {LIMIT_S:.0f} s, got none by then")


def is_drawn(state: dict[str, Any]) -> bool:
    """Say whether the page is loaded and all its figures are painted."""
    if not state["loaded_ms"]:
        return False
    return bool(state["expected"] == 0 or (state["documents"] > 0 and state["drawn"]))
