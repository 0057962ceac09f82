"""Train on the workers of a Dask cluster.

The driver places packs itself, at most two on a worker: Dask counts every task assigned to a worker that
dies as suspicious and gives up on it after three times, and it assigns all tasks with a resource at once, so
that one crashing design would take everything in flight along. Dask's own retries and stealing are not used.
"""

import asyncio
import pickle
import secrets
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, wait
from concurrent.futures import Future as ThreadFuture
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from queue import Empty, SimpleQueue
from typing import Any

from distributed import Client, Future, KilledWorker
from distributed.scheduler import NoValidWorkerError

from dnnflow.design.layers import Design
from dnnflow.engines.records import Outcome, Portion, Trial, TrialError, TrialState
from dnnflow.engines.seam import StudyContext
from dnnflow.errors import ClusterError, DnnflowError
from dnnflow.events import Compiling, Listener, Notice, WorkerLost, WorkerRecycled, ignore
from dnnflow.execute.callers import own_worker
from dnnflow.execute.cluster import own_cluster, respawn, workers_of
from dnnflow.execute.control import Control
from dnnflow.execute.executor import never
from dnnflow.execute.packs import Backlog, Load, PackLimits
from dnnflow.execute.slots import Slot, Slots, WorkerFacts, require_device
from dnnflow.execute.task import TOPIC, TaskInput, TaskNews, TaskResult, run_task, stop_run

POLL_S = 0.5
"""How often the scheduler is asked who works."""
SCHEDULER_SILENCE_S = 20.0
"""How long the scheduler may not answer before the run ends."""
BUSY_S = 30.0
"""How long all workers may be held by tasks of others before that is told."""
RESTART_S = 30.0
"""How long a worker process may take to end."""
GO_ON = "run the same command: what has been stored is not trained again"


@dataclass(frozen=True)
class DaskOptions:
    """How a Dask executor behaves; the defaults fit."""

    packs: PackLimits = field(default_factory=PackLimits)
    resident_limit_bytes: int | None = None
    """Restart a worker between packs when it holds more; None for 60 % of its memory limit, or 2 GB more than
    after its first pack where it has no limit."""
    wait_for_workers_s: float | None = None
    """How long a run goes on without any usable worker; None for 120 s on a cluster of this process, 300 s on
    another."""


class DaskExecutor:
    """Trains designs on a Dask cluster; the client stays the caller's."""

    def __init__(self, client: Client, options: DaskOptions | None = None) -> None:
        self._client = client
        self._options = options or DaskOptions()

    @property
    def slots(self) -> int:
        """Workers of the cluster now."""
        return len(workers_of(self._client))

    @property
    def client(self) -> Client:
        """The client that was given."""
        return self._client

    @property
    def dashboard(self) -> str | None:
        """URL of the Dask dashboard."""
        return self._client.dashboard_link or None

    def train(self, portions: Sequence[Portion], study: StudyContext, *,
              keep_above: Callable[[], float] = never, control: Control | None = None,
              listener: Listener = ignore) -> Generator[list[Outcome], None, None]:  # fmt: skip
        """Train on the cluster's workers; `ClusterError` also when its scheduler has gone."""
        run = _Run(self._client, self._options, portions, study, keep_above=keep_above,
                   control=control or Control(), listener=listener)  # fmt: skip
        try:
            yield from run.outcomes()
        finally:
            run.close()


Handler = Callable[[], list[Outcome]]


