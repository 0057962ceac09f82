"""Models of a study: listed, downloaded, applied to rows."""

import json
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi import Path as PathOf
from pydantic import BaseModel, Field, ValidationError
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse

from dnnflow.web.answers.model_files import MOST_MODELS, model_file, rows_to_csv, saved_models
from dnnflow.web.answers.predictions import Predictions
from dnnflow.web.answers.request_parts import StudyId, TheServices, TheViews, problems_of
from dnnflow.web.answers.views import Views
from dnnflow.web.contract.problems import FieldProblem, Refusal
from dnnflow.web.contract.replies import Models, Predicted
from dnnflow.web.jobs.services import Services

router = APIRouter(tags=["models"], responses=problems_of(404))

Rank = Annotated[int, PathOf(ge=1, le=MOST_MODELS, description="1 is the best.")]
MEDIA_TYPE = "application/zip"
"""What a .keras file is."""


class Rows(BaseModel):
    """Raw rows: columns by name, or one mapping a row."""

    columns: list[Annotated[str, Field(max_length=1000)]] | None = Field(default=None, max_length=20_000)
    rows: list[list[str | float | int | bool | None] | dict[str, str | float | int | bool | None]]


BODY = {
    "requestBody": {
        "required": True,
        "content": {
            "application/json": {
                "schema": {
                    "type": "object",
                    "required": ["rows"],
                    "properties": {
                        "columns": {"type": "array", "items": {"type": "string"}},
                        "rows": {
                            "type": "array",
                            "minItems": 1,
                            "items": {"anyOf": [{"type": "array", "items": {}}, {"type": "object"}]},
                        },
                    },
                },
                "examples": {
                    "mappings": {"value": {"rows": [{"petal_length": 5.1, "petal_width": 1.8}]}},
                    "lists": {"value": {"columns": ["petal_length", "petal_width"], "rows": [[5.1, 1.8]]}},
                },
            },
            "text/csv": {"schema": {"type": "string"}, "example": "petal_length,petal_width\n5.1,1.8\n"},
        },
    }
}


@router.get("/studies/{study_id}/models", operation_id="listModels", summary="List saved models")
def list_models(study_id: StudyId, views: TheViews, services: TheServices) -> Models:
    """Return the models that a study has saved, the best first; they are saved when it ends."""
    return Models(models=saved_models(services.settings.workspace, views.stored(study_id).study_id))


@router.get(
    "/studies/{study_id}/models/{rank}",
    operation_id="downloadModel",
    summary="Download a model",
    response_class=FileResponse,
    responses={200: {"content": {MEDIA_TYPE: {"schema": {"type": "string", "format": "binary"}}}}},
)
def download_model(study_id: StudyId, rank: Rank, views: TheViews, services: TheServices) -> FileResponse:
    """Return a model as a .keras file, which carries its preprocessing."""
    path = model_file(services.settings.workspace, views.stored(study_id).study_id, rank)
    return FileResponse(path, media_type=MEDIA_TYPE, filename=f"{study_id}-{rank}.keras")


@router.post(
    "/studies/{study_id}/models/{rank}/predict",
    operation_id="predict",
    summary="Apply a model to rows",
    responses=problems_of(400, 403, 408, 413, 415, 504),
    openapi_extra=BODY,
)
async def predict(
    request: Request,
    study_id: StudyId,
    rank: Rank,
    views: TheViews,
    services: TheServices,
    delimiter: Annotated[
        str | None, Query(min_length=1, max_length=1, description="Of a CSV; as in the training by default.")
    ] = None,
    header: Annotated[bool | None, Query(description="Whether a CSV's first line names the columns.")] = None,
) -> Predicted:
    """Return the class of each row and the probability of every class."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    body = await request.body()
    reading = {"delimiter": delimiter, "header": header}
    if kind == "application/json":
        body, reading = await run_in_threadpool(csv_of_json, body), {"delimiter": ",", "header": True}
    elif kind not in ("text/csv", "text/plain", "application/octet-stream"):
        raise Refusal(415, f"rows are sent as application/json or text/csv, got {kind[:80]!r}")
    predictions: Predictions = request.app.state.predictions
    return await run_in_threadpool(
        apply_model, services, views, predictions, (study_id, rank), body, **reading
    )


def apply_model(
    services: Services,
    views: Views,
    predictions: Predictions,
    model: tuple[str, int],
    body: bytes,
    **reading: Any,
) -> Predicted:
    """Apply a study's model to the rows of a CSV; pages and API call this.

    Raises
    ------
    DnnflowError
        If there is no such model, or the rows cannot be used.
    """
    study_id, rank = model
    path = model_file(services.settings.workspace, views.stored(study_id).study_id, rank)
    found = predictions.predict(path, body, rows=services.config.limits.predict_rows, **reading)
    return Predicted(**found)


def csv_of_json(body: bytes) -> bytes:
    """Return rows that were sent as JSON as a CSV.

    Raises
    ------
    Refusal
        If they are not written so.
    """
    try:
        data = Rows.model_validate(json.loads(body))
    except ValidationError as error:
        errors = [
            FieldProblem(where=".".join(map(str, one["loc"][:3])), message=one["msg"])
            for one in error.errors()[:20]
        ]
        raise Refusal(
            422, "rows must be lists or mappings of values, got something else", errors=errors
        ) from error
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"a body must be JSON in UTF-8, got: {error}"[:500]) from error
    columns = data.columns
    if columns is None:
        first = data.rows[0] if data.rows else None
        if not isinstance(first, dict):
            problem = FieldProblem(
                where="columns", message="rows that are lists need the names of their columns"
            )
            raise Refusal(
                422, "rows that are lists must come with columns, got none; add columns", errors=[problem]
            )
        columns = list(first)
    rows = [[row.get(name) for name in columns] if isinstance(row, dict) else row for row in data.rows]
    for index, row in enumerate(rows):
        if len(row) != len(columns):
            problem = FieldProblem(
                where=f"rows.{index}", message=f"{len(row)} values for {len(columns)} columns"
            )
            raise Refusal(
                422, "a row must have a value for each column, got another number", errors=[problem]
            )
    return rows_to_csv(columns, rows)
