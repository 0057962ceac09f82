"""Apps that are called in this process, and apps that are served over a socket."""

import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from fastapi import FastAPI

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of Starlette, that httpx will have a successor
    from starlette.testclient import TestClient


def client_of(app: FastAPI, **headers: str) -> TestClient:
    """Return a client that calls an app by the right name; server errors are answered, not raised."""
    return TestClient(app, base_url="http://127.0.0.1:8050", headers=headers, raise_server_exceptions=False,
                      client=("127.0.0.1", 50000), follow_redirects=False)  # fmt: skip


@dataclass(frozen=True)
class Served:
    """A server that runs in a thread of this process."""

    url: str
    port: int
    app: FastAPI


@contextmanager
def serving(app: FastAPI) -> Iterator[Served]:
    """Serve an app on a free port of loopback for the block."""
    from dnnflow.web.server import make_server

    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        port = int(listening.getsockname()[1])
        server = make_server(app, log_level="warning")
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        deadline = time.monotonic() + 20
        while not server.started:
            assert thread.is_alive(), "the server ended"
            assert time.monotonic() < deadline, "the server did not start"
            time.sleep(0.02)
        try:
            yield Served(f"http://127.0.0.1:{port}", port, app)
        finally:
            server.should_exit = True
            thread.join(timeout=20)
    assert not thread.is_alive(), "the server did not end"
