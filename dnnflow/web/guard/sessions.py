"""Log in and out, and keep sessions: signed cookies and CSRF tokens that outlive a restart of the server."""

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, cast

from fastapi import APIRouter, Depends, Request
from starlette.datastructures import ImmutableMultiDict
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response

from dnnflow.errors import InputError
from dnnflow.paths import write_file
from dnnflow.web.contract.problems import Refusal
from dnnflow.web.guard.rates import client_key, come_back

COOKIE = "dnnflow_session"
CSRF_FIELD = "csrf_token"
KEPT_S = 7 * 86400
"""How long a login lasts."""
SHORTEST_TOKEN = 16
MOST_REVOKED = 4096

router = APIRouter(include_in_schema=False)


class Sessions:
    """Makes and checks cookies; safe for threads.

    A cookie is `kind.issued.random.signature`. Kind is `in` after a login, and `an` (anonymous) for browsers
    that need none: they have it for the CSRF token of their forms.

    Parameters
    ----------
    token
        What a person logs in with; None where nobody has to.
    secret
        Key of the signatures.
    """

    def __init__(self, token: str | None, secret: bytes) -> None:
        self._token = token
        self._key = hmac.digest(secret, f"dnnflow sessions {token or ''}".encode(), hashlib.sha256)
        self._revoked: OrderedDict[str, None] = OrderedDict()

    @property
    def needs_login(self) -> bool:
        """Whether somebody without a session or the token is turned away."""
        return self._token is not None

    def is_token(self, given: str) -> bool:
        """Whether this is the token, found out in constant time."""
        expected = self._token or secrets.token_hex()
        return hmac.compare_digest(_digest(given), _digest(expected))

    def new(self, *, logged_in: bool) -> str:
        """Return a new session as a cookie's value."""
        text = f"{'in' if logged_in else 'an'}.{int(time.time())}.{secrets.token_urlsafe(18)}"
        return f"{text}.{self._sign('session', text)}"

    def is_valid(self, cookie: str | None, *, logged_in: bool | None = None) -> bool:
        """Whether a cookie is one of ours, not too old, and (if asked) of somebody who has logged in."""
        text, _, signature = (cookie or "").rpartition(".")
        parts = text.split(".")
        if len(parts) != 3 or not hmac.compare_digest(
            _digest(signature), _digest(self._sign("session", text))
        ):
            return False
        if cookie in self._revoked or time.time() - int(parts[1]) > KEPT_S:
            return False
        return logged_in is None or (parts[0] == "in") == logged_in

    def end(self, cookie: str) -> None:
        """Let a session count no longer."""
        self._revoked[cookie] = None
        while len(self._revoked) > MOST_REVOKED:
            self._revoked.popitem(last=False)

    def csrf_token(self, cookie: str) -> str:
        """Return what a form of this session carries."""
        return self._sign("csrf", cookie)

    def is_csrf_token(self, cookie: str | None, given: str | None) -> bool:
        """Whether a form's token belongs to the session that sends it."""
        if not cookie or not given or not self.is_valid(cookie):
            return False
        return hmac.compare_digest(_digest(given), _digest(self.csrf_token(cookie)))

    def _sign(self, purpose: str, text: str) -> str:
        return hmac.new(self._key, f"{purpose}:{text}".encode(), hashlib.sha256).hexdigest()


def _digest(text: str) -> bytes:
    """Return a hash of fixed length, so that comparing tells nothing of the text's length either."""
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()


def check_token(token: str) -> None:
    """Refuse a token that could be guessed.

    Raises
    ------
    InputError
        If it is short.
    """
    if len(token) < SHORTEST_TOKEN:
        raise InputError(f"a token must have {SHORTEST_TOKEN} characters or more, got {len(token)}; "
                         "leave it out and one is made")  # fmt: skip


def read_secret(path: Path) -> bytes:
    """Return the key of this installation's signatures, made when first asked for."""
    try:
        known = path.read_bytes()
    except FileNotFoundError:
        known = b""
    if len(known) < 32:
        known = secrets.token_bytes(32)
        write_file(path, known)
        path.chmod(0o600)
    return known


def cookie_of(headers: Mapping[str, str]) -> str | None:
    """Return the session's cookie among a request's headers."""
    return cookie_parser(headers.get("cookie", "")).get(COOKIE)


def sessions_of(request: Request) -> Sessions:
    """Return the sessions of the app that answers."""
    return cast(Sessions, request.app.state.sessions)


def csrf_token(request: Request) -> str:
    """Return the token for a page's forms and for its calls of the API.

    A browser without a session gets one with the response (`keep_session`).
    """
    sessions = sessions_of(request)
    session = request.state.session
    if session is None:
        session = request.state.session = sessions.new(logged_in=False)
        request.state.new_session = session
    return sessions.csrf_token(session)


def keep_session(request: Request, response: Response) -> Response:
    """Send a session that `csrf_token` made along with a page."""
    session = getattr(request.state, "new_session", None)
    if session is not None:
        set_session(request, response, session)
    return response


def set_session(request: Request, response: Response, session: str) -> None:
    """Give a browser its session's cookie."""
    is_https = request.url.scheme == "https"
    response.set_cookie(
        COOKIE, session, max_age=KEPT_S, httponly=True, samesite="strict", secure=is_https, path="/"
    )


async def checked_form(request: Request) -> ImmutableMultiDict[str, str]:
    """Return the text fields of a form that carries its session's token; a dependency of routes for forms.

    Raises
    ------
    Refusal
        If it does not.
    """
    form = await request.form(max_files=0, max_fields=2000)
    texts = [(name, value) for name, value in form.multi_items() if isinstance(value, str)]
    fields = ImmutableMultiDict[str, str](texts)
    if not sessions_of(request).is_csrf_token(request.state.session, fields.get(CSRF_FIELD)):
        raise Refusal(
            403,
            "a form must carry its page's token, got none or another's; load the page again, with cookies",
        )
    return fields


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
        seconds, headers = come_back(wait_s)
        raise Refusal(
            429, f"attempts to log in are limited, got too many; try again in {seconds} s", headers=headers
        )
    if sessions.needs_login and not sessions.is_token(token):
        raise Refusal(403, "a login needs this server's token, got another; see what it was started with")
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


@router.post("/logout")
def post_logout(request: Request, form: Annotated[object, Depends(checked_form)]) -> Response:
    """End a session."""
    if request.state.session is not None:
        sessions_of(request).end(request.state.session)
    response = RedirectResponse("/login", status_code=303)
    response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")
    return response
