"""Answer every refusal with problem+json (RFC 9457): rule, value, remedy; never a traceback."""

import logging
from collections.abc import Callable, Mapping, Sequence
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.routing import Match, Mount

from dnnflow.errors import (
    BusyError,
    ConflictError,
    DnnflowError,
    InputError,
    LaunchError,
    LimitError,
    NotFoundError,
    StoreError,
    StudyError,
    TimeLimitError,
)

MEDIA_TYPE = "application/problem+json"
CSRF_HEADER = "x-csrf-token"
"""What our scripts send with every request, and a browser that opens a page does not."""
_LOG = logging.getLogger("dnnflow.web")

FAULT = "a request must be answered, got a fault of the server; the server's log has its cause"

STATUSES: tuple[tuple[type[DnnflowError], int], ...] = (
    (ConflictError, 409),
    (BusyError, 503),
    (LimitError, 413),
    (NotFoundError, 404),
    (InputError, 422),
    (StoreError, 503),
    (LaunchError, 503),
    (StudyError, 409),
    (TimeLimitError, 504),
)
"""The first that fits counts; everything else is a fault of the server."""

METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE")
"""What a route may take."""

TITLES = {
    413: "Too large",
    421: "Unknown host",
    422: "Not valid",
    429: "Too many requests",
    503: "Not available now",
    504: "Took too long",
}


class FieldProblem(BaseModel):
    """One thing wrong with a request."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    where: str
    """Dotted path, e.g. `pipeline.space.depth`, or a query's or header's name."""
    message: str
    """Rule, value, remedy."""
    line: int | None = None
    """Of a pipeline that was sent as YAML."""


class ProblemDetails(BaseModel):
    """Why a request was refused."""

    model_config = ConfigDict(title="Problem", use_attribute_docstrings=True)

    type: str = Field(examples=["urn:dnnflow:problem:not-found"])
    """What a program tells problems apart by."""
    title: str
    """Of this type of problem."""
    status: int = Field(ge=400, lt=600)
    """The HTTP status."""
    detail: str
    """For a person: rule, value, remedy."""
    rule: str | None = None
    """What was broken."""
    remedy: str | None = None
    """What to do."""
    errors: list[FieldProblem] | None = None
    """Each thing that is wrong, where there are several or a place is known."""


class Refusal(HTTPException):
    """Ends a request with a problem whose status no error of dnnflow stands for."""

    def __init__(
        self,
        status: int,
        detail: str,
        *,
        headers: Mapping[str, str] | None = None,
        errors: Sequence[FieldProblem] = (),
    ) -> None:
        super().__init__(status, detail, headers)
        self.errors = tuple(errors)


def make_problem(status: int, detail: str, errors: Sequence[FieldProblem] = ()) -> ProblemDetails:
    """Return a problem; rule and remedy are read from a message that is written as ours are."""
    title = TITLES.get(status) or HTTPStatus(status).phrase
    rule, got, rest = detail.partition(", got ")
    _, semicolon, remedy = (rest if got else detail).rpartition("; ")
    return ProblemDetails(
        type=f"urn:dnnflow:problem:{title.lower().replace(' ', '-')}",
        title=title,
        status=status,
        detail=detail,
        rule=rule if got else None,
        remedy=remedy if semicolon else None,
        errors=list(errors) or None,
    )


def problem_response(
    status: int,
    detail: str,
    *,
    headers: Mapping[str, str] | None = None,
    errors: Sequence[FieldProblem] = (),
) -> JSONResponse:
    """Return a problem as a response."""
    body = make_problem(status, detail, errors).model_dump(mode="json", exclude_none=True)
    return JSONResponse(
        body, status_code=status, media_type=MEDIA_TYPE, headers=dict(headers) if headers else None
    )


def status_of(error: Exception) -> int:
    """Return the HTTP status that stands for an error."""
    return next((status for kind, status in STATUSES if isinstance(error, kind)), 500)


Page = Callable[[Request, ProblemDetails], Response]
"""Shows a problem to a person; pages set it at `app.state.problem_page`."""


def wants_page(headers: Mapping[str, str]) -> bool:
    """Whether a request is that of a browser which opens a page, not of a script or a program."""
    return "text/html" in headers.get("accept", "") and CSRF_HEADER not in headers


def install(app: FastAPI) -> None:
    """Have every error of an app answered by a problem: as JSON, or as a page where a page was asked for."""
    for kind in (DnnflowError, HTTPException, RequestValidationError):
        app.add_exception_handler(kind, _answer_error)


def _answer_error(request: Request, error: Exception) -> Response:
    refusal = _refusal_of(request, error)
    if refusal.status_code == 405:
        methods = {"Allow": ", ".join(methods_of(request))}
        if request.method == "OPTIONS":
            return Response(status_code=204, headers=methods)
        refusal.headers = {**(refusal.headers or {}), **methods}
    page: Page | None = getattr(request.app.state, "problem_page", None)
    if page is not None and wants_page(request.headers) and not request.url.path.startswith("/api/"):
        response = page(request, make_problem(refusal.status_code, refusal.detail, refusal.errors))
        response.status_code = refusal.status_code
        response.headers.update(refusal.headers or {})
        return response
    return problem_response(
        refusal.status_code, refusal.detail, headers=refusal.headers, errors=refusal.errors
    )


def methods_of(request: Request) -> list[str]:
    """Return all methods that a request's address takes: each has a route of its own."""
    found = {"OPTIONS"}
    for route in request.app.routes:
        methods = ("GET", "HEAD") if isinstance(route, Mount) else METHODS  # what is mounted are files
        for method in methods:
            match, _ = route.matches({**request.scope, "method": method})
            found |= {method} if match is Match.FULL else set()
    return sorted(found)


def _refusal_of(request: Request, error: Exception) -> Refusal:
    match error:
        case Refusal():
            return error
        case HTTPException():
            return Refusal(error.status_code, _detail_of(request, error), headers=error.headers)
        case RequestValidationError():
            errors = [_field(item) for item in error.errors()]
            listed = "; ".join(f"{item.where}: {item.message}" for item in errors)
            return Refusal(422, f"a request must be as the API describes it, got {listed}", errors=errors)
    status = status_of(error)
    if status == 500:
        _LOG.error("%s %s: %s", request.method, request.url.path, error, exc_info=error)
    return Refusal(status, str(error), headers={"Retry-After": "5"} if status == 503 else None)


def _detail_of(request: Request, error: HTTPException) -> str:
    details = {
        404: f"a page or resource must be known, got {request.url.path}; "
        "/api/v1/openapi.json lists what there is",
        405: f"a resource takes the methods it lists, got {request.method} {request.url.path}; "
        "see the header Allow",
    }
    is_plain = error.detail == HTTPStatus(error.status_code).phrase
    return details.get(error.status_code, str(error.detail)) if is_plain else str(error.detail)


def _field(item: Mapping[str, Any]) -> FieldProblem:
    place = [str(part) for part in item["loc"] if part not in ("body", "query", "path", "header")]
    message = str(item["msg"]).removeprefix("Value error, ")
    given = item.get("input")
    if isinstance(given, str | int | float) and item["type"] != "missing":
        message += f", got {str(given)[:80]!r}"
    return FieldProblem(where=".".join(place) or str(item["loc"][0]), message=message)
