"""Place a training's servers and coordinator on workers, and call them with a deadline."""

import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from distributed import Client, Future, KilledWorker

from dnnflow.errors import ClusterError, DnnflowError
from dnnflow.events import Listener, Notice, ignore
from dnnflow.execute.cluster import workers_of
from dnnflow.parallel.channel.link import ChannelError
from dnnflow.parallel.channel.server_actor import ServerActor
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.replica.lookout import Generation
from dnnflow.parallel.rows.coordinator import Coordinator, Report
from dnnflow.parallel.rows.leases import lane_rows
from dnnflow.parallel.server.messages import ServerStatistics
from dnnflow.parallel.spec.algorithm import Algorithm
from dnnflow.parallel.spec.train_options import TrainOptions

if TYPE_CHECKING:
    from dnnflow.parallel.model.model_spec import ModelSpec

ANSWER_S = 120.0
"""How long an actor may take to answer, or to be made."""
CHECK_S = 1.0
"""How often it is looked whether the worker is still there that is to make one."""


HANG_S = 60.0
"""How long a server may take to say how far it is, which it is asked every second."""
STOP_S = 2.0
"""How long servers are waited for that are told to stop."""
CUTS = 5
"""How often synchronous shards are asked for their states until these are of one update."""


class PlacementError(ClusterError):
    """A worker that was chosen for an actor had gone before there was one."""


class ActorLostError(ClusterError):
    """A server or the coordinator was lost with its worker, or does not answer."""


@dataclass(frozen=True)
class TrainingState:
    """Everything that a training's actors hold: what is trained goes on from it."""

    servers: Sequence[Mapping[str, Any]]
    """Snapshots, of each server."""
    coordinator: Mapping[str, Any]
    taken_s: float = 0.0
    """When, of the monotonic clock."""

    @property
    def version(self) -> int:
        """Updates that the first server had applied."""
        return int(self.servers[0]["version"])

    @property
    def nbytes(self) -> int:
        """Bytes of weights and slots."""
        return sum(getattr(value, "nbytes", 0) for server in self.servers for value in server.values())


