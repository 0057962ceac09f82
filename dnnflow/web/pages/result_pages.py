"""Show what came of a study: trials, what the parameters did, one trial, predictions, two compared."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Query, Request
from starlette.responses import RedirectResponse, Response

from dnnflow.engines.records import TrialState
from dnnflow.results.view.depth import timing
from dnnflow.results.view.next_steps import next_steps
from dnnflow.results.view.overview import SORTS, TrialQuery
from dnnflow.results.view.study_view import StudyView
from dnnflow.results.view.tested import Tested, ToldNumber, sentence, tested_in, told_numbers
from dnnflow.show.study_figures import MARGINAL_FIGURES
from dnnflow.show.study_tables import (
    NAMES,
    confusion,
    headline,
    is_depth_sweep,
    measured_section,
    place_sections,
    telling_fit,
    timings,
)
from dnnflow.web.answers.model_files import saved_models
from dnnflow.web.answers.request_parts import (
    DesignId,
    StudyId,
    TheResults,
    TheServices,
    TheStudy,
    TheViews,
    decode_cursor,
)
from dnnflow.web.answers.study_control import start_wider, widening_of
from dnnflow.web.answers.study_results import compare
from dnnflow.web.answers.trials import trial_detail, trial_page
from dnnflow.web.answers.views import Views
from dnnflow.web.contract.replies import StudyStatus
from dnnflow.web.guard.sessions import checked_form
from dnnflow.web.pages.rendering import fragment, page

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 460, 260, 52, 38, 10, 10
"""Of a small drawing, in its own units."""
PLACES = 50
"""Trials of one page of the list."""
MOST_CLASSES = 30
"""A larger confusion matrix is not shown as a table."""
COLUMNS = {
    "score": "accuracy", "train_score": "training accuracy", "loss": "loss",
    "training_s": "training, s", "depth": "hidden layers", "units": "units", "activation": "activation",
    "dropout": "dropout", "optimizer": "optimizer", "learning_rate": "learning rate",
    "batch_size": "batch size", "epochs_run": "epochs", "parameters": "weights", "seed": "seed",
    "engine": "engine", "state": "state", "error_type": "error",
}  # fmt: skip
"""Columns of the list of trials, and their names in words."""
SHOWN = ("score", "depth", "units", "activation", "learning_rate", "parameters", "training_s")
"""Columns that are shown where nobody has chosen."""
TEXTS = ("activation", "optimizer", "engine", "state", "error_type")
PLOTS = {
    "curves-score": "Learning curves of the best: {label}",
    "curves-loss": "Learning curves of the best: loss",
    "parameters": "{label} against weights", "flops": "{label} against FLOPs",
    "confusion": "Confusion of the best design",
    "score": "{label} against hidden layers", "time": "Training time against hidden layers",
    "spectrum": "Spectrum over depth (FFT)",
}  # fmt: skip
"""Plots of the results page in order, and their titles."""
DEPTH_PLOTS = ("score", "time", "spectrum")
"""Of these, the figures of the experiment of 2015."""
SentForm = Annotated[Mapping[str, str], Depends(checked_form)]

router = APIRouter()


@router.get("/studies/{study_id}/results")
def show_results(
    request: Request,
    study_id: StudyId,
    services: TheServices,
    views: TheViews,
    results: TheResults,
    state: Annotated[str, Query(pattern="^(completed|failed|lost|all)$")] = "completed",
    min_score: Annotated[str, Query(max_length=20)] = "",
    depth: Annotated[str, Query(max_length=20)] = "",
    sort: Annotated[str, Query(max_length=40)] = "-score",
    after: Annotated[str | None, Query(max_length=400)] = None,
    column: Annotated[list[str], Query(max_length=40)] = [],  # noqa: B006
) -> Response:
    """Show what a study's best is worth, its leaderboard, and its trials as filtered and sorted."""
    status, record = views.status(study_id, live=False), views.record(study_id)
    tested = tested_in(record.outcome if record else None)
    column_name = sort.removeprefix("-") if sort.removeprefix("-") in SORTS else "score"
    query = TrialQuery(
        state=None if state == "all" else TrialState(state),
        min_score=_number(min_score),
        depth=None if _number(depth) is None else int(_number(depth) or 0),
        sort=column_name,
        descending=sort.startswith("-"),
        limit=PLACES,
    )
    if after:
        value, design_id = decode_cursor(after, (float, int, str, type(None)), str)
        query = replace(query, after=(value, design_id))
    trials = trial_page(services.store, study_id, query)
    view = results.quick_view(study_id)
    shown = [name for name in COLUMNS if name in column] or list(SHOWN)
    return page(
        request, "results.html", title=f"Results of {status.name}", place="studies", status=status,
        trials=trials, query=query, state=state, sort=sort, min_score=min_score, depth=depth,
        columns=COLUMNS, shown=shown,
        sorts=SORTS, texts=TEXTS, models=saved_models(services.settings.workspace, study_id),
        saving=_is_saving(views, study_id), is_first=after is None,
        sentence=view.sentence if view else sentence(tested), numbers=_numbers(status, tested, view),
        link=_Links(request), **(_findings(view) if view and view.leaderboard else {"view": None}),
    )  # fmt: skip


