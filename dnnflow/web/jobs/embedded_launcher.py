"""Jobs that run on this machine, in children of a supervisor that outlives the web server."""

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from threading import Lock, Thread

from dnnflow.errors import ConflictError, LaunchError, NotFoundError
from dnnflow.events import Command
from dnnflow.paths import content_id
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.results.store.run_record import utc_now
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.web.jobs.job_files import Job, Jobs, locked
from dnnflow.web.jobs.launching import Launch, LaunchState

LOOK_EVERY_S = 2.0
"""How often it is looked whether the supervisor of unfinished jobs lives."""

OBEY_S = 5.0
"""Time in which a cancelled study ends by itself, before its process is interrupted."""


class EmbeddedLauncher:
    """Queues jobs in a directory, where a detached supervisor runs them one after the other.

    Parameters
    ----------
    directory
        Of the jobs; made on first use. Several launchers may share it.
    settings
        What jobs run with.
    """

    name = "this machine"

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._jobs, self._settings = Jobs(directory.absolute()), settings
        self._lock, self._looked = Lock(), 0.0
        self._waiting: Thread | None = None
        self._directory_made()
        self._supervise()

    def launch(self, pipeline: Pipeline | TrainPipeline, launch_id: str, *, key: str | None = None) -> Launch:
        """Queue a job; see `Launcher`."""
        from dnnflow.results.store.run_record import mask_credentials

        plain = pipeline.plain()
        digest = content_id(plain)
        request = {
            "kind": "study" if isinstance(pipeline, Pipeline) else "train",
            "name": pipeline.name,
            "created_at": utc_now(),
            "pipeline": plain,
            "shown": mask_credentials(plain),
            "digest": digest,
        }
        with self._jobs.changing():
            made = self._jobs.of_key(key) if key is not None else None
            if made is None:
                if (self._jobs.directory / launch_id).exists():
                    raise ConflictError(f"a job has an id of its own, got {launch_id} again; take a new one")
                job = self._jobs.add(launch_id, request)
                if key is not None:
                    self._jobs.keep_key(key, launch_id)
            else:
                job = self._jobs.find(made)
                if job.request["digest"] != digest:
                    raise ConflictError(
                        f"an idempotency key stands for one pipeline, got the key of job {made} "
                        "with another; take a new key"
                    )
        self._supervise()
        return self._shown(job)

    def get(self, launch_id: str) -> Launch:
        """Return a job as it stands now; see `Launcher`."""
        launch = self._shown(self._jobs.find(launch_id))
        if not launch.state.has_ended:
            self._look()
        return launch

    def all(self) -> Sequence[Launch]:
        """Return all jobs, the newest first."""
        places = {job.launch_id: place for place, job in enumerate(self._jobs.queue())}
        launches = [self._jobs.launch(job, places.get(job.launch_id)) for job in self._jobs.all()]
        if any(not launch.state.has_ended for launch in launches):
            self._look()
        return sorted(launches, key=lambda one: (one.created_at, one.launch_id), reverse=True)

    def resume(self, launch_id: str) -> Launch:
        """Queue a job once more that has ended; a study goes on with what is missing."""
        job = self._jobs.find(launch_id)
        with self._jobs.changing():
            if job.standing.state.has_ended:
                want(self._settings, job, Command.RUN)
                job.forget_answer()
                self._jobs.change(job, state=LaunchState.QUEUED, queued_s=time.time(), ended_at=None,
                                  error=None, deaths=0, interrupt_s=None)  # fmt: skip
        self._supervise()
        return self._shown(job)

    def cancel(self, launch_id: str) -> Launch:
        """End a job: one that waits at once, one that runs by its supervisor, within seconds."""
        job = self._jobs.find(launch_id)
        with self._jobs.changing():
            standing = job.standing
            if standing.state is LaunchState.QUEUED:
                self._jobs.change(job, state=LaunchState.CANCELLED, ended_at=utc_now())
            elif standing.state is LaunchState.RUNNING and standing.interrupt_s is None:
                obeys = want(self._settings, job, Command.CANCEL)
                self._jobs.change(job, interrupt_s=time.time() + (OBEY_S if obeys else 0.0))
        self._supervise()
        return self._shown(job)

    def log(self, launch_id: str) -> str:
        """Return the end of what a job printed."""
        return self._jobs.find(launch_id).log()

    def _shown(self, job: Job) -> Launch:
        place = None
        if job.standing.state is LaunchState.QUEUED:
            queue = [one.launch_id for one in self._jobs.queue()]
            place = queue.index(job.launch_id) if job.launch_id in queue else None
        return self._jobs.launch(job, place)

    def _directory_made(self) -> None:
        try:
            self._jobs.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        except OSError as error:
            raise LaunchError(
                f"jobs are kept in a directory that can be written, got {self._jobs.directory}: "
                f"{error.strerror}; check DNNFLOW_HOME"
            ) from error

    def _look(self) -> None:
        if time.monotonic() - self._looked >= LOOK_EVERY_S:
            self._supervise()

    def _supervise(self) -> None:
        """See to it that a supervisor lives if a job waits or was interrupted."""
        with self._lock:
            self._looked = time.monotonic()
            if self._waiting is not None and self._waiting.is_alive():
                return
            if all(job.standing.state.has_ended for job in self._jobs.all()):
                return
            with locked(self._jobs.supervisor_lock, wait=False) as is_free:
                if not is_free:
                    return
            # The thread has nothing to do but to take the exit code
            self._waiting = Thread(target=self._start().wait, name="supervisor", daemon=True)
            self._waiting.start()

    def _start(self) -> "subprocess.Popen[bytes]":
        command = [sys.executable, "-m", "dnnflow.web.jobs.supervisor", str(self._jobs.directory)]
        with (self._jobs.directory / "supervisor.log").open("wb") as log:
            try:
                return subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                        start_new_session=True, env=environment(self._settings))  # fmt: skip
            except OSError as error:
                raise LaunchError(
                    f"a job needs a process to run in, got: {error.strerror}; free memory or processes"
                ) from error


def want(settings: Settings, job: Job, wanted: Command) -> bool:
    """Tell who trains a job's study what is wanted of it; return whether there is a study yet."""
    if job.request["kind"] == "study":
        with suppress(NotFoundError), Store(settings.store_url) as store:
            store.send_command(job.launch_id, wanted)
            return True
    return False


def environment(settings: Settings) -> dict[str, str]:
    """Return this process's environment with settings that another process reads back."""
    given = {
        "DNNFLOW_HOME": str(settings.workspace.home.absolute()),
        "DNNFLOW_STORE": settings.store_url,
        "DNNFLOW_CLUSTER": settings.cluster or "",
        "DNNFLOW_TLS": str(settings.tls_directory.absolute()) if settings.tls_directory else "",
    }
    return {**os.environ, **given}
