"""Run a stage's tasks, a bounded number at a time: in threads of this process or on a Dask cluster.

Also the directory in which they put what they hand over.
"""

import os
import shutil
import socket
import tempfile
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    import distributed

T = TypeVar("T")

_WINDOW = 4
"""Tasks in flight for each thread: enough to keep it busy, few enough to keep memory flat."""
_GIVE_UP_S = 30.0


@dataclass(frozen=True)
class Tasks:
    """Submits module-level functions, and yields their values in order."""

    submit: Callable[..., Any]
    """Return the future of `function(*arguments)`, given a name, function and arguments."""
    give_up: Callable[[list[Any]], None]
    """Leave none of these futures behind."""
    threads: int
    in_process: bool
    """Whether tasks share this process's memory."""

    def run(self, name: str, function: Callable[..., T], calls: Iterable[tuple[Any, ...]]) -> Iterator[T]:
        """Call `function` with each of `calls` and yield the values in their order."""
        flying: deque[Any] = deque()
        try:
            for arguments in calls:
                flying.append(self.submit(name, function, *arguments))
                if len(flying) >= _WINDOW * self.threads:
                    yield flying.popleft().result()
            while flying:
                yield flying.popleft().result()
        finally:
            self.give_up(list(flying))


@contextmanager
def open_tasks(client: "distributed.Client | None", workers: int | None) -> Iterator[Tasks]:
    """Yield what runs tasks: `workers` threads (all cores by default), or a cluster.

    Threads do on one machine: parsing and arithmetic run outside the interpreter lock.
    """
    if client is not None:
        threads = max(1, sum(client.nthreads().values()))
        yield Tasks(partial(_submit, client), _wait, threads, in_process=False)
        return
    threads = workers or _cores()
    pool = ThreadPoolExecutor(threads, thread_name_prefix="dnnflow-ingest")
    try:
        yield Tasks(lambda name, *call: pool.submit(*call), _cancel, threads, in_process=True)
    finally:
        pool.shutdown(cancel_futures=True)


def _submit(client: "distributed.Client", name: str, function: Callable[..., Any], *arguments: Any) -> Any:
    # Dask's task stream groups by what stands before the last dash.
    return client.submit(function, *arguments, key=f"ingest-{name}-{uuid.uuid4().hex}", pure=False)


def _cancel(futures: list[Any]) -> None:
    for future in futures:
        future.cancel()


def _wait(futures: list[Any]) -> None:
    """Wait for tasks on a cluster: a running one cannot be stopped, and writes where all will be removed."""
    if futures:
        import distributed

        with suppress(TimeoutError):
            distributed.wait(futures, timeout=_GIVE_UP_S)


def _cores() -> int:
    if hasattr(os, "sched_getaffinity"):  # fewer than the machine has, in a container
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def scratch_prefix(pid: int) -> str:
    """Return how the names of a process's scratch directories begin."""
    host = "".join(c for c in socket.gethostname() if c.isalnum())
    return f".ingest-{host}-{pid}-"


@contextmanager
def open_scratch(parent: Path) -> Iterator[Path]:
    """Yield an empty directory in `parent`, removed at the end; also remove what killed processes left."""
    for left in parent.glob(scratch_prefix(0).replace("-0-", "-*")):
        pid = left.name.removeprefix(scratch_prefix(0).removesuffix("0-")).split("-")[0]
        if pid.isdigit() and not _is_alive(int(pid)):
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=scratch_prefix(os.getpid()), dir=parent) as scratch:
        yield Path(scratch)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
