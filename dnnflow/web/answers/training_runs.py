"""Reply with parallel trainings that were started here."""

from collections.abc import Mapping
from pathlib import Path

from dnnflow.paths import Workspace
from dnnflow.results.store.run_record import RunKind, RunRecord, RunState, safe_link
from dnnflow.web.answers.views import Views, state_of
from dnnflow.web.contract.replies import RunStateName, RunStatus

STATES: Mapping[RunState, RunStateName] = {
    RunState.QUEUED: "queued",
    RunState.RUNNING: "running",
    RunState.FINISHED: "finished",
    RunState.FAILED: "failed",
    RunState.STOPPED: "cancelled",
}
"""A training's state as the API names it."""
HIDDEN = ("model", "report", "history", "timeline", "path")
"""Of an outcome, what names files of the server."""


def run_status(views: Views, run_id: str) -> RunStatus:
    """Return where a parallel training stands.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    return status_of_run(views, views.of_kind(RunKind.TRAINING, run_id))


def status_of_run(views: Views, record: RunRecord) -> RunStatus:
    """Return where a parallel training stands."""
    outcome = dict(record.outcome or {})
    # One whose process died, and that no supervisor answers for, has stopped
    state = "cancelled" if state_of(record) == "stopped" else STATES[record.state]
    return RunStatus(
        run_id=record.run_id,
        name=record.name,
        state=state,
        stage=record.stage if state in ("queued", "running") else None,
        queue_place=views.queue_place(record),
        progress=dict(record.progress) if record.progress is not None else None,
        outcome={key: value for key, value in outcome.items() if key not in HIDDEN} or None,
        has_report=report_of(record, views.workspace) is not None,
        has_model=bool(outcome.get("model")),
        error=record.error,
        dashboard=safe_link(record.dashboard) if state == "running" else None,
        run_url=safe_link(record.run_url),
        created_at=record.created_at,
        started_at=record.started_at,
        ended_at=record.ended_at,
    )


def report_of(record: RunRecord, workspace: Workspace) -> Path | None:
    """Return the report that a training wrote, if it is one of this installation's."""
    name = (record.outcome or {}).get("report")
    if not isinstance(name, str):
        return None
    path = Path(name).resolve()
    is_ours = path.is_relative_to(workspace.home.resolve()) and path.suffix == ".html"
    return path if is_ours and path.is_file() else None
