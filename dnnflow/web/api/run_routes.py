"""Route /studies and /runs: asked for, listed, watched, paused, resumed, cancelled."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from itertools import islice
from typing import Annotated, Any, Literal

import yaml
from fastapi import APIRouter, Depends, Query, Request, Response
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, HTMLResponse, StreamingResponse

from dnnflow.errors import ConflictError, NotFoundError
from dnnflow.events import Command
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.store.run_record import MOST_TAG, RunKind, RunRecord, new_study_id
from dnnflow.web.answers.estimation import estimate
from dnnflow.web.answers.request_parts import (
    Cursor,
    Key,
    RunId,
    StudyId,
    TheResults,
    TheServices,
    TheViews,
    cut_page,
    decode_cursor,
    problems_of,
    sent_as,
)
from dnnflow.web.answers.study_control import send_command, start_wider
from dnnflow.web.answers.training_runs import STATES, report_of, run_status, status_of_run
from dnnflow.web.answers.views import is_named, place_of, state_of
from dnnflow.web.answers.watch import LONGEST_S, EventStreams, Read, Snapshot, as_line
from dnnflow.web.contract.problems import FieldProblem, Refusal
from dnnflow.web.contract.replies import (
    Created,
    Estimate,
    RunPage,
    RunStateName,
    RunStatus,
    StateName,
    StudyPage,
    StudyStatus,
    Widened,
)
from dnnflow.web.guard.security import REPORT_POLICY
from dnnflow.web.jobs.intake import accept, accept_study, read_yaml
from dnnflow.web.jobs.services import Services

router = APIRouter(responses=problems_of())

YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")
OVER = ("finished", "failed", "stopped")
RUN_OVER = ("finished", "failed", "cancelled")

Limit = Annotated[int, Query(ge=1, le=200, description="Of one page.")]
Named = Annotated[
    str | None,
    Query(min_length=1, max_length=200, description="A part of the name, in upper or lower case."),
]
Tag = Annotated[str | None, Query(max_length=MOST_TAG, description="Only those with this tag.")]
MaxS = Annotated[
    float, Query(ge=0, le=LONGEST_S, description="Seconds after which the stream ends; ask again then.")
]
EVENTS: dict[int | str, dict[str, Any]] = {
    **problems_of(404, 503),
    200: {
        "description": "`event: status` with the resource as data, when it has changed and at most once a "
        "second; `event: end` when nothing more will change; a comment every 15 seconds.",
        "content": {
            "text/event-stream": {
                "schema": {
                    "type": "object",
                    "required": ["event", "data"],
                    "properties": {
                        "event": {"enum": ["status", "end"]},
                        "data": {"type": "string", "contentMediaType": "application/json"},
                    },
                },
                "example": 'event: status\ndata: {"state":"finished"}\n\nevent: end\ndata: {}\n\n',
            }
        },
    },
}
STREAM: dict[str, Any] = {"tags": ["studies"], "response_class": StreamingResponse, "responses": EVENTS}
RUN_STREAM = {**STREAM, "tags": ["runs"]}


def pipeline_body(model: str, example: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that is a pipeline."""
    schema = {"$ref": f"#/components/schemas/{model}"}
    return sent_as(
        {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["pipeline"],
                    "properties": {"pipeline": schema},
                    "additionalProperties": False,
                },
                "example": {"pipeline": example},
            },
            "application/yaml": {
                "schema": {"type": "string", "description": "The same without the outer `pipeline`."},
                "example": yaml.safe_dump(example, sort_keys=False),
            },
        }
    )


STUDY_BODY = pipeline_body(
    "Pipeline",
    {
        "name": "iris",
        "dataset": {"source": "upload:Zk3v0mJq8WcR1x9s", "label": "species"},
        "space": {"depth": {"int": [1, 3]}, "units": {"choice": [16, 32]}},
        "designs": 24,
    },
)
RUN_BODY = pipeline_body(
    "TrainPipeline",
    {
        "name": "iris on two replicas",
        "model": {"source": "study:Q2m4tY8sVx0aBc1d/1", "loss": "sparse_categorical_crossentropy"},
        "dataset": {"source": "upload:Zk3v0mJq8WcR1x9s", "label": "species"},
        "parallel": {"replicas": 2, "epochs": 5},
    },
)
TO_START = problems_of(400, 403, 408, 409, 413, 415)


