"""A parameter server on a Dask worker: the actor that holds it, and the ways to it."""

import asyncio
import secrets
import ssl
import threading
import weakref
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, ParamSpec, Protocol, TypeVar

import numpy as np

from dnnflow.errors import DnnflowError, TimeLimitError
from dnnflow.parallel.channel.channel import ChannelServer
from dnnflow.parallel.channel.client import ANSWER_S, ChannelClient
from dnnflow.parallel.channel.handshake import Addresses, Terms
from dnnflow.parallel.channel.link import ChannelError
from dnnflow.parallel.channel.uplink import Uplink
from dnnflow.parallel.model.weights import FlatLayout, Vector
from dnnflow.parallel.server.messages import Push, Reply, ServerStatistics
from dnnflow.parallel.server.parameter_server import ParameterServer
from dnnflow.parallel.spec.algorithm import Algorithm

MOST_CALLS = 256
"""Calls that may wait in the server at a time, each in a thread; more of them queue."""
ADDRESS_S = 60.0
TOKEN_BYTES = 32

P = ParamSpec("P")
R = TypeVar("R")


class ServerActor:
    """Holds a parameter server and its channel in a worker's process.

    Made by `client.submit(ServerActor, weights, algorithm, actor=True)`; it lives as long as that future, and
    calls need `client.as_current()` where the client is not the default. Dask runs the plain methods of all
    actors of a worker in one thread: whatever may wait here is `async` and waits in a thread of its own.

    Parameters
    ----------
    weights, algorithm, replicas, layout, shard, wait_s
        Of `parallel.server.ParameterServer`.
    token
        Of the channel. Drawn here without it, which keeps it from Dask's pages and logs: they show what tasks
        are given.
    """

    def __init__(
        self,
        weights: Vector,
        algorithm: Algorithm,
        *,
        replicas: int = 1,
        layout: FlatLayout | None = None,
        shard: slice | None = None,
        wait_s: float = 300.0,
        token: bytes | None = None,
    ) -> None:
        self._server = ParameterServer(
            weights, algorithm, replicas=replicas, layout=layout, shard=shard, wait_s=wait_s
        )
        self._token = token or secrets.token_bytes(TOKEN_BYTES)
        host, tls, directory = _worker_offers()
        terms = Terms.of(weights, _statistics(weights, layout, shard))
        self._channel = ChannelServer(
            self._server, self._token, host, terms=terms, tls=tls, directory=directory
        )
        self._threads = ThreadPoolExecutor(MOST_CALLS, "dnnflow-server")
        self._uplink: Uplink | None = None
        # When the last future of the actor is dropped; in a thread, because Dask does that on its event loop
        weakref.finalize(self, _stop_aside, self._server, self._channel, self._threads).atexit = False

    def address(self) -> Addresses:
        """Return where the channel listens."""
        return self._channel.addresses

    def token(self) -> bytes:
        """Return what `ChannelClient` needs beside the addresses; whoever has it can push."""
        return self._token

    async def join(self, replica: int) -> int:
        """Let a replica take part, and return its first step."""
        return await self._aside(self._server.join, replica)

    async def leave(self, replica: int) -> None:
        """Let a replica go; nobody waits for it then."""
        await self._aside(self._server.leave, replica)

    async def pull(self, replica: int = -1) -> tuple[int, Vector]:
        """Return the version and a copy of the weights."""
        return await self._aside(self._server.pull, replica)

    async def exchange(self, push: Push) -> Reply:
        """Apply a push, and return what the replica goes on from: what the channel does, only slower."""
        return await self._aside(self._server.exchange, push)

    async def snapshot(self) -> dict[str, Any]:
        """Return the server's whole state."""
        return await self._aside(self._server.snapshot)

    async def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Set the state that `snapshot` returned; replicas join again then."""
        await self._aside(self._server.restore, snapshot)

    async def statistics(self) -> ServerStatistics:
        """Return what the server has done so far."""
        return await self._aside(self._server.statistics)

    async def move(self, start: Vector, target: Vector) -> None:
        """Take over what a server above has replied; see `ParameterServer.move`."""
        await self._aside(self._server.move, start, target)

    async def climb(self, above: Any, group: int, every: int) -> None:
        """Pass on to another server's actor, every so many updates, what this one has learned."""
        channel = await asyncio.to_thread(open_channel, above)
        self._uplink = await self._aside(Uplink, self._server, channel, group, every)

    async def end_climb(self) -> None:
        """Pass on what is left, and raise what has gone wrong with it."""
        if self._uplink is not None:
            uplink, self._uplink = self._uplink, None
            await self._aside(uplink.end)

    async def set_learning_rate(self, rate: float) -> None:
        """Set the rate that schedule and damping go on from."""
        await self._aside(self._server.set_learning_rate, rate)

    async def stop(self) -> None:
        """Close the channel and let all replicas go that wait; a second call does nothing."""
        await asyncio.to_thread(_stop, self._server, self._channel, self._threads)

    async def _aside(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Call in a thread, so that neither the actors' thread nor the event loop waits."""
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(self._threads, lambda: function(*args, **kwargs))


class Channel(Protocol):
    """What a replica needs of its way to a server; see `ChannelClient` for the methods."""

    def join(self, replica: int) -> int: ...

    def leave(self, replica: int) -> None: ...

    def pull(self, replica: int = -1, out: Vector | None = None) -> tuple[int, Vector]: ...

    def exchange(self, push: Push, out: Vector | None = None) -> Reply: ...

    def close(self) -> None: ...


class ActorChannel:
    """The way to a server by plain calls of its actor: slower, but there wherever Dask is.

    Vectors travel as they are, whatever wire is asked for.
    """

    def __init__(self, actor: Any, *, answer_s: float = ANSWER_S) -> None:
        self._actor, self._answer_s = actor, answer_s

    def join(self, replica: int) -> int:
        """Take part, and return the replica's first step."""
        return int(self.call("join", replica))

    def leave(self, replica: int) -> None:
        """Take part no longer. Nothing else ends it: a call has no connection that could break."""
        self.call("leave", replica)

    def pull(self, replica: int = -1, out: Vector | None = None) -> tuple[int, Vector]:
        """Return the version and the weights."""
        version, weights = self.call("pull", replica)
        return version, _into(out, weights)

    def exchange(self, push: Push, out: Vector | None = None) -> Reply:
        """Push, and return the weights to go on from; see `ChannelClient.exchange`."""
        reply: Reply = self.call("exchange", push)
        reply.vector = _into(out, reply.vector)
        return reply

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def call(self, method: str, *arguments: Any) -> Any:
        """Return what a method of the actor gives.

        Raises
        ------
        ChannelError
            When its worker has gone.
        TimeLimitError
            When it does not answer in time.
        """
        try:
            return getattr(self._actor, method)(*arguments).result(timeout=self._answer_s)
        except DnnflowError:
            raise
        except TimeoutError as error:
            raise TimeLimitError(f"a server must answer within {self._answer_s:g} s, got nothing") from error
        except (OSError, RuntimeError) as error:  # which of them depends on when Dask noticed
            raise ChannelError(f"a server's worker must live, got: {error}") from error


def open_channel(
    actor: Any, *, wire: str = "float32", reply_wire: str = "float32", tls: ssl.SSLContext | None = None
) -> ChannelClient | ActorChannel:
    """Return the fastest way to a server: memory on its machine, else TCP, else calls of its actor.

    Parameters
    ----------
    actor
        Of a `ServerActor`.
    wire, reply_wire
        How vectors travel by the channel.
    tls
        Context of a TLS client; this Dask worker's own where the server needs one and none is given.
    """
    control = ActorChannel(actor, answer_s=ADDRESS_S)
    addresses, token = control.call("address"), control.call("token")
    if addresses.encrypted and tls is None:
        tls = worker_tls()
    client = ChannelClient(addresses, token, wire=wire, reply_wire=reply_wire, tls=tls)
    try:
        client.connect()
    except ChannelError:
        return ActorChannel(actor)
    return client


def worker_tls() -> ssl.SSLContext | None:
    """Return the context with which this Dask worker connects to others; None on a cluster without TLS."""
    from distributed import get_worker

    tls: ssl.SSLContext | None = get_worker().security.get_connection_args("worker")["ssl_context"]
    return tls


def _into(out: Vector | None, found: Vector) -> Vector:
    if out is None:
        return found
    np.copyto(out, found)
    return out


def _statistics(weights: Vector, layout: FlatLayout | None, shard: slice | None) -> int:
    """Return how many entries at the end of a server's weights are not learned."""
    if layout is None:
        return 0
    start = (shard or slice(None)).indices(layout.size)[0]
    return weights.size - min(max(layout.learned - start, 0), weights.size)


def _worker_offers() -> tuple[str | None, ssl.SSLContext | None, Path]:
    """Return where this worker can be reached from other machines, its TLS context, and its directory.

    What is left in that directory when a worker is killed, Dask removes.
    """
    from distributed import get_worker
    from distributed.comm import get_address_host

    worker = get_worker()
    directory = Path(worker.local_directory)
    if worker.address.startswith("inproc:"):
        return None, None, directory
    tls = worker.security.get_listen_args("worker")["ssl_context"]
    host = get_address_host(worker.address)
    return host, tls if worker.address.startswith("tls:") else None, directory


def _stop(server: ParameterServer, channel: ChannelServer, threads: ThreadPoolExecutor) -> None:
    threads.shutdown(wait=False, cancel_futures=True)
    for replica in server.statistics().replicas:
        server.leave(replica)
    channel.stop()


def _stop_aside(*held: Any) -> None:
    threading.Thread(target=_stop, args=held, daemon=True).start()
