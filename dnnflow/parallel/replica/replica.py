"""What a replica does on its worker: batches in, pushes out, until no row is left."""

import math
import pickle
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np

from dnnflow.errors import ClusterError, DivergedError, TimeLimitError
from dnnflow.parallel.model.batch_totals import Tally, total
from dnnflow.parallel.replica.cores import OwnCore
from dnnflow.parallel.replica.shards import Shards
from dnnflow.parallel.rows.batches import Batch, Batches, Batching, asked
from dnnflow.parallel.rows.coordinator import Coordinator, Report, Span
from dnnflow.parallel.rows.leases import Lease, lane_of
from dnnflow.parallel.spec.algorithm import Algorithm
from dnnflow.table.rows.source import Source

if TYPE_CHECKING:
    from dnnflow.parallel.model.model_spec import ModelSpec

PATIENCE_S = 0.5
"""How long a replica waits for the next of K batches before it pushes what fewer have taught it."""
REPORT_S = 0.5
"""How often a replica says what it did, and hears whether it is to go on."""
ANSWER_S = 120.0
"""How long the coordinator may take to answer."""
LEASES_S = 0.5
"""How long the leases that a replica takes at once are to last: a call costs 2 ms of processor time."""


@dataclass(frozen=True, kw_only=True)
class Duty:
    """What one replica is asked to do."""

    replica: int
    replicas: int
    peers: int
    """Replicas that push to the same server, this one among them."""
    model: "ModelSpec"
    source: Source
    chunks: tuple[Any, ...]
    batching: Batching
    algorithm: Algorithm
    epochs: int
    parts: tuple[slice, ...]
    """What of the vector each server holds."""
    wait_s: float
    timeline: bool = False


@dataclass(frozen=True, eq=False)
class Parcel:
    """A pickled object whose arrays lie beside it.

    Unpickling may need what a process has not imported yet (Keras, a user's modules): only `open` does it.
    """

    data: bytes
    arrays: tuple[np.ndarray, ...]
    """Their bytes."""

    @classmethod
    def of(cls, thing: Any) -> "Parcel":
        """Pack an object; its arrays are not copied."""
        buffers: list[pickle.PickleBuffer] = []
        data = cloudpickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
        return cls(data, tuple(np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers))

    def open(self) -> Any:
        """Return the object; its arrays lie in the parcel's memory and may be read-only."""
        return pickle.loads(self.data, buffers=self.arrays)


def run_replica(
    parcel: Parcel, replica: int, peers: int, import_paths: tuple[str, ...], coordinator: Any, *servers: Any
) -> int:
    """Train on a worker; return the samples trained on.

    Parameters
    ----------
    parcel
        The `Duty` of all replicas: to unpack it imports Keras, which must first be told its threads, and the
        user's modules.
    replica, peers
        What of the duty is this replica's own.
    import_paths
        Where else modules are looked for.
    coordinator, servers
        Actors.
    """
    from dnnflow.engines.process_setup import import_tensorflow, keep_freed_memory, limit_threads
    from dnnflow.engines.seam import make_importable
    from dnnflow.parallel.channel.actor_channel import open_channel

    make_importable(import_paths)
    limit_threads(1)
    keep_freed_memory()
    import_tensorflow()
    duty: Duty = replace(parcel.open(), replica=replica, peers=peers)
    algorithm = duty.algorithm
    channels = [open_channel(one, wire=algorithm.wire, reply_wire=algorithm.reply_wire) for one in servers]
    with Shards(channels, duty.parts, duty.replica) as shards:
        return Replica(duty, Books(coordinator, duty.replica)).run(shards)


