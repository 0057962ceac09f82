"""Run one pipeline as a Prefect flow with nothing to start or configure: `make quickstart`.

A Prefect server of its own runs while the flow does; datasets, results and reports stay in the workspace.
"""

import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from rich.console import Console

from dnnflow.errors import DnnflowError
from dnnflow.serve.processes import ServerProcesses, exit_code_of, free_port, stop_on_terminate
from dnnflow.serve.service_commands import prefect_environment, prefect_server
from dnnflow.settings import Settings

HERE = Path(__file__).parent
STOP_S = 30.0
INTERRUPTED = 130
DEFAULT = HERE.parent / "pipelines" / "quickstart.yaml"

# Levels and names of runs say nothing here: there is one run.
PLAIN_LOG = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s  %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s  %(message)s",
    "PREFECT_LOGGING_HANDLERS_CONSOLE_STREAM": "ext://sys.stdout",
}


def run_flow(path: Path, environment: dict[str, str], log: Path) -> int:
    """Run the flow in a process of its own, which hands its last log lines to the server before it ends.

    `log` takes what libraries in the flow and its workers write to standard error: TensorFlow writes a lot.
    """
    command = (sys.executable, str(HERE / "run_pipeline.py"), str(path))
    # Leading a group of its own, it is interrupted once, by us, and not a second time by the terminal.
    with log.open("wb") as errors:
        flow = subprocess.Popen(
            command, env={**os.environ, **environment}, stderr=errors, start_new_session=True
        )
    try:
        return flow.wait()
    except KeyboardInterrupt:
        flow.send_signal(signal.SIGINT)
        with suppress(subprocess.TimeoutExpired):
            return flow.wait(STOP_S)
        return INTERRUPTED
    finally:
        with suppress(ProcessLookupError):
            os.killpg(flow.pid, signal.SIGKILL)
        flow.wait()


def main(arguments: list[str]) -> int:
    """Run the pipeline file that is named, or the quickstart; return the exit code."""
    console = Console(highlight=False)
    path = Path(arguments[0]) if arguments else DEFAULT
    home = Settings.from_environment().workspace.home.absolute()
    port = free_port()
    stop_on_terminate()
    try:
        with ServerProcesses(home / "logs") as services:
            console.print(
                f"starting a Prefect server on port {port} (log in {home / 'logs'})", soft_wrap=True
            )
            services.start(prefect_server(home / "prefect", port, with_page=False))
            environment = prefect_environment(home / "prefect", port) | PLAIN_LOG
            code = run_flow(path, environment, home / "logs" / "flow.log")
        if code not in (0, INTERRUPTED):
            console.print(f"more in {home / 'logs' / 'flow.log'}", soft_wrap=True)
        return code
    except DnnflowError as error:
        return exit_code_of(error)
    except KeyboardInterrupt:
        return INTERRUPTED


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
