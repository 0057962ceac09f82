"""Pages of a new study: upload, label, rules, start."""

import secrets
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Query, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import JSONResponse, RedirectResponse, Response

from dnnflow.errors import NotFoundError
from dnnflow.web.answers.request_parts import TheServices
from dnnflow.web.api.run_routes import start
from dnnflow.web.contract.problems import Refusal
from dnnflow.web.guard.sessions import checked_form
from dnnflow.web.jobs.intake import read_yaml
from dnnflow.web.jobs.services import Services
from dnnflow.web.pages import forms
from dnnflow.web.pages import study_rules as rules
from dnnflow.web.pages.form_fields import FORMS, field_groups
from dnnflow.web.pages.form_values import FORM_LABELS, HINTS
from dnnflow.web.pages.rendering import fragment, page
from dnnflow.web.uploads.profile import MOST_CLASSES
from dnnflow.web.uploads.uploads import Upload

MOST_COLUMNS = 200
"""Columns of the label page; others are found by name."""
MOST_CELLS = 40
"""Columns of the first rows that are shown."""
NAME = 512
"""Characters of a column's name in an address."""

router = APIRouter()
Form = Annotated[Mapping[str, str], Depends(checked_form)]
Label = Annotated[str, Query(max_length=NAME)]


@router.get("/new")
def ask_for_table(request: Request, services: TheServices) -> Response:
    """Ask for a table."""
    limits = services.config.limits.upload
    return page(
        request, "upload.html", title="New study", place="new", uploads=services.uploads.all()[:50],
        kept_days=round(limits.kept_s / 86400), most_bytes=f"{limits.stored_bytes / 2**30:.3g} GiB",
        base_url=str(request.base_url),
    )  # fmt: skip


@router.get("/new/{upload_id}")
def ask_for_label(
    request: Request,
    services: TheServices,
    upload_id: str,
    find: Annotated[str, Query(max_length=NAME)] = "",
    label: Label = "",
) -> Response:
    """Show a table's columns and ask which one is predicted."""
    return _label_page(request, services.uploads.get(upload_id), find=find, label=label)


def _label_page(
    request: Request, upload: Upload, *, find: str = "", label: str = "", message: str = "", code: int = 200
) -> Response:
    profile = upload.profile
    names = [column.name for column in profile.columns]
    chosen = names.index(label) if label in names else rules.guess_label(profile)
    found = [index for index, name in enumerate(names) if find.lower() in name.lower()]
    order = dict.fromkeys([*([] if chosen is None else [chosen]), *found])
    shown = [(index, profile.columns[index]) for index in [*order][:MOST_COLUMNS]]
    return page(
        request, "label.html", code=code, title=f"Label of {upload.name}", place="new", upload=upload,
        profile=profile, shown=shown, chosen=chosen, find=find, message=message, rules=rules.IN_WORDS,
        column=None if chosen is None else profile.columns[chosen], rows=profile.rows or 1,
        most_classes=MOST_CLASSES, most_cells=MOST_CELLS, key=secrets.token_urlsafe(18),
        unusable=[column for column in profile.columns if column.feature_problem],
    )  # fmt: skip


@router.get("/new/{upload_id}/columns/{index}")
def show_classes(services: TheServices, upload_id: str, index: int) -> Response:
    """Show a column's classes, or why it cannot be the label."""
    profile = services.uploads.get(upload_id).profile
    if not 0 <= index < len(profile.columns):
        raise NotFoundError(f"a column is below {len(profile.columns)}, got {index}; load the page again")
    return fragment("classes.html", column=profile.columns[index], rows=profile.rows or 1)


@router.post("/new/{upload_id}/delete")
def delete_upload(services: TheServices, upload_id: str, form: Form) -> Response:
    """Forget a table."""
    services.uploads.delete(upload_id)
    return RedirectResponse("/new", status_code=303)


@router.post("/new/{upload_id}/rules")
def go_to_rules(upload_id: str, form: Form) -> Response:
    """Lead to the rules form; the label page's form has a token, which must not stand in an address."""
    query = urlencode({"label": form.get("label", "")})
    return RedirectResponse(f"/new/{quote(upload_id, safe='')}/rules?{query}", status_code=303)


