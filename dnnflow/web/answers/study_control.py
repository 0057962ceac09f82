"""Pausing, resuming and cancelling a study, whoever runs it."""

from typing import Literal

from dnnflow.errors import ConflictError
from dnnflow.events import Command
from dnnflow.web.answers.views import Views
from dnnflow.web.jobs.services import Services

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
    if status.state == "finished" and views.record(study_id) is not None:
        raise ConflictError(
            f"a study can be changed while it is not finished, got {wish} for {study_id}, which has; "
            "start a new one"
        )
    record, launch = views.record(study_id), views.launch(study_id)
    is_driven = record is not None and services.store.driver(study_id) is not None
    is_launched = launch is not None and not launch.state.has_ended
    if wish == "pause" and not (record is not None and (is_driven or is_launched)):
        raise ConflictError(
            f"a study can be paused while it is trained, got {study_id}, which is {status.state}; "
            "wait until it has begun, or cancel it"
        )
    if record is not None and (is_driven or is_launched):
        services.store.send_command(study_id, Command(wish))
    if wish == "run" and not is_driven and not is_launched:
        services.launcher.resume(study_id)
    if wish == "cancel" and not is_driven and is_launched:
        services.launcher.cancel(study_id)
