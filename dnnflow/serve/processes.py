"""Start server processes as children, wait until they answer, and stop them by their handle."""

import os
import random
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

from rich.console import Console

from dnnflow.errors import DnnflowError

POLL_S = 0.1
UNASKED_PORTS = range(20_000, 32_000)
LOG_TAIL_BYTES = 2000


class ServiceError(DnnflowError, RuntimeError):
    """A server process did not start, or ended by itself."""


@dataclass(frozen=True)
class Service:
    """One process to run: what to start, and how to see that it works."""

    name: str
    """Names the process in messages and its log file."""
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    """Added to this process's environment."""
    health_url: str | None = None
    """Answers 200 when the process works; None for a process that serves nothing."""
    directory: Path | None = None
    """Working directory; None for this process's."""


def free_port() -> int:
    """Return a TCP port of the loopback interface that is free now, and that systems give to nobody unasked.

    Those that they give to who asks for any port (Linux: 32768 and up) may be taken a moment later.
    """
    for port in random.SystemRandom().sample(UNASKED_PORTS, 200):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def require_free_port(port: int, service: str) -> None:
    """Refuse a port somebody listens on.

    Raises
    ------
    ServiceError
        The port of the loopback interface is taken.
    """
    with socket.socket() as probe:
        # As servers do: a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            raise ServiceError(
                f"{service} needs port {port}, got one in use; stop what listens there or choose another port"
            ) from None


def answers(url: str, timeout_s: float = 2.0) -> bool:
    """Tell whether an HTTP GET of `url` gives 200."""
    # Servers are on this machine or named by the caller: a proxy of the environment would only be in the way.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=timeout_s) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.URLError):
        return False


class RunningService:
    """A started service; each one leads a process group of its own, so that Ctrl-C reaches only us."""

    def __init__(self, service: Service, log: Path) -> None:
        self.service = service
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                service.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=service.directory,
                env={**os.environ, **service.environment},
                start_new_session=True,
            )

    def check(self) -> None:
        """Raise ServiceError with the end of the log if the process has ended."""
        if (code := self.process.poll()) is not None:
            raise ServiceError(
                f"{self.service.name} must keep running, but ended with {code}; {self.log}: {self.tail()}"
            )

    def tail(self) -> str:
        """Return the last non-empty lines of the log, on one line."""
        text = self.log.read_bytes()[-LOG_TAIL_BYTES:].decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return " | ".join(lines[-3:])

    def wait_ready(self, timeout_s: float = 90.0) -> None:
        """Wait until the health URL answers.

        Raises
        ------
        ServiceError
            The process ended, or did not answer in `timeout_s`.
        """
        url = self.service.health_url
        deadline = time.monotonic() + timeout_s
        while url is not None and not answers(url):
            self.check()
            if time.monotonic() > deadline:
                raise ServiceError(
                    f"{self.service.name} must answer at {url} within {timeout_s:g} s; see {self.log}"
                )
            time.sleep(POLL_S)
        self.check()

    def signal(self, number: int) -> None:
        """Send a signal to the process and the children it has started."""
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self.process.pid, number)

    def stop(self, grace_s: float = 10.0) -> None:
        """Ask the process to end; after `grace_s`, end it and what is left of its group."""
        if self.process.poll() is None:
            self.signal(signal.SIGTERM)
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(grace_s)
        self.signal(signal.SIGKILL)
        self.process.wait()


class ServerProcesses:
    """The server processes of one command; leaving the `with` block stops them, last started first."""

    def __init__(self, log_directory: Path) -> None:
        self.log_directory = log_directory
        self.running: list[RunningService] = []

    def start(self, service: Service) -> RunningService:
        """Start a process; its output goes to `<log directory>/<name>.log`."""
        started = RunningService(service, self.log_directory / f"{service.name}.log")
        self.running.append(started)
        return started

    def run(self, service: Service, timeout_s: float = 300.0) -> None:
        """Run a process to its end.

        Raises
        ------
        ServiceError
            It failed or passed `timeout_s`.
        """
        task = RunningService(service, self.log_directory / f"{service.name}.log")
        try:
            code = task.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            raise ServiceError(f"{service.name} must end within {timeout_s:g} s; see {task.log}") from None
        finally:
            task.stop()
        if code:
            raise ServiceError(
                f"{service.name} must succeed, but ended with {code}; {task.log}: {task.tail()}"
            )

    def check(self) -> None:
        """Raise ServiceError if any process has ended."""
        for service in self.running:
            service.check()

    def watch(self) -> None:
        """Return never: raise ServiceError when a process ends by itself."""
        while True:
            self.check()
            time.sleep(10 * POLL_S)

    def stop(self) -> None:
        """Stop all processes, last started first."""
        while self.running:
            self.running.pop().stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def exit_code_of(error: DnnflowError) -> int:
    """Say in red what went wrong, and return what a script of `flows/` exits with."""
    Console(highlight=False).print(f"error: {error}", style="red", markup=False, soft_wrap=True)
    return error.exit_code


def stop_on_terminate() -> None:
    """Make SIGTERM and SIGHUP end this process as Ctrl-C does, so that `with` blocks stop their children."""

    def interrupt(number: int, frame: object) -> None:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
