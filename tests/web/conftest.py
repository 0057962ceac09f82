"""What tests of the web server share: services that only record jobs, an app, clients, a real server."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest
from fastapi import FastAPI

from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.web.app import create_app
from dnnflow.web.contract.web_config import WebConfig
from dnnflow.web.jobs.services import Services
from dnnflow.web.uploads.uploads import Uploads
from tests.web.browsing import chromium, open_tab, shots, site, tab  # noqa: F401
from tests.web.recording import RecordingLauncher, design, insert_study
from tests.web.served import Served, TestClient, client_of, serving


@pytest.fixture
def web_settings(tmp_path: Path) -> Settings:
    """Settings of an installation of its own."""
    return Settings.from_environment({"DNNFLOW_HOME": str(tmp_path / "home")})


@pytest.fixture
def make_services(web_settings: Settings) -> Iterator[Callable[..., Services]]:
    """A function that returns services; its `config` says how they are reached."""
    with ExitStack() as opened:

        def make(config: WebConfig | None = None) -> Services:
            config = config or WebConfig()
            store = opened.enter_context(closing(Store(web_settings.store_url)))
            uploads = Uploads(web_settings.workspace.home / "uploads", config.limits.upload)
            return Services(config, web_settings, store, uploads, RecordingLauncher(store))

        yield make


@pytest.fixture
def services(make_services: Callable[..., Services]) -> Services:
    """Services on loopback, without a token."""
    return make_services()


@pytest.fixture
def app(services: Services) -> FastAPI:
    """The application of `services`."""
    return create_app(services)


@pytest.fixture
def client(app: FastAPI) -> Iterator[TestClient]:
    """A program that talks to the app, in this process."""
    with client_of(app) as opened:
        yield opened


@pytest.fixture
def make_study(services: Services) -> Callable[..., str]:
    """A function that inserts a study with made-up trials and returns its id; see `insert_study`."""
    return partial(insert_study, services.store)


@pytest.fixture
def serve_app(app: FastAPI) -> Iterator[Served]:
    """The application of `services`, served over a socket."""
    with serving(app) as served:
        yield served


@pytest.fixture
def saved(services: Services, make_study, iris) -> str:
    """A study with trials and a model of iris."""
    from dnnflow.engines.keras.build import build_model
    from dnnflow.run.models.saved_model import write_model

    study_id = make_study(24, failed=2)
    made = design(9)
    path = services.settings.workspace.model(study_id, 1)
    path.parent.mkdir(parents=True)
    record = {"study_id": study_id, "design_id": made.design_id, "tested": {"score": 0.9}}
    write_model(path, build_model(made, iris.n_features, iris.n_classes), iris, record)
    return study_id
