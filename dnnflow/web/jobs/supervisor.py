"""Run what is queued one after the other: `python -m dnnflow.web.jobs.supervisor DIRECTORY`.

It belongs to no web server: it lives while runs wait, whatever becomes of the server that started it. One run
is one child; when the supervisor dies, the kernel ends the child.
"""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from threading import Thread
from types import FrameType
from typing import IO

from dnnflow.errors import StoreError
from dnnflow.events import Command
from dnnflow.results.store.run_record import RunRecord, RunState
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.web.jobs.launching import LOG_BYTES, queue_of

POLL_S = 0.25
IDLE_S = 5.0
"""With nothing to do for so long, it ends."""
START_S = 3.0
"""How long it waits for another supervisor to end."""
ACT_S = 5.0
"""Time in which a cancelled study ends by itself, before its process is interrupted."""
INTERRUPTED_S = 20.0
"""Time in which an interrupted child ends, before it is killed."""
STOP_S = 8.0
"""The same while the supervisor itself has to end."""
MOST_DEATHS = 2
"""A child that dies without an answer is started once more."""
INTERRUPTED = (130, -signal.SIGINT)
"""Exit codes of a child that was interrupted."""

DIED = (
    "a job's process must live until it has an answer, got its death twice, as by a lack of memory; "
    "see the log, narrow the space or name fewer executor.workers, then resume"
)


class Supervisor:
    """Takes the runs of a directory's queue in the order in which they were queued."""

    def __init__(self, directory: Path, store: Store) -> None:
        self._directory, self._store, self._queue = directory, store, queue_of(directory)
        self._stopping = False

    def stop(self, _number: int, _frame: FrameType | None) -> None:
        """Handle a signal: interrupt the child and end; the next supervisor goes on with its run."""
        self._stopping = True

    def run(self) -> None:
        """Do runs until there have been none for a while; nothing while another supervisor lives."""
        end = time.monotonic() + START_S
        while not self._stopping:
            with self._store.supervising(self._queue) as is_alone:
                if is_alone:
                    self._work()
            # A run that came between the last look and the end saw a living supervisor
            if time.monotonic() > end and not (is_alone and self._store.has_work(self._queue)):
                return
            time.sleep(POLL_S)

    def _work(self) -> None:
        idle_since = time.monotonic()
        while not self._stopping and time.monotonic() - idle_since < IDLE_S:
            with suppress(StoreError):  # a store that is briefly away is waited for
                for record in self._store.left_behind(self._queue):
                    self._settle(record.run_id, 0, interrupted=True)
                if self._store.waiting(self._queue) and (taken := self._store.take_next(self._queue)):
                    self._run(taken)
                if self._store.has_work(self._queue):
                    idle_since = time.monotonic()
            time.sleep(POLL_S)

    def _run(self, record: RunRecord) -> None:
        """Have a child do a run; `record` is the row before it was taken."""
        directory = self._directory / record.run_id
        directory.mkdir(mode=0o700, exist_ok=True)
        command = [sys.executable, "-m", "dnnflow.web.jobs.runner", str(directory), str(os.getpid())]
        if record.started_at is not None:
            command.append("--continued")
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, start_new_session=True) as child:  # fmt: skip
            Thread(target=keep_log, args=(child.stdout, directory / "log.txt"), daemon=True).start()
            self._wait(record.run_id, child)
            _kill_group(child.pid)  # workers that outlived it
        self._insist(lambda: self._settle(record.run_id, child.returncode, interrupted=self._stopping))

    def _wait(self, run_id: str, child: "subprocess.Popen[bytes]") -> None:
        """Wait for a child, and end it when its run is cancelled or the supervisor stops."""
        due_s: float | None = None
        interrupted_s: float | None = None
        while child.poll() is None:
            now_s = time.monotonic()
            if due_s is None and self._stopping:
                due_s = now_s
            elif due_s is None:
                with suppress(StoreError):
                    if self._store.command(run_id) is Command.CANCEL:
                        is_study = self._store.run(run_id).has_designs  # which then reads the command itself
                        due_s = now_s + (ACT_S if is_study else 0.0)
            if interrupted_s is None and due_s is not None and now_s >= due_s:
                child.send_signal(signal.SIGINT)
                interrupted_s = now_s
            elif interrupted_s is not None:
                deadline_s = STOP_S if self._stopping else INTERRUPTED_S
                if now_s - interrupted_s >= deadline_s:
                    _kill_group(child.pid)
            with suppress(subprocess.TimeoutExpired):
                child.wait(POLL_S)

    def _settle(self, run_id: str, code: int, *, interrupted: bool) -> None:
        """Write what becomes of a run whose child has ended, unless the child has written it."""
        record = self._store.run(run_id)
        if record.ended_at is not None or record.state is RunState.QUEUED:  # ended, or asked for anew since
            return
        if record.command is Command.CANCEL:
            self._store.end(run_id, RunState.STOPPED)
        elif interrupted:
            self._store.give_back(run_id, has_died=False)
        elif code in INTERRUPTED:  # by a person
            self._store.end(run_id, RunState.STOPPED)
        elif record.deaths + 1 < MOST_DEATHS:
            self._store.give_back(run_id, has_died=True)
        else:
            self._store.end(run_id, RunState.FAILED, error=DIED)

    def _insist(self, write: Callable[[], None]) -> None:
        """Write to a store that may be away for a while; what is lost, the next supervisor settles."""
        end = time.monotonic() + STOP_S
        while not self._stopping or time.monotonic() < end:
            try:
                return write()
            except StoreError:
                time.sleep(POLL_S)
        return None


def keep_log(pipe: IO[bytes], path: Path) -> None:
    """Write what comes through a pipe to a file, of which only the end is kept."""
    with pipe, path.open("ab+", buffering=0) as file:
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
    with Store(Settings.from_environment().store_url) as store:
        supervisor = Supervisor(Path(sys.argv[1]), store)
        signal.signal(signal.SIGTERM, supervisor.stop)
        signal.signal(signal.SIGINT, supervisor.stop)  # not ignored: children would inherit that
        supervisor.run()


if __name__ == "__main__":
    main()
