"""Do one run as a supervisor's child: `python -m dnnflow.web.jobs.runner DIRECTORY PARENT [--continued]`.

The directory is the run's own, named by its id.
"""

import ctypes
import os
import signal
import sys
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Unpack

from dnnflow.errors import DnnflowError, StoreError, StudyStopped
from dnnflow.events import ClusterReady, Event, StageStarted, TrainingProgress, TrialsStored
from dnnflow.results.store.run_record import RunKind, RunState
from dnnflow.results.store.runs import News
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings

if TYPE_CHECKING:
    from dnnflow.run.execute import TrainingEnd
    from dnnflow.run.run import Run, TrainingRun

TELL_EVERY_S = 1.0
STORE_TRIES = 60
"""A store that is away when a run ends is waited for."""
NICE = 10
"""Lower priority than the web server's, which is to answer while all cores train."""
PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Ended:
    """How a run has ended."""

    state: RunState
    error: str | None = None
    outcome: Mapping[str, Any] | None = None


class Teller:
    """A listener that keeps the last stage, dashboard and progress in the run's row."""

    def __init__(self, store: Store, run_id: str) -> None:
        self._store, self._run_id, self._told = store, run_id, 0.0

    def __call__(self, event: Event) -> None:
        """Keep one event."""
        match event:
            case StageStarted():
                self._tell(stage=f"{event.stage.value}: {event.detail}")
            case ClusterReady():
                self._tell(dashboard=event.dashboard)
            case TrainingProgress() | TrialsStored():
                if time.monotonic() - self._told >= TELL_EVERY_S:
                    self._tell(progress=asdict(event))

    def _tell(self, **news: Unpack[News]) -> None:
        self._told = time.monotonic()
        with suppress(StoreError):  # a store that is briefly away: what is told next is newer
            self._store.tell(self._run_id, **news)


def run(store: Store, directory: Path, *, continued: bool) -> Mapping[str, Any] | None:
    """Do a run in this process; return the outcome of a parallel training."""
    from dnnflow.api import execute
    from dnnflow.run.execute import require_success
    from dnnflow.run.run import TrainingRun
    from dnnflow.show.terminal import Progress

    teller = Teller(store, directory.name)
    with Progress() as progress:

        def listen(event: Event) -> None:
            progress(event)
            teller(event)

        run = run_of(store, directory, continued=continued)
        if isinstance(run, TrainingRun):
            return outcome_of_training(run, execute(run, listener=listen))
        require_success(execute(run, listener=listen).view)
    return None


def run_of(store: Store, directory: Path, *, continued: bool) -> "Run":
    """Return what a row asks for; the files of a training lie in the run's directory."""
    from dnnflow.pipeline.study_pipeline import Pipeline
    from dnnflow.run.run import StudyRun, TrainingRun
    from dnnflow.web.jobs.places import with_places

    settings, record, plain = (
        Settings.from_environment(),
        store.run(directory.name),
        store.request(directory.name),
    )
    if record.kind is RunKind.TRAINING:
        return TrainingRun(with_places(plain, directory, restore=continued), settings)
    return StudyRun(Pipeline.model_validate(plain), settings, study_id=record.run_id)


def outcome_of_training(run: "TrainingRun", ended: "TrainingEnd") -> Mapping[str, Any]:
    """Return what pages show of a training that has ended."""
    from dnnflow.web.jobs.places import outcome_of

    history = ended.history
    return {
        "samples": history.samples,
        "seconds_s": history.seconds_s,
        **(outcome_of(run.pipeline.plain()) or {}),
    }


def end_of(store: Store, directory: Path, *, continued: bool) -> Ended:
    """Do a run and return how it ended."""
    try:
        return Ended(RunState.FINISHED, outcome=run(store, directory, continued=continued))
    except StudyStopped:
        return Ended(RunState.STOPPED)
    except DnnflowError as error:
        return Ended(RunState.FAILED, error=str(error))
    except Exception as error:
        import traceback

        traceback.print_exc()
        message = (
            f"a job ends without a fault of the program, got {type(error).__name__}: {error}; see its log"
        )
        return Ended(RunState.FAILED, error=message)


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
        ended = end_of(store, directory, continued="--continued" in sys.argv[3:])
        for _ in range(STORE_TRIES):
            with suppress(StoreError):
                store.end(directory.name, ended.state, error=ended.error, outcome=ended.outcome)
                break
            time.sleep(TELL_EVERY_S)


if __name__ == "__main__":
    main()
