"""The child that runs one job: `python -m dnnflow.web.jobs.runner JOB-DIRECTORY PARENT [--continued]`."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnflow.errors import DnnflowError, StudyStopped
from dnnflow.events import ClusterReady, Event, StageStarted, TrainingProgress, TrialsStored
from dnnflow.settings import Settings
from dnnflow.web.jobs.job_files import Job

if TYPE_CHECKING:
    from dnnflow.run.execute import TrainingEnd
    from dnnflow.run.run import Run, TrainingRun

TELL_EVERY_S = 1.0
NICE = 10
"""Lower priority than the web server's, which is to answer while all cores train."""
PR_SET_PDEATHSIG = 1


class Teller:
    """A listener that keeps the last stage, dashboard and progress in the job's directory."""

    def __init__(self, job: Job) -> None:
        self._job, self._told = job, 0.0
        self._known: dict[str, Any] = {}

    def __call__(self, event: Event) -> None:
        """Keep one event."""
        match event:
            case StageStarted():
                self._known["stage"] = f"{event.stage.value}: {event.detail}"
            case ClusterReady():
                self._known["dashboard"] = event.dashboard
            case TrainingProgress() | TrialsStored():
                self._known["progress"] = asdict(event)
                if time.monotonic() - self._told < TELL_EVERY_S:
                    return
            case _:
                return
        self._told = time.monotonic()
        self._job.tell(self._known)


def run(job: Job, *, continued: bool) -> Mapping[str, Any] | None:
    """Run a job in this process; return the outcome of a parallel training."""
    from dnnflow.api import execute
    from dnnflow.run.execute import require_success
    from dnnflow.run.run import TrainingRun
    from dnnflow.show.terminal import Progress

    settings, teller = Settings.from_environment(), Teller(job)
    with Progress() as progress:

        def listen(event: Event) -> None:
            progress(event)
            teller(event)

        run = run_of(job, settings, continued=continued)
        if isinstance(run, TrainingRun):
            return outcome_of_training(run, execute(run, listener=listen))
        require_success(execute(run, listener=listen).view)
    return None


def run_of(job: Job, settings: Settings, *, continued: bool) -> "Run":
    """Return what a job asks for; the files of a training lie in the job's directory."""
    from dnnflow.pipeline.study_pipeline import Pipeline
    from dnnflow.run.run import StudyRun, TrainingRun
    from dnnflow.web.jobs.places import with_places

    plain = job.request["pipeline"]
    if job.request["kind"] == "train":
        return TrainingRun(with_places(plain, job.path, restore=continued), settings)
    return StudyRun(Pipeline.model_validate(plain), settings, study_id=job.launch_id)


def outcome_of_training(run: "TrainingRun", ended: "TrainingEnd") -> Mapping[str, Any]:
    """Return what pages show of a training that has ended."""
    from dnnflow.web.jobs.places import outcome_of

    history = ended.history
    return {
        "samples": history.samples,
        "seconds_s": history.seconds_s,
        **(outcome_of(run.pipeline.plain()) or {}),
    }


def answer_of(job: Job, *, continued: bool) -> dict[str, Any]:
    """Run a job and return how it ended."""
    try:
        outcome = run(job, continued=continued)
    except (KeyboardInterrupt, StudyStopped):
        return {"state": "cancelled"}
    except DnnflowError as error:
        return {"state": "failed", "error": str(error)}
    except Exception as error:
        import traceback

        traceback.print_exc()
        message = (
            f"a job ends without a fault of the program, got {type(error).__name__}: {error}; see its log"
        )
        return {"state": "failed", "error": message}
    return {"state": "finished", "outcome": outcome}


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent dies."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it died before
        os._exit(1)


def main() -> None:
    """Run the job that is given."""
    die_with(int(sys.argv[2]))
    os.nice(NICE)
    job = Job(Path(sys.argv[1]))
    job.reply(answer_of(job, continued="--continued" in sys.argv[3:]))


if __name__ == "__main__":
    main()
