"""Place a training's servers and coordinator on workers, and call them with a deadline."""

import time
from typing import TYPE_CHECKING, Any

import numpy as np
from distributed import Client, Future, KilledWorker

from dnnflow.errors import ClusterError, DnnflowError
from dnnflow.events import Listener, Notice
from dnnflow.execute.cluster import workers_of
from dnnflow.parallel.channel.server_actor import ServerActor
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.rows.coordinator import Coordinator
from dnnflow.parallel.server.messages import ServerStatistics
from dnnflow.parallel.spec.algorithm import Algorithm
from dnnflow.parallel.spec.train_options import TrainOptions

if TYPE_CHECKING:
    from dnnflow.parallel.model.model_spec import ModelSpec

ANSWER_S = 120.0
"""How long an actor may take to answer, or to be made."""
CHECK_S = 1.0
"""How often it is looked whether the worker is still there that is to make one."""


class PlacementError(ClusterError):
    """A worker that was chosen for an actor had gone before there was one."""


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
        self.coordinator: Any = None
        self.servers: list[Any] = []
        """Of a hierarchy the top one first."""

    def place(self, chunks: tuple[Any, ...], chunk_rows: int) -> None:
        """Make the actors, with the model's first weights.

        Raises
        ------
        PlacementError
            When a worker is lost meanwhile; others may be tried.
        ClusterError
            When a worker does not make its actor in time.
        """
        options, whole = self._options, self._spec.vector
        for (rule, part, replicas), address in zip(self._roles(), self._addresses, strict=True):
            weights = self.scatter(whole[part or slice(None)], address)
            self._submit(
                address, ServerActor, weights, rule, replicas=replicas, layout=self._spec.layout, shard=part,
                wait_s=options.wait_s,
            )  # fmt: skip
        self._submit(
            self._addresses[0], Coordinator, chunks, seed=options.seed, epochs=options.epochs,
            lanes=self._n_replicas if options.algorithm.synchronous else 0, readers=self._n_replicas,
            chunk_rows=chunk_rows,
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
        raise self.lost_error(
            f"none from {address} within {ANSWER_S:.0f} s; look what keeps that worker busy"
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

    def servers_of(self, replica: int) -> list[Any]:
        """Return the servers that a replica pushes to."""
        groups = self._options.groups
        return self.servers if groups == 1 else [self.servers[1 + replica % groups]]

    def begin_groups(self) -> None:
        """Let the servers of a hierarchy pass on to the top one what they learn."""
        for group, server in enumerate(self.servers[1:] if self._options.groups > 1 else ()):
            self.call(server, "begin_uplink", self.servers[0], group, self._options.group_every)

    def join(self) -> None:
        """Let all replicas take part before the first of them comes, which else would make rounds alone."""
        for replica in range(self._n_replicas):
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

    def snapshot(self) -> tuple[list[dict[str, Any]], dict[str, Any]]:
        """Return the state of servers and coordinator."""
        # The coordinator first: rows trained on since are trained on again, and none is left out
        coordinator = self.call(self.coordinator, "snapshot")
        return [self.call(server, "snapshot") for server in self.servers], coordinator

    def restore(self, servers: list[dict[str, Any]], coordinator: dict[str, Any]) -> None:
        """Set the state that `snapshot` returned.

        Raises
        ------
        ClusterError
            For another number of servers.
        InputError
            For another model, or other rows.
        """
        if len(servers) != len(self.servers):
            raise ClusterError(
                f"a training goes on with as many servers as it began with, got {len(self.servers)} after "
                f"{len(servers)}; set servers={len(servers)}"
            )
        for server, snapshot in zip(self.servers, servers, strict=True):
            self.call(server, "restore", snapshot)
        self.call(self.coordinator, "restore", coordinator)

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
        return tuple(self.call(server, "statistics") for server in self.servers)

    def call(self, actor: Any, method: str, *arguments: Any) -> Any:
        """Call an actor and wait for its answer; of one that is known to be gone even its methods are."""
        try:
            return getattr(actor, method)(*arguments).result(timeout=ANSWER_S)
        except DnnflowError:
            raise
        except TimeoutError as error:
            raise self.lost_error(f"no answer to {method} within {ANSWER_S:.0f} s") from error
        except (OSError, RuntimeError) as error:
            raise self.lost_error(f"no answer to {method} ({error})") from error

    def lost_error(self, what: str) -> ClusterError:
        """Return the error that says so."""
        remedy = " with restore" if self._options.checkpoint else ", and set a checkpoint to go on from"
        return ClusterError(f"a training needs its servers, got {what}; run it again{remedy}")

    def stop(self, listener: Listener) -> None:
        """Leave none on the cluster."""
        for server in self.servers:
            try:
                server.stop().result(timeout=10)
            except (OSError, RuntimeError, TimeoutError) as error:  # its worker has gone, and it with it
                listener(Notice(f"a server could not be stopped: {error}"))
        for actor in self._futures:  # an error's traceback may keep this object, and them by it
            actor.cancel(force=True)
