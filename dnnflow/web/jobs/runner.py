"""The child that runs one job: `python -m dnnflow.web.jobs.runner JOB-DIRECTORY PARENT [--continued]`."""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dnnflow.errors import DnnflowError, StudyStopped
from dnnflow.events import ClusterReady, Event, Listener, StageStarted, TrainingProgress, TrialsStored
from dnnflow.settings import Settings
from dnnflow.web.jobs.job_files import Job

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
    from dnnflow.show.live.listening import listening
    from dnnflow.show.report import write_report
    from dnnflow.show.terminal import Progress

    settings = Settings.from_environment()
    with Progress() as progress, listening(progress, Teller(job)) as listen:
        if job.request["kind"] == "train":
            return run_training(job, settings, continued=continued, listener=listen)
        from dnnflow.pipeline.study_pipeline import Pipeline
        from dnnflow.run.stages import require_success, run_pipeline

        pipeline = Pipeline.model_validate(job.request["pipeline"])
        require_success(run_pipeline(pipeline, settings, study_id=job.launch_id, listener=listen,
                                     draw=write_report))  # fmt: skip
    return None


def run_training(job: Job, settings: Settings, *, continued: bool, listener: Listener) -> Mapping[str, Any]:
    """Run a parallel training, whose files lie in the job's directory; return its outcome."""
    from dnnflow.run import train_stages
    from dnnflow.show.report import write_report
    from dnnflow.web.jobs.places import outcome_of, with_places

    pipeline = with_places(job.request["pipeline"], job.path, restore=continued)
    done, trained = train_stages.run_training(pipeline, settings, listener=listener)
    train_stages.write_trained(trained, done, write_report)
    history = trained.history
    return {
        "samples": history.samples,
        "seconds_s": history.seconds_s,
        **(outcome_of(pipeline.plain()) or {}),
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
