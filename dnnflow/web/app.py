"""Make the web server's application: pages, API and files, behind one guard.

While it answers, it also forgets old uploads and ends processes that are idle.
"""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from functools import cache, partial
from threading import Event, Thread

from fastapi import Depends, FastAPI

from dnnflow.web.answers.predictions import Predictions
from dnnflow.web.answers.request_parts import check_query
from dnnflow.web.answers.study_results import Results
from dnnflow.web.answers.views import Views
from dnnflow.web.answers.watch import EventStreams
from dnnflow.web.answers.web_metrics import Measured, WebMetrics
from dnnflow.web.api import (
    dataset_routes,
    model_routes,
    result_routes,
    run_routes,
    system_routes,
    upkeep_routes,
)
from dnnflow.web.contract import problems
from dnnflow.web.contract.openapi import make_document
from dnnflow.web.guard import sessions as login
from dnnflow.web.guard.rates import Buckets
from dnnflow.web.guard.security import Guard, check_config
from dnnflow.web.guard.sessions import Sessions, read_secret
from dnnflow.web.jobs.intake import uploads_in_use
from dnnflow.web.jobs.services import Services
from dnnflow.web.pages import page_routes
from dnnflow.web.pages.assets import Compressor, mount_files

_LOG = logging.getLogger("dnnflow.web")
EXPIRE_S = 3600.0
"""Between two looks for uploads that are too old."""
LOOK_S = 60.0
"""Between two looks for processes that are idle."""
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
    state.results = Results(services.store, state.views, services.settings.workspace)
    state.predictions, state.metrics = predictions, WebMetrics(services, watch)
    app.openapi = cache(partial(make_document, app))  # type: ignore[method-assign]
    problems.install(app)
    every = (system_routes, dataset_routes, run_routes, result_routes, model_routes, upkeep_routes)
    for routes in every:
        app.include_router(routes.router, prefix="/api/v1", dependencies=[Depends(check_query)])
    app.include_router(page_routes.router)
    state.problem_page = page_routes.problem_page
    app.include_router(login.router)
    mount_files(app)
    limits = services.config.limits
    state.logins = Buckets(limits.logins_minute / 60.0, limits.logins_minute)
    app.add_middleware(Compressor)
    app.add_middleware(Measured, metrics=state.metrics)
    app.add_middleware(Guard, config=services.config, sessions=sessions, logins=state.logins)
    return app


def lifespan(
    services: Services, watch: EventStreams, predictions: Predictions
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return what surrounds an app's life."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        stop = Event()
        thread = Thread(
            target=_clean_up, args=(services, predictions, stop), daemon=True, name="housekeeping"
        )
        thread.start()
        watch.reopen()
        try:
            yield
        finally:
            watch.close()
            stop.set()
            predictions.close()

    return life


def _clean_up(services: Services, predictions: Predictions, stop: Event) -> None:
    due_s = 0.0
    while True:
        try:
            if due_s <= 0.0:
                due_s = EXPIRE_S
                expired = services.uploads.expire(keep=uploads_in_use(services))
                if expired:
                    _LOG.info("%d uploads were deleted, being too old", expired)
            predictions.rest()
        except Exception:  # the next round may succeed; a server without it would fill its disk
            _LOG.exception("uploads could not be looked through")
        if stop.wait(LOOK_S):
            return
        due_s -= LOOK_S
