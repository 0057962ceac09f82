"""Pause, resume and cancel a study, whoever runs it, and start the wider one after it."""

import json
from dataclasses import dataclass, field
from typing import Any

from dnnflow.errors import ConflictError, StudyError
from dnnflow.events import Command
from dnnflow.results.store.run_record import RunRecord, new_study_id
from dnnflow.results.view.study_view import StudyView
from dnnflow.run.study import read_stored
from dnnflow.run.widen import space_changes, wider_study
from dnnflow.web.answers.views import Views
from dnnflow.web.contract.replies import SpaceChange
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
    record = services.store.run(study_id)
    if record.state.is_finished:
        raise ConflictError(
            f"a study can be changed while it is not finished, got {command} for {study_id}, which is "
            f"{status.state}; start a new one"
        )
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


@dataclass(frozen=True)
class Widening:
    """What the wider study after one would have that this one has not."""

    changes: list[SpaceChange] = field(default_factory=list)
    problem: str = ""
    """Why there is none."""

    @property
    def in_words(self) -> list[tuple[str, str, str]]:
        """Parameter, before and after, as they are written."""
        return [(one.parameter, _written(one.before), _written(one.after)) for one in self.changes]


def _written(value: Any) -> str:
    return "none" if value is None else json.dumps(value)


def widening_of(view: StudyView) -> Widening:
    """Return what the wider study after one would change."""
    if not view.record.state.is_finished:
        return Widening(problem="The study has not finished.")
    try:
        wider = wider_study(view.record, view.edges)
    except StudyError as error:
        inside = "The best designs lie inside the space: a wider one promises nothing."
        return Widening(problem=str(error) if view.edges else inside)
    changed = space_changes(read_stored(view.record.pipeline), wider)
    return Widening([SpaceChange(parameter=name, before=a, after=b) for name, (a, b) in changed.items()])


def start_wider(services: Services, view: StudyView) -> tuple[RunRecord, Widening]:
    """Hand the wider study over; asked for again, it is the same one.

    Raises
    ------
    ConflictError
        If there is nothing to widen.
    """
    widening, record = widening_of(view), view.record
    if widening.problem:
        raise ConflictError(
            f"a study is widened once it has finished with its best designs at the edge of its space, got "
            f"{record.study_id}: {widening.problem} Start one with other rules instead"
        )
    wider = wider_study(record, view.edges)
    return services.launcher.launch(wider, new_study_id(), key=f"widen-{record.study_id}"), widening
