"""Show the pages of studies and trainings, the help and the login; every page asks what the API asks."""

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import RedirectResponse, Response

from dnnflow.events import Command
from dnnflow.results.view.tested import sentence, tested_in
from dnnflow.web.answers.request_parts import StudyId, TheServices, TheViews, cut_page, decode_cursor
from dnnflow.web.answers.study_control import send_command
from dnnflow.web.answers.training_runs import run_status
from dnnflow.web.answers.trials import failures_of
from dnnflow.web.api.run_routes import OVER, RUN_OVER, Tag
from dnnflow.web.contract.problems import Refusal, make_problem, wants_page
from dnnflow.web.contract.replies import StudyStatus
from dnnflow.web.guard.sessions import checked_form, log_in
from dnnflow.web.pages import new_study_pages, result_pages, upkeep_pages
from dnnflow.web.pages.rendering import page, problem_page

__all__ = ["problem_page", "router"]

PLACES = 50
"""Studies of one page of the list."""
CONTROLS: Mapping[str, tuple[Command, str, tuple[str, ...]]] = {
    "pause": (Command.PAUSE, "Pause", ("running", "preparing", "finishing")),
    "resume": (Command.RUN, "Resume", ("paused", "pausing", "stopped", "failed")),
    "cancel": (
        Command.CANCEL, "Cancel", ("queued", "preparing", "running", "finishing", "pausing", "paused"),
    ),
}  # fmt: skip
"""What a person may ask of a study, by the last part of the address: command, words, and in which states."""

STAGES = (
    ("Prepare", "upload preprocess"), ("Screen", "train aggregate"), ("Finalists", "finalists"),
    ("Test", "test"), ("All rows", "final"), ("Report", "report refit"),
)  # fmt: skip
"""What a study goes through, as a person sees it, and the stages of a run that each stands for."""

Form = Annotated[Mapping[str, str], Depends(checked_form)]

router = APIRouter(include_in_schema=False)
for part in (new_study_pages, result_pages, upkeep_pages):
    router.include_router(part.router)


@router.get("/")
def list_studies(
    request: Request, views: TheViews, after: Annotated[str | None, Query(max_length=400)] = None,
    tag: Tag = None,
) -> Response:  # fmt: skip
    """Show all studies and trainings, the newest first."""
    since = tuple(decode_cursor(after, str, str)) if after else None
    found = views.summaries(after=since, limit=PLACES + 1, tag=tag)
    on_page, more = cut_page(found, PLACES, lambda one: (one.created_at, one.study_id))
    return page(
        request, "studies.html", title="Studies", place="studies", studies=on_page, more=more, tag=tag
    )


@router.get("/about")
def show_help(request: Request) -> Response:
    """Show what can be done here, and the words."""
    return page(request, "about.html", title="Help", place="about")


@router.get("/login")
def ask_to_log_in(
    request: Request,
    after: Annotated[str, Query(alias="next", max_length=2000)] = "/",
    token: Annotated[str | None, Query(max_length=1000)] = None,
    ended: bool = False,
) -> Response:
    """Ask for the token; the link that the server printed when it was started has it in it."""
    if token is not None:
        return _log_in(request, token, after)
    return page(request, "login.html", title="Log in", next=after, ended=ended, problem=None)


@router.post("/login")
async def post_login(request: Request) -> Response:
    """Take the form: fields `token` and `next`."""
    form = await request.form(max_files=0, max_fields=10)
    token, place = (str(form.get(name) or "") for name in ("token", "next"))
    return await run_in_threadpool(_log_in, request, token, place or "/")


def _log_in(request: Request, token: str, place: str) -> Response:
    """Log in and go on, or show the form again with what was wrong."""
    try:
        return log_in(request, token, place)
    except Refusal as refusal:
        if not wants_page(request.headers):
            raise
        code, problem = refusal.status_code, make_problem(refusal.status_code, refusal.detail)
        answer = page(
            request, "login.html", code=code, title="Log in", next=place, ended=False, problem=problem
        )
        answer.headers.update(refusal.headers or {})
        return answer


@router.get("/studies/{study_id}")
def watch_study(request: Request, study_id: StudyId, services: TheServices, views: TheViews) -> Response:
    """Show where a study stands; a script keeps it so."""
    status = views.status(study_id)
    failures = failures_of(services.store, study_id) if status.failed else []
    record = services.store.find(study_id)
    return page(
        request, "study.html", title=status.name, place="studies", status=status, failures=failures,
        done=status.completed + status.failed, ended=status.state in OVER, words=_words(status),
        sentence=sentence(tested_in(record.outcome if record else None)),
        stages=STAGES, stage=(status.stage or "").partition(":")[0],
        controls=[(name, words, states) for name, (_, words, states) in CONTROLS.items()],
        address=str(request.url.replace(query="", fragment="")), status_json=status.model_dump(mode="json"),
    )  # fmt: skip


def _words(status: StudyStatus) -> str:
    """Say what a state means, where it is not plain."""
    if status.state == "queued" and status.queue_place:
        return f"{status.queue_place} job{'' if status.queue_place == 1 else 's'} before it"
    if status.wanted == "cancel" and status.state not in OVER:
        return "is being cancelled"
    if status.state == "paused":
        return "goes on where it was when it is resumed"
    if status.state == "stopped":
        return "can be resumed"
    is_training = status.state == "running" and status.completed + status.failed != status.total
    return "" if status.state in OVER or is_training else status.stage or ""


@router.post("/studies/{study_id}/{action}")
def control_study(
    study_id: StudyId, action: str, services: TheServices, views: TheViews, form: Form
) -> Response:
    """Pause, resume or cancel a study; browsers without scripts come here."""
    if action not in CONTROLS:
        raise Refusal(404, f"a study takes {', '.join(CONTROLS)}, got {action[:64]!r}; go back to its page")
    send_command(services, views, study_id, CONTROLS[action][0])
    return RedirectResponse(f"/studies/{study_id}", status_code=303)


@router.get("/runs/{run_id}")
def watch_run(request: Request, run_id: StudyId, services: TheServices, views: TheViews) -> Response:
    """Show where a parallel training stands."""
    run = run_status(views, run_id)
    return page(
        request, "run.html", title=run.name, place="studies", run=run, progress=run.progress or {},
        outcome=run.outcome or {}, ended=run.state in RUN_OVER,
        log=services.launcher.log(run_id)[-4000:],
    )  # fmt: skip


@router.post("/runs/{run_id}/cancel")
def cancel_run(run_id: str, services: TheServices, form: Form) -> Response:
    """End a parallel training."""
    services.launcher.cancel(run_id)
    return RedirectResponse(f"/runs/{run_id}", status_code=303)
