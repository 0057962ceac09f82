"""Show the pages of a new study: upload, label, rules, start."""

import secrets
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Query, Request
from pydantic import Field
from starlette.datastructures import ImmutableMultiDict
from starlette.responses import JSONResponse, RedirectResponse, Response

from dnnflow.errors import DnnflowError, InputError, NotFoundError
from dnnflow.pipeline.good_rules import good_rules, in_words
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.show.wording import duration
from dnnflow.table.store.survey import USUAL_LABELS
from dnnflow.web.answers.estimation import estimate_of
from dnnflow.web.answers.request_parts import TheServices, TheUpload
from dnnflow.web.answers.starting_rules import (
    ASKED,
    ColumnsFound,
    base_of,
    columns_found,
    facts_of,
    starting_rules,
)
from dnnflow.web.api.run_routes import start
from dnnflow.web.contract.problems import FieldProblem, Refusal
from dnnflow.web.guard.sessions import checked_form
from dnnflow.web.jobs.intake import accept_study, read_yaml, uploads_in_use
from dnnflow.web.jobs.services import Services
from dnnflow.web.pages import forms
from dnnflow.web.pages.forms import FORM_LABELS, FORMS, HINTS, Trouble, field_groups
from dnnflow.web.pages.reading_form import READING_FIELDS, asked_in, reading_fields
from dnnflow.web.pages.rendering import fragment, page
from dnnflow.web.uploads.profile import MOST_CLASSES, ColumnProfile, Profile
from dnnflow.web.uploads.uploads import WebUpload

MOST_COLUMNS = 200
"""Columns of the label page; others are found by name."""
MOST_CELLS = 40
"""Columns of the first rows that are shown."""
MOST_FIRST = 5
"""First rows on the label page."""
NAME = 512
"""Characters of a column's name in an address."""

router = APIRouter()
Form = Annotated[ImmutableMultiDict[str, str], Depends(checked_form)]
Labels = Annotated[list[Annotated[str, Field(max_length=NAME)]], Query(alias="label")]
Task = Annotated[str, Query(max_length=20)]


@router.get("/new")
def ask_for_table(request: Request, services: TheServices) -> Response:
    """Ask for a table."""
    limits = services.config.limits.upload
    return page(
        request, "upload.html", title="New study", place="new", uploads=services.uploads.all()[:50],
        kept_days=round(limits.kept_s / 86400), most_bytes=f"{limits.stored_bytes / 2**30:.3g} GiB",
        base_url=str(request.base_url), fields=READING_FIELDS,
    )  # fmt: skip


@router.get("/new/{upload_id}")
def ask_for_label(
    request: Request,
    upload: TheUpload,
    find: Annotated[str, Query(max_length=NAME)] = "",
    labels: Labels = [],  # noqa: B006
    several: bool = False,
) -> Response:
    """Show a table's columns and ask which one is predicted, or which ones."""
    return _label_page(request, upload, labels, find=find, several=several)


def _label_page(
    request: Request,
    upload: WebUpload,
    labels: Sequence[str],
    *,
    find: str = "",
    several: bool = False,
    message: str = "",
    wrong_reading: str = "",
    typed: Mapping[str, str] | None = None,
) -> Response:
    profile = upload.profile
    names = [column.name for column in profile.columns]
    chosen = [names.index(label) for label in labels if label in names] or guess_label(profile)
    found = [index for index, name in enumerate(names) if find.lower() in name.lower()]
    shown = [(index, profile.columns[index]) for index in [*dict.fromkeys([*chosen, *found])][:MOST_COLUMNS]]
    columns = [profile.columns[index] for index in chosen]
    return page(
        request, "label.html", code=422 if message or wrong_reading else 200,
        title=f"Label of {upload.name}", place="new",
        upload=upload, profile=profile, shown=shown, chosen=chosen, find=find, message=message,
        rules=in_words(good_rules(facts_of(profile, [column.name for column in columns]))),
        columns=columns, problem=columns_problem(columns), rows=profile.rows or 1,
        is_several=several or len(chosen) > 1,
        most_classes=MOST_CLASSES, most_cells=MOST_CELLS, key=secrets.token_urlsafe(18),
        unusable=[column for column in profile.columns if column.feature_problem],
        fields=reading_fields(upload, typed), wrong_reading=wrong_reading,
        names=[column.name for column in profile.columns], first_rows=profile.first_rows[:MOST_FIRST],
    )  # fmt: skip


