"""Server processes are started, seen to work, and leave nothing behind."""

import sys
import time
from pathlib import Path

import psutil
import pytest

from dnnflow.serve.processes import (
    RunningService,
    ServerProcesses,
    Service,
    ServiceError,
    answers,
    free_port,
    require_free_port,
)
from dnnflow.serve.service_commands import LOOPBACK, dask_scheduler, prefect_environment, prefect_server
from tests.waiting import wait_for

CHILD = (
    "import subprocess, sys, time; subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)']); "
)


def python(name: str, code: str) -> Service:
    """Return a service that runs a line of Python."""
    return Service(name, (sys.executable, "-c", code))


def start_parent(services: ServerProcesses) -> tuple[RunningService, list[psutil.Process]]:
    """Start a service that has started a process of its own; return it and what it has started."""
    started = services.start(python("parent", CHILD + "time.sleep(60)"))
    return started, wait_for(psutil.Process(started.process.pid).children, 30, "a child", pause_s=0.02)


def web_server(directory: Path) -> Service:
    """Return a service that answers at its health URL."""
    port = free_port()
    command = (sys.executable, "-m", "http.server", str(port), "--bind", LOOPBACK)
    return Service("web", command, health_url=f"http://{LOOPBACK}:{port}/", directory=directory)


def test_a_service_is_ready_when_it_answers_and_gone_afterwards(tmp_path: Path) -> None:
    service = web_server(tmp_path)
    assert service.health_url is not None
    with ServerProcesses(tmp_path / "logs") as services:
        services.start(service).wait_ready()
        assert answers(service.health_url)
        services.check()
    assert not answers(service.health_url)


@pytest.mark.slow
def test_stopping_a_service_stops_what_it_has_started(tmp_path: Path) -> None:
    with ServerProcesses(tmp_path) as services:
        _, children = start_parent(services)
    assert psutil.wait_procs(children, timeout=5)[1] == []


@pytest.mark.slow
def test_children_of_a_service_that_died_are_stopped_as_well(tmp_path: Path) -> None:
    with ServerProcesses(tmp_path) as services:
        started, children = start_parent(services)
        started.process.kill()
        started.process.wait()
    assert psutil.wait_procs(children, timeout=5)[1] == []


def test_a_service_that_ignores_the_request_to_end_is_ended(tmp_path: Path) -> None:
    ignore = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
    stubborn = ignore + "print('ready', flush=True); time.sleep(60)"
    services = ServerProcesses(tmp_path)
    started = services.start(python("stubborn", stubborn))
    while not started.log.read_text():
        time.sleep(0.02)
    started.stop(grace_s=0.2)
    assert started.process.poll() == -9


def test_a_service_that_ends_by_itself_is_reported_with_its_last_words(tmp_path: Path) -> None:
    with ServerProcesses(tmp_path) as services:
        started = services.start(python("broken", "raise SystemExit('no such database')"))
        started.process.wait()
        with pytest.raises(
            ServiceError, match=r"broken must keep running, but ended with 1; .*no such database"
        ):
            services.check()


def test_a_service_that_never_answers_is_an_error_that_names_its_log(tmp_path: Path) -> None:
    silent = Service(
        "silent", (sys.executable, "-c", "import time; time.sleep(60)"), health_url="http://127.0.0.1:1/"
    )
    with ServerProcesses(tmp_path) as services:
        started = services.start(silent)
        with pytest.raises(ServiceError, match=r"silent must answer at .* within 0.3 s; see .*silent\.log"):
            started.wait_ready(timeout_s=0.3)


def test_a_command_that_fails_is_an_error_with_its_last_words(tmp_path: Path) -> None:
    with (
        ServerProcesses(tmp_path) as services,
        pytest.raises(ServiceError, match=r"deploy must succeed, but ended with 3; .*refused"),
    ):
        services.run(python("deploy", "import sys; print('refused'); sys.exit(3)"))


def test_a_port_in_use_is_refused_before_anything_starts(tmp_path: Path) -> None:
    service = web_server(tmp_path)
    port = int(service.command[3])
    require_free_port(port, "the Dask dashboard")
    with ServerProcesses(tmp_path / "logs") as services:
        services.start(service).wait_ready()
        with pytest.raises(ServiceError, match=rf"the Dask dashboard needs port {port}, got one in use"):
            require_free_port(port, "the Dask dashboard")


def test_servers_listen_on_the_loopback_interface_only(tmp_path: Path) -> None:
    prefect = " ".join(prefect_server(tmp_path, 4200).command)
    assert "--host 127.0.0.1 --port 4200" in prefect
    scheduler = " ".join(dask_scheduler(8786, 8787).command)
    assert "--host tcp://127.0.0.1:8786 --dashboard-address 127.0.0.1:8787" in scheduler


def test_prefect_sends_no_telemetry_and_starts_no_hidden_server(tmp_path: Path) -> None:
    environment = prefect_environment(tmp_path, 4200)
    assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    assert environment["DO_NOT_TRACK"] == "1"
    assert environment["PREFECT_SERVER_ALLOW_EPHEMERAL_MODE"] == "false"