class Books:
    """The coordinator as one replica sees it, over Dask or in this process."""

    def __init__(self, coordinator: Coordinator | Any, replica: int) -> None:
        self._coordinator, self._replica = coordinator, replica
        self._ahead: deque[Lease] = deque()
        self._rows, self._asked_s = 1, -math.inf

    def take(self) -> Lease | None:
        """Lease rows: as many at once as lasted for a while before."""
        if not self._ahead:
            lasted_s, self._asked_s = time.monotonic() - self._asked_s, time.monotonic()
            self._rows = _lasting(self._rows, lasted_s)
            self._ahead.extend(_answer(self._coordinator.take(self._replica, self._rows)))
            self._rows = max(1, sum(lease.rows for lease in self._ahead))
        return self._ahead.popleft() if self._ahead else None

    def give_back(self) -> None:
        """Let go of what a former process of this replica held."""
        _answer(self._coordinator.give_back(self._replica))

    def is_done(self) -> bool:
        """Whether all is done."""
        return bool(_answer(self._coordinator.is_done()))

    def report(self, report: Report) -> bool:
        """Report, and hear whether to go on."""
        return bool(_answer(self._coordinator.report(report)))

    def position(self) -> tuple[int, int]:
        """Where the replica's lane goes on."""
        epoch, done = _answer(self._coordinator.position(self._replica))
        return epoch, done


def _lasting(rows: int, lasted_s: float) -> int:
    """Return how many rows to take, when that many lasted so long."""
    if lasted_s < LEASES_S:
        return 2 * rows
    return max(1, rows // 2) if lasted_s > 2 * LEASES_S else rows


def _answer(value: Any) -> Any:
    """Return what an actor's method gave, which is a future.

    Raises
    ------
    ChannelError
        When the coordinator's worker has gone.
    TimeLimitError
        When it does not answer in time.
    """
    if not hasattr(value, "result"):
        return value
    try:
        return value.result(timeout=ANSWER_S)
    except TimeoutError as error:
        raise TimeLimitError(
            f"the coordinator must answer within {ANSWER_S:.0f} s, got nothing; look at the server's worker"
        ) from error


@dataclass
class _Ledger:
    """What was done since the last report."""

    tallies: dict[int, list[Tally]] = field(default_factory=dict)
    """By epoch."""
    done: dict[Lease, int] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("compute", "exchange", "data"), 0.0)
    )
    pushes: int = 0


