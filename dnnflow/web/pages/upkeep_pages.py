"""Show the pages on which studies are named, cloned and deleted; none of them needs a script."""

import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import yaml
from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import RedirectResponse, Response

from dnnflow.errors import DnnflowError, InputError
from dnnflow.results.store.deletion import old_runs
from dnnflow.results.store.run_record import RunKind, RunRecord
from dnnflow.web.answers.request_parts import StudyId, TheServices, TheViews
from dnnflow.web.answers.upkeep import (
    delete,
    deletion_of,
    disk_of,
    marks_of,
    records_of,
    start_clone,
)
from dnnflow.web.answers.views import Views
from dnnflow.web.contract.problems import Refusal
from dnnflow.web.guard.sessions import checked_form
from dnnflow.web.jobs.intake import MOST_TEXT, PLACES, read_yaml
from dnnflow.web.jobs.services import Services
from dnnflow.web.pages.rendering import page

MOST_MARKED = 200
HIDDEN = ("kind", "name", "dataset.source", *PLACES)
"""Of a pipeline, what the page of a clone does not show: places of the server, and what is said beside it."""

Form = Annotated[Mapping[str, str], Depends(checked_form)]
RunIds = Annotated[list[Annotated[str, Query(max_length=64)]] | None, Query(alias="study")]

router = APIRouter()


@router.get("/studies/{study_id}/manage")
def manage_study(request: Request, study_id: StudyId, services: TheServices, views: TheViews) -> Response:
    """Show what a study is called and what it takes, and ask for changes."""
    return _manage_page(request, services, views, study_id)


def _manage_page(
    request: Request, services: Services, views: Views, study_id: str, *, code: int = 200,
    marks: Mapping[str, str] | None = None, marks_wrong: str = "", changes: str = "", clone_wrong: str = "",
) -> Response:  # fmt: skip
    record = views.of_kind(RunKind.STUDY, study_id)
    stored = {"name": record.name, "note": record.note or "", "tags": " ".join(record.tags)}
    return page(
        request, "manage.html", code=code, title=f"Manage {record.name}", place="studies", record=record,
        marks=marks or stored, marks_wrong=marks_wrong, changes=changes, clone_wrong=clone_wrong,
        disk=disk_of(services, record), pipeline=_pipeline_text(record), key=secrets.token_urlsafe(18),
    )  # fmt: skip


def _pipeline_text(record: RunRecord) -> str:
    """Return a pipeline as YAML; sections that are then empty are left out."""
    plain: dict[str, Any] = {}
    for section, value in record.pipeline.items():
        shown = value
        if isinstance(value, Mapping):
            shown = {name: one for name, one in value.items() if f"{section}.{name}" not in HIDDEN}
        if section not in HIDDEN and shown != {}:
            plain[section] = shown
    return yaml.safe_dump(plain, sort_keys=False, allow_unicode=True)


@router.post("/studies/{study_id}/marks")
def mark_study(
    request: Request, study_id: StudyId, services: TheServices, views: TheViews, form: Form
) -> Response:
    """Give a study another name, note or tags."""
    views.of_kind(RunKind.STUDY, study_id)
    try:
        services.store.describe(study_id, **marks_of(form))
    except InputError as error:
        return _manage_page(request, services, views, study_id, code=422, marks=form, marks_wrong=str(error))
    return RedirectResponse(f"/studies/{study_id}/manage", status_code=303)


@router.post("/studies/{study_id}/clone")
def clone_study(
    request: Request, study_id: StudyId, services: TheServices, views: TheViews, form: Form
) -> Response:
    """Start a study of another one's pipeline with the changes that a form has as YAML, and show it."""
    text = form.get("changes", "")[: MOST_TEXT + 1]
    try:
        made = start_clone(services, views, study_id, read_yaml(text) or {}, key=form.get("key") or None)
    except (Refusal, DnnflowError) as error:
        told = error.detail if isinstance(error, Refusal) else str(error)
        code = error.status_code if isinstance(error, Refusal) else 409
        return _manage_page(
            request, services, views, study_id, code=code, changes=text[:MOST_TEXT], clone_wrong=told
        )
    return RedirectResponse(f"/studies/{made.run_id}", status_code=303)


@router.get("/delete")
def ask_whether_to_delete(
    request: Request, services: TheServices, views: TheViews, run_ids: RunIds = None
) -> Response:
    """Show what goes when studies are deleted, and ask for it."""
    return _ask_page(request, services, records_of(views, (run_ids or [])[:MOST_MARKED]))


@router.get("/clean")
def find_old(
    request: Request, services: TheServices, days: Annotated[float, Query(ge=0, le=36500)] = 30.0
) -> Response:
    """Show the studies and trainings in which nothing has changed for days, and ask whether to delete."""
    before = datetime.now(UTC) - timedelta(days=days)
    return _ask_page(request, services, list(old_runs(services.store, before))[:MOST_MARKED], days=days)


def _ask_page(
    request: Request, services: Services, records: list[RunRecord], days: float | None = None
) -> Response:
    going = [one for one in records if one.is_open]
    plan = deletion_of(services, [one for one in records if not one.is_open], datasets=True)
    return page(
        request, "delete.html", title="Delete", place="studies", runs=plan.runs, going=going, days=days,
        datasets=list(plan.datasets.values()), kept=plan.kept, most=MOST_MARKED,
        freed_bytes=sum(taken for _, taken in plan.runs),
    )  # fmt: skip


@router.post("/delete")
def delete_studies(services: TheServices, views: TheViews, form: Form) -> Response:
    """Delete the studies and trainings that a form names, and show those that are left."""
    run_ids = [one for one in form.get("studies", "").split() if one][:MOST_MARKED]
    records = records_of(views, run_ids)
    delete(services, deletion_of(services, records, datasets="datasets" in form))
    return RedirectResponse("/", status_code=303)
