"""What tests of the web server share: services that only record jobs, an app, clients, a real server."""

import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
from fastapi import FastAPI
from starlette.testclient import TestClient

from dnnflow.results.store import Store
from dnnflow.settings import Settings
from dnnflow.web.app import create_app
from dnnflow.web.services import Services, WebConfig
from dnnflow.web.uploads import Uploads
from tests.web.browsing import chromium, open_tab, shots, site, tab  # noqa: F401
from tests.web.recording import RecordingLauncher, insert_study


@pytest.fixture
def web_settings(tmp_path: Path) -> Settings:
    """Settings of an installation of its own."""
    return Settings.from_environment({"DNNFLOW_HOME": str(tmp_path / "home")})


@pytest.fixture
def make_services(web_settings: Settings) -> Iterator[Callable[..., Services]]:
    """A function that returns services; `config` says how they are reached."""
    made: list[Store] = []

    def make(config: WebConfig | None = None, **fields: object) -> Services:
        config = config or WebConfig(**fields)
        store = Store(web_settings.store_url)
        made.append(store)
        uploads = Uploads(web_settings.workspace.home / "uploads", config.limits.upload)
        return Services(config, web_settings, store, uploads, RecordingLauncher())

    yield make
    for store in made:
        store.close()


@pytest.fixture
def services(make_services: Callable[..., Services]) -> Services:
    """Services on loopback, without a token."""
    return make_services()


@pytest.fixture
def app(services: Services) -> FastAPI:
    """The application of `services`."""
    return create_app(services)


def client_of(app: FastAPI, **headers: str) -> TestClient:
    """Return a client that calls an app by the right name; server errors are answered, not raised."""
    return TestClient(app, base_url="http://127.0.0.1:8050", headers=headers, raise_server_exceptions=False,
                      client=("127.0.0.1", 50000), follow_redirects=False)  # fmt: skip


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A program that talks to the app, in this process."""
    with client_of(app) as opened:
        yield opened


@pytest.fixture
def make_study(services: Services) -> Callable[..., str]:
    """A function that inserts a study with made-up trials and returns its id; see `insert_study`."""

    def make(trials: int = 24, **how: object) -> str:
        return insert_study(services.store, trials, **how)

    return make


@dataclass(frozen=True)
class Served:
    """A server that runs in a thread of this process."""

    url: str
    port: int
    app: FastAPI


@contextmanager
def serving(app: FastAPI) -> Iterator[Served]:
    """Serve an app on a free port of loopback for the block."""
    from dnnflow.web.server import make_server

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = int(listening.getsockname()[1])
        server = make_server(app, log_level="warning")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive(), "the server ended"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)
        try:
            yield Served(f"http://127.0.0.1:{port}", port, app)
        finally:
            server.should_exit = True
            thread.join(timeout=20)
    assert not thread.is_alive(), "the server did not end"


@pytest.fixture
def serve_app(app: FastAPI) -> Iterator[Served]:
    """The application of `services`, served over a socket."""
    with serving(app) as served:
        yield served
