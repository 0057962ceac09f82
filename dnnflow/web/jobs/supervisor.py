"""Runs the jobs of a directory one after the other: `python -m dnnflow.web.jobs.supervisor DIRECTORY`.

It belongs to no web server: it lives while jobs wait or run, whatever becomes of the server that started it.
One job is one child; when the supervisor dies, the kernel ends the child.
"""

import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import IO

from dnnflow.results.store.run_record import utc_now
from dnnflow.web.jobs.job_files import LOG_BYTES, Job, Jobs, locked
from dnnflow.web.jobs.launching import LaunchState

POLL_S = 0.25
IDLE_S = 5.0
"""With nothing to do for so long, it ends."""
START_S = 3.0
"""How long it waits for another supervisor to end."""
INTERRUPTED_S = 20.0
"""Time in which an interrupted child ends, before it is killed."""
STOP_S = 8.0
"""The same while the supervisor itself has to end."""
MOST_DEATHS = 2
"""A child that dies without an answer is started once more."""

DIED = (
    "a job's process must live until it has an answer, got its death twice, as by a lack of memory; "
    "see the log, narrow the space or name fewer executor.workers, then resume"
)


class Supervisor:
    """Takes jobs in the order in which they were queued."""

    def __init__(self, directory: Path) -> None:
        self._jobs = Jobs(directory)
        self._stopping = False

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal: interrupt the child and end; the next supervisor goes on with it."""
        self._stopping = True

    def run(self) -> None:
        """Run jobs until there have been none for a while; nothing if another supervisor does."""
        with ExitStack() as held:
            if not self._is_alone(held):
                return
            self._take_over()
            idle_since = time.monotonic()
            while not self._stopping:
                queue = self._jobs.queue()
                if queue:
                    self._run(queue[0])
                    idle_since = time.monotonic()
                elif time.monotonic() - idle_since < IDLE_S:
                    time.sleep(POLL_S)
                else:
                    with self._jobs.changing():  # no job comes between the look and the end
                        if not self._jobs.queue():
                            held.close()
                            return

    def _is_alone(self, held: ExitStack) -> bool:
        end = time.monotonic() + START_S
        while time.monotonic() < end:
            with ExitStack() as trial:
                if trial.enter_context(locked(self._jobs.supervisor_lock, wait=False)):
                    held.push(trial.pop_all())
                    return True
            time.sleep(POLL_S)
        return False

    def _take_over(self) -> None:
        """Queue what an earlier supervisor ran when it died, before all others."""
        with self._jobs.changing():
            for job in self._jobs.all():
                if job.standing.state is LaunchState.RUNNING:
                    self._settle(job, interrupted=True)

    def _run(self, job: Job) -> None:
        with self._jobs.changing():
            standing = job.standing
            if standing.state is not LaunchState.QUEUED:  # cancelled meanwhile
                return
            job.forget_answer()
            self._jobs.change(
                job, state=LaunchState.RUNNING, started_at=standing.started_at or utc_now(), continued=True
            )
        command = [sys.executable, "-m", "dnnflow.web.jobs.runner", str(job.path), str(os.getpid())]
        if standing.continued:
            command.append("--continued")
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, start_new_session=True) as child:  # fmt: skip
            Thread(target=keep_log, args=(child.stdout, job.log_file), daemon=True).start()
            self._wait(job, child)
            _kill_group(child.pid)  # workers that outlived it
        with self._jobs.changing():
            self._settle(job, interrupted=self._stopping)

    def _wait(self, job: Job, child: "subprocess.Popen[bytes]") -> None:
        """Wait for a child, and end it when it is cancelled or the supervisor stops."""
        interrupted: float | None = None
        while child.poll() is None:
            interrupt_s, now_s = job.standing.interrupt_s, time.monotonic()
            is_due = interrupt_s is not None and time.time() >= interrupt_s
            if interrupted is None and (self._stopping or is_due):
                child.send_signal(signal.SIGINT)
                interrupted = now_s
            elif interrupted is not None:
                deadline = STOP_S if self._stopping else INTERRUPTED_S
                if now_s - interrupted >= deadline:
                    _kill_group(child.pid)
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL_S)

    def _settle(self, job: Job, *, interrupted: bool) -> None:
        """Write how a child ended; the lock is held."""
        standing, answer = job.standing, job.answer
        if answer is not None and answer["state"] in ("finished", "failed"):
            self._end(job, LaunchState(answer["state"]), answer.get("error"))
        elif standing.interrupt_s is not None or (answer is not None and not interrupted):
            self._end(job, LaunchState.CANCELLED)
        elif interrupted:
            self._jobs.change(job, state=LaunchState.QUEUED)
        elif standing.deaths + 1 < MOST_DEATHS:
            self._jobs.change(job, state=LaunchState.QUEUED, deaths=standing.deaths + 1)
        else:
            self._end(job, LaunchState.FAILED, DIED)

    def _end(self, job: Job, state: LaunchState, error: str | None = None) -> None:
        self._jobs.change(job, state=state, error=error, ended_at=utc_now())


def keep_log(pipe: IO[bytes], path: Path) -> None:
    """Write what comes through a pipe to a file, of which only the end is kept."""
    with path.open("ab+", buffering=0) as file:
        while part := pipe.read1(65536):  # type: ignore[attr-defined]
            file.write(part)
            if file.tell() > 2 * LOG_BYTES:
                file.seek(-LOG_BYTES, os.SEEK_END)
                end = file.read()
                file.truncate(0)
                file.write(end)


def _kill_group(group: int) -> None:
    with suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


def main() -> None:
    """Supervise the directory given."""
    supervisor = Supervisor(Path(sys.argv[1]))
    signal.signal(signal.SIGTERM, supervisor.stop)
    signal.signal(signal.SIGINT, supervisor.stop)  # not ignored: children would inherit that
    supervisor.run()


if __name__ == "__main__":
    main()