class _Run:
    """One call of `DaskExecutor.train`.

    All state belongs to the thread that iterates. Dask's event loop only puts handlers into the inbox.
    """

    def __init__(self, client: Client, options: DaskOptions, portions: Sequence[Portion],
                 study: StudyContext, *, keep_above: Callable[[], float], control: Control,
                 listener: Listener) -> None:  # fmt: skip
        self._client = client
        self._options = options
        self._study = study
        self._keep_above = keep_above
        self._control = control
        self._listener = listener
        self._name = secrets.token_hex(8)
        self._backlog = Backlog(portions, options.packs)
        self._slots = Slots(study.device)
        self._inbox: SimpleQueue[Handler] = SimpleQueue()
        self._futures: dict[int, Future[bytes]] = {}
        self._submitted = 0
        self._restarts: list[ThreadFuture[None]] = []
        self._watch: ThreadFuture[None] | None = None
        self._own_worker = own_worker()
        """Of the task in which this is called."""
        self._answered_s = self._worked_s = self._free_s = time.monotonic()
        self._last_error: BaseException | None = None
        self._noticed: set[str] = set()

    def outcomes(self) -> Iterator[list[Outcome]]:
        """Yield outcomes until no design is unfinished, or the control ends the run."""
        if not self._backlog.unfinished:
            return
        self._client.subscribe_topic(TOPIC, self._on_event)
        self._watch = self._on_loop(self._watch_workers())
        while self._backlog.unfinished:
            if fresh := self._receive():
                handed_s = time.monotonic()
                yield fresh
                self._excuse(time.monotonic() - handed_s)
            if self._control.may_begin:
                self._hand_out()
            elif self._control.must_end or not self._futures:
                return

    def _excuse(self, seconds: float) -> None:
        """Leave the time out that who iterates took: nothing was looked at meanwhile, such as results."""
        for slot in self._slots.by_address.values():
            slot.head_since_s += seconds
        self._answered_s += seconds
        self._worked_s += seconds
        self._free_s += seconds

    def close(self) -> None:
        """Cancel what is in flight and leave nothing running."""
        if self._watch is not None:
            self._watch.cancel()
            self._client.unsubscribe_topic(TOPIC)
        busy = [slot.worker.address for slot in self._slots.by_address.values() if slot.loads]
        futures = list(self._futures.values())
        self._futures.clear()
        # The run is over: what cannot be told to a scheduler or worker that is gone needs no answer.
        with suppress(OSError, RuntimeError, TimeoutError, ValueError):
            if futures:
                self._client.cancel(futures, force=True)
            if busy:
                self._client.run(stop_run, self._name, workers=busy, on_error="ignore", callback_timeout=5)
        # A worker that hangs must not go on after the run.
        wait(self._restarts, timeout=RESTART_S)

    # What Dask's event loop does: put handlers into the inbox.

    def _on_loop(self, coroutine: Any) -> "ThreadFuture[None]":
        return asyncio.run_coroutine_threadsafe(coroutine, self._client.loop.asyncio_loop)

    def _on_event(self, event: tuple[float, bytes]) -> None:
        self._inbox.put(partial(self._handle_event, event[1]))

    async def _watch_workers(self) -> None:
        while True:
            try:
                identity = await asyncio.wait_for(self._client.scheduler.identity(n_workers=-1), 10.0)
            except Exception as error:  # whatever a closing client raises, it means the same
                self._inbox.put(partial(self._handle_silence, error))
            else:
                self._inbox.put(partial(self._handle_workers, identity["workers"]))
            await asyncio.sleep(POLL_S)

    async def _collect(self, number: int, future: "Future[bytes]") -> None:
        try:
            result = await self._client.gather(future, asynchronous=True)
        except (asyncio.CancelledError, CancelledError):
            self._inbox.put(partial(self._handle_returned, number))
        except Exception as error:  # anything a task may raise
            self._inbox.put(partial(self._handle_error, number, error))
        else:
            self._inbox.put(partial(self._handle_result, number, result))

    async def _replace(self, slot: Slot) -> None:
        """Kill a worker process, whose nanny starts another one."""
        try:
            await self._client.scheduler.restart_workers(
                workers=[slot.worker.address], timeout=RESTART_S, wait_for_workers=False,
                stimulus_id=f"dnnflow-restart-{self._name}",
            )  # fmt: skip
        except Exception as error:  # the worker or the scheduler went meanwhile: the next look tells
            self._inbox.put(partial(self._handle_failed_restart, slot, error))

    # What the iterating thread does.

    def _receive(self) -> list[Outcome]:
        """Wait for something to happen and return the outcomes it and its followers brought."""
        fresh: list[Outcome] = []
        with suppress(Empty):
            fresh += self._inbox.get(timeout=SCHEDULER_SILENCE_S)()
            for _ in range(100):
                fresh += self._inbox.get_nowait()()
        return fresh

    def _hand_out(self) -> None:
        """Give every worker as much as it should have in hand, one load each before any has a second."""
        assigned = True
        while assigned:
            assigned = False
            for slot in self._slots.open_slots(suspects_wait=self._backlog.suspected):
                load = None if slot.loads else self._backlog.take_suspect()
                load = load or self._backlog.take(len(self._slots.usable()))
                if load is not None:
                    self._submit(slot, load)
                    assigned = True

    def _submit(self, slot: Slot, load: Load) -> None:
        self._submitted += 1
        number, device = self._submitted, self._slots.device_of(slot)
        given = TaskInput(self._name, load.pack(self._keep_above()), self._study, device, time.time())
        future = self._client.submit(
            run_task,
            pickle.dumps(given, pickle.HIGHEST_PROTOCOL),
            key=(f"train-{self._name}", number),
            workers=[slot.worker.address],
            allow_other_workers=False,
            resources={"GPU": 1} if device == "gpu" else None,
            retries=0,
            pure=False,
        )
        slot.assign(number, load, time.monotonic())
        self._futures[number] = future
        self._on_loop(self._collect(number, future))

    def _handle_event(self, payload: bytes) -> list[Outcome]:
        news = TaskNews.unpack(payload)
        if news.run != self._name:
            return []
        slot = self._slots.by_address.get(news.worker)
        if slot is not None:
            slot.has_begun = True
        if slot is not None and slot.is_compiling is not news.is_compiling:
            self._set_compiling(slot, news.is_compiling)
        return self._new(news.outcomes)

    def _set_compiling(self, slot: Slot, is_compiling: bool) -> None:
        slot.is_compiling, slot.head_since_s = is_compiling, time.monotonic()
        self._listener(Compiling(sum(one.is_compiling for one in self._slots.by_address.values())))

    def _handle_result(self, number: int, result_bytes: bytes) -> list[Outcome]:
        result: TaskResult = pickle.loads(result_bytes)
        slot, load = self._take_back(number)
        if slot is not None and load is not None:
            self._backlog.observe(load, result.seconds_s)
            self._weigh(slot, result.resident_bytes)
        return self._new(result.outcomes)

    def _handle_returned(self, number: int) -> list[Outcome]:
        """Somebody else cancelled the task, or its worker went before it began."""
        _, load = self._take_back(number)
        if load is not None:
            self._backlog.give_back(load)
        return []

    def _handle_error(self, number: int, error: BaseException) -> list[Outcome]:
        if isinstance(error, NoValidWorkerError):
            return self._handle_returned(number)
        slot, load = self._take_back(number)
        if slot is None or load is None:
            return []
        if isinstance(error, KilledWorker):
            return self._lose(load, slot)
        # No trial raises: this worker lacks the dataset, a module, or more.
        self._backlog.give_back(load)
        self._last_error = error
        slot.unusable = f"{type(error).__name__}: {error}"
        self._notice(f"worker {slot.worker.address} cannot do the job and gets no more: {slot.unusable}")
        return self._require_workers()

    def _handle_silence(self, error: Exception) -> list[Outcome]:
        if time.monotonic() - self._answered_s > SCHEDULER_SILENCE_S:
            raise ClusterError(
                f"a run needs its scheduler, got no answer for {SCHEDULER_SILENCE_S:.0f} s ({error}); "
                f"start it again and {GO_ON}"
            ) from error
        return []

    def _handle_workers(self, identities: Mapping[str, Mapping[str, Any]]) -> list[Outcome]:
        workers = {address: WorkerFacts.from_identity(address, item) for address, item in identities.items()}
        self._answered_s = time.monotonic()
        if not self._slots.by_address:
            require_device(self._study.device, workers)
        lost = [outcome for slot in self._slots.update(workers) for outcome in self._empty(slot)]
        for slot in list(self._slots.by_address.values()):
            if slot.hangs(self._answered_s, self._study.settings.time_limit_s):
                lost += self._interrupt(slot)
            self._advise(slot)
        respawn(self._client)
        return lost + self._require_workers()

    def _require_workers(self) -> list[Outcome]:
        """End the run when nobody can or will work for it."""
        now = time.monotonic()
        if self._slots.usable():
            self._worked_s = now
            self._require_room(now)
        elif isinstance(self._last_error, DnnflowError):
            raise self._last_error
        elif self._slots.by_address:
            reasons = "; ".join(sorted({slot.unusable for slot in self._slots.by_address.values()}))
            raise ClusterError(f"a run needs a worker that can do it, got: {reasons}") from self._last_error
        wait_s = self._wait_s
        if now - self._worked_s > wait_s:
            kind = "worker with a GPU" if self._study.device == "gpu" else "worker"
            address = self._client.scheduler.address
            raise ClusterError(
                f"a run needs at least one {kind}, got none for {wait_s:.0f} s; start one "
                f"(dask worker {address} --nthreads 1 --preload dnnflow.execute.worker) and {GO_ON}"
            )
        return []

    @property
    def _wait_s(self) -> float:
        return self._options.wait_for_workers_s or (120.0 if own_cluster(self._client) else 300.0)

    def _require_room(self, now_s: float) -> None:
        """End a run whose workers are all taken by tasks of others, the one that waits for it among them."""
        waiting = [slot for slot in self._slots.usable() if slot.loads]
        if not waiting or any(slot.has_begun for slot in waiting):
            self._free_s = now_s
        elif now_s - self._free_s > self._wait_s:
            raise ClusterError(
                f"a run needs a worker that is free, got {len(waiting)} that other tasks have held for "
                f"{self._wait_s:.0f} s; end them or add workers (in a task, call dnnflow in its own thread), "
                f"and {GO_ON}"
            )
        elif now_s - self._free_s > BUSY_S:
            self._notice("all workers are held by other tasks, until one of which ends designs wait")

    def _new(self, outcomes: Sequence[Outcome]) -> list[Outcome]:
        return [outcome for outcome in outcomes if self._backlog.finish(outcome.trial.design_id)]

    def _take_back(self, number: int) -> tuple[Slot | None, Load | None]:
        self._futures.pop(number, None)
        slot = self._slots.holder(number)
        if slot is not None and slot.is_compiling:  # nobody says so any more once the task has ended
            self._set_compiling(slot, False)
        return slot, slot.release(number, time.monotonic()) if slot is not None else None

    def _empty(self, slot: Slot) -> list[Outcome]:
        """Take everything back from a worker that has died."""
        if slot.is_compiling:
            self._set_compiling(slot, False)
        loads = dict(slot.loads)
        slot.loads.clear()
        futures = [self._futures.pop(number) for number in loads if number in self._futures]
        if not loads:
            return []
        self._client.cancel(futures, force=True)
        unfinished = sum(self._backlog.holds(design) for load in loads.values() for design in load.designs)
        self._listener(WorkerLost(slot.worker.address, unfinished))
        return [outcome for load in loads.values() for outcome in self._lose(load, slot)]

    def _lose(self, load: Load, slot: Slot) -> list[Outcome]:
        design = self._backlog.lose(load)
        if design is None:
            return []
        return self._new([self._lost(design, slot)])

    def _lost(self, design: Design, slot: Slot) -> Outcome:
        attempts = self._options.packs.attempts
        message = (
            f"a design must leave its worker alive, got {attempts} workers lost while they trained it alone; "
            "if they ran out of memory, give workers more or draw smaller designs"
        )
        trial = Trial(
            design_id=design.design_id,
            state=TrialState.LOST,
            engine=self._study.settings.engine,
            worker=slot.worker.address,
            device=self._slots.device_of(slot),
            error=TrialError("WorkerLost", message, ""),
        )
        return Outcome(trial)

    def _interrupt(self, slot: Slot) -> list[Outcome]:
        """Restart a worker whose designs do not end, and treat them as if they had killed it."""
        lost = self._empty(slot)
        if self._may_restart(slot):
            self._restart(slot)
        else:
            slot.unusable = f"its designs did not end and {self._why_kept(slot)}"
            self._notice(f"worker {slot.worker.address} gets no more designs: {slot.unusable}")
        return lost

    def _weigh(self, slot: Slot, resident_bytes: int) -> None:
        if not slot.weigh(resident_bytes, self._options.resident_limit_bytes):
            return
        if not self._may_restart(slot):
            self._notice(f"worker {slot.worker.address} has grown past its limit and {self._why_kept(slot)}")
            return
        slot.draining = True
        if not slot.loads:
            self._listener(WorkerRecycled(slot.worker.address, resident_bytes))
            self._restart(slot)

    def _may_restart(self, slot: Slot) -> bool:
        return slot.worker.nanny and slot.worker.address != self._own_worker

    def _why_kept(self, slot: Slot) -> str:
        if slot.worker.nanny:
            return "is not restarted, as the task that called this run is on it"
        return "has no nanny to restart it; start workers without --no-nanny"

    def _restart(self, slot: Slot) -> None:
        """Have a worker process replaced; the next look at the workers sees the new one."""
        slot.draining = True
        self._restarts = [restart for restart in self._restarts if not restart.done()]
        self._restarts.append(self._on_loop(self._replace(slot)))

    def _handle_failed_restart(self, slot: Slot, error: Exception) -> list[Outcome]:
        slot.unusable = f"it could not be restarted ({error})"
        return []

    def _advise(self, slot: Slot) -> None:
        address, threads = slot.worker.address, slot.worker.threads
        if threads > 1:
            self._notice(f"worker {address} has {threads} threads but trains one design at a time; "
                         f"start it with --nworkers {threads} --nthreads 1")  # fmt: skip

    def _notice(self, message: str) -> None:
        if message not in self._noticed:
            self._noticed.add(message)
            self._listener(Notice(message))