def _numbers(status: StudyStatus, tested: Sequence[Tested], view: StudyView | None) -> Sequence[ToldNumber]:
    """Return the numbers that the page begins with; of a large study those that need not be computed."""
    if view is not None:
        return headline(view)
    found = list(told_numbers(tested))
    if not found and status.best:
        found = [ToldNumber("best so far", status.best.text, status.best.design)]
    return found


def _findings(view: StudyView) -> dict[str, Any]:
    """Return what to do next, and the leaderboard."""
    return {
        "view": view,
        "steps": next_steps(view),
        "widening": widening_of(view) if view.tested else None,
        "sections": place_sections(view),
        "tested": measured_section(view),
        "timings": timings(view),
    }


@router.get("/studies/{study_id}/findings")
def show_findings(request: Request, study_id: StudyId, results: TheResults) -> Response:
    """Show what to do next, and the leaderboard; a part of the results page."""
    view = results.view(study_id)
    return page(request, "findings.html", title=view.record.name, study_id=study_id, **_findings(view))


@router.post("/studies/{study_id}/widen")
def widen_study(study_id: StudyId, services: TheServices, results: TheResults, form: SentForm) -> Response:
    """Start the wider study after one, and show it."""
    made, _ = start_wider(services, results.view(study_id))
    return RedirectResponse(f"/studies/{made.run_id}", status_code=303)


class _Links:
    """Addresses of the same page with other choices."""

    def __init__(self, request: Request) -> None:
        self._url = request.url

    def __call__(self, **choices: Any) -> str:
        url = self._url.remove_query_params(["after"]).include_query_params(**choices)
        return f"{url.path}?{url.query}"


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if abs(number) < 1e9 else None


def _is_saving(views: Views, study_id: str) -> bool:
    """Whether a study's job still runs, which saves its models after the last trial."""
    record = views.record(study_id)
    return record is not None and record.queued_s is not None and record.ended_at is None


@router.get("/studies/{study_id}/analysis")
def show_analysis(study_id: StudyId, results: TheResults) -> Response:
    """Show what the parameters did, and the plots that there are numbers for; a part of the results page."""
    view, names = results.view(study_id), results.plot_names(study_id)
    marginals = [
        (NAMES.get(one.parameter, one.parameter), one, max(one.groups, key=lambda group: group.mean))
        for one in view.marginals
    ]
    label = view.metric.label
    shown = [
        (f"marginal-{place}", f"{label.capitalize()} by {name}") for place, (name, *_) in enumerate(marginals)
    ]
    plots = [(name, title.format(label=label.capitalize())) for name, title in PLOTS.items() if name in names]
    return fragment(
        "analysis.html", view=view, marginals=marginals, timing=timing, confusion=confusion(view),
        plots=[one for one in plots if one[0] not in DEPTH_PLOTS],
        depth_plots=[one for one in plots if one[0] in DEPTH_PLOTS], is_depth_sweep=is_depth_sweep(view),
        time_fit=telling_fit(view), study_id=study_id,
        marginal_plots=[one for one in shown[:MARGINAL_FIGURES] if one[0] in names],
    )  # fmt: skip