@router.get("/new/{upload_id}/rules")
async def ask_for_rules(
    request: Request, services: TheServices, upload_id: str, label: Label = ""
) -> Response:
    """Show the rules form as a new study starts."""
    upload = await run_in_threadpool(services.uploads.get, upload_id)
    wrong = rules.label_problem(upload.profile, label)
    if wrong:
        return _label_page(request, upload, label=label, message=wrong, code=422)
    plain = rules.starting_rules(upload, label)
    form = await run_in_threadpool(forms.form_of, plain, partial(rules.check, services))
    return await _rules_page(request, services, upload, label, form)


@router.post("/new/{upload_id}/paste")
async def paste_rules(request: Request, services: TheServices, upload_id: str, form: Form) -> Response:
    """Show the rules form for a pipeline that was pasted as YAML."""
    upload = await run_in_threadpool(services.uploads.get, upload_id)
    label, text = form.get("label", ""), form.get("yaml", "")
    base = rules.base(upload, label)
    try:
        data = await run_in_threadpool(read_yaml, text)
        plain = rules.with_table(data, base)
    except Refusal as refusal:
        start_form = await run_in_threadpool(
            forms.form_of, rules.starting_rules(upload, label), partial(rules.check, services)
        )
        wrong = str(refusal.detail)
        return await _rules_page(request, services, upload, label, start_form, text=text, wrong=wrong)
    shown = await run_in_threadpool(forms.form_of, plain, partial(rules.check, services))
    return await _rules_page(request, services, upload, label, shown)


async def _rules_page(
    request: Request,
    services: Services,
    upload: Upload,
    label: str,
    form: forms.RulesForm,
    *,
    text: str | None = None,
    wrong: str = "",
    key: str = "",
) -> Response:
    estimate = await run_in_threadpool(rules.estimate, upload, form.pipeline)
    return page(
        request, "rules.html", code=422 if wrong or form.troubles else 200, title="Rules", place="new",
        upload=upload, label=label, form=form, groups=field_groups(), forms=FORMS, hints=HINTS,
        form_labels=FORM_LABELS, key=key or secrets.token_urlsafe(18), estimate=estimate,
        yaml=form.yaml if text is None else text, yaml_wrong=wrong,
    )  # fmt: skip


@router.post("/new/{upload_id}/check")
async def check_rules(services: TheServices, upload_id: str, form: Form) -> Response:
    """Return a form's YAML, what is wrong with it, and what it will cost."""
    upload = await run_in_threadpool(services.uploads.get, upload_id)
    read = await run_in_threadpool(_read, services, upload, form)
    fields = {path: read.trouble_at(path) for path in {one.at_field for one in read.troubles} if path}
    others = [f"{one.where}: {one.message}" for one in read.other_troubles]
    estimate = await run_in_threadpool(rules.estimate, upload, read.pipeline)
    return JSONResponse({"yaml": read.yaml, "fields": fields, "others": others, "estimate": estimate})


def _read(services: Services, upload: Upload, form: Mapping[str, str]) -> forms.RulesForm:
    check = partial(rules.check, services)
    return forms.read_form(form, check, base=rules.base(upload, form.get("label", "")))


@router.post("/new/{upload_id}/start")
async def start_study(request: Request, services: TheServices, upload_id: str, form: Form) -> Response:
    """Start a study of the form, or show what is wrong with it."""
    upload = await run_in_threadpool(services.uploads.get, upload_id)
    read = await run_in_threadpool(_read, services, upload, form)
    if read.pipeline is None:
        label = form.get("label", "")
        return await _rules_page(request, services, upload, label, read, key=form.get("key", ""))
    return await run_in_threadpool(_start, services, read.pipeline, form)


@router.post("/new/{upload_id}/start-now")
async def start_with_good_rules(
    request: Request, services: TheServices, upload_id: str, form: Form
) -> Response:
    """Start a study by the rules that a form begins with."""
    upload = await run_in_threadpool(services.uploads.get, upload_id)
    label = form.get("label", "")
    wrong = rules.label_problem(upload.profile, label)
    if wrong:
        return _label_page(request, upload, label=label, message=wrong, code=422)
    plain = rules.starting_rules(upload, label)
    read = await run_in_threadpool(forms.form_of, plain, partial(rules.check, services))
    if read.pipeline is None:
        return await _rules_page(request, services, upload, label, read)
    return await run_in_threadpool(_start, services, read.pipeline, form)


def _start(services: Services, pipeline: Any, form: Mapping[str, str]) -> Response:
    made = start(services, pipeline, form.get("key") or None)
    return RedirectResponse(f"/studies/{made.study_id}", status_code=303)
