"""Answer what came of a study: trials, leaderboard, plots, failures, export, report, comparison."""

import os
import tempfile
from pathlib import Path
from typing import Annotated, Literal

from fastapi import APIRouter, Query
from fastapi import Path as PathOf
from starlette.background import BackgroundTask
from starlette.responses import FileResponse, HTMLResponse, Response

from dnnflow.engines.records import TrialState
from dnnflow.results.view.export import export_trials
from dnnflow.results.view.next_steps import next_steps
from dnnflow.results.view.overview import SORTS, TrialQuery
from dnnflow.web.answers.request_parts import (
    Cursor,
    DesignId,
    StudyId,
    TheResults,
    TheServices,
    TheStudy,
    decode_cursor,
    problems_of,
    wrong_cursor,
)
from dnnflow.web.answers.study_results import compare
from dnnflow.web.answers.trials import failures_of, trial_detail, trial_page
from dnnflow.web.contract.problems import FieldProblem, Refusal
from dnnflow.web.contract.replies import Comparison, Leaderboard
from dnnflow.web.contract.trial_replies import (
    Failures,
    PlotNames,
    PlotNumbers,
    TrialDetail,
    TrialPage,
    TrialRow,
)
from dnnflow.web.guard.security import REPORT_POLICY

router = APIRouter(tags=["results"], responses=problems_of(404))

MEDIA_TYPES = {"csv": "text/csv; charset=utf-8", "parquet": "application/vnd.apache.parquet"}
PlotName = Annotated[str, PathOf(max_length=64, examples=["score"], description="One of /plots.")]
Sort = Literal[
    "score", "-score", "train_score", "-train_score", "loss", "-loss",
    "training_s", "-training_s", "depth", "-depth", "parameters", "-parameters", "units", "-units",
    "learning_rate", "-learning_rate", "batch_size", "-batch_size", "epochs_run", "-epochs_run",
    "started_at", "-started_at", "design_id", "-design_id", "accuracy", "-accuracy",
    "balanced_accuracy", "-balanced_accuracy", "macro_f1", "-macro_f1", "mcc", "-mcc", "r2", "-r2",
    "rmse", "-rmse", "mae", "-mae",
]  # fmt: skip


@router.get("/studies/{study_id}/trials", operation_id="listTrials", summary="List trials")
def list_trials(
    study: TheStudy,
    services: TheServices,
    state: Annotated[TrialState | None, Query(description="How the training ended.")] = None,
    min_score: Annotated[
        float | None,
        Query(
            allow_inf_nan=False, description="Of the study's metric, greater is better: errors are negative."
        ),
    ] = None,
    depth: Annotated[int | None, Query(ge=0, lt=2**31, description="Hidden layers.")] = None,
    activation: Annotated[
        str | None, Query(max_length=64, description="Of the hidden layers; `mixed` where they differ.")
    ] = None,
    optimizer: Annotated[str | None, Query(max_length=64, description="Its name, e.g. `adam`.")] = None,
    engine: Annotated[str | None, Query(max_length=64, description="What trained the design.")] = None,
    error_type: Annotated[str | None, Query(max_length=200, description="One of /failures.")] = None,
    fields: Annotated[
        str | None,
        Query(
            pattern=r"^[a-z0-9_]+(,[a-z0-9_]+)*$",
            max_length=1000,
            description="Names of what is told of each trial, by commas; everything by default.",
            examples=["design_id,score,training_s"],
        ),
    ] = None,
    sort: Annotated[Sort, Query(description="A column; with - the largest first.")] = "-score",
    limit: Annotated[int, Query(ge=1, le=500, description="Trials of one page.")] = 50,
    cursor: Cursor = None,
) -> TrialPage:
    """Return a page of a study's trials; those without a value of the sort's column stand last."""
    column = sort.removeprefix("-")
    query = TrialQuery(
        state=state,
        min_score=min_score,
        depth=depth,
        error_type=error_type,
        activation=activation,
        optimizer=optimizer,
        engine=engine,
        sort=column if column in SORTS else "design_id",
        descending=sort.startswith("-"),
        after=_after(cursor, column) if cursor else None,
        limit=limit,
    )
    return trial_page(services.store, study.study_id, query, None if fields is None else _fields(fields))


def _fields(text: str) -> set[str]:
    """Return the fields that are asked for by name."""
    asked = text.split(",")
    for name in asked:
        if name not in TrialRow.model_fields:
            message = f"fields are those of a trial ({', '.join(TrialRow.model_fields)}), got {name!r}"
            raise Refusal(422, message, errors=[FieldProblem(where="fields", message=message)])
    return set(asked)


def _after(cursor: str, column: str) -> tuple[float | str | None, str]:
    """Return where a list goes on; the value's type is the column's."""
    value, design_id = decode_cursor(cursor, (int, float, str, type(None)), str)
    is_text = column in ("started_at", "design_id")
    if is_text and isinstance(value, str):
        return value, design_id
    if not is_text and value in ("inf", "-inf"):
        return float(value), design_id
    if value is None or (not is_text and not isinstance(value, bool | str) and abs(value) < 2**63):
        return value, design_id
    raise wrong_cursor(
        f"a cursor is a next_cursor of this list with the same sort, got one of another: {cursor[:80]!r}"
    )