class Replica:
    """One replica of a training."""

    def __init__(self, duty: Duty, books: Books) -> None:
        from dnnflow.parallel.model.gradient import GradientStep
        from dnnflow.parallel.replica.moves import make_move

        self._duty, self._books = duty, books
        model = duty.model.build(duty.replica)
        self._step = GradientStep(model, optimizer=duty.algorithm.used_replica_optimizer)
        self._move = make_move(self._step, duty.algorithm, duty.peers)
        self._ledger, self._lock = _Ledger(), threading.Lock()
        self._stopped = threading.Event()
        self._core = OwnCore()
        self._samples = 0
        self._pushed: tuple[Tally, list[Batch]] | None = None  # and not known to be answered

    def run(self, shards: Shards) -> int:
        """Train until no row is left or the coordinator says stop; return the samples trained on."""
        with (
            Batches(self._duty.source, self._leases(), self._duty.batching) as batches,
            self._reporting(),
            self._core,  # behind those that start threads, which run where they like
        ):
            shards.join()
            shards.pull(self._move.weights)
            try:
                while not self._stopped.is_set():
                    group = self._timed("data", lambda: self._next_group(batches, shards))
                    if not group:
                        break
                    self._learn(group, shards)
                self._land()
            finally:
                self._move.close()
                shards.leave()
        return self._samples

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Report now and then meanwhile: also while rows are waited for, which others may have been lent."""
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(REPORT_S):
                self._report()
                self._core.look()

        thread = threading.Thread(target=report, name="dnnflow-report", daemon=True)
        thread.start()
        try:
            yield
        except (ClusterError, TimeLimitError, OSError):
            ended.set()  # who takes reports may be gone, and an answer would be waited for
            raise
        except BaseException:
            self._end_reporting(ended, thread)
            raise
        self._end_reporting(ended, thread)

    def _end_reporting(self, ended: threading.Event, thread: threading.Thread) -> None:
        """End the thread, and report what is left."""
        ended.set()
        thread.join()
        self._report()

    def _leases(self) -> Iterator[Lease | None]:
        duty = self._duty
        if not duty.algorithm.synchronous:
            self._books.give_back()  # Dask starts a task again by itself on a worker that has its old address
            return asked(self._books.take, self._books.is_done)
        epoch, done = self._books.position()
        return lane_of(
            duty.replica, duty.chunks, duty.replicas,
            seed=duty.batching.seed, epochs=duty.epochs, first_epoch=epoch, done=done,
        )  # fmt: skip

    def _first(self, batches: Batches, shards: Shards) -> Batch | None:
        """Return the next batch; None for the end."""
        if self._pushed is not None:
            if (batch := batches.within(0)) is not None:
                return batch
            self._land()  # others may wait for the rows of this push, and this one for theirs
        if self._duty.algorithm.staleness_bound is None:
            return next(batches, None)
        batch = batches.within(PATIENCE_S)
        if batch is not None:
            return batch
        shards.leave()  # who has the rows that this one waits for may be as far ahead of it as it likes
        batch = next(batches, None)
        if batch is not None:
            shards.join()
        return batch

    def _next_group(self, batches: Batches, shards: Shards) -> list[Batch]:
        """Return the batches up to the next push: K, or what is left."""
        found = [batch for batch in [self._first(batches, shards)] if batch is not None]
        while found and len(found) < self._duty.algorithm.sync_every:
            # Rows may be with others who wait for these: a lane is nobody else's
            batch = next(batches, None) if self._duty.algorithm.synchronous else batches.within(PATIENCE_S)
            if batch is None:
                break
            found.append(batch)
        return found

    def _learn(self, group: list[Batch], shards: Shards) -> None:
        """Learn from batches and push."""
        from dnnflow.parallel.replica.moves import as_batch

        tally = self._timed(
            "compute", lambda: self._move.compute([as_batch(batch.inputs, batch.targets) for batch in group])
        )
        if not np.isfinite(tally.loss):
            raise DivergedError(
                f"the loss must stay finite, got {tally.loss} in epoch {group[-1].epoch + 1} of replica "
                f"{self._duty.replica}; lower the learning rate"
            )
        self._land()
        self._timed("exchange", lambda: self._move.exchange(shards, tally.count))
        if self._duty.algorithm.overlap:
            self._pushed = tally, group
        else:
            self._note(tally, group)

    def _land(self) -> None:
        """Wait for a push that is on its way; only then what it stands for is trained on."""
        if self._pushed is not None:
            self._timed("exchange", self._move.land)
            pushed, self._pushed = self._pushed, None
            self._note(*pushed)

    def _note(self, tally: Tally, group: list[Batch]) -> None:
        """Enter what was learned and answered in the ledger."""
        self._samples += tally.count
        with self._lock:
            ledger = self._ledger
            ledger.tallies.setdefault(group[-1].epoch, []).append(tally)
            ledger.pushes += 1
            for batch in group:
                ledger.done.update(batch.done)

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        start_at, start = time.time(), time.perf_counter()
        found = work()
        seconds_s = time.perf_counter() - start
        with self._lock:
            self._ledger.seconds[name] += seconds_s
            if self._duty.timeline:
                self._ledger.spans.append(Span(name, start_at, seconds_s))
        return found

    def _report(self) -> None:
        import psutil

        from dnnflow.parallel.model.devices import gpu_bytes

        with self._lock:
            ledger, self._ledger = self._ledger, _Ledger()
        process = psutil.Process()
        times = process.cpu_times()
        going_on = self._books.report(
            Report(
                replica=self._duty.replica,
                tallies=tuple((epoch, total(found)) for epoch, found in ledger.tallies.items()),
                pushes=ledger.pushes, compute_s=ledger.seconds["compute"],
                exchange_s=ledger.seconds["exchange"], data_s=ledger.seconds["data"],
                resident_bytes=int(process.memory_info().rss), processor_s=times.user + times.system,
                gpu_bytes=gpu_bytes(),
                done=tuple(ledger.done.items()), spans=tuple(ledger.spans),
            )
        )  # fmt: skip
        if not going_on:
            self._stopped.set()
