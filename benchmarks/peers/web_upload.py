"""Uploads through a real server, beside a server that only writes the body to a file."""

import contextlib
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

COLUMNS = 28
_PART = 1 << 20


def serve(kind: str, directory: str, port: str) -> None:
    """Run one of both servers; called in a process of its own."""
    import uvicorn
    from starlette.applications import Starlette
    from starlette.requests import Request
    from starlette.responses import JSONResponse
    from starlette.routing import Route

    from dnnflow.web.contract.web_config import UploadLimits
    from dnnflow.web.uploads.uploads import Uploads

    uploads = Uploads(Path(directory), UploadLimits())

    async def checked(request: Request) -> JSONResponse:
        upload = await uploads.receive(request.stream(), name="table.csv")
        uploads.delete(upload.upload_id)
        return JSONResponse({"rows": upload.profile.rows})

    async def bare(request: Request) -> JSONResponse:
        path = Path(directory) / "body"
        with path.open("wb") as file:
            async for part in request.stream():
                file.write(part)
        path.unlink()
        return JSONResponse({})

    async def ready(request: Request) -> JSONResponse:
        return JSONResponse({})

    route = Route("/", checked if kind == "checked" else bare, methods=["POST"])
    app = Starlette(routes=[route, Route("/ready", ready)])
    uvicorn.run(app, host="127.0.0.1", port=int(port), log_level="warning")


@contextlib.contextmanager
def server(kind: str, directory: Path) -> Iterator[tuple[int, subprocess.Popen[bytes]]]:
    """Run a server meanwhile; yield its port and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, __file__, kind, str(directory), str(port)])
    try:
        for _ in range(200):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
                break
            time.sleep(0.1)
        yield port, process
    finally:
        process.terminate()
        process.wait()


def send(port: int, path: Path) -> tuple[float, float]:
    """Send a file; return seconds until the last byte was sent, and from then to the answer."""
    size = path.stat().st_size
    with socket.create_connection(("127.0.0.1", port)) as connection, path.open("rb") as file:
        begun = time.perf_counter()
        head = f"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: {size}\r\nConnection: close\r\n\r\n"
        connection.sendall(head.encode())
        while part := file.read(_PART):
            connection.sendall(part)
        last = time.perf_counter()
        answer = b""
        while piece := connection.recv(1 << 16):
            answer += piece
        if not answer.startswith(b"HTTP/1.1 200"):
            raise RuntimeError(answer[:2000].decode())
        return last - begun, time.perf_counter() - last


class Watch:
    """Notes the most memory that a server and its children hold, in MB."""

    def __init__(self, pid: int) -> None:
        import psutil

        self._process, self._done = psutil.Process(pid), threading.Event()
        self.server = self.parser = 0.0
        self._thread = threading.Thread(target=self._look)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *reason: Any) -> None:
        self._done.set()
        self._thread.join()

    def _look(self) -> None:
        import psutil

        while not self._done.wait(0.1):
            with contextlib.suppress(psutil.Error):
                self.server = max(self.server, self._process.memory_info().rss / 1e6)
                for child in self._process.children():
                    self.parser = max(self.parser, child.memory_info().rss / 1e6)


def write_table(path: Path, size: int) -> None:
    """Write a table of numbers and a label of about so many bytes."""
    random = np.random.default_rng(0)
    rows = np.round(random.normal(size=(10_000, COLUMNS - 1)), 5).tolist()
    text = "".join(",".join(map(repr, row)) + f",c{i % 3}\n" for i, row in enumerate(rows)).encode()
    with path.open("wb") as file:
        file.write((",".join(f"f{i}" for i in range(COLUMNS - 1)) + ",label\n").encode())
        for _ in range(max(1, round(size / len(text)))):
            file.write(text)


def measure(gigabytes: list[float], rounds: int) -> None:
    """Print speed beside the bare server, time to the answer, and memory."""
    with tempfile.TemporaryDirectory(prefix="dnnflow-bench-") as scratch:
        base = Path(scratch)
        table = base / "table.csv"
        write_table(table, 100_000_000)
        size = table.stat().st_size
        (base / "checked").mkdir()
        (base / "bare").mkdir()
        with (
            server("checked", base / "checked") as (port, process),
            server("bare", base / "bare") as (other, _),
        ):
            send(port, table), send(other, table)
            ratios = []
            for _ in range(rounds):
                plain = sum(send(other, table))
                sent, waited = send(port, table)
                ratios.append(plain / (sent + waited))
                print(
                    f"{size / 1e6:.0f} MB: {size / 1e6 / (sent + waited):.0f} MB/s checked, "
                    f"{size / 1e6 / plain:.0f} MB/s bare, answer {waited:.2f} s behind the last byte",
                    flush=True,
                )
            print(f"ratio of the speeds: {statistics.median(ratios):.2f} (median of {rounds})")
            for gigabyte in gigabytes:
                write_table(table, round(gigabyte * 1e9))
                with Watch(process.pid) as watch:
                    sent, waited = send(port, table)
                print(
                    f"{gigabyte:g} GB: {table.stat().st_size / 1e6 / (sent + waited):.0f} MB/s, answer "
                    f"{waited:.2f} s behind the last byte, at most {watch.server:.0f} MB in the server, "
                    f"{watch.parser:.0f} MB in the parser",
                    flush=True,
                )
                table.unlink()


if __name__ == "__main__":
    serve(*sys.argv[1:])