@router.get("/new/{upload_id}/columns")
def show_classes(
    upload: TheUpload,
    at: Annotated[list[int], Query()] = [],  # noqa: B006
) -> Response:
    """Show what some columns are as labels, or why they cannot be."""
    profile = upload.profile
    for index in at:
        if not 0 <= index < len(profile.columns):
            raise NotFoundError(f"a column is below {len(profile.columns)}, got {index}; load the page again")
    columns = [profile.columns[index] for index in at]
    return fragment("column.html", columns=columns, problem=columns_problem(columns), rows=profile.rows or 1)


@router.get("/new/{upload_id}/findings")
def show_findings(
    request: Request,
    services: TheServices,
    upload: TheUpload,
    labels: Labels = [],  # noqa: B006
    task: Task = "",
) -> Response:
    """Show what good rules leave out beside some labels, and what to know of the other columns."""
    if label_problem(upload.profile, labels, task):
        return fragment("columns_found.html", found=ColumnsFound())
    found = columns_found(services, request.app.state.predictions, upload, labels, task)
    return fragment("columns_found.html", found=found)


@router.post("/new/{upload_id}/reading")
async def read_again(request: Request, services: TheServices, form: Form, upload: TheUpload) -> Response:
    """Read a table in another way, and go on with it; or say why that cannot be."""
    try:
        await services.uploads.read_again(upload.upload_id, asked_in(form))
    except InputError as error:
        return _label_page(request, upload, (), wrong_reading=str(error), typed=form)
    return RedirectResponse(f"/new/{upload.upload_id}", status_code=303)


@router.post("/new/{upload_id}/first-rows")
async def show_first_rows(services: TheServices, form: Form, upload: TheUpload) -> Response:
    """Show the first rows as they would be, read in another way."""
    found, wrong = None, ""
    try:
        found = await services.uploads.look(upload.upload_id, asked_in(form))
    except InputError as error:
        wrong = str(error)
    return fragment(
        "first_rows.html", names=[column.name for column in found.columns] if found else [],
        first_rows=found.first_rows[:MOST_FIRST] if found else (), wrong=wrong, most_cells=MOST_CELLS,
    )  # fmt: skip


@router.get("/new/{upload_id}/delete")
def ask_to_delete(request: Request, services: TheServices, upload: TheUpload) -> Response:
    """Ask whether a table is to be forgotten."""
    is_used = upload.upload_id in uploads_in_use(services)
    return page(
        request,
        "delete_table.html",
        title=f"Delete {upload.name}",
        place="new",
        upload=upload,
        is_used=is_used,
    )


@router.get("/new/{upload_id}/start")
@router.get("/new/{upload_id}/start-now")
@router.get("/new/{upload_id}/paste")
@router.get("/new/{upload_id}/reading")
@router.get("/new/{upload_id}/first-rows")
def go_back_to_label(upload: TheUpload) -> Response:
    """Lead from the address of a form that was sent to where it begins: after a login, or by a bookmark."""
    return RedirectResponse(f"/new/{upload.upload_id}", status_code=303)


@router.post("/new/{upload_id}/delete")
def delete_upload(services: TheServices, form: Form, upload: TheUpload) -> Response:
    """Forget a table."""
    services.uploads.delete(upload.upload_id)
    return RedirectResponse("/new", status_code=303)


@router.post("/new/{upload_id}/rules")
def go_to_rules(upload_id: str, form: Form) -> Response:
    """Lead to the rules form; the label page's form has a token, which must not stand in an address."""
    said = {"task": form["task"]} if form.get("task") else {}
    query = urlencode({"label": form.getlist("label"), **said}, doseq=True)
    return RedirectResponse(f"/new/{quote(upload_id, safe='')}/rules?{query}", status_code=303)


