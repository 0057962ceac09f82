"""Route models of a study: listed, downloaded, applied to rows, scored on them."""

import json
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from fastapi import Path as PathOf
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from starlette.background import BackgroundTask
from starlette.responses import FileResponse

from dnnflow.results.view.model_score import ModelScore
from dnnflow.web.answers.model_files import MOST_MODELS, NAMED, model_file, rows_to_csv, saved_models
from dnnflow.web.answers.predictions import Predictions
from dnnflow.web.answers.request_parts import TheServices, TheStudy, problems_of, sent_as
from dnnflow.web.contract.problems import FieldProblem, Refusal
from dnnflow.web.contract.replies import Models, Predicted

router = APIRouter(tags=["models"], responses=problems_of(404))

ModelName = Annotated[
    str,
    PathOf(
        pattern=rf"^([1-9][0-9]?|{MOST_MODELS}|{'|'.join(NAMED)})$",
        description="A rank, 1 is the best, `ensemble`, or `final`: trained on all rows, test rows too.",
        examples=["1", *NAMED],
    ),
]
Delimiter = Annotated[
    str | None, Query(min_length=1, max_length=1, description="Of a CSV; as in the training by default.")
]
Header = Annotated[bool | None, Query(description="Whether a CSV's first line names the columns.")]
Encoding = Annotated[
    str | None, Query(max_length=40, description="Of a CSV; found, or as in the training, by default.")
]
QuoteSign = Annotated[
    str | None, Query(max_length=1, description="Around fields of a CSV; as in the training by default.")
]
Sheet = Annotated[
    str | None, Query(max_length=200, description="Of a workbook; as in the training by default.")
]
MissingValues = Annotated[
    list[Annotated[str, Query(max_length=200)]],
    Query(max_length=100, description="What stands for a missing value, besides what did in the training."),
]
MEDIA_TYPE = "application/zip"
"""What a .keras file is."""


class Rows(BaseModel):
    """Raw rows: columns by name, or one mapping a row."""

    columns: list[Annotated[str, Field(max_length=1000)]] | None = Field(default=None, max_length=20_000)
    rows: list[list[str | float | int | bool | None] | dict[str, str | float | int | bool | None]]


BODY = sent_as(
    {
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
    }
)


async def read_body(request: Request) -> bytes:
    """Return a request's body, so that its route may run in a thread."""
    return await request.body()


@router.get("/studies/{study_id}/models", operation_id="listModels", summary="List saved models")
def list_models(study: TheStudy, services: TheServices) -> Models:
    """Return the models that a study has saved, those without a rank last; they are saved when it ends."""
    return Models(models=saved_models(services.settings.workspace, study.study_id))


@router.get(
    "/studies/{study_id}/models/{model}",
    operation_id="downloadModel",
    summary="Download a model",
    response_class=FileResponse,
    responses={
        200: {
            "content": {
                kind: {"schema": {"type": "string", "format": "binary"}}
                for kind in (MEDIA_TYPE, "application/octet-stream")
            }
        },
        **problems_of(504),
    },
)
def download_model(
    study: TheStudy, model: ModelName, services: TheServices, request: Request,
    raw: Annotated[bool, Query(description="Whether plain Keras or ONNX takes raw rows by it.")] = False,
    format: Annotated[Literal["keras", "onnx"], Query(description="Of the file.")] = "keras",
) -> FileResponse:  # fmt: skip
    """Return a model as a .keras file, which carries its preprocessing, or with it as layers, or as ONNX."""
    path = model_file(services.settings.workspace, study.study_id, model)
    name = f"{study.study_id}-{model}{'-raw' if raw else ''}.{format}"
    if format == "keras" and not raw:
        return FileResponse(path, media_type=MEDIA_TYPE, filename=name)
    folder = Path(tempfile.mkdtemp(prefix="dnnflow-export-"))
    out = folder / f"model.{format}"
    try:
        request.app.state.predictions.export(path, out, raw=raw)
    except BaseException:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    media_type = MEDIA_TYPE if format == "keras" else "application/octet-stream"
    return FileResponse(out, media_type=media_type, filename=name,
                        background=BackgroundTask(shutil.rmtree, folder, ignore_errors=True))  # fmt: skip


