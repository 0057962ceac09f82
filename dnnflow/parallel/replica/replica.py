"""Run a replica on its worker: batches in, pushes out, until no row is left."""

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

from dnnflow.errors import ClusterError, DataError, DivergedError, TimeLimitError
from dnnflow.parallel.model.batch_totals import BatchTotals, total
from dnnflow.parallel.replica.cores import PinnedCore
from dnnflow.parallel.replica.shards import Shards
from dnnflow.parallel.rows.batches import Batch, Batches, Batching, leases_until_done
from dnnflow.parallel.rows.coordinator import Coordinator, Report, Span
from dnnflow.parallel.rows.leases import Lease, lane_of
from dnnflow.parallel.rows.not_finite import find_not_finite
from dnnflow.parallel.spec.algorithm import Algorithm
from dnnflow.table.rows.source import RowSource

if TYPE_CHECKING:
    from dnnflow.parallel.model.model_spec import ModelSpec

BATCH_WAIT_S = 0.5
"""How long a replica waits for the next of K batches before it pushes what fewer have taught it."""
REPORT_S = 0.5
"""How often a replica reports what it did, and learns whether it is to go on."""
ANSWER_S = 120.0
"""How long the coordinator may take to answer."""
LEASES_S = 0.5
"""How long the leases that a replica takes at once are to last: a call costs 2 ms of processor time."""


@dataclass(frozen=True, kw_only=True)
class ReplicaConfig:
    """Everything that a replica is given."""

    replica: int
    replicas: int
    peers: int
    """Replicas that push to the same server, this one among them."""
    model: "ModelSpec"
    source: RowSource
    chunks: tuple[Any, ...]
    batching: Batching
    algorithm: Algorithm
    epochs: int
    parts: tuple[slice, ...]
    """What of the vector each server holds."""
    timeline: bool = False


@dataclass(frozen=True, eq=False)
class Pickled:
    """A pickled object whose arrays lie beside it.

    Unpickling may need what a process has not imported yet (Keras, a user's modules): only `load` does it.
    """

    data: bytes
    arrays: tuple[np.ndarray, ...]
    """Their bytes."""

    @classmethod
    def of(cls, thing: Any) -> "Pickled":
        """Pack an object; its arrays are not copied."""
        buffers: list[pickle.PickleBuffer] = []
        data = cloudpickle.dumps(thing, protocol=5, buffer_callback=buffers.append)
        return cls(data, tuple(np.frombuffer(buffer.raw(), np.uint8) for buffer in buffers))

    def load(self) -> Any:
        """Return the object; its arrays lie in its memory and may be read-only."""
        return pickle.loads(self.data, buffers=self.arrays)


def run_replica(
    pickled: Pickled, replica: int, peers: int, import_paths: tuple[str, ...], coordinator: Any, *servers: Any
) -> int:
    """Train on a worker; return the samples trained on.

    Parameters
    ----------
    pickled
        The `ReplicaConfig` of all replicas: to load it imports Keras, which must first be told its threads,
        and the user's modules.
    replica, peers
        What of it is this replica's own.
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
    config: ReplicaConfig = replace(pickled.load(), replica=replica, peers=peers)
    algorithm = config.algorithm
    channels = [open_channel(one, wire=algorithm.wire, reply_wire=algorithm.reply_wire) for one in servers]
    with Shards(channels, config.parts, config.replica) as shards:
        return Replica(config, CoordinatorClient(coordinator, config.replica)).run(shards)


class CoordinatorClient:
    """Asks the coordinator for one replica, over Dask or in this process."""

    def __init__(self, coordinator: Coordinator | Any, replica: int) -> None:
        self._coordinator, self._replica = coordinator, replica
        self._leased: deque[Lease] = deque()
        self._rows, self._asked_s = 1, -math.inf

    def take(self) -> Lease | None:
        """Lease rows: as many at once as lasted for a while before."""
        if not self._leased:
            lasted_s, self._asked_s = time.monotonic() - self._asked_s, time.monotonic()
            self._rows = _rows_to_lease(self._rows, lasted_s)
            self._leased.extend(_result(self._coordinator.take(self._replica, self._rows)))
            self._rows = max(1, sum(lease.rows for lease in self._leased))
        return self._leased.popleft() if self._leased else None

    def give_back(self) -> None:
        """Give back what a former process of this replica held."""
        _result(self._coordinator.give_back(self._replica))

    def is_done(self) -> bool:
        """Whether all is done."""
        return bool(_result(self._coordinator.is_done()))

    def report(self, report: Report) -> bool:
        """Report, and return whether to go on."""
        return bool(_result(self._coordinator.report(report)))

    def position(self) -> tuple[int, int]:
        """Return the epoch in which the replica's lane goes on, and its rows done there."""
        epoch, done = _result(self._coordinator.position(self._replica))
        return epoch, done


