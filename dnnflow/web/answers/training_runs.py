"""Parallel trainings that were started here, as replies."""

import math
from collections.abc import Mapping
from typing import Any

from dnnflow.errors import NotFoundError
from dnnflow.web.answers.views import Views, link
from dnnflow.web.contract.replies import RunStatus
from dnnflow.web.jobs.launching import Launch

HIDDEN = ("model", "report", "history", "timeline", "path")
"""Of an outcome, what names files of the server."""


def run_of(views: Views, run_id: str) -> Launch:
    """Return a parallel training.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    launch = views.launch(run_id)
    if launch is None or launch.kind != "train":
        raise NotFoundError(
            f"a training is found by its whole id, got {run_id[:64]!r}, which nobody has; "
            "/api/v1/runs lists them"
        )
    return launch


def run_status(views: Views, run_id: str) -> RunStatus:
    """Return where a parallel training stands.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    return status_of_run(run_of(views, run_id))


def status_of_run(launch: Launch) -> RunStatus:
    """Return where a parallel training stands."""
    outcome = dict(launch.outcome or {})
    return RunStatus(
        run_id=launch.launch_id,
        name=launch.name,
        state=launch.state.value,
        stage=launch.stage,
        queue_place=launch.queue_place,
        progress=finite(launch.progress) if launch.progress is not None else None,
        outcome={key: finite(value) for key, value in outcome.items() if key not in HIDDEN} or None,
        has_report=bool(outcome.get("report")),
        has_model=bool(outcome.get("model")),
        error=launch.error,
        dashboard=link(launch.dashboard),
        run_url=link(launch.run_url),
        created_at=launch.created_at,
        started_at=launch.started_at,
        ended_at=launch.ended_at,
    )


def finite(value: Any) -> Any:
    """Return JSON types without NaN and infinity."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
