"""Read what routes have in common: services, ids, keys and cursors of a request."""

import base64
import difflib
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, TypeVar, cast

from fastapi import Depends, Header, Path, Query, Request
from fastapi.dependencies.models import Dependant

from dnnflow.results.store.run_record import RunRecord
from dnnflow.web.answers.study_results import Results
from dnnflow.web.answers.views import Views
from dnnflow.web.contract.problems import FieldProblem, ProblemDetails, Refusal
from dnnflow.web.jobs.services import Services
from dnnflow.web.uploads.uploads import WebUpload

Item = TypeVar("Item")


def get_services(request: Request) -> Services:
    """Return what the app works with."""
    return cast(Services, request.app.state.services)


def get_views(request: Request) -> Views:
    """Return the app's numbers of studies."""
    return cast(Views, request.app.state.views)


def get_results(request: Request) -> Results:
    """Return the app's results of studies."""
    return cast(Results, request.app.state.results)


UploadId = Annotated[str, Path(description="An upload's id.", max_length=64)]


def get_upload(upload_id: UploadId, services: Annotated[Services, Depends(get_services)]) -> WebUpload:
    """Return the upload that the path names."""
    return services.uploads.get(upload_id)


TheUpload = Annotated[WebUpload, Depends(get_upload)]
TheServices = Annotated[Services, Depends(get_services)]
TheViews = Annotated[Views, Depends(get_views)]
TheResults = Annotated[Results, Depends(get_results)]

StudyId = Annotated[
    str, Path(description="A study's whole id.", max_length=64, examples=["Q2m4tY8sVx0aBc1d"])
]
RunId = Annotated[
    str, Path(description="A parallel training's whole id.", max_length=64, examples=["Q2m4tY8sVx0aBc1d"])
]


def get_study(study_id: StudyId, views: TheViews) -> RunRecord:
    """Return the record of the study that the path names, which has begun."""
    return views.stored(study_id)


TheStudy = Annotated[RunRecord, Depends(get_study)]
DesignId = Annotated[str, Path(description="A design's whole id: 64 hexadecimal digits.", max_length=64)]
Cursor = Annotated[
    str | None,
    Query(max_length=400, pattern=r"^[A-Za-z0-9_-]+$", description="`next_cursor` of the page before."),
]
Key = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        description="The same key and content give what was made first; another content is refused with 409.",
        min_length=1,
        max_length=200,
        pattern=r"^[\x21-\x7e]+$",
        examples=["7f0c2a52-0d5e-4d8e-9a57-6c1a0c6c3d0a"],
    ),
]


def encode_cursor(*values: Any) -> str:
    """Return where a list goes on, as text that nobody need understand."""
    text = json.dumps(values, separators=(",", ":"))
    return base64.urlsafe_b64encode(text.encode()).decode().rstrip("=")


def cut_page(
    found: Sequence[Item], limit: int, place: Callable[[Item], tuple[Any, ...]]
) -> tuple[list[Item], str | None]:
    """Return a page of what was found, and the cursor of the next one where there is more.

    Parameters
    ----------
    found
        From the page's first on, one more than `limit` where there are so many.
    place
        Returns what the next page begins after.
    """
    on_page = list(found[:limit])
    return on_page, encode_cursor(*place(on_page[-1])) if len(found) > limit else None


def decode_cursor(cursor: str, *kinds: type | tuple[type, ...]) -> list[Any]:
    """Return what `encode_cursor` was given.

    Parameters
    ----------
    kinds
        Types of the values.

    Raises
    ------
    Refusal
        If it was made by somebody else.
    """
    try:
        padded = cursor + "=" * (-len(cursor) % 4)
        values = json.loads(base64.b64decode(padded, altchars=b"-_", validate=True))
    except (ValueError, RecursionError):
        values = None
    right = isinstance(values, list) and len(values) == len(kinds)
    if not right or not all(isinstance(value, kind) for value, kind in zip(values, kinds, strict=True)):
        raise wrong_cursor(
            f"a cursor is a next_cursor of this list, got {cursor[:80]!r}; leave it out to begin"
        )
    return list(values)


def wrong_cursor(message: str) -> Refusal:
    """Return the refusal of a cursor."""
    return Refusal(422, message, errors=[FieldProblem(where="cursor", message=message)])


def check_query(request: Request) -> None:
    """Refuse a parameter that a route does not have: a filter that is misspelt must not show everything.

    Raises
    ------
    Refusal
        If there is one.
    """
    known = sorted(_query_names(request.scope["route"].dependant))
    for name in request.query_params:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            remedy = f"did you mean {near[0]}?" if near else "leave it out"
            takes = f"the parameters {', '.join(known)}" if known else "no parameters"
            message = f"this address takes {takes}, got {name[:80]!r}; {remedy}"
            raise Refusal(422, message, errors=[FieldProblem(where=name[:80], message=message)])


def _query_names(dependant: Dependant) -> set[str]:
    names = {one.alias for one in dependant.query_params}
    return names.union(*(_query_names(one) for one in dependant.dependencies))


def sent_as(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return the OpenAPI description of a body that a route reads itself, by its content types."""
    return {"requestBody": {"required": True, "content": content}}


def problems_of(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return the OpenAPI descriptions of a route's refusals; some that every route has are added."""
    described = {
        400: "The body cannot be read.",
        401: "No session and no token.",
        403: "Not asked for by this server's own page, or without its token.",
        404: "There is none.",
        408: "The body came too slowly.",
        409: "In conflict with what is there.",
        413: "Larger than taken.",
        415: "Of a type that is not taken.",
        421: "The Host header names another server.",
        422: "Not as the API describes it.",
        429: "Too many requests.",
        503: "Not available now; try again.",
        504: "Took too long.",
    }
    content = {"application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}}
    return {
        status: {"model": ProblemDetails, "description": described[status], "content": content}
        for status in sorted({401, 421, 422, 429, 503, *statuses})
    }