def _rows_to_lease(rows: int, lasted_s: float) -> int:
    """Return how many rows to lease at once, when so many lasted so long before."""
    if lasted_s < LEASES_S:
        return 2 * rows
    return max(1, rows // 2) if lasted_s > 2 * LEASES_S else rows


def _result(value: Any) -> Any:
    """Return the result of an actor's method, which is a future over Dask.

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
class _Unreported:
    tallies: dict[int, list[BatchTotals]] = field(default_factory=dict)
    """By epoch."""
    done: dict[Lease, int] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("compute", "exchange", "data"), 0.0)
    )
    pushes: int = 0


class Replica:
    """One replica of a training."""

    def __init__(self, config: ReplicaConfig, coordinator: CoordinatorClient) -> None:
        from dnnflow.parallel.model.gradient import GradientStep
        from dnnflow.parallel.replica.replica_rules import make_replica_rule

        self._config, self._coordinator = config, coordinator
        model = config.model.build(config.replica)
        self._step = GradientStep(model, optimizer=config.algorithm.used_replica_optimizer)
        self._rule = make_replica_rule(self._step, config.algorithm, config.peers)
        self._unreported, self._lock = _Unreported(), threading.Lock()
        self._stopped = threading.Event()
        self._core = PinnedCore()
        self._samples = 0
        self._pushed: tuple[BatchTotals, list[Batch]] | None = None  # and not known to be answered

    def run(self, shards: Shards) -> int:
        """Train until no row is left or the coordinator says stop; return the samples trained on."""
        with (
            Batches(self._config.source, self._leases(), self._config.batching) as batches,
            self._reporting(),
            self._core,  # behind those that start threads, which run where they like
        ):
            shards.join()
            shards.pull(self._rule.weights)
            try:
                while not self._stopped.is_set():
                    group = self._timed("data", lambda: self._next_group(batches, shards))
                    if not group:
                        break
                    self._learn(group, shards)
                self._await_push()
            finally:
                self._rule.close()
                shards.leave()
        return self._samples

    @contextmanager
    def _reporting(self) -> Iterator[None]:
        """Report now and then meanwhile: also while rows are waited for, which others may have been lent."""
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(REPORT_S):
                self._report()
                self._core.release_if_contended()

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
        ended.set()
        thread.join()
        self._report()

    def _leases(self) -> Iterator[Lease | None]:
        config = self._config
        if not config.algorithm.synchronous:
            # Dask starts a task again by itself on a worker that has its old address
            self._coordinator.give_back()
            return leases_until_done(self._coordinator.take, self._coordinator.is_done)
        epoch, done = self._coordinator.position()
        return lane_of(
            config.replica, config.chunks, config.replicas,
            seed=config.batching.seed, epochs=config.epochs, first_epoch=epoch, done=done,
        )  # fmt: skip

    def _next_batch(self, batches: Batches, shards: Shards) -> Batch | None:
        if self._pushed is not None:
            if (batch := batches.next_within(0)) is not None:
                return batch
            self._await_push()  # others may wait for the rows of this push, and this one for theirs
        if self._config.algorithm.staleness_bound is None:
            return next(batches, None)
        batch = batches.next_within(BATCH_WAIT_S)
        if batch is not None:
            return batch
        shards.leave()  # who has the rows that this one waits for may be as far ahead of it as it likes
        batch = next(batches, None)
        if batch is not None:
            shards.join()
        return batch

    def _next_group(self, batches: Batches, shards: Shards) -> list[Batch]:
        """Return the batches up to the next push: K, or what is left."""
        found = [batch for batch in [self._next_batch(batches, shards)] if batch is not None]
        while found and len(found) < self._config.algorithm.sync_every:
            # Rows may be with others who wait for these: a lane is nobody else's
            batch = (
                next(batches, None)
                if self._config.algorithm.synchronous
                else batches.next_within(BATCH_WAIT_S)
            )
            if batch is None:
                break
            found.append(batch)
        return found

    def _learn(self, group: list[Batch], shards: Shards) -> None:
        totals = self._timed("compute", lambda: self._rule.compute([batch.for_keras() for batch in group]))
        if not np.isfinite(totals.loss):
            raise self._diverged(totals.loss, group)
        self._await_push()
        self._timed("exchange", lambda: self._rule.exchange(shards, totals.count))
        if self._config.algorithm.overlap:
            self._pushed = totals, group
        else:
            self._note(totals, group)

    def _diverged(self, loss: float, group: list[Batch]) -> DataError | DivergedError:
        row = find_not_finite(self._config.source, group, self._config.batching)
        if row is not None:
            return DataError(row)
        return DivergedError(
            f"the loss must stay finite, got {loss} in epoch {group[-1].epoch + 1} of replica "
            f"{self._config.replica}; lower the learning rate"
        )

    def _await_push(self) -> None:
        """Wait for a push that is on its way; only then what it stands for is trained on."""
        if self._pushed is not None:
            self._timed("exchange", self._rule.wait)
            pushed, self._pushed = self._pushed, None
            self._note(*pushed)

    def _note(self, totals: BatchTotals, group: list[Batch]) -> None:
        self._samples += totals.count
        with self._lock:
            unreported = self._unreported
            unreported.tallies.setdefault(group[-1].epoch, []).append(totals)
            unreported.pushes += 1
            for batch in group:
                unreported.done.update(batch.done)

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        start_at, start = time.time(), time.perf_counter()
        found = work()
        seconds_s = time.perf_counter() - start
        with self._lock:
            self._unreported.seconds[name] += seconds_s
            if self._config.timeline:
                self._unreported.spans.append(Span(name, start_at, seconds_s))
        return found

    def _report(self) -> None:
        import psutil

        from dnnflow.parallel.model.devices import gpu_bytes

        with self._lock:
            unreported, self._unreported = self._unreported, _Unreported()
        process = psutil.Process()
        times = process.cpu_times()
        going_on = self._coordinator.report(
            Report(
                replica=self._config.replica,
                tallies=tuple((epoch, total(found)) for epoch, found in unreported.tallies.items()),
                pushes=unreported.pushes, compute_s=unreported.seconds["compute"],
                exchange_s=unreported.seconds["exchange"], data_s=unreported.seconds["data"],
                resident_bytes=int(process.memory_info().rss), processor_s=times.user + times.system,
                gpu_bytes=gpu_bytes(),
                done=tuple(unreported.done.items()), spans=tuple(unreported.spans),
            )
        )  # fmt: skip
        if not going_on:
            self._stopped.set()
