"""Run jobs on this machine, in children of a supervisor that outlives the web server."""

import os
import subprocess
import sys
import time
from pathlib import Path
from threading import Lock, Thread

from dnnflow.errors import ConflictError, LaunchError
from dnnflow.events import Command
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.results.store.run_record import RunRecord, RunState
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.web.jobs.job_import import import_jobs
from dnnflow.web.jobs.launching import (
    ENDING_EVERY_S,
    ENDING_S,
    LOG_BYTES,
    kind_of,
    queue_of,
    run_not_found,
)

LOOK_EVERY_S = 2.0
"""How often it is looked whether the supervisor of unfinished jobs lives."""


class EmbeddedLauncher:
    """Queues runs in the store, from where a detached supervisor runs them one after the other.

    Parameters
    ----------
    directory
        Of the runs' logs and files; made on first use. Several launchers may share it.
    settings
        What runs are done with.
    """

    name = "this machine"

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._directory, self._settings = directory.absolute(), settings
        self._lock, self._looked = Lock(), 0.0
        self._waiting: Thread | None = None
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._queue = queue_of(self._directory)
        except OSError as error:
            raise LaunchError(
                f"jobs are kept in a directory that can be written, got {self._directory}: "
                f"{error.strerror}; check DNNFLOW_HOME"
            ) from error
        self._store = Store(settings.store_url)
        import_jobs(self._directory, self._store, self._queue)
        self._supervise()

    def launch(self, pipeline: Pipeline | TrainPipeline, run_id: str, *, key: str | None = None) -> RunRecord:
        """Queue a run; see `Launcher`."""
        plain = pipeline.plain()
        record = self._store.ask(run_id, kind_of(pipeline), pipeline.name, plain, key=key, queue=self._queue)
        self._supervise()
        return record

    def refresh(self, run_id: str | None = None) -> None:
        """See to it that a supervisor lives while there is work."""
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._supervise()

    def resume(self, run_id: str) -> RunRecord:
        """Queue a run once more that has ended; a study goes on with what is missing."""
        self._found(run_id)
        deadline_s = time.monotonic() + ENDING_S
        while not self._store.enqueue(run_id, self._queue):
            record = self._found(run_id)
            if record.state not in (RunState.STOPPED, RunState.FAILED):
                break  # it waits, runs or is finished
            if time.monotonic() > deadline_s:
                raise ConflictError(
                    f"a run is resumed when its process has ended, got a living one for {run_id}; "
                    "try again in a moment"
                )
            time.sleep(ENDING_EVERY_S)
        self._supervise()
        return self._found(run_id)

    def cancel(self, run_id: str) -> RunRecord:
        """End a run: one that waits at once, one that runs by its supervisor, within seconds."""
        if not self._found(run_id).state.has_ended:
            self._store.send_command(run_id, Command.CANCEL)
            self._supervise()
        return self._found(run_id)

    def log(self, run_id: str) -> str:
        """Return the end of what a run printed."""
        path = self._directory / self._found(run_id).run_id / "log.txt"
        try:
            with path.open("rb") as file:
                file.seek(max(path.stat().st_size - LOG_BYTES, 0))
                return file.read().decode(errors="replace")
        except FileNotFoundError:
            return ""

    def close(self) -> None:
        """Close the connections to the store."""
        self._store.close()

    def _found(self, run_id: str) -> RunRecord:
        record = self._store.find(run_id)
        if record is None:
            raise run_not_found(run_id)
        return record

    def _supervise(self) -> None:
        """See to it that a supervisor lives if a run waits or was interrupted."""
        with self._lock:
            self._looked = time.monotonic()
            if self._waiting is not None and self._waiting.is_alive():
                return
            if not self._store.has_work(self._queue) or self._store.is_supervised(self._queue):
                return
            # The thread has nothing to do but to take the exit code
            self._waiting = Thread(target=self._start().wait, name="supervisor", daemon=True)
            self._waiting.start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "dnnflow.web.jobs.supervisor", str(self._directory)]
        with (self._directory / "supervisor.log").open("wb") as log:
            try:
                return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                        start_new_session=True, env=environment(self._settings))  # fmt: skip
            except OSError as error:
                raise LaunchError(
                    f"a job needs a process to run in, got: {error.strerror}; free memory or processes"
                ) from error


def environment(settings: Settings) -> dict[str, str]:
    """Return this process's environment with settings that another process reads back."""
    given = {
        "DNNFLOW_HOME": str(settings.workspace.home.absolute()),
        "DNNFLOW_STORE": settings.store_url,
        "DNNFLOW_CLUSTER": settings.cluster or "",
        "DNNFLOW_TLS": str(settings.tls_directory.absolute()) if settings.tls_directory else "",
    }
    return {**os.environ, **given}
