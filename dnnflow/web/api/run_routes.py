"""/runs: parallel trainings."""

from http import HTTPStatus
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, HTMLResponse

from dnnflow.errors import ConflictError, NotFoundError
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.store.run_record import new_study_id
from dnnflow.web.answers.request_parts import (
    Cursor,
    Key,
    RunId,
    TheServices,
    TheViews,
    decode_cursor,
    encode_cursor,
    problems_of,
)
from dnnflow.web.answers.training_runs import run_of, status_of_run
from dnnflow.web.api.study_routes import pipeline_body, read_pipeline
from dnnflow.web.contract.problems import Refusal
from dnnflow.web.contract.replies import RunPage, RunStatus
from dnnflow.web.guard.security import REPORT_POLICY
from dnnflow.web.jobs.intake import accept
from dnnflow.web.jobs.services import Services

router = APIRouter(tags=["runs"], responses=problems_of())

RUN_BODY = pipeline_body(
    "TrainPipeline",
    {
        "name": "iris on two replicas",
        "model": {"source": "study:Q2m4tY8sVx0aBc1d/1", "loss": "sparse_categorical_crossentropy"},
        "dataset": {"source": "upload:Zk3v0mJq8WcR1x9s", "label": "species"},
        "parallel": {"replicas": 2, "epochs": 5},
    },
)


@router.get("/runs", operation_id="listRuns", summary="List parallel trainings, newest first")
def list_runs(
    services: TheServices,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Cursor = None,
) -> RunPage:
    """Return a page of the parallel trainings that were started here."""
    after = tuple(decode_cursor(cursor, str, str)) if cursor else None
    runs = [one for one in services.launcher.all() if one.kind == "train"]
    runs.sort(key=lambda one: (one.created_at, one.launch_id), reverse=True)
    left = [one for one in runs if after is None or (one.created_at, one.launch_id) < after]
    shown = left[:limit]
    more = encode_cursor(shown[-1].created_at, shown[-1].launch_id) if len(left) > limit else None
    return RunPage(runs=[status_of_run(one) for one in shown], next_cursor=more)


@router.post(
    "/runs",
    operation_id="createRun",
    summary="Start a parallel training",
    status_code=HTTPStatus.CREATED,
    responses=problems_of(400, 403, 408, 409, 413, 415),
    openapi_extra=RUN_BODY,
)
async def create_run(
    request: Request, response: Response, services: TheServices, key: Key = None
) -> RunStatus:
    """Start a training of a pipeline with a `model`, sent as JSON (`{"pipeline": {...}}`) or as YAML."""
    data, text = await read_pipeline(request)
    status = await run_in_threadpool(launch, services, data, text, key)
    response.headers["Location"] = f"/api/v1/runs/{status.run_id}"
    return status


def launch(services: Services, data: Any, text: str | None, key: str | None) -> RunStatus:
    """Hand a sent pipeline to the launcher, and return what it made of it."""
    pipeline = accept(services, data, text=text)
    if isinstance(pipeline, Pipeline):
        raise Refusal(
            422, "a training's pipeline must have a model, got none; POST a study to /api/v1/studies"
        )
    return status_of_run(services.launcher.launch(pipeline, new_study_id(), key=key))


@router.get(
    "/runs/{run_id}", operation_id="getRun", summary="Where a training stands", responses=problems_of(404)
)
def get_run(run_id: RunId, views: TheViews) -> RunStatus:
    """Return where a parallel training stands."""
    return status_of_run(run_of(views, run_id))


@router.post(
    "/runs/{run_id}/cancel",
    operation_id="cancelRun",
    summary="Cancel a training",
    responses=problems_of(403, 404, 409),
)
def cancel_run(run_id: RunId, services: TheServices, views: TheViews) -> RunStatus:
    """End a parallel training."""
    found = run_of(views, run_id)
    if found.state.has_ended:
        raise ConflictError(
            f"a training can be cancelled while it runs, got one that is {found.state}; start a new one"
        )
    return status_of_run(services.launcher.cancel(run_id))


@router.get(
    "/runs/{run_id}/report",
    operation_id="getRunReport",
    summary="A training's report",
    response_class=HTMLResponse,
    responses=problems_of(404),
)
def get_run_report(run_id: RunId, views: TheViews, services: TheServices) -> Response:
    """Return the report of a finished training."""
    found = run_of(views, run_id)
    path = outcome_file(services, dict(found.outcome or {}).get("report"), ".html")
    if path is None:
        raise NotFoundError(
            f"a report is there once a training has finished, got {run_id}, {found.state}; wait for it"
        )
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})


def outcome_file(services: Services, name: object, suffix: str) -> Path | None:
    """Return a file that a training wrote, if it is one of this installation's."""
    if not isinstance(name, str):
        return None
    path = Path(name).resolve()
    is_ours = path.is_relative_to(services.settings.workspace.home.resolve()) and path.suffix == suffix
    return path if is_ours and path.is_file() else None
