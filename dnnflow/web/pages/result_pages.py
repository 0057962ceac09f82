"""Show what came of a study: trials, what the parameters did, one trial, predictions, two compared."""

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, NamedTuple

from fastapi import APIRouter, Depends, Query, Request
from pydantic import StringConstraints
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
    table_columns,
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
    check_query,
    decode_cursor,
)
from dnnflow.web.answers.study_control import start_wider, widening_of
from dnnflow.web.answers.study_results import compare
from dnnflow.web.answers.trials import trial_detail, trial_page
from dnnflow.web.api.run_routes import OVER
from dnnflow.web.contract.replies import StudyStatus
from dnnflow.web.guard.sessions import checked_form
from dnnflow.web.pages.reading_form import ROWS_FIELDS
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
Column = Annotated[str, StringConstraints(pattern=f"^({'|'.join(COLUMNS)})$")]
SHOWN = ("score", "depth", "units", "activation", "learning_rate", "parameters", "training_s")
"""Columns that are shown where nobody has chosen."""
DECIMAL = re.compile(r"[+-]?(\d{1,9}(\.\d*)?|\.\d+)(e-?\d{1,2})?", re.ASCII | re.IGNORECASE)
WHOLE = re.compile(r"\d{1,9}", re.ASCII)
"""What filters may be."""
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


@router.get("/studies/{study_id}/results", dependencies=[Depends(check_query)])
def show_results(
    request: Request,
    study_id: StudyId,
    services: TheServices,
    views: TheViews,
    results: TheResults,
    state: Annotated[str, Query(pattern="^(completed|failed|lost|all)$")] = "completed",
    min_score: Annotated[str, Query(max_length=20)] = "",
    depth: Annotated[str, Query(max_length=20)] = "",
    sort: Annotated[str, Query(pattern=rf"^-?({'|'.join(SORTS)})$")] = "-score",
    after: Annotated[str | None, Query(max_length=400)] = None,
    column: Annotated[list[Column], Query()] = [],  # noqa: B006
) -> Response:
    """Show what a study's best is worth, its leaderboard, and its trials as filtered and sorted."""
    status, record = views.status(study_id, live=False), views.record(study_id)
    tested = tested_in(record.outcome if record else None)
    wrong = _wrong_filters(min_score, depth)
    query = TrialQuery(
        state=None if state == "all" else TrialState(state),
        min_score=float(min_score) if min_score.strip() and "min_score" not in wrong else None,
        depth=int(depth) if depth.strip() and "depth" not in wrong else None,
        sort=sort.removeprefix("-"),
        descending=sort.startswith("-"),
        limit=PLACES,
    )
    if after:
        value, design_id = decode_cursor(after, (float, int, str, type(None)), str)
        query = replace(query, after=(value, design_id))
    trials = None if wrong else trial_page(services.store, study_id, query)
    view = results.quick_view(study_id)
    shown = [name for name in COLUMNS if name in column] or list(SHOWN)
    return page(
        request, "results.html", code=422 if wrong else 200, title=f"Results of {status.name}",
        place="studies", status=status, wrong=wrong, trials=trials, query=query, state=state, sort=sort,
        min_score=min_score, depth=depth, columns=COLUMNS, shown=shown,
        sorts=SORTS, texts=TEXTS, models=saved_models(services.settings.workspace, study_id),
        saving=status.state not in OVER, is_first=after is None,
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


def _wrong_filters(min_score: str, depth: str) -> dict[str, str]:
    """Say what is wrong with the filters, by their names."""
    wrong = {}
    if min_score.strip() and not DECIMAL.fullmatch(min_score.strip()):
        wrong["min_score"] = (
            f"A score is a number such as 0.9, got {min_score!r}; write it with a point, or leave it empty."
        )
    if depth.strip() and not WHOLE.fullmatch(depth.strip()):
        wrong["depth"] = (
            f"Hidden layers are one whole number such as 3, got {depth!r}; write one, or leave it empty."
        )
    return wrong


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
        time_fit=telling_fit(view), study_id=study_id, table_columns=table_columns(view),
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
        saving=status.state not in OVER, most_rows=limits.predict_rows, chosen=model,
        label=status.dataset.label if status.dataset else "", fields=ROWS_FIELDS,
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
