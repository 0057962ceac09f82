"""Logging in and out."""

from http import HTTPStatus
from typing import Annotated

from fastapi import APIRouter, Depends, Request
from starlette.concurrency import run_in_threadpool
from starlette.datastructures import FormData
from starlette.responses import RedirectResponse, Response

from dnnflow.web.contract.problems import Refusal
from dnnflow.web.guard.rates import client_key
from dnnflow.web.guard.security import checked_form, sessions_of, set_session
from dnnflow.web.guard.sessions import COOKIE

router = APIRouter(include_in_schema=False)


def log_in(request: Request, token: str, place: str = "/") -> Response:
    """Return a redirection to `place` with a session, if this is the token.

    Raises
    ------
    Refusal
        If it is not, or after too many attempts.
    """
    sessions = sessions_of(request)
    client = client_key(request.client.host if request.client else "")
    wait_s = request.app.state.logins.take(client)
    if wait_s:
        seconds = max(1, round(wait_s + 0.5))
        raise Refusal(
            HTTPStatus.TOO_MANY_REQUESTS,
            f"attempts to log in are limited, got too many; try again in {seconds} s",
            headers={"Retry-After": str(seconds)},
        )
    if sessions.needs_login and not sessions.is_token(token):
        raise Refusal(
            HTTPStatus.FORBIDDEN,
            "a login needs this server's token, got another; see what it was started with",
        )
    response = RedirectResponse(safe_place(place), status_code=303)
    set_session(request, response, sessions.new(logged_in=True))
    return response


def safe_place(place: str) -> str:
    """Return a path of this server to go on to; whatever leads elsewhere becomes the first page.

    Examples
    --------
    >>> safe_place("/studies/x?y=1"), safe_place("//evil.example"), safe_place("https://evil.example")
    ('/studies/x?y=1', '/', '/')
    """
    is_ours = place.startswith("/") and not place.startswith(("//", "/\\")) and place.isprintable()
    return place if is_ours and "\\" not in place else "/"


@router.post("/login")
async def post_login(request: Request) -> Response:
    """Take the form: fields `token` and `next`."""
    form: FormData = await request.form(max_files=0, max_fields=10)
    return await run_in_threadpool(
        log_in, request, str(form.get("token") or ""), str(form.get("next") or "/")
    )


@router.post("/logout")
def post_logout(request: Request, form: Annotated[object, Depends(checked_form)]) -> Response:
    """End a session."""
    if request.state.session is not None:
        sessions_of(request).end(request.state.session)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response
