"""Run one pipeline file as a flow in this process: `PREFECT_API_URL=… python flows/run_pipeline.py FILE`."""

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path

from rich.console import Console

from dnnflow.errors import DnnflowError, StudyStopped
from dnnflow.serve.processes import POLL_S, ServiceError, answers, exit_code_of

SERVER_TIMEOUT_S = 120.0


def wait_for_server(url: str) -> None:
    """Wait until a Prefect server answers at its API's URL.

    Raises
    ------
    ServiceError
        If none does in time.
    """
    deadline = time.monotonic() + SERVER_TIMEOUT_S
    while not answers(f"{url}/health"):
        if time.monotonic() > deadline:
            raise ServiceError(
                f"a Prefect server must answer at PREFECT_API_URL, got none at {url or 'an empty URL'}; "
                "start one, or use `dnnflow run` to do without"
            )
        time.sleep(POLL_S)


def run(path: Path) -> Callable[[], None]:
    """Run the file's flow as soon as the server answers; return what prints what came of it."""
    # Slow imports, made while the server may still be starting.
    from dnnflow.pipeline.pipeline_file import load_any
    from dnnflow.pipeline.training_pipeline import TrainPipeline

    pipeline = load_any(path)
    if isinstance(pipeline, TrainPipeline):
        from train import train

        wait_for_server(os.environ.get("PREFECT_API_URL", ""))
        model = train(pipeline)
        return lambda: Console(highlight=False).print(f"wrote {model}", soft_wrap=True)
    from study import study

    wait_for_server(os.environ.get("PREFECT_API_URL", ""))
    from prefect.exceptions import CancelledRun

    try:
        study_id = study(pipeline)
    except CancelledRun as stopped:  # what the flow made of a StudyStopped
        raise StudyStopped(str(stopped)) from stopped
    return lambda: show(str(study_id))


def show(study_id: str) -> None:
    """Print what came of a study."""
    from dnnflow.api import open_study
    from dnnflow.show.terminal import show_study

    study = open_study(study_id)
    show_study(study.view(), study.settings.workspace)


def main(path: Path) -> int:
    """Run a pipeline file and print what came of it; return the exit code."""
    console = Console(highlight=False)
    try:
        run(path)()
    except DnnflowError as error:
        return exit_code_of(error)
    except KeyboardInterrupt:
        console.print("stopped; the same command goes on with what is missing")
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
