"""Route /datasets: tables that are uploaded, profiled, kept for a while."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from http import HTTPStatus
from typing import Annotated, Literal
from urllib.parse import unquote

from fastapi import APIRouter, Depends, Header, Query, Request, Response
from fastapi import Path as PathOf
from pydantic import Field
from starlette.requests import ClientDisconnect

from dnnflow.errors import NotFoundError
from dnnflow.table.columns.kinds import nearest
from dnnflow.web.answers.request_parts import Key, TheServices, TheUpload, UploadId, problems_of, sent_as
from dnnflow.web.answers.starting_rules import columns_found, starting_rules
from dnnflow.web.answers.views import is_named
from dnnflow.web.contract.problems import Refusal
from dnnflow.web.contract.replies import (
    ClassCount,
    ColumnReply,
    DatasetReply,
    Datasets,
    DatasetSummary,
    GoodRules,
    LabelCheck,
)
from dnnflow.web.uploads.multipart import FileField
from dnnflow.web.uploads.profile import ColumnProfile
from dnnflow.web.uploads.reading import MOST_QUERY, UploadFormat, UploadReading
from dnnflow.web.uploads.uploads import WebUpload

router = APIRouter(tags=["datasets"], responses=problems_of())

MOST_NAME = 200
RAW_TYPES = (
    "text/csv", "application/gzip", "application/zstd", "application/octet-stream", "application/x-gzip",
    "text/plain", "text/tab-separated-values", "application/vnd.apache.parquet", "application/x-ndjson",
    "application/jsonl", "application/vnd.apache.arrow.file", "application/vnd.apache.arrow.stream",
    "application/vnd.openxmlformats-officedocument.spreadsheetml.sheet", "application/vnd.ms-excel",
    "application/vnd.oasis.opendocument.spreadsheet", "application/vnd.sqlite3", "application/x-sqlite3",
    "application/x-hdf5",
)  # fmt: skip
"""What a table is sent as, besides multipart/form-data; what it is, its first bytes say."""


def _told(name: str) -> str:
    return UploadReading.model_fields[name].description or ""


BODY = sent_as(
    {
        "text/csv": {
            "schema": {"type": "string"},
            "example": "a,b,species\n5.1,3.5,setosa\n7.0,3.2,versicolor\n",
        },
        "application/gzip": {"schema": {"type": "string", "format": "binary"}},
        "application/zstd": {"schema": {"type": "string", "format": "binary"}},
        "application/octet-stream": {"schema": {"type": "string", "format": "binary"}},
        "multipart/form-data": {
            "schema": {
                "type": "object",
                "required": ["file"],
                "properties": {"file": {"type": "string", "format": "binary"}},
            }
        },
    }
)


def reading_of(
    format: Annotated[UploadFormat | None, Query(description=_told("format"))] = None,
    delimiter: Annotated[str | None, Query(max_length=1, description=_told("delimiter"))] = None,
    quote: Annotated[str, Query(max_length=1, description=_told("quote"))] = '"',
    encoding: Annotated[str | None, Query(max_length=40, description=_told("encoding"))] = None,
    header: Annotated[bool, Query(description=_told("header"))] = True,
    sheet: Annotated[str | None, Query(max_length=200, description=_told("sheet"))] = None,
    query: Annotated[str | None, Query(max_length=MOST_QUERY, description=_told("query"))] = None,
    missing_values: Annotated[
        list[Annotated[str, Field(max_length=200)]],
        Query(max_length=100, description=_told("missing_values")),
    ] = [],  # noqa: B006
) -> UploadReading:
    """Return how an upload is to be read, by the parameters of a request."""
    return UploadReading(format=format, delimiter=delimiter, quote=quote, encoding=encoding, header=header,
                   sheet=sheet, query=query, missing_values=missing_values)  # fmt: skip


TheReading = Annotated[UploadReading, Depends(reading_of)]


@router.put("/datasets", status_code=HTTPStatus.CREATED, include_in_schema=False)  # curl -T
@router.post(
    "/datasets", operation_id="uploadDataset", summary="Upload a table", status_code=HTTPStatus.CREATED,
    responses=problems_of(400, 403, 408, 409, 413, 415), openapi_extra=BODY,
)  # fmt: skip
async def upload_dataset(
    request: Request,
    response: Response,
    services: TheServices,
    asked: TheReading,
    key: Key = None,
    name: Annotated[str | None, Query(max_length=MOST_NAME, description="To show; else X-File-Name.")] = None,
    x_file_name: Annotated[str | None, Header(max_length=3 * MOST_NAME, description="URL-encoded.")] = None,
) -> DatasetReply:
    """Take a table as it streams in: text with delimiters, KEEL, ARFF, Parquet, Arrow, ORC, JSON lines,
    Excel, SQLite, NPZ or HDF5, plain or compressed.

    What it is, its first bytes say; of a malformed one nothing remains.
    """
    content_type = request.headers.get("content-type", "text/csv")
    kind = content_type.partition(";")[0].strip().lower()
    body: AsyncIterator[bytes] = request.stream()
    file_name = name or (unquote(x_file_name) if x_file_name else None)
    if kind == "multipart/form-data":
        field = FileField(content_type)
        body = field.parts(body)
        first = await anext(body, b"")  # the file's name is known then
        body, file_name = _with_first(first, body), file_name or field.name
    elif kind not in RAW_TYPES:
        raise Refusal(
            415, f"a table is sent as {', '.join(RAW_TYPES[:4])} or multipart/form-data, got {kind[:80]!r}"
        )
    try:
        made = await services.uploads.receive(body, name=file_name or "", key=key, asked=asked)
    except ClientDisconnect:
        raise Refusal(400, "an upload must arrive whole, got one that was cut off; send it again") from None
    response.headers["Location"] = f"/api/v1/datasets/{made.upload_id}"
    return dataset_of(made)


async def _with_first(first: bytes, rest: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    async with aclosing(rest):  # type: ignore[type-var]
        yield first
        async for part in rest:
            yield part


@router.get("/datasets", operation_id="listDatasets", summary="List uploads, newest first")
def list_datasets(
    services: TheServices,
    name: Annotated[
        str | None,
        Query(min_length=1, max_length=200, description="A part of the name, in upper or lower case."),
    ] = None,
) -> Datasets:
    """Return all uploads that are still kept."""
    return Datasets(datasets=[summary_of(one) for one in services.uploads.all() if is_named(one.name, name)])


@router.get(
    "/datasets/{upload_id}", operation_id="getDataset", summary="An upload with its profile",
    responses=problems_of(404),
)  # fmt: skip
def get_dataset(upload: TheUpload) -> DatasetReply:
    """Return an upload's columns and first rows."""
    return dataset_of(upload)


