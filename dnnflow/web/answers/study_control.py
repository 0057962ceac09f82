"""Pause, resume and cancel a study, whoever runs it."""

from dnnflow.errors import ConflictError
from dnnflow.events import Command
from dnnflow.web.answers.views import Views
from dnnflow.web.jobs.services import Services


def send_command(services: Services, views: Views, study_id: str, command: Command) -> None:
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
            f"a study can be changed while it is not finished, got {command} for {study_id}, which has; "
            "start a new one"
        )
    record = services.store.run(study_id)
    is_launched = record.queued_s is not None and not record.state.has_ended
    is_trained = record.has_designs and (record.is_driven or is_launched)
    if command is Command.PAUSE and not is_trained:
        raise ConflictError(
            f"a study can be paused while it is trained, got {study_id}, which is {status.state}; "
            "wait until it has begun, or cancel it"
        )
    is_read = command is Command.CANCEL and record.is_driven  # its table: the study stops as it begins
    if is_trained or is_read:
        services.store.send_command(study_id, command)
    if command is Command.RUN and not record.is_driven and not is_launched:
        services.launcher.resume(study_id)
    if command is Command.CANCEL and is_launched and not (record.has_designs and record.is_driven):
        services.launcher.cancel(study_id)
