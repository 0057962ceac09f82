"""Show the pages of a new study: upload, label, rules, start."""

import secrets
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from dnnflow.errors import DnnflowError, NotFoundError
from dnnflow.pipeline.good_rules import TableFacts, good_rules, in_words
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.show.wording import duration
from dnnflow.table.text.survey import USUAL_LABELS
from dnnflow.web.answers.estimation import estimate_of
from dnnflow.web.answers.request_parts import TheServices, TheUpload
from dnnflow.web.api.run_routes import start
from dnnflow.web.contract.problems import FieldProblem, Refusal
from dnnflow.web.guard.sessions import checked_form
from dnnflow.web.jobs.intake import UPLOAD, accept_study, read_yaml
from dnnflow.web.jobs.services import Services
from dnnflow.web.pages import forms
from dnnflow.web.pages.forms import FORM_LABELS, FORMS, HINTS, Trouble, field_groups
from dnnflow.web.pages.rendering import fragment, page
from dnnflow.web.uploads.profile import MOST_CLASSES, Profile
from dnnflow.web.uploads.uploads import WebUpload

MOST_COLUMNS = 200
"""Columns of the label page; others are found by name."""
MOST_CELLS = 40
"""Columns of the first rows that are shown."""
NAME = 512
"""Characters of a column's name in an address."""

router = APIRouter()
Form = Annotated[Mapping[str, str], Depends(checked_form)]
Label = Annotated[str, Query(max_length=NAME)]
Task = Annotated[str, Query(max_length=20)]
ASKED = ("classification", "regression")
"""What may be said of whole numbers: classes, or amounts."""


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
    upload: TheUpload,
    find: Annotated[str, Query(max_length=NAME)] = "",
    label: Label = "",
) -> Response:
    """Show a table's columns and ask which one is predicted."""
    return _label_page(request, upload, find=find, label=label)


def _label_page(
    request: Request,
    upload: WebUpload,
    *,
    find: str = "",
    label: str = "",
    message: str = "",
    code: int = 200,
) -> Response:
    profile = upload.profile
    names = [column.name for column in profile.columns]
    chosen = names.index(label) if label in names else guess_label(profile)
    found = [index for index, name in enumerate(names) if find.lower() in name.lower()]
    order = dict.fromkeys([*([] if chosen is None else [chosen]), *found])
    shown = [(index, profile.columns[index]) for index in [*order][:MOST_COLUMNS]]
    return page(
        request, "label.html", code=code, title=f"Label of {upload.name}", place="new", upload=upload,
        profile=profile, shown=shown, chosen=chosen, find=find, message=message,
        rules=in_words(good_rules(facts_of(profile, "" if chosen is None else names[chosen]))),
        column=None if chosen is None else profile.columns[chosen], rows=profile.rows or 1,
        most_classes=MOST_CLASSES, most_cells=MOST_CELLS, key=secrets.token_urlsafe(18),
        unusable=[column for column in profile.columns if column.feature_problem],
    )  # fmt: skip


@router.get("/new/{upload_id}/columns/{index}")
def show_classes(upload: TheUpload, index: int) -> Response:
    """Show a column's classes, or why it cannot be the label."""
    profile = upload.profile
    if not 0 <= index < len(profile.columns):
        raise NotFoundError(f"a column is below {len(profile.columns)}, got {index}; load the page again")
    return fragment("classes.html", column=profile.columns[index], rows=profile.rows or 1)


@router.post("/new/{upload_id}/delete")
def delete_upload(services: TheServices, form: Form, upload: TheUpload) -> Response:
    """Forget a table."""
    services.uploads.delete(upload.upload_id)
    return RedirectResponse("/new", status_code=303)


@router.post("/new/{upload_id}/rules")
def go_to_rules(upload_id: str, form: Form) -> Response:
    """Lead to the rules form; the label page's form has a token, which must not stand in an address."""
    said = {"task": form["task"]} if form.get("task") else {}
    query = urlencode({"label": form.get("label", ""), **said})
    return RedirectResponse(f"/new/{quote(upload_id, safe='')}/rules?{query}", status_code=303)


@router.get("/new/{upload_id}/rules")
def ask_for_rules(
    request: Request, services: TheServices, upload: TheUpload, label: Label = "", task: Task = ""
) -> Response:
    """Show the rules form as a new study starts."""
    wrong = label_problem(upload.profile, label, task)
    if wrong:
        return _label_page(request, upload, label=label, message=wrong, code=422)
    return _rules_page(request, upload, label, _first_rules(services, upload, label, task))


@router.post("/new/{upload_id}/paste")
def paste_rules(request: Request, services: TheServices, form: Form, upload: TheUpload) -> Response:
    """Show the rules form for a pipeline that was pasted as YAML."""
    label, text = form.get("label", ""), form.get("yaml", "")
    try:
        plain = with_table(read_yaml(text), base_of(upload, label))
    except Refusal as refusal:
        first = _first_rules(services, upload, label)
        return _rules_page(request, upload, label, first, text=text, wrong=str(refusal.detail))
    return _rules_page(request, upload, label, forms.form_of(plain, partial(check_pipeline, services)))


def _first_rules(services: Services, upload: WebUpload, label: str, task: str = "") -> forms.RulesForm:
    return forms.form_of(starting_rules(upload, label, task), partial(check_pipeline, services))


