"""Do a Dask task of a study on its worker.

Arguments and results travel as bytes, so that the scheduler neither unpickles nor measures what it passes on.
"""

import pickle
import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from time import monotonic
from typing import Literal

from dnnflow.engines.records import Outcome, Pack
from dnnflow.engines.seam import StudyContext
from dnnflow.execute.control import Stopped, interrupt
from dnnflow.execute.executor import with_queue_s

TOPIC = "dnnflow-outcomes"
"""Dask event topic of outcomes that must not wait for the end of their pack.

One name for all runs: a scheduler keeps the last 1,000 events of every topic for good.
"""

MAX_EVENT_BYTES = 1_000_000
"""Outcomes with more weights than this wait for the end of their pack: events pass through the scheduler."""

SEND_S = 1.0
"""How long a finished outcome waits at most while its pack goes on."""


@dataclass(frozen=True)
class TaskInput:
    """What one task is asked to do."""

    run: str
    """Names the driver's run, for `stop_run` and the events."""
    pack: Pack
    study: StudyContext
    device: Literal["cpu", "gpu"]
    submitted_at: float
    """Unix time."""


@dataclass(frozen=True)
class TaskResult:
    """What one task hands back."""

    outcomes: tuple[Outcome, ...]
    """Those of the whole pack, also where they went ahead as events."""
    seconds_s: float
    """From the task's start to its end."""
    resident_bytes: int
    """Resident memory of the worker process after the pack."""


_one_at_a_time = threading.Lock()
_running_lock = threading.Lock()
_running: dict[int, str] = {}
"""Thread ident → run, of packs that are being trained in this process; guarded by `_running_lock`."""
_stopped: set[str] = set()


def run_task(given_bytes: bytes) -> bytes:
    """Train a pack on this worker; one at a time a process, since Keras' state is the process's."""
    from distributed import get_worker

    from dnnflow.execute.pack_run import run_pack, training_context

    given: TaskInput = pickle.loads(given_bytes)
    worker = get_worker()
    with _one_at_a_time:
        start = monotonic()
        _enter(given.run)
        try:
            worker.log_event(TOPIC, TaskNews(given.run, worker.address).pack())  # that it has begun
            with OutcomeSender(given, worker.address, worker.log_event) as sender:
                context = training_context(given.study, worker=worker.address, device=given.device,
                                      memory_bytes=worker.memory_manager.memory_limit)  # fmt: skip
                context = replace(context, compiling=sender.tell_compiling)
                sender.add(run_pack(given.pack, given.study, report=sender.add, flush_s=0.0, context=context))
        finally:
            _leave()
    result = TaskResult(tuple(sender.outcomes), monotonic() - start, resident_bytes())
    return pickle.dumps(result, pickle.HIGHEST_PROTOCOL)


@dataclass(frozen=True)
class TaskNews:
    """What a task tells while it goes on, and that it has begun."""

    run: str
    worker: str
    """Its address."""
    outcomes: tuple[Outcome, ...] = ()
    is_compiling: bool = False
    """Whether machine code or a graph is being made now."""

    def pack(self) -> bytes:
        """Return the payload of an event."""
        return zlib.compress(pickle.dumps(self, pickle.HIGHEST_PROTOCOL), 1)

    @classmethod
    def unpack(cls, payload: bytes) -> "TaskNews":
        """Read an event's payload."""
        news: TaskNews = pickle.loads(zlib.decompress(payload))
        return news


class OutcomeSender:
    """Sends finished outcomes ahead once a second while their pack goes on, and says when it compiles.

    A design may take hours and its worker may die: those before it in its pack are then safe.
    """

    def __init__(self, given: TaskInput, worker: str, log_event: Callable[[str, bytes], None]) -> None:
        self._given = given
        self._worker = worker
        self._is_compiling = self._said_compiling = False
        self._log_event = log_event
        self._ended = threading.Event()
        self._sent = 0
        self.outcomes: list[Outcome] = []

    def __enter__(self) -> "OutcomeSender":
        threading.Thread(target=self._send_now_and_then, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()

    def add(self, outcomes: Sequence[Outcome]) -> None:
        """Take finished outcomes."""
        self.outcomes += [with_queue_s(outcome, self._given.submitted_at) for outcome in outcomes]

    def tell_compiling(self, is_compiling: bool) -> None:
        """Take note of compilation; one that is over within a second is not told."""
        self._is_compiling = is_compiling

    def _send_now_and_then(self) -> None:
        while not self._ended.wait(SEND_S):
            fresh = self.outcomes[self._sent :]
            self._sent += len(fresh)
            light = tuple(outcome for outcome in fresh if _n_bytes(outcome) <= MAX_EVENT_BYTES)
            is_compiling = self._is_compiling
            if light or is_compiling is not self._said_compiling:
                self._said_compiling = is_compiling
                news = TaskNews(self._given.run, self._worker, light, is_compiling)
                self._log_event(TOPIC, news.pack())


def stop_run(run: str) -> None:
    """Interrupt this process's packs of a run at the next Python instruction; called on the event loop."""
    with _running_lock:
        _stopped.add(run)
        for thread in [ident for ident, name in _running.items() if name == run]:
            interrupt(thread)


def resident_bytes() -> int:
    """Return the resident memory of this process."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def _n_bytes(outcome: Outcome) -> int:
    arrays = [*(outcome.weights or ()), *([] if outcome.predicted is None else [outcome.predicted])]
    return sum(array.nbytes for array in arrays)


def _enter(run: str) -> None:
    with _running_lock:
        if run in _stopped:
            raise Stopped
        _running[threading.get_ident()] = run


def _leave() -> None:
    with _running_lock:
        _running.pop(threading.get_ident(), None)