@dataclass(frozen=True)
class SentRows:
    """Rows that were sent for a model, as a CSV."""

    text: bytes
    reading: Mapping[str, Any]
    """How it is written, and what stands for a missing value, as `Predictions.predict` takes it."""


def rows_sent(
    request: Request,
    body: Annotated[bytes, Depends(read_body)],  # first: one that is too large is refused as such
    delimiter: Delimiter = None,
    header: Header = None,
    encoding: Encoding = None,
    quote: QuoteSign = None,
    sheet: Sheet = None,
    missing_values: MissingValues = [],  # noqa: B006
) -> SentRows:  # fmt: skip
    """Return the rows of a request, sent as CSV or as JSON."""
    missing = {"missing_values": missing_values}
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind == "application/json":
        return SentRows(csv_of_json(body), {"delimiter": ",", "header": True, **missing})
    if kind not in ("text/csv", "text/plain", "application/octet-stream"):
        raise Refusal(415, f"rows are sent as application/json or text/csv, got {kind[:80]!r}")
    said = {"delimiter": delimiter, "header": header, "encoding": encoding, "quote": quote, "sheet": sheet}
    return SentRows(body, said | missing)


@dataclass(frozen=True)
class ModelRequest:
    """A saved model, the rows that were sent for it, and what applies it to them."""

    predictions: Predictions
    path: Path
    text: bytes
    options: Mapping[str, Any]
    """`rows`, how many there may be, and those of `SentRows.reading`."""


def model_request(
    request: Request,
    rows: Annotated[SentRows, Depends(rows_sent)],
    study: TheStudy,
    model: ModelName,
    services: TheServices,
) -> ModelRequest:
    """Return what a request asks of a model."""
    path = model_file(services.settings.workspace, study.study_id, model)
    options = {"rows": services.config.limits.predict_rows, **rows.reading}
    return ModelRequest(request.app.state.predictions, path, rows.text, options)


Asked = Annotated[ModelRequest, Depends(model_request)]


@router.post(
    "/studies/{study_id}/models/{model}/predict",
    operation_id="predict",
    summary="Apply a model to rows",
    responses=problems_of(400, 403, 408, 413, 415, 504),
    openapi_extra=BODY,
)
def predict(asked: Asked) -> Predicted:
    """Return the class of each row and the probability of every class; the score of rows with the label."""
    return Predicted(**asked.predictions.predict(asked.path, asked.text, **asked.options))


@router.post(
    "/studies/{study_id}/models/{model}/score",
    operation_id="score",
    summary="Score a model on rows that have the label",
    responses=problems_of(400, 403, 408, 413, 415, 504),
    openapi_extra=BODY,
)
def score(asked: Asked) -> ModelScore:
    """Return measures and confusion counts of a model on rows that have the label."""
    found = asked.predictions.score(asked.path, asked.text, **asked.options)
    return TypeAdapter(ModelScore).validate_python(found)


def csv_of_json(body: bytes) -> bytes:
    """Return rows that were sent as JSON as a CSV.

    Raises
    ------
    Refusal
        If they are not written so.
    """

    def refused(detail: str, *errors: FieldProblem) -> Refusal:
        return Refusal(422, detail, errors=errors)

    try:
        data = Rows.model_validate(json.loads(body))
    except ValidationError as error:
        wrong = [
            FieldProblem(where=".".join(map(str, one["loc"][:3])), message=one["msg"])
            for one in error.errors()[:20]
        ]
        raise refused("rows must be lists or mappings of values, got something else", *wrong) from error
    except (ValueError, RecursionError) as error:
        raise Refusal(400, f"a body must be JSON in UTF-8, got: {error}"[:500]) from error
    columns = data.columns
    if columns is None:
        first = data.rows[0] if data.rows else None
        if not isinstance(first, dict):
            raise refused(
                "rows that are lists must come with columns, got none; add columns",
                FieldProblem(where="columns", message="rows that are lists need the names of their columns"),
            )
        columns = list(first)
    rows = [[row.get(name) for name in columns] if isinstance(row, dict) else row for row in data.rows]
    for index, row in enumerate(rows):
        if len(row) != len(columns):
            raise refused(
                "a row must have a value for each column, got another number",
                FieldProblem(where=f"rows.{index}", message=f"{len(row)} values for {len(columns)} columns"),
            )
    return rows_to_csv(columns, rows)