def _rules_page(
    request: Request,
    upload: WebUpload,
    label: str,
    form: forms.RulesForm,
    *,
    text: str | None = None,
    wrong: str = "",
    key: str = "",
) -> Response:
    return page(
        request, "rules.html", code=422 if wrong or form.troubles else 200, title="Rules", place="new",
        upload=upload, label=label, form=form, groups=field_groups(), forms=FORMS, hints=HINTS,
        form_labels=FORM_LABELS, key=key or secrets.token_urlsafe(18),
        estimate=cost_in_words(upload, form.pipeline), yaml_wrong=wrong,
        yaml=form.yaml if text is None else text,
    )  # fmt: skip


@router.post("/new/{upload_id}/check")
def check_rules(services: TheServices, form: Form, upload: TheUpload) -> Response:
    """Return a form's YAML, what is wrong with it, and what it will cost."""
    read = _read(services, upload, form)
    fields = {path: read.trouble_at(path) for path in {one.at_field for one in read.troubles} if path}
    others = [f"{one.where}: {one.message}" for one in read.other_troubles]
    estimate = cost_in_words(upload, read.pipeline)
    return JSONResponse({"yaml": read.yaml, "fields": fields, "others": others, "estimate": estimate})


def _read(services: Services, upload: WebUpload, form: Mapping[str, str]) -> forms.RulesForm:
    base = base_of(upload, form.get("label", ""))
    return forms.read_form(form, partial(check_pipeline, services), base=base)


@router.post("/new/{upload_id}/start")
def start_study(request: Request, services: TheServices, form: Form, upload: TheUpload) -> Response:
    """Start a study of the form, or show what is wrong with it."""
    read = _read(services, upload, form)
    if read.pipeline is None:
        label = form.get("label", "")
        return _rules_page(request, upload, label, read, key=form.get("key", ""))
    return _start(services, read.pipeline, form)


@router.post("/new/{upload_id}/start-now")
def start_with_good_rules(request: Request, services: TheServices, form: Form, upload: TheUpload) -> Response:
    """Start a study by the rules that a form begins with."""
    label, task = form.get("label", ""), form.get("task", "")
    wrong = label_problem(upload.profile, label, task)
    if wrong:
        return _label_page(request, upload, label=label, message=wrong, code=422)
    read = _first_rules(services, upload, label, task)
    if read.pipeline is None:
        return _rules_page(request, upload, label, read)
    return _start(services, read.pipeline, form)


def _start(services: Services, pipeline: Any, form: Mapping[str, str]) -> Response:
    made = start(services, pipeline, form.get("key") or None)
    return RedirectResponse(f"/studies/{made.study_id}", status_code=303)


# ---- rules: the label, what a study starts from, its faults, its cost


def guess_label(profile: Profile) -> int | None:
    """Return the place of the column that is most likely the label, None where none can be."""
    fit = [index for index, column in enumerate(profile.columns) if not column.label_problem]
    names = {profile.columns[index].name.strip().lower(): index for index in reversed(fit)}
    usual = next((names[name] for name in USUAL_LABELS if name in names), None)
    return usual if usual is not None else fit[-1] if fit else None


def label_problem(profile: Profile, label: str, task: str = "") -> str:
    """Say why a column cannot be the label, or what must be said of it; empty where nothing is wrong."""
    column = next((one for one in profile.columns if one.name == label), None)
    if column is None:
        return f"a label must be one of the table's columns, got {label!r}; choose one below"
    if task and task not in ASKED:
        return f"a label's numbers are classification or regression, got {task!r}; choose one"
    if column.asks and not task and not column.label_problem:
        return f"{label} has many different whole numbers: say below whether they are classes or amounts"
    return column.label_problem or ""


def base_of(upload: WebUpload, label: str) -> dict[str, Any]:
    """Return what a study's dataset section says in any case."""
    return {"source": f"{UPLOAD}{upload.upload_id}", "label": label}


def starting_rules(upload: WebUpload, label: str, task: str = "") -> dict[str, Any]:
    """Return the pipeline that a new study starts from: good for most tables."""
    said = {"task": task} if task in ASKED else {}
    # No feature can be made of some columns, such as names
    dropped = [one.name for one in upload.profile.columns if one.feature_problem and one.name != label]
    return {
        "name": name_of(upload),
        "dataset": base_of(upload, label) | said | ({"drop": dropped} if dropped else {}),
        **good_rules(facts_of(upload.profile, label)),
    }


def facts_of(profile: Profile, label: str) -> TableFacts:
    """Return what of a table the good rules depend on."""
    features = [one for one in profile.columns if one.name != label and not one.feature_problem]
    numbers = sum(one.kind == "number" for one in features)
    categories = sum(one.distinct for one in features if one.kind != "number")
    classes = next((one.distinct for one in profile.columns if one.name == label), 0)
    return TableFacts(profile.rows, numbers, categories, classes)


def name_of(upload: WebUpload) -> str:
    """Return a study's name: the table's without its endings."""
    name = upload.name.rpartition("/")[2]
    for ending in (".zst", ".gz", ".csv", ".tsv", ".txt"):
        name = name.removesuffix(ending)
    return name[:80] or "study"


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
