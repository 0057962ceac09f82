"""Push to and pull from several servers at once, each of which holds a slice of the vector."""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Self

from dnnflow.parallel.channel.actor_channel import Channel
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.server.messages import Push
from dnnflow.parallel.spec.algorithm import PushKind


@dataclass(slots=True)
class MergedReply:
    """What all servers replied to one push."""

    staleness: int
    """The largest of all servers'."""
    samples: int


class Shards:
    """Pushes to, and pulls from, all servers of a model at once. Not for two threads at a time.

    Parameters
    ----------
    clients, slices
        One of each a server; slices cover the vector.
    replica
        Who pushes.
    """

    def __init__(self, clients: Sequence[Channel], slices: Sequence[slice], replica: int) -> None:
        self._clients, self._slices, self._replica = tuple(clients), tuple(slices), replica
        self._versions = [0] * len(self._clients)
        self._pool = ThreadPoolExecutor(len(clients), "dnnflow-shard") if len(clients) > 1 else None
        self._step = 0

    def join(self) -> None:
        """Take part, on every server."""
        self._step = max(client.join(self._replica) for client in self._clients)

    def leave(self) -> None:
        """Take part no longer."""
        for client in self._clients:
            client.leave(self._replica)

    def pull(self, out: Vector) -> None:
        """Write the weights to `out`."""

        def one(index: int) -> None:
            self._versions[index], _ = self._clients[index].pull(self._replica, out[self._slices[index]])

        self._on_each(one)

    @property
    def versions(self) -> tuple[int, ...]:
        """Of the weights that came last, one of each server."""
        return tuple(self._versions)

    def exchange(
        self, vector: Vector, count: int, kind: PushKind, out: Vector, versions: Sequence[int] | None = None
    ) -> MergedReply:
        """Push a vector that stands for `count` samples, and write what the servers reply to `out`.

        Parameters
        ----------
        versions
            Of the weights that the vector was computed from; those that came last without it.
        """
        answers = [MergedReply(0, 0)] * len(self._clients)
        versions = versions or self.versions

        def one(index: int) -> None:
            part = self._slices[index]
            push = Push(self._replica, self._step, versions[index], count, vector[part], kind)
            reply = self._clients[index].exchange(push, out[part])
            self._versions[index] = reply.version
            answers[index] = MergedReply(reply.staleness, reply.samples)

        self._on_each(one)
        self._step += 1
        return MergedReply(max(a.staleness for a in answers), max(a.samples for a in answers))

    def abort(self) -> None:
        """Let who waits for a server fail, and all that is asked from now on; any thread may."""
        for client in self._clients:
            client.abort()

    def close(self) -> None:
        """End the connections."""
        for client in self._clients:
            client.close()
        if self._pool is not None:
            self._pool.shutdown()

    def _on_each(self, work: Callable[[int], None]) -> None:
        """Do something with every server: with several in threads, which wait for them."""
        if self._pool is None:
            work(0)
        else:
            list(self._pool.map(work, range(len(self._clients))))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
