"""Run a replica on its worker: batches in, pushes out, until no row is left."""

import pickle
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np

from dnnflow.errors import DataError, DivergedError
from dnnflow.parallel.channel.link import ChannelError
from dnnflow.parallel.model.batch_totals import BatchTotals
from dnnflow.parallel.replica.cores import PinnedCore
from dnnflow.parallel.replica.lookout import RETRY_S, CoordinatorClient, Generation, Lookout, answer_of
from dnnflow.parallel.replica.reporter import Reporter
from dnnflow.parallel.replica.shards import Shards
from dnnflow.parallel.rows.batches import Batch, Batches, Batching, leases_until_done
from dnnflow.parallel.rows.leases import Lease, lane_of, lane_rows
from dnnflow.parallel.rows.not_finite import find_not_finite
from dnnflow.parallel.spec.algorithm import Algorithm
from dnnflow.table.rows.source import RowSource

if TYPE_CHECKING:
    from dnnflow.parallel.model.model_spec import ModelSpec

BATCH_WAIT_S = 0.5
"""How long a replica waits for the next of K batches before it pushes what fewer have taught it."""


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
    wait_s: float = 300.0
    """How long servers that are gone are waited for."""


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


def run_replica(training: str, replica: int, peers: int, import_paths: tuple[str, ...]) -> int:
    """Train on a worker; return the samples trained on.

    It depends on no data of Dask's, which are lost with the worker that they lie on: what it needs it fetches
    from the coordinator. When servers or coordinator are lost it goes on with those that take their place.

    Parameters
    ----------
    training
        By which the scheduler knows where its servers are.
    replica, peers
        What of the `ReplicaConfig` of all replicas is this one's own.
    import_paths
        Where else modules are looked for.
    """
    from dnnflow.engines.process_setup import import_tensorflow, keep_freed_memory, limit_threads
    from dnnflow.engines.seam import make_importable

    make_importable(import_paths)
    limit_threads(1)
    keep_freed_memory()
    import_tensorflow()
    lookout = Lookout(training)
    generation, made = lookout.first(), None
    wait_s = RETRY_S
    while True:
        try:
            if made is None:
                # To load it imports Keras, which must first be told its threads, and the user's modules
                config = answer_of(generation.coordinator.parcel).load()
                made, wait_s = Replica(replace(config, replica=replica, peers=peers)), config.wait_s
            return _train(made, generation, lookout)
        except ChannelError as error:
            generation = lookout.next(generation, error, wait_s)


def _train(replica: "Replica", generation: Generation, lookout: Lookout) -> int:
    """Train with the servers of one generation."""
    from dnnflow.parallel.channel.actor_channel import open_channel

    config = replica.config
    algorithm, servers = config.algorithm, generation.servers_of(config.replica)
    channels = [open_channel(one, wire=algorithm.wire, reply_wire=algorithm.reply_wire) for one in servers]
    with (
        Shards(channels, config.parts, config.replica) as shards,
        lookout.watching(generation, shards.abort),
    ):
        lookout.went_well()
        return replica.run(
            shards, CoordinatorClient(generation.coordinator, config.replica),
            lambda: int(answer_of(lambda: servers[0].rows_of(config.replica))),
        )  # fmt: skip


class Replica:
    """One replica of a training.

    Attributes
    ----------
    config
        What it was given.
    """

    def __init__(self, config: ReplicaConfig) -> None:
        from dnnflow.parallel.model.gradient import GradientStep

        self.config = config
        model = config.model.build(config.replica)
        self._step = GradientStep(model, optimizer=config.algorithm.used_replica_optimizer)
        self._core = PinnedCore()
        self._samples = 0

    def run(self, shards: Shards, coordinator: CoordinatorClient, rows_done: Callable[[], int]) -> int:
        """Train until no row is left or the coordinator says stop; return the samples trained on.

        It may be called again, with other servers, when these are lost: what they had not told is forgotten.

        Parameters
        ----------
        rows_done
            Rows of this replica's lane that its server has applied, in all epochs; synchronous training only.
        """
        from dnnflow.parallel.replica.replica_rules import make_replica_rule

        config = self.config
        self._rule = make_replica_rule(self._step, config.algorithm, config.peers)
        self._reporter = Reporter(
            config.replica, coordinator, self._core.release_if_contended, timeline=config.timeline
        )
        self._pushed: tuple[BatchTotals, list[Batch]] | None = None  # and not known to be answered
        shards.join()
        with (
            Batches(config.source, self._leases(coordinator, rows_done), config.batching) as batches,
            self._reporter.reporting(),
            self._core,  # behind those that start threads, which run where they like
        ):
            shards.pull(self._rule.weights)
            try:
                while not self._reporter.stopped.is_set():
                    group = self._timed("data", lambda: self._next_group(batches, shards))
                    if not group:
                        break
                    self._learn(group, shards)
                self._await_push()
            finally:
                self._rule.close()
                shards.leave()
        return self._samples

    def _leases(self, coordinator: CoordinatorClient, rows_done: Callable[[], int]) -> Iterator[Lease | None]:
        config = self.config
        if not config.algorithm.synchronous:
            # Dask starts a task again by itself on a worker that has its old address
            coordinator.give_back()
            return leases_until_done(coordinator.take, coordinator.is_done)
        epoch, done = divmod(rows_done(), max(1, lane_rows(config.chunks, config.replicas, config.replica)))
        return lane_of(
            config.replica, config.chunks, config.replicas,
            seed=config.batching.seed, epochs=config.epochs, first_epoch=epoch, done=done,
        )  # fmt: skip

    def _next_batch(self, batches: Batches, shards: Shards) -> Batch | None:
        if self._pushed is not None:
            if (batch := batches.next_within(0)) is not None:
                return batch
            self._await_push()  # others may wait for the rows of this push, and this one for theirs
        if self.config.algorithm.staleness_bound is None:
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
        while found and len(found) < self.config.algorithm.sync_every:
            # Rows may be with others who wait for these: a lane is nobody else's
            batch = (
                next(batches, None)
                if self.config.algorithm.synchronous
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
        if self.config.algorithm.overlap:
            self._pushed = totals, group
        else:
            self._note(totals, group)

    def _diverged(self, loss: float, group: list[Batch]) -> DataError | DivergedError:
        row = find_not_finite(self.config.source, group, self.config.batching)
        if row is not None:
            return DataError(row)
        return DivergedError(
            f"the loss must stay finite, got {loss} in epoch {group[-1].epoch + 1} of replica "
            f"{self.config.replica}; lower the learning rate"
        )

    def _await_push(self) -> None:
        """Wait for a push that is on its way; only then what it stands for is trained on."""
        if self._pushed is not None:
            self._timed("exchange", self._rule.wait)
            pushed, self._pushed = self._pushed, None
            self._note(*pushed)

    def _note(self, totals: BatchTotals, group: list[Batch]) -> None:
        self._samples += totals.count
        self._reporter.note(totals, group)

    def _timed(self, name: str, work: Callable[[], Any]) -> Any:
        return self._reporter.timed(name, work)