async def read_pipeline(request: Request) -> tuple[Any, str | None]:
    """Return the plain data of a sent pipeline, and its YAML if it was sent so."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    try:
        text = body.decode()
        if kind in YAML_TYPES:
            return await run_in_threadpool(read_yaml, text), text
        data = await run_in_threadpool(json.loads, text)
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"a body must be JSON or YAML in UTF-8, got: {error}"[:500]) from error
    if kind not in ("application/json", ""):
        raise Refusal(415, f"a pipeline is sent as application/json or application/yaml, got {kind[:80]!r}")
    if not isinstance(data, dict) or set(data) != {"pipeline"}:
        problem = FieldProblem(where="pipeline", message='a body is {"pipeline": {...}}')
        raise Refusal(422, 'a body must be {"pipeline": {...}}, got something else', errors=[problem])
    return data["pipeline"], None


SentPipeline = Annotated[tuple[Any, str | None], Depends(read_pipeline)]


# ---- studies


@router.get(
    "/studies", operation_id="listStudies", summary="List studies and parallel trainings, newest first",
    tags=["studies"],
)  # fmt: skip
def list_studies(
    views: TheViews,
    state: Annotated[StateName | None, Query(description="Where they stand.")] = None,
    kind: Annotated[Literal["study", "train"] | None, Query(description="`train`: trainings.")] = None,
    name: Named = None,
    tag: Tag = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> StudyPage:
    """Return a page of all studies, whoever runs them, and of all parallel trainings started here."""
    after = tuple(decode_cursor(cursor, str, str)) if cursor else None
    found = views.summaries(after=after, limit=limit + 1, state=state, kind=kind, name=name, tag=tag)
    on_page, more = cut_page(found, limit, lambda one: (one.created_at, one.study_id))
    return StudyPage(studies=on_page, next_cursor=more)


@router.post(
    "/studies", operation_id="createStudy", summary="Start a study", tags=["studies"],
    status_code=HTTPStatus.CREATED, responses=TO_START, openapi_extra=STUDY_BODY,
)  # fmt: skip
def create_study(response: Response, services: TheServices, sent: SentPipeline, key: Key = None) -> Created:
    """Start a study of a pipeline, sent as JSON (`{"pipeline": {...}}`) or as YAML."""
    created = start(services, accept_study(services, *sent), key)
    response.headers["Location"] = f"/api/v1/studies/{created.study_id}"
    return created


def start(services: Services, pipeline: Pipeline, key: str | None) -> Created:
    """Hand a study to the launcher; pages and API call this."""
    return created_of(services.launcher.launch(pipeline, new_study_id(), key=key))


def created_of(made: RunRecord) -> Created:
    """Return what is said of a study that was handed over."""
    return Created(study_id=made.run_id, name=made.name, state=state_of(made), url=f"/studies/{made.run_id}")


@router.post(
    "/studies/estimate", operation_id="estimateStudy", summary="What a pipeline would train",
    tags=["studies"], responses=problems_of(400, 403, 408, 413, 415), openapi_extra=STUDY_BODY,
)  # fmt: skip
def estimate_study(services: TheServices, sent: SentPipeline) -> Estimate:
    """Return designs, weights and time of a pipeline, or what is wrong with it; nothing is started."""
    return estimate(services, *sent)


@router.get(
    "/studies/{study_id}", operation_id="getStudy", summary="Where a study stands", tags=["studies"],
    responses=problems_of(404),
)  # fmt: skip
def get_study(study_id: StudyId, views: TheViews) -> StudyStatus:
    """Return where a study stands."""
    return views.status(study_id)


def _add_control(action: str, command: Command, description: str) -> None:
    def control(study_id: StudyId, services: TheServices, views: TheViews) -> StudyStatus:
        send_command(services, views, study_id, command)
        return views.status(study_id)

    router.add_api_route(
        f"/studies/{{study_id}}/{action}", control, methods=["POST"], operation_id=f"{action}Study",
        summary=f"{action.capitalize()} a study", description=description, tags=["studies"],
        responses=problems_of(403, 404, 409),
    )  # fmt: skip


_add_control("pause", Command.PAUSE, "Have a study finish what is being trained, and then wait.")
_add_control("resume", Command.RUN, "Have a paused, stopped or failed study go on with what is missing.")
_add_control("cancel", Command.CANCEL, "Have a study stop; its trials are kept, and it can be resumed.")


@router.post(
    "/studies/{study_id}/widen", operation_id="widenStudy", summary="Start the wider study after one",
    tags=["studies"], status_code=HTTPStatus.CREATED, responses=problems_of(403, 404, 409),
)  # fmt: skip
def widen_study(study_id: StudyId, response: Response, services: TheServices, results: TheResults) -> Widened:
    """Start a study of the same table in a space that goes on where the best designs lie at its edge."""
    made, widening = start_wider(services, results.view(study_id))
    response.headers["Location"] = f"/api/v1/studies/{made.run_id}"
    return Widened(**vars(created_of(made)), changes=widening.changes)


@router.get("/studies/{study_id}/events", operation_id="watchStudy", summary="Watch a study", **STREAM)
async def watch_study(
    request: Request, study_id: StudyId, views: TheViews, max_s: MaxS = LONGEST_S
) -> StreamingResponse:
    """Stream where a study stands."""

    def look(of: str) -> Snapshot:
        status = views.status(of)
        return Snapshot(as_line(status.model_dump(mode="json")), mark_of(status), status.state in OVER)

    return await _events(request, "study", look, study_id, max_s)


async def _events(
    request: Request, kind: str, look: Read, resource_id: str, max_s: float
) -> StreamingResponse:
    streams: EventStreams = request.app.state.watch
    events = await streams.stream(kind, look, resource_id, max_s)
    return StreamingResponse(events, media_type="text/event-stream", headers={"X-Accel-Buffering": "no"})


def mark_of(status: StudyStatus) -> str:
    """Return what two looks at a study differ by, if it is worth telling: not by passing time alone."""
    rate = f"{status.rate:.1e}" if status.rate else ""
    return rate + status.model_dump_json(exclude={"elapsed_s", "eta_s", "rate"})


# ---- parallel trainings


@router.get("/runs", operation_id="listRuns", summary="List parallel trainings, newest first", tags=["runs"])
def list_runs(
    views: TheViews,
    state: Annotated[RunStateName | None, Query(description="Where they stand.")] = None,
    name: Named = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> RunPage:
    """Return a page of the parallel trainings that were started here."""
    after = tuple(decode_cursor(cursor, str, str)) if cursor else None
    left = [one for one in views.trainings() if after is None or place_of(one) < after]
    found = (status_of_run(views, one) for one in left if is_named(one.name, name))
    fitting = list(islice((one for one in found if state in (None, one.state)), limit + 1))
    on_page, more = cut_page(fitting, limit, lambda one: (one.created_at, one.run_id))
    return RunPage(runs=on_page, next_cursor=more)


@router.post(
    "/runs", operation_id="createRun", summary="Start a parallel training", tags=["runs"],
    status_code=HTTPStatus.CREATED, responses=TO_START, openapi_extra=RUN_BODY,
)  # fmt: skip
def create_run(
    response: Response, services: TheServices, views: TheViews, sent: SentPipeline, key: Key = None
) -> RunStatus:
    """Start a training of a pipeline with a `model`, sent as JSON (`{"pipeline": {...}}`) or as YAML."""
    pipeline = accept(services, sent[0], text=sent[1])
    if isinstance(pipeline, Pipeline):
        raise Refusal(
            422, "a training's pipeline must have a model, got none; POST a study to /api/v1/studies"
        )
    status = status_of_run(views, services.launcher.launch(pipeline, new_study_id(), key=key))
    response.headers["Location"] = f"/api/v1/runs/{status.run_id}"
    return status


@router.get(
    "/runs/{run_id}", operation_id="getRun", summary="Where a training stands", tags=["runs"],
    responses=problems_of(404),
)  # fmt: skip
def get_run(run_id: RunId, views: TheViews) -> RunStatus:
    """Return where a parallel training stands."""
    return run_status(views, run_id)


@router.post(
    "/runs/{run_id}/cancel", operation_id="cancelRun", summary="Cancel a training", tags=["runs"],
    responses=problems_of(403, 404, 409),
)  # fmt: skip
def cancel_run(run_id: RunId, services: TheServices, views: TheViews) -> RunStatus:
    """End a parallel training."""
    state = status_of_run(views, views.of_kind(RunKind.TRAINING, run_id)).state
    if state in RUN_OVER:
        raise ConflictError(
            f"a training can be cancelled while it runs, got one that is {state}; start a new one"
        )
    return status_of_run(views, services.launcher.cancel(run_id))


@router.get("/runs/{run_id}/events", operation_id="watchRun", summary="Watch a training", **RUN_STREAM)
async def watch_run(
    request: Request, run_id: RunId, views: TheViews, max_s: MaxS = LONGEST_S
) -> StreamingResponse:
    """Stream where a parallel training stands."""

    def look(of: str) -> Snapshot:
        status = run_status(views, of)
        text = as_line(status.model_dump(mode="json"))
        return Snapshot(text, text, status.state in RUN_OVER)

    return await _events(request, "run", look, run_id, max_s)


@router.get(
    "/runs/{run_id}/report", operation_id="getRunReport", summary="A training's report", tags=["runs"],
    response_class=HTMLResponse, responses=problems_of(404),
)  # fmt: skip
def get_run_report(run_id: RunId, views: TheViews, services: TheServices) -> Response:
    """Return the report of a finished training."""
    found = views.of_kind(RunKind.TRAINING, run_id)
    path = report_of(found, services.settings.workspace)
    if path is None:
        raise NotFoundError(
            f"a report is there once a training has finished, got {run_id}, {STATES[found.state]}; "
            "wait for it"
        )
    return FileResponse(path, media_type="text/html", headers={"Content-Security-Policy": REPORT_POLICY})
