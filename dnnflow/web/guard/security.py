"""Check every request before a route sees it: host, origin, rate, login, size; and headers."""

import asyncio
import ipaddress
import logging
import re
from urllib.parse import urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from dnnflow.errors import InputError
from dnnflow.web.contract.problems import CSRF_HEADER, FAULT, Refusal, problem_response, wants_page
from dnnflow.web.contract.web_config import MIB, Limits, WebConfig
from dnnflow.web.guard.rates import Buckets, client_key, come_back
from dnnflow.web.guard.sessions import Sessions, check_token, cookie_of, safe_place

_LOG = logging.getLogger("dnnflow.web")

SAFE_METHODS = ("GET", "HEAD", "OPTIONS")
OPEN_PATHS = ("/login", "/api/v1/health", "/favicon.ico")
"""What is answered without a login; and everything under `/static/`."""

UPLOADS = re.compile(r"/api/v1/datasets/?")
"""Bodies that are checked as they arrive, by `Uploads.receive`."""
PREDICTIONS = re.compile(r"/api/v1/studies/[^/]+/models/[^/]+/(predict|score)/?")
BODY_S = 60.0
"""For the whole body of a request that is no upload."""

CONTENT_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    "font-src 'self'; connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'; "
    "object-src 'none'; manifest-src 'self'"
)
"""Inline styles are Bokeh's: it writes style elements into its figures."""
REPORT_POLICY = (
    "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; "
    "style-src 'unsafe-inline'; img-src data: blob:; font-src data:; frame-ancestors 'none'; "
    "base-uri 'none'; form-action 'none'"
)
"""Of reports, which carry their scripts: they run as a stranger, who cannot ask this server for anything."""

HEADERS = {
    "content-security-policy": CONTENT_POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "same-origin",
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), geolocation=(), microphone=(), payment=(), usb=(), interest-cohort=()",
    "cache-control": "no-store",
}
"""Set where a response does not say otherwise."""


def check_config(config: WebConfig) -> None:
    """Refuse to serve others than this machine without a login.

    Raises
    ------
    InputError
        If the host is not loopback and there is no token, or a token can be guessed.
    """
    if config.token is not None:
        check_token(config.token)
    elif not is_loopback(config.host):
        raise InputError(
            f"a web server that other machines reach needs a token, got host {config.host} without one; "
            "set DNNFLOW_WEB_TOKEN, or serve 127.0.0.1"
        )


def is_loopback(host: str) -> bool:
    """Whether a name or address means this machine, seen from itself."""
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host.lower().rstrip(".") == "localhost" or host.lower().rstrip(".").endswith(".localhost")


def limited(scope: Scope, receive: Receive, limits: Limits) -> Receive:
    """Return a `receive` that refuses what is too large or too slow; uploads are limited by their route.

    Raises
    ------
    Refusal
        From the call that reads the part which is too much.
    """
    path = scope["path"]
    if UPLOADS.fullmatch(path):
        return receive
    most = limits.predict_bytes if PREDICTIONS.fullmatch(path) else limits.body_bytes
    declared = Headers(scope=scope).get("content-length", "")
    taken, is_whole, deadline_s = 0, False, asyncio.get_running_loop().time() + BODY_S

    def check_size(got: int) -> None:
        if got > most:
            raise Refusal(
                413,
                f"a request of this kind must have {most / MIB:g} MiB or less, got {got:,} bytes or more; "
                "send less, or tables to /api/v1/datasets",
            )

    async def receive_limited() -> Message:
        nonlocal taken, is_whole
        check_size(int(declared) if declared.isdigit() else 0)
        if is_whole:  # what comes now is the client's going away
            return await receive()
        try:
            async with asyncio.timeout_at(deadline_s):
                message = await receive()
        except TimeoutError:
            raise Refusal(
                408, f"a request's body must arrive within {BODY_S:g} s, got a slower one; send it again"
            ) from None
        taken += len(message.get("body", b""))
        is_whole = not message.get("more_body", False)
        check_size(taken)
        return message

    return receive_limited


