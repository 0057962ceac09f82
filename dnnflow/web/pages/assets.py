"""Serve what pages load: compressed, under addresses that change with the content: browsers keep it."""

import hashlib
import re
from functools import cache
from pathlib import Path

from bokeh import __version__ as bokeh_version
from bokeh.util.paths import static_path
from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.middleware.gzip import GZipMiddleware
from starlette.responses import Response
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Receive, Scope, Send

STATIC = Path(__file__).parents[1] / "static"
BOKEH = "bokeh/"
KEPT = "public, max-age=31536000, immutable"
COMPRESSED = re.compile(r"/static/.+|/(api/v1/)?studies/[^/]+/(plots/.+|trials|analysis)")
"""What is large and carries no token of a session, whose length could tell of it."""


@cache
def mark() -> str:
    """Return what stands for the content of our own files: a part of their addresses.

    It is a folder's name, so that scripts import each other by their plain names.
    """
    found = hashlib.sha256()
    for path in sorted(path for path in STATIC.rglob("*") if path.is_file()):
        found.update(f"{path.relative_to(STATIC)}\0{path.stat().st_size}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


def address(name: str) -> str:
    """Return the address of a file: ours, or Bokeh's with `bokeh/` before it."""
    if name.startswith(BOKEH):
        return f"/static/{BOKEH}{bokeh_version}/{name.removeprefix(BOKEH)}"
    return f"/static/{mark()}/{name}"


class KeptFiles(StaticFiles):
    """Files of a folder under one name, which stands for their content."""

    def __init__(self, directory: Path, name: str) -> None:
        super().__init__(directory=directory)
        self._name = name

    async def get_response(self, path: str, scope: Scope) -> Response:
        """Return a file, to be kept; what another name stands for is not known here."""
        name, _, rest = path.partition("/")
        if name != self._name:
            raise HTTPException(404)
        response = await super().get_response(rest, scope)
        if response.status_code in (200, 206, 304):
            response.headers["Cache-Control"] = KEPT
        return response


def mount_files(app: FastAPI) -> None:
    """Let an app serve what its pages load."""
    app.mount(f"/static/{BOKEH.rstrip('/')}", KeptFiles(static_path(), bokeh_version), name="bokeh")
    app.mount("/static", KeptFiles(STATIC, mark()), name="static")


class Compressor:
    """ASGI middleware: compresses what is worth it for those who take it so."""

    def __init__(self, app: ASGIApp) -> None:
        self._plain, self._compressed = app, GZipMiddleware(app, compresslevel=6)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on."""
        is_worth_it = scope["type"] == "http" and COMPRESSED.fullmatch(scope["path"])
        await (self._compressed if is_worth_it else self._plain)(scope, receive, send)