class TrainingActors:
    """Servers and coordinator of one training.

    Parameters
    ----------
    client
        Must be the current one when a method is called: an actor's proxy takes it at its first use.
    addresses
        Worker of each server; the coordinator is with the first.
    replicas
        How many there are.
    """

    def __init__(
        self, client: Client, spec: "ModelSpec", options: TrainOptions, addresses: tuple[str, ...],
        replicas: int,
    ) -> None:  # fmt: skip
        self._client, self._spec, self._options, self._addresses = client, spec, options, addresses
        self._n_replicas = replicas
        self.parts = spec.layout.cut(options.servers)
        """What of the vector each server holds."""
        self._futures: list[Future[Any]] = []
        self._chunks: tuple[Any, ...] = ()
        self.coordinator: Any = None
        self.servers: list[Any] = []
        """Of a hierarchy the top one first."""

    def place(self, chunks: tuple[Any, ...], chunk_rows: int, parcel: Any) -> None:
        """Make the actors, with the model's first weights.

        Parameters
        ----------
        parcel
            What replicas are given, who fetch it from the coordinator: no copy is counted on that Dask
            might drop, or lose with a worker.

        Raises
        ------
        PlacementError
            When a worker is lost meanwhile; others may be tried.
        ClusterError
            When a worker does not make its actor in time.
        """
        options, whole, self._chunks = self._options, self._spec.vector, chunks
        for (rule, part, replicas), address in zip(self._roles(), self._addresses, strict=True):
            weights = self.scatter(whole[part or slice(None)], address)
            self._submit(
                address, ServerActor, weights, rule, replicas=replicas, layout=self._spec.layout, shard=part,
                wait_s=options.wait_s,
            )  # fmt: skip
        self._submit(
            self._addresses[0], Coordinator, chunks, seed=options.seed, epochs=options.epochs,
            lanes=self._n_replicas if options.algorithm.synchronous else 0, readers=self._n_replicas,
            chunk_rows=chunk_rows, parcel=self.scatter(parcel, self._addresses[0]),
        )  # fmt: skip
        addresses = (*self._addresses, self._addresses[0])
        *self.servers, self.coordinator = map(self._await_actor, self._futures, addresses)
        for actor in (self.coordinator, *self.servers):  # here, as other threads have no current client
            self.call(actor, "snapshot" if actor is self.coordinator else "statistics")

    def scatter(self, thing: Any, address: str) -> "Future[Any]":
        """Put something into a worker's memory: in a task, Dask warns of it if it is large.

        Raises
        ------
        PlacementError
            When the worker is lost.
        """
        try:
            (found,) = self._client.scatter([thing], workers=[address], hash=False)
        except (OSError, KeyError, TimeoutError) as error:
            raise PlacementError(f"a worker must take data, got none at {address}: {error!r}") from error
        return found

    def _submit(self, address: str, kind: type, *arguments: Any, **more: Any) -> None:
        self._futures.append(
            self._client.submit(
                kind, *arguments, **more, actor=True, workers=[address], allow_other_workers=False, pure=False
            )
        )

    def _await_actor(self, future: "Future[Any]", address: str) -> Any:
        """Return an actor once it is there; a worker that is gone would be waited for without end."""
        deadline_s = time.monotonic() + ANSWER_S
        while time.monotonic() < deadline_s:
            try:
                return future.result(timeout=CHECK_S)
            except TimeoutError:
                if address not in workers_of(self._client):
                    raise PlacementError(f"an actor needs its worker, got {address} lost") from None
            except KilledWorker as error:
                raise PlacementError(f"an actor needs its worker, got {address} killed") from error
        raise PlacementError(
            f"a worker must make an actor within {ANSWER_S:.0f} s, got none from {address}; look what keeps "
            "it busy"
        )

    def _roles(self) -> list[tuple[Algorithm, slice | None, int]]:
        """Return each server's algorithm, its part of the vector, and how many push to it; the top first."""
        options, algorithm = self._options, self._options.algorithm
        if options.groups == 1:
            whole = len(self.parts) == 1
            return [(algorithm, None if whole else part, self._n_replicas) for part in self.parts]
        # A group counts as a replica that has taken m local steps
        top = Algorithm(sync_every=max(2, options.group_every))
        return [
            (top, None, options.groups),
            *((algorithm, None, self.group_size(group)) for group in range(options.groups)),
        ]

    def group_size(self, replica: int) -> int:
        """Return how many replicas a replica's group has."""
        return len(range(replica % self._options.groups, self._n_replicas, self._options.groups))

    def generation(self, number: int) -> Generation:
        """Return where replicas find the actors."""
        several = self._options.groups > 1
        groups = [(server,) for server in self.servers[1:]] if several else [tuple(self.servers)]
        return Generation(number, self.coordinator, tuple(groups))

    def servers_of(self, replica: int) -> tuple[Any, ...]:
        """Return the servers that a replica pushes to."""
        return self.generation(0).servers_of(replica)

    def begin_groups(self) -> None:
        """Let the servers of a hierarchy pass on to the top one what they learn."""
        for group, server in enumerate(self.servers[1:] if self._options.groups > 1 else ()):
            self.call(server, "begin_uplink", self.servers[0], group, self._options.group_every)

    def join(self, replicas: Iterable[int]) -> None:
        """Let replicas take part before the first of them comes, which else would make rounds alone."""
        for replica in replicas:
            for server in self.servers_of(replica):
                self.call(server, "join", replica)

    def release(self, replica: int) -> None:
        """Give a lost replica's rows to others; nobody waits for it then."""
        self.call(self.coordinator, "give_back", replica)
        for server in self.servers_of(replica):
            self.call(server, "leave", replica)

    def set_learning_rate(self, rate: float) -> None:
        """Set the rate of the servers that replicas push to."""
        for server in self.servers if self._options.groups == 1 else self.servers[1:]:
            self.call(server, "set_learning_rate", rate)

    def snapshot(self) -> TrainingState | None:
        """Return the state of servers and coordinator.

        None where synchronous shards were not found between two updates: then no state is of one update.
        """
        synchronous = self._options.algorithm.synchronous and self._options.groups == 1
        for _ in range(CUTS):
            began_s = time.monotonic()
            # What rows are done with first: those trained on since are trained on again, none is left out.
            # Of a hierarchy the top last: what groups pass on meanwhile they pass on again
            coordinator = self.call(self.coordinator, "snapshot")
            servers = [self.call(server, "snapshot") for server in reversed(self.servers)][::-1]
            if not synchronous or len({int(server["version"]) for server in servers}) == 1:
                return TrainingState(servers, coordinator, began_s)
        return None

    def restore(self, state: TrainingState) -> None:
        """Set the state that `snapshot` returned.

        Raises
        ------
        ClusterError
            For another number of servers.
        InputError
            For another model, or other rows.
        """
        if len(state.servers) != len(self.servers):
            raise ClusterError(
                f"a training goes on with as many servers as it began with, got {len(self.servers)} after "
                f"{len(state.servers)}; set servers={len(state.servers)}"
            )
        for server, snapshot in zip(self.servers, state.servers, strict=True):
            self.call(server, "restore", {"rows": self._rows_before(state.coordinator)} | dict(snapshot))
        self.call(self.coordinator, "restore", state.coordinator)

    def _rows_before(self, coordinator: Mapping[str, Any]) -> list[tuple[int, int]]:
        """Return the rows of lanes that are done with, of a checkpoint whose servers did not note them."""
        positions = coordinator.get("positions", ())
        return [
            (replica, epoch * lane_rows(self._chunks, self._n_replicas, replica) + done)
            for replica, epoch, done in positions
            if replica < self._n_replicas
        ]

    def pull(self) -> Vector:
        """Return the whole vector; of a hierarchy that of the top."""
        weights = np.empty(self._spec.layout.size, self._spec.layout.dtype)
        for server, part in zip(self.servers, self.parts, strict=False):
            weights[part] = self.call(server, "pull")[1]
        return weights

    def end_groups(self) -> None:
        """Let the groups of a hierarchy pass on what is left."""
        for server in self.servers[1:] if self._options.groups > 1 else ():
            self.call(server, "end_uplink")

    def finish(self) -> None:
        """Let servers set the weights that the training ends with, as moving averages of them."""
        for server in self.servers:
            self.call(server, "finish")

    def statistics(self) -> tuple[ServerStatistics, ...]:
        """Return what each server has done."""
        return tuple(self.call(server, "statistics", answer_s=HANG_S) for server in self.servers)

    def call(self, actor: Any, method: str, *arguments: Any, answer_s: float = ANSWER_S) -> Any:
        """Call an actor and wait for its answer; of one that is known to be gone even its methods are.

        Raises
        ------
        ActorLostError
            When its worker has gone, or it does not answer in time.
        DnnflowError
            What the method raises.
        """
        try:
            return getattr(actor, method)(*arguments).result(timeout=answer_s)
        except ChannelError as error:  # of a group's server to the one above
            raise ActorLostError(f"a server must reach the one above, got: {error}") from error
        except DnnflowError:
            raise
        except TimeoutError as error:
            raise ActorLostError(
                f"a server must answer within {answer_s:.0f} s, got nothing to {method}; look at its worker"
            ) from error
        except (OSError, RuntimeError) as error:
            raise ActorLostError(
                f"a training needs its servers, got no answer to {method} ({error})"
            ) from error

    def collect(self) -> list[Report]:
        """Return what replicas have reported since the last call."""
        found: list[Report] = self.call(self.coordinator, "collect", answer_s=HANG_S)
        return found

    def check(self) -> None:
        """Raise where an actor is known to be lost; nobody is asked.

        Raises
        ------
        ActorLostError
            When the scheduler has told so.
        """
        addresses = (*self._addresses, self._addresses[0])
        for future, address in zip(self._futures, addresses, strict=True):
            if future.status != "finished":
                raise ActorLostError(f"a training needs its servers, got worker {address} lost")

    def answers(self, actor: Any) -> bool:
        """Say whether an actor answers soon."""
        try:
            actor.statistics().result(timeout=STOP_S)
        except (OSError, RuntimeError, TimeoutError):
            return False
        return True

    def stop(self, listener: Listener) -> None:
        """Leave none on the cluster."""
        self.stop_servers(listener)
        self.forget()

    def stop_servers(self, listener: Listener = ignore) -> None:
        """Close the servers' connections; calls of actors are answered until `forget`."""
        stopping = []
        for server in self.servers:
            try:
                stopping.append(server.stop())
            except (OSError, RuntimeError) as error:  # its worker has gone, and it with it
                listener(Notice(f"a server could not be stopped: {error}"))
        deadline_s = time.monotonic() + STOP_S
        for one in stopping:
            try:
                one.result(timeout=max(0.1, deadline_s - time.monotonic()))
            except (OSError, RuntimeError, TimeoutError) as error:
                listener(Notice(f"a server could not be stopped: {error}"))

    def forget(self) -> None:
        """Let go of the actors, which end with it."""
        for actor in self._futures:  # an error's traceback may keep this object, and them by it
            actor.cancel(force=True)