class Guard:
    """ASGI middleware: turns requests away that no route should see, and adds headers to every response."""

    def __init__(self, app: ASGIApp, *, config: WebConfig, sessions: Sessions, logins: Buckets) -> None:
        self._app, self._config, self._sessions, self._logins = app, config, sessions, logins
        self._rates = Buckets(config.limits.requests_s, config.limits.burst)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer or pass on."""
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
            return
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return

        has_begun = False

        async def guarded(message: Message) -> None:
            nonlocal has_begun
            if message["type"] == "http.response.start":
                has_begun = True
                _add_headers(message)
            await send(message)

        refusal = self._refuse(scope)
        if refusal is not None:
            await refusal(scope, receive, guarded)
            return
        try:
            await self._app(scope, limited(scope, receive, self._config.limits), guarded)
        except Exception as error:  # a client learns that there was a fault, the log which
            _LOG.error("%s %s failed", scope["method"], scope["path"], exc_info=error)
            if has_begun:
                raise
            await problem_response(500, FAULT)(scope, receive, guarded)

    def _refuse(self, scope: Scope) -> Response | None:
        headers, path, method = Headers(scope=scope), scope["path"], scope["method"]
        client = client_key((scope.get("client") or ("", 0))[0])
        if not self._is_our_host(headers.get("host", "")):
            return problem_response(
                421,
                f"a request must name this server in its Host header, got {headers.get('host', '')[:100]!r}; "
                "start the server with --allow-host NAME for another name",
            )
        wait_s = self._rates.take(client)
        if wait_s:
            most = self._config.limits.requests_s
            return _too_many(f"a client may make {most:g} requests a second", wait_s)
        if method not in SAFE_METHODS and not _is_same_origin(scope, headers):
            return problem_response(
                403,
                f"a change must be asked for by this server's own pages, got one from "
                f"{headers.get('origin') or headers.get('sec-fetch-site')}; open this server's page",
            )
        return self._refuse_stranger(scope, headers, client, path)

    def _refuse_stranger(self, scope: Scope, headers: Headers, client: str, path: str) -> Response | None:
        cookie = cookie_of(headers)
        state = scope.setdefault("state", {})
        state["session"] = cookie if self._sessions.is_valid(cookie) else None
        if path in OPEN_PATHS or path.startswith("/static/"):
            return None
        scheme, _, given = headers.get("authorization", "").partition(" ")
        if self._sessions.needs_login and scheme.lower() == "bearer":
            return self._refuse_bearer(client, given.strip())
        if self._sessions.needs_login and not self._sessions.is_valid(cookie, logged_in=True):
            return _ask_to_log_in(scope, headers)
        return self._refuse_forged(scope, headers, cookie)

    def _refuse_bearer(self, client: str, given: str) -> Response | None:
        wait_s = self._logins.take(client, 0)
        if wait_s:
            return _too_many("attempts to log in are limited", wait_s)
        if self._sessions.is_token(given):
            return None
        self._logins.take(client)
        return _unauthorized(
            "a bearer token must be this server's, got another; see what it was started with"
        )

    def _refuse_forged(self, scope: Scope, headers: Headers, cookie: str | None) -> Response | None:
        """Refuse a browser's call of the API that does not carry its session's token.

        Forms carry it as a field, which their route checks with `checked_form`.
        """
        is_api = scope["path"].startswith("/api/") and scope["method"] not in SAFE_METHODS
        is_browser = "origin" in headers or "sec-fetch-site" in headers or self._sessions.needs_login
        if not is_api or not is_browser:
            return None
        if self._sessions.is_csrf_token(cookie, headers.get(CSRF_HEADER)):
            return None
        return problem_response(
            403,
            "a change that a browser asks for must carry its page's token in the header X-CSRF-Token, got "
            "none or another's; load the page again",
        )

    def _is_our_host(self, host: str) -> bool:
        try:
            split = urlsplit(f"//{host}")
            name = (split.hostname or "").rstrip(".")
            _ = split.port
        except ValueError:
            return False
        if not name or split.username is not None or split.path:
            return False
        allowed = {self._config.host.strip("[]").lower(), *(one.lower() for one in self._config.hosts)}
        return name in allowed or is_loopback(name)


def _is_same_origin(scope: Scope, headers: Headers) -> bool:
    """Whether a browser says that our own page asks; programs say nothing and are asked for their token."""
    origin, site = headers.get("origin"), headers.get("sec-fetch-site")
    if origin is not None:
        try:
            split = urlsplit(origin)
        except ValueError:
            return False
        return split.scheme in ("http", "https") and split.netloc.lower() == headers.get("host", "").lower()
    return site in (None, "same-origin", "none")


def _too_many(rule: str, wait_s: float) -> Response:
    seconds, headers = come_back(wait_s)
    return problem_response(429, f"{rule}, got more; try again in {seconds} s", headers=headers)


def _unauthorized(detail: str) -> Response:
    return problem_response(401, detail, headers={"WWW-Authenticate": 'Bearer realm="dnnflow"'})


def _ask_to_log_in(scope: Scope, headers: Headers) -> Response:
    if wants_page(headers):
        query = {"next": _place_of(scope, headers)}
        if scope["method"] not in SAFE_METHODS:
            query["ended"] = "true"
        return RedirectResponse(f"/login?{urlencode(query)}", status_code=303)
    return _unauthorized(
        "a request must be of somebody who is logged in, got no session and no token; "
        "send Authorization: Bearer TOKEN, or log in at /login"
    )


def _place_of(scope: Scope, headers: Headers) -> str:
    """Return where a login leads on: to the page asked for, or to the one with the form or the link."""
    is_page = scope["method"] in SAFE_METHODS and not scope["path"].startswith("/api/")
    if not is_page:
        try:
            split = urlsplit(headers.get("referer", ""))
        except ValueError:
            split = urlsplit("")
        if split.netloc.lower() == headers.get("host", "").lower() and split.path:
            return safe_place(f"{split.path}?{split.query}" if split.query else split.path)
    if scope["method"] not in SAFE_METHODS:
        return "/"
    query = scope["query_string"].decode("latin-1")
    return f"{scope['path']}?{query}" if query else str(scope["path"])


def _add_headers(message: Message) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        if name not in headers:
            headers[name] = value
    if "server" in headers:
        del headers["server"]


class WithoutQueries(logging.Filter):
    """Leaves queries out of the access log: they may hold a token."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Change a record of uvicorn's access log."""
        if isinstance(record.args, tuple):
            record.args = tuple(
                re.sub(r"\?.*", "", one) if isinstance(one, str) and one.startswith("/") else one
                for one in record.args
            )
        return True