@router.get("/new/{upload_id}/rules")
def ask_for_rules(
    request: Request,
    services: TheServices,
    upload: TheUpload,
    labels: Labels = [],  # noqa: B006
    task: Task = "",
) -> Response:
    """Show the rules form as a new study starts."""
    wrong = label_problem(upload.profile, labels, task)
    if wrong:
        return _label_page(request, upload, labels, message=wrong)
    found = columns_found(services, request.app.state.predictions, upload, labels, task)
    return _rules_page(
        request, upload, labels, _first_rules(services, upload, labels, task, found), found=found
    )


@router.post("/new/{upload_id}/paste")
def paste_rules(request: Request, services: TheServices, form: Form, upload: TheUpload) -> Response:
    """Show the rules form for a pipeline that was pasted as YAML."""
    labels, text = form.getlist("label"), form.get("yaml", "")
    try:
        plain = with_table(read_yaml(text), base_of(upload, labels))
    except Refusal as refusal:
        first = _first_rules(services, upload, labels)
        return _rules_page(request, upload, labels, first, text=text, wrong=str(refusal.detail))
    return _rules_page(request, upload, labels, forms.form_of(plain, partial(check_pipeline, services)))


def _first_rules(
    services: Services, upload: WebUpload, labels: Sequence[str], task: str = "",
    found: ColumnsFound | None = None,
) -> forms.RulesForm:  # fmt: skip
    return forms.form_of(starting_rules(upload, labels, task, found), partial(check_pipeline, services))


def _rules_page(
    request: Request,
    upload: WebUpload,
    labels: Sequence[str],
    form: forms.RulesForm,
    *,
    text: str | None = None,
    wrong: str = "",
    key: str = "",
    found: ColumnsFound | None = None,
) -> Response:
    return page(
        request, "rules.html", code=422 if wrong or form.troubles else 200, title="Rules", place="new",
        upload=upload, labels=labels, form=form, groups=field_groups(), forms=FORMS, hints=HINTS,
        form_labels=FORM_LABELS, key=key or secrets.token_urlsafe(18),
        estimate=cost_in_words(upload, form.pipeline), yaml_wrong=wrong,
        yaml=form.yaml if text is None else text, found=found,
    )  # fmt: skip


@router.post("/new/{upload_id}/check")
def check_rules(services: TheServices, form: Form, upload: TheUpload) -> Response:
    """Return a form's YAML, what is wrong with it, and what it will cost."""
    read = _read(services, upload, form)
    fields = {path: read.trouble_at(path) for path in {one.at_field for one in read.troubles} if path}
    others = [f"{one.where}: {one.message}" for one in read.other_troubles]
    estimate = cost_in_words(upload, read.pipeline)
    return JSONResponse({"yaml": read.yaml, "fields": fields, "others": others, "estimate": estimate})


def _read(services: Services, upload: WebUpload, form: ImmutableMultiDict[str, str]) -> forms.RulesForm:
    base = base_of(upload, form.getlist("label"))
    return forms.read_form(form, partial(check_pipeline, services), base=base)


@router.post("/new/{upload_id}/start")
def start_study(request: Request, services: TheServices, form: Form, upload: TheUpload) -> Response:
    """Start a study of the form, or show what is wrong with it."""
    read = _read(services, upload, form)
    if read.pipeline is None:
        return _rules_page(request, upload, form.getlist("label"), read, key=form.get("key", ""))
    return _start(services, read.pipeline, form)


@router.post("/new/{upload_id}/start-now")
def start_with_good_rules(request: Request, services: TheServices, form: Form, upload: TheUpload) -> Response:
    """Start a study by the rules that a form begins with."""
    labels, task = form.getlist("label"), form.get("task", "")
    wrong = label_problem(upload.profile, labels, task)
    if wrong:
        return _label_page(request, upload, labels, message=wrong)
    found = columns_found(services, request.app.state.predictions, upload, labels, task)
    read = _first_rules(services, upload, labels, task, found)
    is_told = form.get("told") == "columns"
    if read.pipeline is None or (found.leaks and not is_told):
        return _rules_page(request, upload, labels, read, found=found, key=form.get("key", ""))
    return _start(services, read.pipeline, form)


