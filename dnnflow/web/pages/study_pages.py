"""Pages of one study while it runs, and of a parallel training."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.responses import RedirectResponse, Response

from dnnflow.results.view.overview import failure_kinds
from dnnflow.web.answers.request_parts import StudyId, TheServices, TheViews
from dnnflow.web.answers.study_control import Wish, want
from dnnflow.web.answers.training_runs import run_status
from dnnflow.web.contract.problems import Refusal
from dnnflow.web.contract.replies import Failure, StudyStatus
from dnnflow.web.guard.sessions import checked_form
from dnnflow.web.pages.rendering import page

ENDED = ("finished", "failed", "stopped")
CONTROLS: Mapping[str, tuple[Wish, str, tuple[str, ...]]] = {
    "pause": ("pause", "Pause", ("running", "preparing")),
    "resume": ("run", "Resume", ("paused", "pausing", "stopped", "failed")),
    "cancel": ("cancel", "Cancel", ("queued", "preparing", "running", "pausing", "paused")),
}
"""What a person may ask of a study, by the last part of the address: wish, words, and in which states."""

router = APIRouter()
Form = Annotated[Mapping[str, str], Depends(checked_form)]


@router.get("/studies/{study_id}")
def watch_study(request: Request, study_id: StudyId, services: TheServices, views: TheViews) -> Response:
    """Show where a study stands; a script keeps it so."""
    status = views.status(study_id)
    kinds = failure_kinds(services.store, study_id) if status.failed else ()
    failures = [Failure(type=kind, count=n, message=told, design_id=of) for kind, n, told, of in kinds]
    return page(
        request, "study.html", title=status.name, place="studies", status=status, failures=failures,
        done=status.completed + status.failed, ended=status.state in ENDED, words=_words(status),
        controls=[(name, status.state in states, words) for name, (_, words, states) in CONTROLS.items()],
        address=str(request.url.replace(query="", fragment="")), status_json=status.model_dump(mode="json"),
    )  # fmt: skip


def _words(status: StudyStatus) -> str:
    """Say what a state means, where it is not plain."""
    if status.state == "queued" and status.queue_place:
        return f"{status.queue_place} job{'' if status.queue_place == 1 else 's'} before it"
    if status.wanted == "cancel" and status.state not in ENDED:
        return "is being cancelled"
    if status.state == "paused":
        return "goes on where it was when it is resumed"
    if status.state == "stopped":
        return "can be resumed"
    return "" if status.state in (*ENDED, "running") else status.stage or ""


@router.post("/studies/{study_id}/{action}")
def control_study(
    study_id: StudyId, action: str, services: TheServices, views: TheViews, form: Form
) -> Response:
    """Pause, resume or cancel a study; browsers without scripts come here."""
    if action not in CONTROLS:
        raise Refusal(404, f"a study takes {', '.join(CONTROLS)}, got {action[:64]!r}; go back to its page")
    want(services, views, study_id, CONTROLS[action][0])
    return RedirectResponse(f"/studies/{study_id}", status_code=303)


@router.get("/runs/{run_id}")
def watch_run(request: Request, run_id: StudyId, services: TheServices, views: TheViews) -> Response:
    """Show where a parallel training stands."""
    run = run_status(views, run_id)
    return page(
        request, "run.html", title=run.name, place="studies", run=run, progress=run.progress or {},
        outcome=run.outcome or {}, ended=run.state in ("finished", "failed", "cancelled"),
        log=services.launcher.log(run_id)[-4000:],
    )  # fmt: skip


@router.post("/runs/{run_id}/cancel")
def cancel_run(run_id: str, services: TheServices, form: Form) -> Response:
    """End a parallel training."""
    services.launcher.cancel(run_id)
    return RedirectResponse(f"/runs/{run_id}", status_code=303)