@router.get(
    "/studies/{study_id}/trials/{design_id}", operation_id="getTrial", summary="One trial, with everything"
)
def get_trial(study: TheStudy, design_id: DesignId, services: TheServices) -> TrialDetail:
    """Return one design's training: its history, confusion counts, or its error with the traceback."""
    return trial_detail(services.store, study, design_id)


@router.get("/studies/{study_id}/leaderboard", operation_id="getLeaderboard", summary="The best designs")
def get_leaderboard(
    study_id: StudyId,
    results: TheResults,
    limit: Annotated[int, Query(ge=1, le=100, description="Places.")] = 100,
) -> Leaderboard:
    """Return the best designs, and how far their order can be trusted."""
    view = results.view(study_id)
    return Leaderboard(
        places=list(view.leaderboard[:limit]),
        noise=str(view.noise) if view.noise else None,
        majority_rate=view.majority_rate,
        measured_rows=view.measured_rows,
        selected_on="test" if view.is_selected_on_test else "validation",
        tested=list(view.tested),
        sentence=view.sentence or None,
        next_steps=list(next_steps(view)),
        edges=[str(edge) for edge in view.edges],
        finalist_rows=view.finals.rows if view.finals else None,
    )


@router.get("/studies/{study_id}/failures", operation_id="listFailures", summary="Failures by kind")
def list_failures(study: TheStudy, services: TheServices) -> Failures:
    """Return how often which error ended a training."""
    return Failures(failures=failures_of(services.store, study.study_id))


@router.get("/studies/{study_id}/plots", operation_id="listPlots", summary="Names of the plots")
def list_plots(study_id: StudyId, results: TheResults) -> PlotNames:
    """Return which plots the study has numbers for."""
    return PlotNames(plots=results.plot_names(study_id))


@router.get(
    "/studies/{study_id}/plots/{name}", operation_id="getPlot", summary="A plot as Bokeh JSON",
    responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}},
)  # fmt: skip
def get_plot(
    study_id: StudyId,
    name: PlotName,
    results: TheResults,
) -> Response:
    """Return a plot for `Bokeh.embed.embed_item`."""
    return Response(results.plot(study_id, name).item, media_type="application/json")


@router.get(
    "/studies/{study_id}/plots/{name}/numbers", operation_id="getPlotNumbers", summary="A plot as numbers"
)
def get_plot_numbers(study_id: StudyId, name: PlotName, results: TheResults) -> PlotNumbers:
    """Return what a plot shows as tables of numbers, for who does not see it."""
    return results.plot(study_id, name).numbers


@router.get(
    "/studies/{study_id}/export",
    operation_id="exportTrials",
    summary="All trials as a file",
    response_class=Response,
    responses={
        200: {
            "description": "One row a trial.",
            "content": {
                "text/csv": {"schema": {"type": "string"}},
                "application/vnd.apache.parquet": {"schema": {"type": "string", "format": "binary"}},
            },
        }
    },
)
def export(
    study: TheStudy,
    services: TheServices,
    format: Annotated[Literal["csv", "parquet"], Query(description="Of the file.")] = "csv",
) -> FileResponse:
    """Return all trials of a study as CSV or Parquet."""
    handle, name = tempfile.mkstemp(prefix="dnnflow-export-", suffix=f".{format}")
    os.close(handle)
    path = Path(name)
    try:
        export_trials(services.store.frame(study.study_id), path)
    except BaseException:
        path.unlink(missing_ok=True)
        raise
    return FileResponse(
        path,
        media_type=MEDIA_TYPES[format],
        filename=f"{study.study_id}.{format}",
        background=BackgroundTask(path.unlink, missing_ok=True),
    )


@router.get(
    "/studies/{study_id}/report", operation_id="getReport", summary="The report", response_class=HTMLResponse
)
def get_report(
    study_id: StudyId,
    results: TheResults,
    download: Annotated[bool, Query(description="Whether a browser saves it instead of showing it.")] = False,
) -> HTMLResponse:
    """Return the study's report as it stands now: one HTML file that needs no server."""
    how = "attachment" if download else "inline"
    headers = {
        "Content-Security-Policy": REPORT_POLICY,
        "Content-Disposition": f'{how}; filename="{study_id}.html"',
    }
    return HTMLResponse(results.report(study_id), headers=headers)


@router.get("/compare", operation_id="compareStudies", summary="Two studies side by side")
def compare_studies(
    a: Annotated[str, Query(max_length=64, description="A study's id.")],
    b: Annotated[str, Query(max_length=64, description="Another's.")],
    results: TheResults,
) -> Comparison:
    """Return how two studies stand beside one another."""
    return compare(results, a, b)
