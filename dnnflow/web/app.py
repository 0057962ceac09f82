"""The web server's application: pages, API and files, behind one guard."""

from pathlib import Path

from bokeh.util.paths import static_path
from fastapi import FastAPI
from starlette.staticfiles import StaticFiles

from dnnflow.web.answers.metrics import Measured, Metrics
from dnnflow.web.answers.predictions import Predictions
from dnnflow.web.answers.study_results import Results
from dnnflow.web.answers.views import Views
from dnnflow.web.answers.watch import EventStreams
from dnnflow.web.api import (
    dataset_routes,
    model_routes,
    result_routes,
    run_routes,
    system_routes,
)
from dnnflow.web.contract import problems
from dnnflow.web.contract.openapi import document
from dnnflow.web.guard import sessions as login
from dnnflow.web.guard.rates import Buckets
from dnnflow.web.guard.security import Guard, check_config
from dnnflow.web.guard.sessions import Sessions, read_secret
from dnnflow.web.housekeeping import lifespan
from dnnflow.web.jobs.services import Services
from dnnflow.web.pages import page_routes

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
    watch, predictions = EventStreams(services.config.limits.streams), Predictions()
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
    for part in (
        system_routes,
        dataset_routes,
        result_routes,
        model_routes,
        run_routes,
    ):
        app.include_router(part.router, prefix="/api/v1")
    app.include_router(page_routes.router)
    state.problem_page = page_routes.problem_page
    app.include_router(login.router)
    app.mount("/static/bokeh", StaticFiles(directory=static_path()), name="bokeh")
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    limits = services.config.limits
    state.logins = Buckets(limits.logins_minute / 60.0, limits.logins_minute)
    app.add_middleware(Measured, metrics=state.metrics)
    app.add_middleware(Guard, config=services.config, sessions=sessions, logins=state.logins)
    return app
