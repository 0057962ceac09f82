"""/studies: made, listed, watched, paused, resumed, cancelled."""

import json
from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any

import yaml
from fastapi import APIRouter, Query, Request, Response
from starlette.concurrency import run_in_threadpool

from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.results.store.run_record import new_study_id
from dnnflow.web.answers.estimation import estimate
from dnnflow.web.answers.request_parts import (
    Cursor,
    Key,
    StudyId,
    TheServices,
    TheViews,
    decode_cursor,
    encode_cursor,
    problems_of,
)
from dnnflow.web.answers.study_control import want
from dnnflow.web.answers.views import LAUNCH_STATES
from dnnflow.web.contract.problems import FieldProblem, Refusal
from dnnflow.web.contract.replies import Created, Estimate, StudyPage, StudyStatus
from dnnflow.web.jobs.intake import accept, read_yaml
from dnnflow.web.jobs.services import Services

router = APIRouter(tags=["studies"], responses=problems_of())

YAML_TYPES = ("application/yaml", "application/x-yaml", "text/yaml")


def pipeline_body(model: str, example: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that is a pipeline."""
    schema = {"$ref": f"#/components/schemas/{model}"}
    return {
        "requestBody": {
            "required": True,
            "content": {
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
            },
        }
    }


STUDY_BODY = pipeline_body(
    "Pipeline",
    {
        "name": "iris",
        "dataset": {"source": "upload:Zk3v0mJq8WcR1x9s", "label": "species"},
        "space": {"depth": {"int": [1, 3]}, "units": {"choice": [16, 32]}},
        "designs": 24,
    },
)


@router.get(
    "/studies", operation_id="listStudies", summary="List studies and parallel trainings, newest first"
)
def list_studies(
    views: TheViews,
    limit: Annotated[int, Query(ge=1, le=200)] = 50,
    cursor: Cursor = None,
) -> StudyPage:
    """Return a page of all studies, whoever runs them, and of all parallel trainings started here."""
    after = tuple(decode_cursor(cursor, str, str)) if cursor else None
    found = views.summaries(after=after, limit=limit + 1)
    shown = found[:limit]
    more = encode_cursor(shown[-1].created_at, shown[-1].study_id) if len(found) > limit else None
    return StudyPage(studies=shown, next_cursor=more)


@router.post(
    "/studies",
    operation_id="createStudy",
    summary="Start a study",
    status_code=HTTPStatus.CREATED,
    responses=problems_of(400, 403, 408, 409, 413, 415),
    openapi_extra=STUDY_BODY,
)
async def create_study(
    request: Request, response: Response, services: TheServices, key: Key = None
) -> Created:
    """Start a study of a pipeline, sent as JSON (`{"pipeline": {...}}`) or as YAML."""
    data, text = await read_pipeline(request)
    created = await run_in_threadpool(launch, services, data, text, key)
    response.headers["Location"] = f"/api/v1/studies/{created.study_id}"
    return created


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


def launch(services: Services, data: Any, text: str | None, key: str | None) -> Created:
    """Hand a sent pipeline to the launcher, and return what it made of it."""
    pipeline = accept(services, data, text=text)
    if isinstance(pipeline, TrainPipeline):
        raise Refusal(422, "a study's pipeline has no model, got one; POST a training to /api/v1/runs")
    return start(services, pipeline, key)


def start(services: Services, pipeline: Pipeline, key: str | None) -> Created:
    """Hand a study to the launcher; pages and API call this."""
    made = services.launcher.launch(pipeline, new_study_id(), key=key)
    return Created(
        study_id=made.launch_id,
        name=made.name,
        state=LAUNCH_STATES[made.state],
        url=f"/studies/{made.launch_id}",
    )


@router.post(
    "/studies/estimate",
    operation_id="estimateStudy",
    summary="What a pipeline would train",
    responses=problems_of(400, 403, 408, 413, 415),
    openapi_extra=STUDY_BODY,
)
async def estimate_study(request: Request, services: TheServices) -> Estimate:
    """Return designs, weights and time of a pipeline, or what is wrong with it; nothing is started."""
    data, text = await read_pipeline(request)
    return await run_in_threadpool(estimate, services, data, text)


@router.get(
    "/studies/{study_id}", operation_id="getStudy", summary="Where a study stands", responses=problems_of(404)
)
def get_study(study_id: StudyId, views: TheViews) -> StudyStatus:
    """Return where a study stands."""
    return views.status(study_id)


@router.post(
    "/studies/{study_id}/pause",
    operation_id="pauseStudy",
    summary="Pause a study",
    responses=problems_of(403, 404, 409),
)
def pause(study_id: StudyId, services: TheServices, views: TheViews) -> StudyStatus:
    """Have a study finish what is being trained, and then wait."""
    want(services, views, study_id, "pause")
    return views.status(study_id)


@router.post(
    "/studies/{study_id}/resume",
    operation_id="resumeStudy",
    summary="Resume a study",
    responses=problems_of(403, 404, 409),
)
def resume(study_id: StudyId, services: TheServices, views: TheViews) -> StudyStatus:
    """Have a paused, stopped or failed study go on with what is missing."""
    want(services, views, study_id, "run")
    return views.status(study_id)


@router.post(
    "/studies/{study_id}/cancel",
    operation_id="cancelStudy",
    summary="Cancel a study",
    responses=problems_of(403, 404, 409),
)
def cancel(study_id: StudyId, services: TheServices, views: TheViews) -> StudyStatus:
    """Have a study stop; its trials are kept, and it can be resumed."""
    want(services, views, study_id, "cancel")
    return views.status(study_id)
