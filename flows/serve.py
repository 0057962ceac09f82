"""Serve all deployments on this machine until Ctrl-C: `make serve`.

One Prefect server, one Dask scheduler with a fixed dashboard address for all runs, Dask workers, and a
Prefect worker that starts the flow runs.
"""

import argparse
import os
import sys
from pathlib import Path

from rich.console import Console

from dnnflow.errors import DnnflowError
from dnnflow.serve.processes import ServerProcesses, exit_code_of, require_free_port, stop_on_terminate
from dnnflow.serve.service_commands import (
    LOOPBACK,
    WORK_POOL,
    WORKER_PRELOAD,
    dask_scheduler,
    dask_workers,
    prefect_command,
    prefect_environment,
    prefect_server,
)
from dnnflow.settings import Settings

ROOT = Path(__file__).parent.parent


def read_arguments(arguments: list[str]) -> argparse.Namespace:
    """Read the ports and the number of workers."""
    parser = argparse.ArgumentParser(prog="serve", description="Serve all deployments on this machine.")
    parser.add_argument("--prefect-port", type=int, default=4200)
    parser.add_argument("--scheduler-port", type=int, default=8786)
    parser.add_argument("--dashboard-port", type=int, default=8787)
    parser.add_argument("--workers", type=int, default=os.cpu_count() or 1, help="Dask worker processes")
    return parser.parse_args(arguments)


def start_servers(services: ServerProcesses, options: argparse.Namespace, home: Path) -> str:
    """Start the Prefect server, the Dask scheduler and its workers; return the scheduler's address."""
    ports = {
        "the Prefect server": options.prefect_port,
        "the Dask scheduler": options.scheduler_port,
        "the Dask dashboard": options.dashboard_port,
    }
    for service, port in ports.items():
        require_free_port(port, service)
    prefect = services.start(prefect_server(home / "prefect", options.prefect_port))
    scheduler = services.start(dask_scheduler(options.scheduler_port, options.dashboard_port))
    scheduler.wait_ready()
    address = f"tcp://{LOOPBACK}:{options.scheduler_port}"
    services.start(dask_workers(address, options.workers, home / "scratch"))
    prefect.wait_ready()
    return address


def start_flows(services: ServerProcesses, environment: dict[str, str]) -> None:
    """Register all deployments and start the worker that runs them."""
    pool = ("work-pool", "create", WORK_POOL, "--type", "process", "--overwrite")
    services.run(prefect_command("prefect-pool", pool, environment, ROOT))
    services.run(prefect_command("prefect-deploy", ("deploy", "--all"), environment, ROOT))
    worker = ("worker", "start", "--pool", WORK_POOL, "--type", "process")
    services.start(prefect_command("prefect-worker", worker, environment, ROOT))


def how_to_use(options: argparse.Namespace, scheduler: str) -> str:
    """Return where the pages are and what to type."""
    return (
        f"Prefect         http://{LOOPBACK}:{options.prefect_port}\n"
        f"Dask dashboard  http://{LOOPBACK}:{options.dashboard_port}/status\n"
        "run a study     .venv/bin/prefect deployment run 'study/quickstart'\n"
        f"more workers    .venv/bin/dask worker {scheduler} --nthreads 1 --preload {WORKER_PRELOAD}\n"
        "Ctrl-C stops everything"
    )


def main(arguments: list[str]) -> int:
    """Serve until Ctrl-C."""
    console = Console(highlight=False)
    options = read_arguments(arguments)
    home = Settings.from_environment().workspace.home.absolute()
    stop_on_terminate()
    try:
        with ServerProcesses(home / "logs") as services:
            console.print(f"starting; logs in {home / 'logs'}")
            address = start_servers(services, options, home)
            environment = prefect_environment(home / "prefect", options.prefect_port)
            start_flows(services, environment | {"DNNFLOW_CLUSTER": address, "DNNFLOW_HOME": str(home)})
            console.print(how_to_use(options, address), soft_wrap=True)
            services.watch()
    except DnnflowError as error:
        return exit_code_of(error)
    except KeyboardInterrupt:
        console.print("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