def _start(services: Services, pipeline: Any, form: Mapping[str, str]) -> Response:
    made = start(services, pipeline, form.get("key") or None)
    return RedirectResponse(f"/studies/{made.study_id}", status_code=303)


# ---- rules: the label, what a study starts from, its faults, its cost


def guess_label(profile: Profile) -> list[int]:
    """Return the place of the column that is most likely the label, none where none can be."""
    fit = [index for index, column in enumerate(profile.columns) if not column.label_problem]
    names = {profile.columns[index].name.strip().lower(): index for index in reversed(fit)}
    usual = next((names[name] for name in USUAL_LABELS if name in names), None)
    return fit[-1:] if usual is None else [usual]


def label_problem(profile: Profile, labels: Sequence[str], task: str = "") -> str:
    """Say why columns cannot be the label, or what must be said of it; empty where nothing is wrong."""
    known = {one.name: one for one in profile.columns}
    for label in labels or [""]:
        if label not in known:
            return f"a label must be one of the table's columns, got {label!r}; choose one below"
    if task and task not in ASKED:
        return f"a label's numbers are classification or regression, got {task!r}; choose one"
    columns = [known[label] for label in labels]
    problem = columns_problem(columns)
    if len(columns) == 1 and columns[0].asks and not task and not problem:
        what = "dates or times" if columns[0].kind in ("time", "duration") else "whole numbers"
        return f"{labels[0]} has many different {what}: say below whether they are classes or amounts"
    return problem


def columns_problem(columns: Sequence[ColumnProfile]) -> str:
    """Say why a column cannot be the label, or several cannot be it together; empty where they can."""
    if len(columns) < 2:
        return next((one.label_problem or "" for one in columns), "")
    many = next((one for one in columns if one.distinct != 2), None)
    other = next((one for one in columns if one.kind != "number" or one.feature_problem), None)
    if many is None or other is None:
        return ""
    distinct = f"over {MOST_CLASSES:,}" if many.distinct > MOST_CLASSES else many.distinct
    return (
        "several labels must have two different values each, or all be numbers, got "
        f"{distinct} different values in {many.name} and no numbers in {other.name}; leave one out"
    )


def with_table(data: Any, base: Mapping[str, Any]) -> dict[str, Any]:
    """Return a pasted pipeline with this table for its own.

    Raises
    ------
    Refusal
        If it is none, or none of a study.
    """
    if not isinstance(data, dict):
        raise Refusal(
            422, f"a pipeline is a mapping of sections, got {type(data).__name__}; paste a whole one"
        )
    if "model" in data:
        raise Refusal(422, "a study has a space of designs, got a pipeline with a model; use `dnnflow run`")
    dataset = data.get("dataset")
    return {**data, "dataset": {**(dataset if isinstance(dataset, dict) else {}), **base}}


def check_pipeline(services: Services, plain: Mapping[str, Any]) -> tuple[Pipeline | None, list[Trouble]]:
    """Validate a pipeline; return it with the server's own places, or None and what is wrong with it."""
    try:
        return accept_study(services, plain), []
    except Refusal as refusal:
        found = refusal.errors or (FieldProblem(where="", message=str(refusal.detail)),)
        return None, [Trouble("" if one.where == "pipeline" else one.where, one.message) for one in found]


def cost_in_words(upload: WebUpload, pipeline: Pipeline | None) -> dict[str, str] | None:
    """Return designs, weights and time in words, None where a pipeline is not right."""
    if pipeline is None:
        return None
    try:
        found = estimate_of(pipeline, upload.profile)
    except DnnflowError:
        return None
    size = found.parameters
    return {
        "designs": "–" if found.designs is None else f"{found.designs:,}",
        "parameters": "–" if size is None else f"{size.least:,.0f} – {size.median:,.0f} – {size.most:,.0f}",
        "time": "–" if found.seconds_s is None else duration(found.seconds_s),
    }
