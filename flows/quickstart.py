"""Run one pipeline as a Prefect flow with nothing to start or configure: `make quickstart`.

A Prefect server of its own runs while the flow does; datasets, results and reports stay in the workspace.
"""

import os
import sys
from pathlib import Path

from rich.console import Console

from dnnflow.errors import DnnflowError
from dnnflow.serving.processes import RunningService, Services, free_port, stop_on_terminate
from dnnflow.serving.services import prefect_environment, prefect_server
from dnnflow.settings import Settings

DEFAULT = Path(__file__).parent.parent / "pipelines" / "quickstart.yaml"
TOP = 10

# Run names and levels say nothing here: there is one run.
PLAIN_LOG = {
    "PREFECT_LOGGING_FORMATTERS_STANDARD_FLOW_RUN_FMT": "%(asctime)s  %(message)s",
    "PREFECT_LOGGING_FORMATTERS_STANDARD_TASK_RUN_FMT": "%(asctime)s  %(message)s",
}


def run_flow(path: Path, server: RunningService, console: Console) -> str:
    """Run the flow as soon as the server answers; return the study's id."""
    # Slow imports, made while the server starts; Prefect reads its settings in them.
    from study import study

    from dnnflow.pipeline_file import load_pipeline

    pipeline = load_pipeline(path)
    server.wait_ready()
    console.print(f"Prefect server ready, running {path.name}")
    return study(pipeline)


def show(study_id: str, console: Console) -> None:
    """Print the leaderboard, the study's id and the path of its report."""
    from dnnflow.api import open_study
    from dnnflow.report.terminal import leaderboard_table

    study = open_study(study_id)
    console.print(leaderboard_table(study.view(), top=TOP))
    console.print(f"study   {study.id}")
    console.print(f"report  {study.settings.workspace.report(study.id).absolute()}", soft_wrap=True)


def main(arguments: list[str]) -> int:
    """Run the pipeline file that is named, or the quickstart."""
    console = Console(highlight=False)
    path = Path(arguments[0]) if arguments else DEFAULT
    home = Settings.from_environment().workspace.home
    port = free_port()
    os.environ.update(prefect_environment(home / "prefect", port) | PLAIN_LOG)
    stop_on_terminate()
    try:
        with Services(home / "logs") as services:
            console.print(f"Prefect server starting on port {port} (log: {home / 'logs'})")
            server = services.start(prefect_server(home / "prefect", port, with_page=False))
            study_id = run_flow(path, server, console)
        show(study_id, console)
    except DnnflowError as error:
        console.print(f"error: {error}", style="red", soft_wrap=True)
        return error.exit_code
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on with what is missing")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
