"""Pausing, resuming and cancelling a study, whoever runs it."""

from typing import Literal

from dnnflow.errors import ConflictError
from dnnflow.results import records
from dnnflow.web.launching import LaunchState
from dnnflow.web.services import Services
from dnnflow.web.views import Views

Wish = Literal["run", "pause", "cancel"]


def want(services: Services, views: Views, study_id: str, wish: Wish) -> None:
    """Say what a study is to do.

    A study that is driven reads it from the store within a second. One that is queued or nobody drives is the
    launcher's to end, or to run on.

    Raises
    ------
    NotFoundError
        If there is no such study.
    ConflictError
        If it has finished.
    """
    status = views.status(study_id, live=False)
    if status.state == "finished":
        raise ConflictError(
            f"a study can be changed while it is not finished, got {wish} for {study_id}, which has; "
            "start a new one"
        )
    record, launch = views.record(study_id), views.launch(study_id)
    if record is not None:
        services.store.set_wanted(study_id, records.Wanted(wish))
    is_driven = record is not None and services.store.driver(study_id) is not None
    runs = launch is not None and launch.state in (LaunchState.QUEUED, LaunchState.RUNNING)
    if wish == "run" and not is_driven and not runs:
        services.launcher.resume(study_id)
    elif wish == "cancel" and not is_driven and launch is not None and not launch.state.has_ended:
        services.launcher.cancel(study_id)
    elif wish == "pause" and record is None:
        raise ConflictError(
            f"a study can be paused once it has begun, got {study_id}, which is {status.state}; "
            "cancel it, or wait"
        )
