"""Serve the application over HTTP until it is interrupted."""

import asyncio
import logging
import socket
from collections.abc import Callable
from typing import Any
from urllib.parse import quote

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from dnnflow.errors import InputError
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.web.app import create_app
from dnnflow.web.contract.web_config import WebConfig
from dnnflow.web.guard.security import WithoutQueries, check_config
from dnnflow.web.jobs.launching import Launcher
from dnnflow.web.jobs.services import Services
from dnnflow.web.uploads.uploads import Uploads

HEADER_BYTES = 64 * 1024
HEADER_S = 20.0
"""From a connection's, or a further request's, first byte to the end of its header."""
KEEP_ALIVE_S = 15
GRACE_S = 5
"""For requests that are answered when the server is to end."""
MOST_CONNECTIONS = 1000
BACKLOG = 512


class Protocol(H11Protocol):
    """HTTP/1.1 that closes connections which do not send a whole header in time."""

    _patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Begin to wait for a header."""
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        """Take bytes, and wait for the rest of a header that has begun."""
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_waiting()
        elif self.conn.trailing_data[0]:
            self._wait()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no longer."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._patience is None:
            self._patience = self.loop.call_later(HEADER_S, self.transport.close)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None


class Server(uvicorn.Server):
    """A server whose event streams end when it is to end."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Tell the streams, then wait for what is still answered."""
        app = self.config.app
        if isinstance(app, FastAPI):
            app.state.watch.close()
        await super().shutdown(sockets)


def make_server(app: FastAPI, *, host: str = "127.0.0.1", port: int = 0, log_level: str = "info") -> Server:
    """Return a server for an app, with the limits that all have."""
    config = uvicorn.Config(
        app, host=host, port=port, http=Protocol, ws="none", lifespan="on", log_level=log_level,
        h11_max_incomplete_event_size=HEADER_BYTES, timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=GRACE_S, limit_concurrency=MOST_CONNECTIONS, backlog=BACKLOG,
        server_header=False, proxy_headers=False,
    )  # fmt: skip
    return Server(config)


def make_services(config: WebConfig, settings: Settings, launcher: Launcher) -> Services:
    """Return services over an installation's store and uploads."""
    uploads = Uploads(settings.workspace.home / "uploads", config.limits.upload)
    return Services(config, settings, Store(settings.store_url), uploads, launcher)


def serve(
    config: WebConfig, settings: Settings, launcher: Launcher, *, announce: Callable[[str], None]
) -> None:
    """Serve until interrupted.

    Parameters
    ----------
    announce
        Is told the address once the server listens: for a person at a terminal, since with a token it is a
        link that logs in. No log has it.

    Raises
    ------
    InputError
        If others than this machine would be served without a token, or the port is taken.
    """
    check_config(config)
    services = make_services(config, settings, launcher)
    try:
        with listen(config) as listener:
            server = make_server(create_app(services), host=config.host, port=config.port)
            logging.getLogger("uvicorn.access").addFilter(WithoutQueries())
            announce(address_of(config, listener.getsockname()[1]))
            server.run(sockets=[listener])
    finally:
        services.store.close()


def listen(config: WebConfig) -> socket.socket:
    """Return a socket that listens already: who reads the address may ask at once."""
    is_v6 = ":" in config.host
    address, family = (config.host.strip("[]"), config.port), socket.AF_INET6 if is_v6 else socket.AF_INET
    try:
        return socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=is_v6)
    except OSError as error:
        reason = str(error.strerror or error).partition(" (while attempting")[0]
        raise InputError(
            f"a web server needs a free port of this machine, got {config.host}:{config.port}: {reason}; "
            "choose another with --port"
        ) from error


def address_of(config: WebConfig, port: int) -> str:
    """Return the address to open in a browser; with a token, the one that logs in."""
    host = "127.0.0.1" if config.host in ("0.0.0.0", "", "::") else config.host
    host = f"[{host}]" if ":" in host and not host.startswith("[") else host
    path = f"login?token={quote(config.token, safe='')}" if config.token else ""
    return f"http://{host}:{port}/{path}"
