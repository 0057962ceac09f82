"""The processes dnnflow runs beside itself: a Prefect server and worker, a Dask scheduler and workers.

Prefect is never imported here: its processes are started by command.
"""

import sys
from collections.abc import Mapping
from pathlib import Path

from dnnflow.serve.processes import Service

LOOPBACK = "127.0.0.1"
WORK_POOL = "dnnflow"
WORKER_PRELOAD = "dnnflow.execute.worker"

# Prefect reports usage by default: the server every ten minutes, the client on a terminal.
TELEMETRY_OFF: Mapping[str, str] = {"PREFECT_SERVER_ANALYTICS_ENABLED": "false", "DO_NOT_TRACK": "1"}


def prefect_environment(home: Path, port: int) -> dict[str, str]:
    """Return what every Prefect process of one server has in its environment."""
    return {
        **TELEMETRY_OFF,
        "PREFECT_HOME": str(home.absolute()),
        "PREFECT_API_URL": f"http://{LOOPBACK}:{port}/api",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_CLI_PROMPT": "false",
    }


def prefect_server(home: Path, port: int, *, with_page: bool = True) -> Service:
    """Return the one Prefect server, on the loopback interface.

    Parameters
    ----------
    home
        Directory of its database; made if it is missing.
    with_page
        Whether it serves the user interface, too.
    """
    home.mkdir(parents=True, exist_ok=True)
    environment = prefect_environment(home, port) | {
        "PREFECT_SERVER_UI_ENABLED": str(with_page).lower(),
        "PREFECT_LOGGING_SERVER_LEVEL": "WARNING",
    }
    # The application itself and not `prefect server start`, which imports everything once more to start it.
    server = ("uvicorn", "--factory", "prefect.server.api.server:create_app", "--log-level", "warning")
    address = ("--host", LOOPBACK, "--port", str(port), "--timeout-graceful-shutdown", "5")
    health = f"http://{LOOPBACK}:{port}/api/health"
    return Service("prefect-server", (sys.executable, "-m", *server, *address), environment, health)


def prefect_command(
    name: str, arguments: tuple[str, ...], environment: Mapping[str, str], directory: Path
) -> Service:
    """Return a command of Prefect's command line."""
    command = (sys.executable, "-m", "prefect", "--no-prompt", *arguments)
    return Service(name, command, environment, directory=directory)


def dask_scheduler(port: int, dashboard_port: int) -> Service:
    """Return a Dask scheduler that only this machine reaches."""
    address = ("--host", f"tcp://{LOOPBACK}:{port}", "--dashboard-address", f"{LOOPBACK}:{dashboard_port}")
    command = (sys.executable, "-m", "dask", "scheduler", "--no-show", *address)
    return Service("dask-scheduler", command, health_url=f"http://{LOOPBACK}:{dashboard_port}/health")


def dask_workers(scheduler: str, count: int, scratch: Path) -> Service:
    """Return `count` Dask workers of one thread each, ready to train."""
    workers = ("--nworkers", str(count), "--nthreads", "1", "--host", LOOPBACK)
    options = ("--no-dashboard", "--preload", WORKER_PRELOAD, "--local-directory", str(scratch.absolute()))
    return Service("dask-workers", (sys.executable, "-m", "dask", "worker", scheduler, *workers, *options))