@router.put(
    "/datasets/{upload_id}/reading", operation_id="readDatasetAgain", summary="Read an upload in another way",
    responses=problems_of(400, 403, 404, 413, 415),
)  # fmt: skip
async def read_again(upload: TheUpload, services: TheServices, asked: UploadReading) -> DatasetReply:
    """Profile a file anew; it stays as it was where it cannot be read like that."""
    return dataset_of(await services.uploads.read_again(upload.upload_id, asked))


@router.delete(
    "/datasets/{upload_id}", operation_id="deleteDataset", summary="Delete an upload",
    status_code=HTTPStatus.NO_CONTENT, responses=problems_of(403, 404),
)  # fmt: skip
def delete_dataset(upload_id: UploadId, services: TheServices) -> None:
    """Forget an upload; studies keep their preprocessed table."""
    services.uploads.delete(upload_id)


@router.get(
    "/datasets/{upload_id}/columns/{index}/label", operation_id="checkLabel",
    summary="Whether a column can be the label", responses=problems_of(404),
)  # fmt: skip
def check_label(
    upload: TheUpload,
    index: Annotated[int, PathOf(ge=0, lt=2**31, description="Place of the column, from 0.")],
) -> LabelCheck:
    """Return the classes of a column and their rows, or why it cannot be the label."""
    columns = upload.profile.columns
    if index >= len(columns):
        raise NotFoundError(
            f"a column must be one of {len(columns)}, counted from 0, got {index}; "
            f"/api/v1/datasets/{upload.upload_id} lists them"
        )
    column = columns[index]
    return LabelCheck(
        column=column.name,
        usable=column.label_problem is None,
        problem=column.label_problem,
        missing=column.label_missing,
        classes=_classes(column),
        notes=list(column.label_notes),
    )


@router.get(
    "/datasets/{upload_id}/rules", operation_id="getGoodRules",
    summary="What a study of an upload starts from", responses=problems_of(404),
)  # fmt: skip
def get_good_rules(
    request: Request,
    services: TheServices,
    upload: TheUpload,
    label: Annotated[list[Annotated[str, Field(max_length=1000)]], Query(
        min_length=1, max_length=1000, description="Columns to predict, by name.")],
    task: Annotated[Literal["classification", "regression"] | None, Query(
        description="Of one label: classes or numbers; as found by default.")] = None,
) -> GoodRules:  # fmt: skip
    """Return the good rules beside a label, without the columns that a search leaves out."""
    known = [one.name for one in upload.profile.columns]
    if wrong := [name for name in label if name not in known]:
        raise NotFoundError(f"a label is a column of the table, got {wrong[0]!r}; {nearest(wrong[0], known)}")
    found = columns_found(services, request.app.state.predictions, upload, label, task or "")
    return GoodRules(
        pipeline=starting_rules(upload, label, task or "", found), left_out=dict(found.left_out),
        notes=list(found.notes), problem=found.problem or None,
    )  # fmt: skip


def summary_of(upload: WebUpload) -> DatasetSummary:
    """Return an upload as a list shows it."""
    return DatasetSummary(
        **vars(upload),
        source=f"upload:{upload.upload_id}",
        text_bytes=upload.profile.text_bytes,
        rows=upload.profile.rows,
        columns=len(upload.profile.columns),
    )


def dataset_of(upload: WebUpload) -> DatasetReply:
    """Return an upload with everything that is known of it."""
    columns = [
        ColumnReply(**{**vars(one), "index": index, "values": _classes(one)})
        for index, one in enumerate(upload.profile.columns)
    ]
    return DatasetReply(
        **{**vars(summary_of(upload)), "columns": columns},
        first_rows=[list(row) for row in upload.profile.first_rows],
        reading=dict(upload.profile.reading),
        asked=upload.asked.said(),
        notes=list(upload.profile.notes),
        parts=list(upload.profile.parts),
    )


def _classes(column: ColumnProfile) -> list[ClassCount]:
    return [ClassCount(value=value, rows=rows) for value, rows in column.values]
