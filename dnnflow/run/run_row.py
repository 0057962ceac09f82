"""Keep the row of a run while it is done: who does it, its stage and progress, and how it ended."""

import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from pathlib import Path
from tempfile import gettempdir
from typing import Any, Unpack

from dnnflow.errors import DnnflowError, LostStudyError, StoreError, StudyStopped
from dnnflow.events import (
    ClusterReady,
    Command,
    Event,
    FinalsProgress,
    Listener,
    Notice,
    StageStarted,
    TrainingProgress,
    TrialsStored,
    ignore,
)
from dnnflow.paths import try_directory, try_file
from dnnflow.results.store.database import patient
from dnnflow.results.store.run_record import (
    Driver,
    RunKind,
    RunRecord,
    RunState,
    mask_credentials,
    new_study_id,
)
from dnnflow.results.store.runs import News
from dnnflow.results.store.store import Store
from dnnflow.run.run import Run, StudyRun

TELL_EVERY_S = 1.0
STORE_TRIES = 60
"""A store that is away when a supervised run ends is waited for so many seconds."""


class RunRow:
    """The row of a run that this process does; a listener that keeps what it hears and passes it on."""

    def __init__(self, store: Store, listener: Listener) -> None:
        self.run_id = ""
        """Empty before it is known which study the run belongs to."""
        self.outcome: Mapping[str, Any] | None = None
        """What came of a training, for its row."""
        self.error: str | None = None
        """Why a run that was done to its end is of no use."""
        self.is_supervised = False
        """Whether a supervisor took it, who then says what becomes of it when it is interrupted."""
        self._next_id = ""
        """Of a row that this process is about to drive."""
        self._store, self._listener, self._told_s = store, listener, 0.0
        self._progress: Mapping[str, Any] | None = None
        self._driven = ExitStack()

    def __call__(self, event: Event) -> None:
        """Keep one event and pass it on.

        Raises
        ------
        StudyStopped
            If somebody has asked to cancel a training that no supervisor ends; a study looks itself.
        """
        match event:
            case StageStarted():
                self._tell(stage=f"{event.stage.value}: {event.detail}")
            case FinalsProgress():
                self._tell(stage=f"{event.stage.value}: {event.done:,} of {event.total:,} trainings")
            case ClusterReady():
                self._tell(dashboard=event.dashboard)
            case TrainingProgress() | TrialsStored():
                self._progress = asdict(event)
                if time.monotonic() - self._told_s >= TELL_EVERY_S:
                    self._tell(progress=self._progress)
                    if isinstance(event, TrainingProgress) and not self.is_supervised:
                        self._stop_if_cancelled()
        self._listener(event)

    def _tell(self, **news: Unpack[News]) -> None:
        self._told_s = time.monotonic()
        # A store that is briefly away: what is told next is newer
        with suppress(StoreError), patient(None):
            if self.run_id:
                self._store.tell(self.run_id, **news)

    def _stop_if_cancelled(self) -> None:
        with suppress(StoreError), patient(None):
            if self.run_id and self._store.command(self.run_id) is Command.CANCEL:
                raise StudyStopped(
                    f"a training goes on while it is wanted, got a request to stop training {self.run_id}; "
                    "start it again, with restore where it has a checkpoint"
                )

    def move_to(self, run_id: str) -> None:
        """Do the run in this row from now on; one that was made for it and is no study yet is forgotten.

        A row of a finished study stays as it is.

        Raises
        ------
        StudyError
            If another living process drives it.
        """
        if run_id == self.run_id:
            return
        left, self.run_id, self._next_id = self.run_id, "", run_id
        self._driven.close()
        if left:
            command = self._store.command(left)
            self._store.drop(left)
            if command is Command.CANCEL:  # it was asked for while the table was read
                self._store.send_command(run_id, command)
        if not self._store.run(run_id).state.is_finished:
            self._driven.enter_context(self._store.driving(run_id))
            self.run_id = run_id

    def ask(self, run: Run) -> RunRecord:
        """Return the row of a run, made where there is none yet."""
        self._next_id = run.own_id or new_study_id()
        known = self._store.find(self._next_id)
        if known is not None:
            return known
        kind = RunKind.STUDY if isinstance(run, StudyRun) else RunKind.TRAINING
        # This process has the credentials: they are kept for another one only
        return self._store.ask(self._next_id, kind, run.pipeline.name, mask_credentials(run.pipeline.plain()))

    def interrupt(self) -> None:
        """Say that a person stopped the run, also in the moment before this process drives its row."""
        with suppress(StoreError):
            if not self.run_id and self._next_id and self._is_mine(self._store.find(self._next_id)):
                self.run_id = self._next_id
        self.end(RunState.STOPPED)

    def _is_mine(self, record: RunRecord | None) -> bool:
        """Whether this process, and nobody else, has begun a run."""
        if record is None or record.state.is_finished or record.queued_s is not None:
            return False
        driver = self._store.driver(record.run_id)
        return driver is None or driver.same_process(Driver.this_process())

    def end(self, state: RunState, error: str | None = None) -> None:
        """Say how far the run came and how it ended."""
        if self._progress is not None:
            self._tell(progress=self._progress)
        for left in range(STORE_TRIES - 1 if self.is_supervised else 0, -1, -1):
            with suppress(StoreError):
                if self.run_id:
                    self._store.end(self.run_id, state, error=error, outcome=self.outcome)
                return
            time.sleep(min(left, 1.0))

    def close(self) -> None:
        """Stop driving the run."""
        self._driven.close()


@contextmanager
def recorded(run: Run, listener: Listener = ignore) -> Iterator[RunRow]:
    """Yield the row of a run, made if nobody asked for the run before, and write how the block ends.

    Raises
    ------
    StudyError
        If another living process does the run.
    """
    with Store(run.settings.store_url) as store:
        row = RunRow(store, listener)
        try:
            with patient(lambda told: row(Notice(told))):
                _begin(row, run, store)
                _try_outputs(run)
                yield row
                row.end(RunState.FAILED if row.error else RunState.FINISHED, row.error)
        except LostStudyError:
            raise
        except StudyStopped:
            row.end(RunState.STOPPED)
            raise
        except KeyboardInterrupt:
            if not row.is_supervised:
                row.interrupt()
            raise
        except Exception as error:
            row.end(RunState.FAILED, failure_of(error))
            raise
        finally:
            row.close()


def _try_outputs(run: Run) -> None:
    """Look whether everything that a run writes can be written, before anything is computed.

    Raises
    ------
    OutputError
        If not.
    """
    run.settings.workspace.require_writable()
    for path in run.pipeline.written:
        try_file(path)
    try_directory(Path(gettempdir()), elsewhere="set TMPDIR")


def failure_of(error: Exception) -> str:
    """Return what a row says of an error that ended its run."""
    if isinstance(error, DnnflowError):
        return str(error)
    return f"a job ends without a fault of the program, got {type(error).__name__}: {error}; see its log"


def _begin(row: RunRow, run: Run, store: Store) -> None:
    known = row.ask(run)
    row.is_supervised = known.queued_s is not None
    is_resumed = isinstance(run, StudyRun) and run.study is not None
    # A study that somebody else asked for may have the id: `begin` sees whether it is the same
    if row.is_supervised or is_resumed or not known.has_designs:
        if not row.is_supervised:
            store.start(known.run_id)
        elif known.state is RunState.QUEUED:
            store.set_state(known.run_id, RunState.RUNNING)
        row.move_to(known.run_id)