@router.get("/studies/{study_id}/trials/{design_id}")
def show_trial(request: Request, study: TheStudy, design_id: DesignId, services: TheServices) -> Response:
    """Show everything that is known of one design's training."""
    trial = trial_detail(services.store, study, design_id)
    measures = {
        name: sketch({key: trial.history.get(key, []) for key in (name, f"val_{name}")})
        for name in ("accuracy", "r2", "loss")
    }
    facts = [
        (words, getattr(trial, name)) for name, words in COLUMNS.items() if getattr(trial, name) is not None
    ]
    return page(
        request, "trial.html", title=trial.design, place="studies", record=study, trial=trial, facts=facts,
        measures={name: lines for name, lines in measures.items() if lines}, most_classes=MOST_CLASSES,
    )  # fmt: skip


@router.get("/studies/{study_id}/predict")
def ask_for_rows(
    request: Request, study_id: StudyId, services: TheServices, views: TheViews,
    model: Annotated[str, Query(max_length=20)] = "",
) -> Response:  # fmt: skip
    """Ask for rows that a model of this study is to predict."""
    status = views.status(study_id, live=False)
    limits = services.config.limits
    return page(
        request, "predict.html", title=f"Predict with {status.name}", place="studies", status=status,
        models=saved_models(services.settings.workspace, study_id),
        saving=_is_saving(views, study_id), most_rows=limits.predict_rows, chosen=model,
        label=status.dataset.label if status.dataset else "",
    )  # fmt: skip


@router.get("/compare")
def compare_studies(
    request: Request,
    views: TheViews,
    results: TheResults,
    study: Annotated[list[str], Query(max_length=64)] = [],  # noqa: B006
    a: Annotated[str, Query(max_length=64)] = "",
    b: Annotated[str, Query(max_length=64)] = "",
) -> Response:
    """Show two studies side by side."""
    asked = [one for one in ([a, b] if a or b else study) if one]
    message = "" if len(asked) in (0, 2) else f"two studies are compared, got {len(asked)}; mark two"
    compared = compare(results, asked[0], asked[1]) if len(asked) == 2 else None
    statuses = [views.status(one) for one in asked] if compared else []
    known = [one for one in views.summaries(limit=200) if one.kind == "study"]
    return page(
        request, "compare.html", title="Compare", place="compare", known=known, asked=[*asked, "", ""][:2],
        compared=compared, statuses=statuses, message=message,
        grids=[one.model_dump(mode="json")["live"] for one in statuses],
    )  # fmt: skip


# ---- small drawings that a page carries in itself: lines as points of an SVG


class Line(NamedTuple):
    """One measure, epoch by epoch."""

    name: str
    points: str
    """Of an SVG polyline."""
    last: float
    last_at: tuple[float, float]


class Sketch(NamedTuple):
    """Lines over one axis of epochs."""

    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]
    """(y, label)"""
    epochs: tuple[tuple[float, str], ...]
    """(x, label)"""


def sketch(history: Mapping[str, Sequence[float | None]]) -> Sketch | None:
    """Return the lines of some measures, None where none has a value."""
    finite = {
        name: [
            (epoch, value)
            for epoch, value in enumerate(values, 1)
            if value is not None and math.isfinite(value)
        ]
        for name, values in history.items()
    }
    finite = {name: pairs for name, pairs in finite.items() if pairs}
    if not finite:
        return None
    values = [value for pairs in finite.values() for _, value in pairs]
    low, high = min(values), max(values)
    high = high if high > low else low + 1e-3
    last = max(epoch for pairs in finite.values() for epoch, _ in pairs)

    def x(epoch: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (epoch - 1) / max(1, last - 1), 1)

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low)), 1)

    lines = tuple(
        Line(name, " ".join(f"{x(epoch)},{y(value)}" for epoch, value in pairs), pairs[-1][1],
             (x(pairs[-1][0]), y(pairs[-1][1])))
        for name, pairs in finite.items()
    )  # fmt: skip
    ticks = tuple(
        (y(low + part * (high - low) / 4), f"{low + part * (high - low) / 4:.3g}") for part in range(5)
    )
    marked = sorted({1, *(1 + round(part * (last - 1) / 4) for part in range(5))})
    return Sketch(lines, ticks, tuple((x(epoch), str(epoch)) for epoch in marked))
