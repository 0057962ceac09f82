"""Keep the house while an app answers: forget old uploads, end idle processes."""

import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from threading import Event, Thread

from fastapi import FastAPI

from dnnflow.web.answers.predictions import Predictions
from dnnflow.web.answers.watch import EventStreams
from dnnflow.web.jobs.services import Services

EXPIRE_S = 3600.0
LOOK_S = 60.0
_LOG = logging.getLogger("dnnflow.web")


def lifespan(
    services: Services, watch: EventStreams, predictions: Predictions
) -> Callable[[FastAPI], AbstractAsyncContextManager[None]]:
    """Return what surrounds an app's life."""

    @asynccontextmanager
    async def life(_: FastAPI) -> AsyncIterator[None]:
        stop = Event()
        thread = Thread(
            target=_keep_house, args=(services, predictions, stop), daemon=True, name="housekeeping"
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


def uploads_in_use(services: Services) -> set[str]:
    """Return the uploads that a job or study which has not finished reads when it begins or goes on."""
    waiting = [one.pipeline for one in services.launcher.all() if not one.state.has_ended]
    unfinished = [one.pipeline for one in services.store.studies() if not one.state.is_finished]
    sources = [pipeline.get("dataset", {}).get("source", "") for pipeline in (*waiting, *unfinished)]
    return {Path(source).parent.name for source in sources if source}


def _keep_house(services: Services, predictions: Predictions, stop: Event) -> None:
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
