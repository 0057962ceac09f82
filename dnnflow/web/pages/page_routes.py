"""The pages: what a person sees. Each asks the same functions as the API does."""

from typing import Annotated

from fastapi import APIRouter, Query, Request
from starlette.responses import Response

from dnnflow.web.answers.request_parts import TheViews, cut_page, decode_cursor
from dnnflow.web.guard.sessions import log_in
from dnnflow.web.pages import new_study_pages as pages_new
from dnnflow.web.pages import result_pages as pages_results
from dnnflow.web.pages import study_pages as pages_study
from dnnflow.web.pages.rendering import page, problem_page

__all__ = ["problem_page", "router"]

PLACES = 50
"""Studies of one page of the list."""

router = APIRouter(include_in_schema=False)
for part in (pages_new, pages_study, pages_results):
    router.include_router(part.router)


@router.get("/")
def list_studies(
    request: Request, views: TheViews, after: Annotated[str | None, Query(max_length=400)] = None
) -> Response:
    """Show all studies and trainings, the newest first."""
    since = tuple(decode_cursor(after, str, str)) if after else None
    found = views.summaries(after=since, limit=PLACES + 1)
    shown, more = cut_page(found, PLACES, lambda one: (one.created_at, one.study_id))
    return page(request, "studies.html", title="Studies", place="studies", studies=shown, more=more)


@router.get("/about")
def show_help(request: Request) -> Response:
    """Show what can be done here, and the words."""
    return page(request, "about.html", title="Help", place="about")


@router.get("/login")
def ask_to_log_in(
    request: Request,
    after: Annotated[str, Query(alias="next", max_length=2000)] = "/",
    token: Annotated[str | None, Query(max_length=1000)] = None,
) -> Response:
    """Ask for the token; the link that the server printed when it was started has it in it."""
    if token is not None:
        return log_in(request, token, after)
    return page(request, "login.html", title="Log in", next=after)
