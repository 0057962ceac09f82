"""Keep a processor core for what a replica computes with.

Where replicas and their server fill all cores, the kernel puts two that compute on one core now and then
while another is idle: two replicas of a small LSTM on two cores got 1.5 times the samples of one, each on a
core of its own 1.75 times.
"""

import contextlib
import logging
import os
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

LOG = logging.getLogger(__name__)
MAX_WAIT_SHARE = 0.5
"""Share of the time that threads may wait for their core, of that in which they have something to do.

TensorFlow's and Python's wait for each other a little: 0.33 with two replicas and their server on two cores;
two replicas on one core have 0.6.
"""
WATCH_S = 2.0
"""Over which that share is taken."""
_TASKS = Path("/proc/self/task")
_CPUS = Path("/sys/devices/system/cpu")
_pinning = threading.Lock()
"""Of this process: TensorFlow's threads compute for one replica at a time."""


class PinnedCore:
    """Keeps the calling thread and TensorFlow's on a core that no other replica of this machine keeps.

    A core is taken by a lock on a file in the directory of temporary files, which ends with the process.
    Other threads (rows, reports, pushes, Dask's) run where they like. Nothing happens where the system has no
    such affinity, where there is one core, and where all are taken. Where something else computes on the core
    (a container that sees other locks, another program), the threads soon wait for it, and are let go: call
    `release_if_contended` now and then.

    Attributes
    ----------
    core : int or None
        The core, while it is kept.
    """

    def __init__(self, directory: Path | None = None) -> None:
        self._directory = directory or Path(tempfile.gettempdir())
        self._stack = contextlib.ExitStack()
        self._changing = threading.Lock()
        self._allowed: set[int] = set()
        self._threads: list[int] = []
        self._seen: tuple[float, float, float] = (0.0, 0.0, 0.0)  # when, run and waited until then
        self.core: int | None = None

    def __enter__(self) -> "PinnedCore":
        if sys.platform != "linux" or not _TASKS.is_dir() or not _pinning.acquire(blocking=False):
            return self
        self._stack.callback(_pinning.release)
        self._allowed = os.sched_getaffinity(0)
        found = self._free_core() if len(self._allowed) > 1 else None
        if found is None:
            self._stack.close()
            return self
        self.core = found
        self._threads = [threading.get_native_id(), *_threads("tf_")]
        for thread in self._threads:
            _pin(thread, {found})
        self._seen = (time.monotonic(), *self._times_s())
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def release_if_contended(self) -> None:
        """Let the core go if the threads have waited for it for too much of the last seconds."""
        if self.core is None or (now_s := time.monotonic()) - self._seen[0] < WATCH_S:
            return
        run_s, waited_s = self._times_s()
        _, run_before_s, waited_before_s = self._seen
        self._seen = (now_s, run_s, waited_s)
        waited_s -= waited_before_s
        share = waited_s / max(waited_s + run_s - run_before_s, 1e-9)
        if share > MAX_WAIT_SHARE:
            LOG.info(
                "core %s is used by others too, waited %.0f %% of the time: let go", self.core, 100 * share
            )
            self.release()

    def release(self) -> None:
        """Let the threads run on all cores that they might run on before."""
        with self._changing:
            if self.core is not None:
                for thread in _threads():  # one that was made meanwhile has its maker's core
                    if _cores_of(thread) == {self.core}:
                        _pin(thread, self._allowed)
                self.core = None
            self._stack.close()

    def _free_core(self) -> int | None:
        """Return the first core that no other process has taken, and take it until `release`."""
        for core in physical_first(self._allowed):
            file = _open(self._directory / f"dnnflow-core-{core}.lock")
            if file is not None and _lock(file):
                self._stack.callback(file.close)
                return core
            if file is not None:
                file.close()
        return None

    def _times_s(self) -> tuple[float, float]:
        """Return how long the threads have run, and how long they were ready to and did not."""
        times = [_schedule_s(thread) for thread in self._threads]
        return sum(run_s for run_s, _ in times), sum(waited_s for _, waited_s in times)


def physical_first(cores: set[int]) -> list[int]:
    """Return cores so that those which share a physical one with an earlier core come last."""
    first: list[int] = []
    later: list[int] = []
    known: set[str] = set()
    for core in sorted(cores):
        siblings = _siblings(core)
        (later if siblings in known else first).append(core)
        known.add(siblings)
    return first + later


def _siblings(core: int) -> str:
    try:
        return (_CPUS / f"cpu{core}" / "topology" / "thread_siblings_list").read_text().strip()
    except OSError:
        return str(core)


def _threads(prefix: str = "") -> Iterator[int]:
    """Yield the threads of this process whose names begin so; TensorFlow's do with `tf_`."""
    for task in _TASKS.iterdir():
        with contextlib.suppress(OSError):  # it has ended
            if (task / "comm").read_text().startswith(prefix):
                yield int(task.name)


def _cores_of(thread: int) -> set[int]:
    try:
        return os.sched_getaffinity(thread)
    except OSError:
        return set()


def _pin(thread: int, cores: set[int]) -> None:
    with contextlib.suppress(OSError):  # it has ended
        os.sched_setaffinity(thread, cores)


def _schedule_s(thread: int) -> tuple[float, float]:
    try:
        run, waited = (_TASKS / str(thread) / "schedstat").read_text().split()[:2]
    except (OSError, ValueError):
        return 0.0, 0.0
    return int(run) / 1e9, int(waited) / 1e9


def _open(path: Path) -> IO[Any] | None:
    """Open a lock file that anybody may have made; None where that is refused."""
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW
    for more in (0, os.O_CREAT):  # a sticky directory refuses O_CREAT for another user's file
        with contextlib.suppress(OSError):
            return os.fdopen(os.open(path, flags | more, 0o644), "rb")
    return None


def _lock(file: IO[Any]) -> bool:
    import fcntl

    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True
