"""Route /health, /metrics and /schema."""

from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request
from starlette.responses import PlainTextResponse, Response

from dnnflow.errors import StoreError
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.settings import own_version
from dnnflow.web.answers.request_parts import TheServices, problems_of
from dnnflow.web.answers.web_metrics import CONTENT_TYPE
from dnnflow.web.contract.replies import Health

router = APIRouter(tags=["system"], responses=problems_of())


@router.get(
    "/health", operation_id="getHealth", summary="Whether the server can work", responses=problems_of(503)
)
def health(services: TheServices) -> Health:
    """Say whether the store can be reached, and what runs the jobs."""
    try:
        services.store.study_of("-")
        store = "reachable"
    except StoreError:
        store = "unreachable"
    return Health(
        status="ok" if store == "reachable" else "degraded",
        store=store,  # type: ignore[arg-type]
        launcher=services.launcher.name,
        version=own_version(),
    )


@router.get(
    "/metrics", operation_id="getMetrics", summary="Numbers of the server for Prometheus",
    response_class=PlainTextResponse,
)  # fmt: skip
def metrics(request: Request) -> Response:
    """Return requests, times, uploads, studies, jobs and event streams in Prometheus' text format."""
    return Response(request.app.state.metrics.text(), media_type=CONTENT_TYPE)


@router.get("/schema", operation_id="getSchema", summary="JSON schema of pipelines")
def schema(
    kind: Annotated[Literal["study", "train"], Query(description="Of pipeline.")] = "study",
) -> dict[str, Any]:
    """Return the JSON schema of a study's pipeline, or of a parallel training's."""
    model = Pipeline if kind == "study" else TrainPipeline
    return model.model_json_schema()
