"""The web server's application: pages, API and files, behind one guard."""

from pathlib import Path

from bokeh.util.paths import static_path
from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from dnnflow.web import (
    api_datasets,
    api_events,
    api_models,
    api_results,
    api_runs,
    api_studies,
    api_system,
    login,
    pages,
    problems,
)
from dnnflow.web.housekeeping import lifespan
from dnnflow.web.metrics import Measured, Metrics
from dnnflow.web.openapi import document
from dnnflow.web.predictions import Predictions
from dnnflow.web.rates import Buckets
from dnnflow.web.results import Results
from dnnflow.web.security import Guard, check_config
from dnnflow.web.services import Services
from dnnflow.web.sessions import Sessions, read_secret
from dnnflow.web.views import Views
from dnnflow.web.watch import Watch

STATIC = Path(__file__).parent / "static"
DESCRIPTION = """
Find out which network design works best on a table: upload it, start a study, watch it, use its models.

Errors are `application/problem+json` (RFC 9457): `rule` says what was broken, `remedy` what to do.
"""
TAGS = [
    {"name": "datasets", "description": "Tables: uploaded, profiled, kept for a while."},
    {
        "name": "studies",
        "description": "Many designs on one table: made, watched, paused, resumed, cancelled.",
    },
    {"name": "results", "description": "What came of a study."},
    {"name": "models", "description": "The best designs' models: downloaded, applied to rows."},
    {"name": "runs", "description": "Parallel trainings."},
    {"name": "system", "description": "The server itself."},
]


def create_app(services: Services) -> FastAPI:
    """Return the application.

    Raises
    ------
    InputError
        If others than this machine would be served without a login.
    """
    check_config(services.config)
    watch, predictions = Watch(services.config.limits.streams), Predictions()
    app = FastAPI(
        title="dnnflow",
        description=DESCRIPTION,
        version="1",
        openapi_tags=TAGS,
        openapi_url="/api/v1/openapi.json",
        docs_url=None,
        redoc_url=None,
        redirect_slashes=False,
        lifespan=lifespan(services, watch, predictions),
    )
    secret = read_secret(services.settings.workspace.home / "web" / "secret")
    sessions = Sessions(services.config.token, secret)
    state = app.state
    state.services, state.sessions, state.watch = services, sessions, watch
    state.views = Views(services)
    state.results = Results(services.store, state.views)
    state.predictions, state.metrics = predictions, Metrics(services, watch)
    app.openapi = document(app)  # type: ignore[method-assign]
    problems.install(app)
    for part in (api_system, api_datasets, api_studies, api_events, api_results, api_models, api_runs):
        app.include_router(part.router, prefix="/api/v1")
    app.include_router(pages.router)
    state.problem_page = pages.problem_page
    app.include_router(login.router)
    app.mount("/static/bokeh", StaticFiles(directory=static_path()), name="bokeh")
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    limits = services.config.limits
    state.logins = Buckets(limits.logins_minute / 60.0, limits.logins_minute)
    app.add_middleware(Measured, metrics=state.metrics)
    app.add_middleware(Guard, config=services.config, sessions=sessions, logins=state.logins)
    return app
