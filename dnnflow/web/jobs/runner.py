"""Do one run as a supervisor's child: `python -m dnnflow.web.jobs.runner DIRECTORY PARENT [--continued]`.

The directory is the run's own, named by its id.
"""

import ctypes
import os
import signal
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING

from dnnflow.errors import DnnflowError, StudyStopped
from dnnflow.results.store.run_record import RunKind, RunState
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings

if TYPE_CHECKING:
    from dnnflow.run.run import Run

NICE = 10
"""Lower priority than the web server's, which is to answer while all cores train."""
PR_SET_PDEATHSIG = 1


def run_of(store: Store, directory: Path, *, continued: bool) -> "Run":
    """Return what a row asks for; the files of a training lie in the run's directory."""
    from dnnflow.pipeline.study_pipeline import Pipeline
    from dnnflow.run.run import StudyRun, TrainingRun
    from dnnflow.web.jobs.places import with_places

    run_id, settings = directory.name, Settings.from_environment()
    plain = store.request(run_id)
    if store.run(run_id).kind is RunKind.TRAINING:
        return TrainingRun(with_places(plain, directory, restore=continued), settings, run_id)
    return StudyRun(Pipeline.model_validate(plain), settings, study_id=run_id)


def do(store: Store, directory: Path, *, continued: bool) -> None:
    """Do a run in this process; how it ended stands in its row, and a fault's traceback in its log."""
    try:
        from dnnflow.api import execute
        from dnnflow.show.terminal import Progress

        run = run_of(store, directory, continued=continued)
        with Progress() as progress:
            execute(run, listener=progress)
    except StudyStopped:
        pass
    except Exception as error:
        if not isinstance(error, DnnflowError):
            traceback.print_exc()
        if store.run(directory.name).ended_at is None:  # it never began
            from dnnflow.run.run_row import failure_of

            store.end(directory.name, RunState.FAILED, error=failure_of(error))


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)


def main() -> None:
    """Do the run that is given; its supervisor settles what has no answer, as after an interruption."""
    die_with(int(sys.argv[2]))
    os.nice(NICE)
    directory = Path(sys.argv[1])
    with Store(Settings.from_environment().store_url) as store, store.driving(directory.name):
        do(store, directory, continued="--continued" in sys.argv[3:])


if __name__ == "__main__":
    main()
