"""A real browser and a real server for the tests of pages, shared by all of them."""

import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, sync_playwright
from playwright.sync_api import Error as PlaywrightError

from dnnflow.settings import Settings
from dnnflow.web.app import create_app
from dnnflow.web.contract.web_config import WebConfig
from dnnflow.web.jobs.embedded_launcher import EmbeddedLauncher
from dnnflow.web.jobs.services import Services
from dnnflow.web.server import make_server, make_services

PROGRAM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
ARGUMENTS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking")
RULES = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa"]}
PHONE = {"width": 360, "height": 740}
DESK = {"width": 1200, "height": 900}
DIGITS = Path(__file__).parents[2] / "pipelines" / "data" / "digits.csv"


@pytest.fixture(scope="session")
def shots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where screenshots are kept: DNNFLOW_SCREENSHOTS, or a temporary directory."""
    path = Path(os.environ.get("DNNFLOW_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    path.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """The only browser of a module; while it lives, its driver has this thread's event loop."""
    if PROGRAM is None:
        pytest.skip("no Chromium is installed")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=PROGRAM, args=list(ARGUMENTS))
        yield browser
        browser.close()


@dataclass(frozen=True)
class Site:
    """A server with its services, in a thread of this process; jobs run in children."""

    url: str
    services: Services

    @contextmanager
    def another(self, port: int = 0) -> Iterator[tuple[str, int]]:
        """Serve the same studies once more for the block; yields address and port."""
        server = make_server(create_app(self.services), port=port, log_level="warning")
        thread = threading.Thread(target=server.run, daemon=True)
        thread.start()
        while not server.started:
            assert thread.is_alive(), "the server ended"
            time.sleep(0.02)
        found = int(server.servers[0].sockets[0].getsockname()[1])
        try:
            yield f"http://127.0.0.1:{found}", found
        finally:
            server.should_exit = True
            thread.join(timeout=20)


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """The only server of a test session, with the launcher that people have."""
    from tests.web.conftest import serving

    settings = Settings.from_environment({"DNNFLOW_HOME": str(tmp_path_factory.mktemp("web") / "home")})
    launcher = EmbeddedLauncher(settings.workspace.launches, settings)
    services = make_services(WebConfig(), settings, launcher)
    with serving(create_app(services)) as served:
        yield Site(served.url, services)
    for record in services.store.runs():
        if record.queue is not None and not record.state.has_ended:
            launcher.cancel(record.run_id)
    launcher.close()
    services.store.close()


@dataclass
class Tab:
    """A page of the browser that notes what its console says."""

    page: Page
    url: str
    shots: Path
    said: list[str] = field(default_factory=list)
    """Errors and warnings of the console, and exceptions."""

    def __post_init__(self) -> None:
        self.page.set_default_timeout(20_000)
        self.page.on("console", self._hear)
        self.page.on("pageerror", lambda error: self.said.append(f"exception: {error}"))

    def _hear(self, message: Any) -> None:
        if message.type in ("error", "warning"):
            self.said.append(f"{message.type}: {message.text}")

    def open(self, path: str) -> None:
        """Open a page of the site."""
        answer = self.page.goto(self.url + path)
        assert answer is not None
        assert answer.status < 400, f"{path} answered {answer.status}: {self.page.inner_text('main')[:400]}"

    def wait(self, script: str, limit_s: float = 20.0) -> None:
        """Wait until a script gives something true; the pages' policy lets Playwright's own wait not in."""
        end_s = time.monotonic() + limit_s
        while not self._find(script):
            if time.monotonic() > end_s:
                pytest.fail(f"in {limit_s:.0f} s {script} gave nothing; {self.page.inner_text('main')[:600]}")
            self.page.wait_for_timeout(50)

    def _find(self, script: str) -> Any:
        """Return what a script gives; None while a page on its way has not got what the script looks for."""
        try:
            return self.page.evaluate(script)
        except PlaywrightError:
            return None

    def picture(self, name: str, *, whole: bool = True) -> Path:
        """Keep a screenshot."""
        path = self.shots / f"{name}.png"
        self.page.screenshot(path=path, full_page=whole)
        return path

    def violations(self) -> list[str]:
        """Return what axe finds against WCAG 2 A and AA."""
        found = Axe().run(self.page, options=RULES).response["violations"]
        return [f"{one['id']}: {node['html'][:160]}" for one in found for node in one["nodes"]]

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than the window."""
        return int(self.page.evaluate("document.documentElement.scrollWidth - innerWidth"))


@pytest.fixture
def open_tab(chromium: Browser, site: Site, shots: Path) -> Iterator[Callable[..., Tab]]:
    """A function that opens a tab of its own; options are those of a browser's context."""
    contexts = []

    def make(**options: Any) -> Tab:
        context = chromium.new_context(**{"viewport": DESK, "reduced_motion": "reduce", **options})
        contexts.append(context)
        return Tab(context.new_page(), site.url, shots)

    yield make
    for context in contexts:
        context.close()


@pytest.fixture
def tab(open_tab: Callable[..., Tab]) -> Tab:
    """A tab as wide as a desk's."""
    return open_tab()
