"""Hold a parameter server on a Dask worker, and pass what a group's server learns on to the one above."""

import asyncio
import functools
import secrets
import ssl
import threading
import weakref
from collections.abc import Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

import numpy as np

from dnnflow.errors import TimeLimitError
from dnnflow.parallel.channel.actor_channel import Channel, open_channel
from dnnflow.parallel.channel.channel_server import ChannelServer
from dnnflow.parallel.channel.handshake import Addresses, VectorFormat
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.server.messages import Push
from dnnflow.parallel.server.parameter_server import ParameterServer
from dnnflow.parallel.server.updates import difference
from dnnflow.parallel.spec.algorithm import Algorithm, PushKind

MOST_CALLS = 256
"""Calls that may wait in the server at a time, each in a thread; more of them queue."""
TOKEN_BYTES = 32
POLL_S = 0.002
END_S = 900.0
"""How long a push may be on its way at the end; longer than a channel waits for its answer."""

UPLINK = "uplink/"
BASE, VERSION, SAMPLES = (UPLINK + name for name in ("base", "version", "samples"))
"""In the snapshot of a group's server: its weights, updates and samples when it last passed on a change."""

R = TypeVar("R")


def _in_thread(method: Callable[..., R]) -> Callable[..., Coroutine[Any, Any, R]]:
    """Return a server's method as the actor's: neither the actors' thread nor the event loop waits for it."""

    @functools.wraps(method)
    async def call(actor: "ServerActor", *args: Any) -> R:
        loop = asyncio.get_running_loop()
        return await loop.run_in_executor(actor._threads, functools.partial(method, actor._server, *args))

    return call


class ServerActor:
    """Holds a parameter server and its channel in a worker's process.

    Made by `client.submit(ServerActor, weights, algorithm, actor=True)`; it lives as long as that future, and
    calls need `client.as_current()` where the client is not the default. Dask runs the plain methods of all
    actors of a worker in one thread: whatever may wait here is `async` and waits in a thread of its own.

    Parameters
    ----------
    weights, algorithm, server
        Of `ParameterServer`.
    token
        Of the channel. Drawn here without it, which keeps it from Dask's pages and logs: they show what tasks
        are given.
    """

    def __init__(
        self, weights: Vector, algorithm: Algorithm, *, token: bytes | None = None, **server: Any
    ) -> None:
        self._server = ParameterServer(weights, algorithm, **server)
        self._token = token or secrets.token_bytes(TOKEN_BYTES)
        host, tls, directory = _worker_offers()
        vectors = VectorFormat.of(weights, weights.size - self._server.learned)
        self._channel = ChannelServer(
            self._server, self._token, host, vectors=vectors, tls=tls, directory=directory
        )
        self._threads = ThreadPoolExecutor(MOST_CALLS, "dnnflow-server")
        self._uplink: Uplink | None = None
        self._passed_on: Mapping[str, Any] = {}
        # When the last future of the actor is dropped; in a thread, because Dask does that on its event loop
        self._ended = threading.Event()
        held = self._server, self._channel, self._threads, self._ended
        weakref.finalize(self, _stop_in_thread, *held).atexit = False

    def address(self) -> Addresses:
        """Return where the channel listens."""
        return self._channel.addresses

    def token(self) -> bytes:
        """Return what `ChannelClient` needs beside the addresses; whoever has it can push."""
        return self._token

    join = _in_thread(ParameterServer.join)
    leave = _in_thread(ParameterServer.leave)
    pull = _in_thread(ParameterServer.pull)
    exchange = _in_thread(ParameterServer.exchange)
    finish = _in_thread(ParameterServer.finish)
    rows_of = _in_thread(ParameterServer.rows_of)
    statistics = _in_thread(ParameterServer.statistics)
    set_learning_rate = _in_thread(ParameterServer.set_learning_rate)

    async def snapshot(self) -> dict[str, Any]:
        """Return the state of the server, and of a group's way to the one above."""
        found = self._server.snapshot if self._uplink is None else self._uplink.snapshot
        return await asyncio.get_running_loop().run_in_executor(self._threads, found)

    async def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Set the state that `snapshot` returned; before the way to the server above is begun."""
        loop = asyncio.get_running_loop()
        await loop.run_in_executor(self._threads, self._server.restore, snapshot)
        self._passed_on = {name: snapshot[name] for name in snapshot if name.startswith(UPLINK)}

    async def begin_uplink(self, above: Any, group: int, every: int) -> None:
        """Push to the actor above, every so many updates, what this server has learned."""
        channel = await asyncio.to_thread(open_channel, above)
        loop = asyncio.get_running_loop()
        self._uplink = await loop.run_in_executor(
            self._threads, Uplink, self._server, channel, group, every, self._passed_on, self._ended
        )

    async def end_uplink(self) -> None:
        """Push what is left, and raise what has gone wrong with it; what was passed on stays in snapshots."""
        if self._uplink is not None:
            await asyncio.get_running_loop().run_in_executor(self._threads, self._uplink.end)

    async def stop(self) -> None:
        """Close the channel and let all replicas go that wait; a second call does nothing."""
        await asyncio.to_thread(_stop, self._server, self._channel, self._threads, self._ended)


class Uplink:
    """Pushes what a group's server has changed to the server above, every so many of its updates.

    Above, it counts as a replica that has taken that many local steps. What the server above has learned from
    other groups is added to the group's weights, beside what its replicas have pushed meanwhile.

    Parameters
    ----------
    server, channel
        The group's own server, and the way to the one above.
    group
        Its number among the groups, from 0.
    every
        m: updates of the group's server between two pushes.
    passed_on
        Of the snapshot that the group's server goes on from: what of it was passed on before.
    ended
        Set where nothing is to be passed on any more.
    """

    def __init__(
        self, server: ParameterServer, channel: Channel, group: int, every: int,
        passed_on: Mapping[str, Any] = MappingProxyType({}), ended: threading.Event | None = None,
    ) -> None:  # fmt: skip
        self._server, self._channel, self._group, self._every = server, channel, group, every
        self._step = channel.join(group)
        self._above, weights = channel.pull(group)
        self._base = np.array(passed_on.get(BASE, weights))
        self._change, self._reply = np.empty_like(self._base), np.empty_like(self._base)
        self._learned = server.learned
        done = server.statistics()
        self._version = int(passed_on.get(VERSION, done.version))
        self._samples = int(passed_on.get(SAMPLES, done.samples))
        self._moving = threading.Lock()  # between a change that was passed on and the base that says so
        self.error: Exception | None = None
        """What has ended the thread before its time."""
        self._ended = ended or threading.Event()
        self._thread = threading.Thread(target=self._run, name="dnnflow-uplink", daemon=True)
        self._thread.start()

    def snapshot(self) -> dict[str, Any]:
        """Return the state of the group's server, and what of it was passed on."""
        with self._moving:
            return self._server.snapshot() | {
                BASE: self._base.copy(), VERSION: self._version, SAMPLES: self._samples
            }  # fmt: skip

    def end(self) -> None:
        """Push what is left, and take part above no longer.

        Raises
        ------
        TimeLimitError
            When the server above does not answer in time.
        Exception
            What has ended the thread before.
        """
        self._ended.set()
        self._thread.join(END_S)
        if self._thread.is_alive():
            raise TimeLimitError(
                f"the server above must answer a group's push within {END_S:g} s, got nothing; look at "
                "its worker"
            )
        if self.error is not None:
            raise self.error
        self._synchronize()
        self._channel.leave(self._group)
        self._channel.close()

    def _run(self) -> None:
        try:
            while not self._ended.wait(POLL_S):
                if self._server.version - self._version >= self._every:
                    self._synchronize()
        except Exception as error:  # raised by `end`: a thread has nobody to raise to
            self.error = error

    def _synchronize(self) -> None:
        """Push the group's change since the last time, and add what other groups have learned."""
        now = self._server.statistics()
        _, start = self._server.pull()
        learned = self._learned
        difference(self._base[:learned], start[:learned], self._change[:learned])
        np.copyto(self._change[learned:], start[learned:])
        count = now.samples - self._samples
        if not count:
            self._version = now.version
            return
        push = Push(self._group, self._step, self._above, count, self._change, PushKind.DIFFERENCE)
        reply = self._channel.exchange(push, self._reply)
        self._above, self._step = reply.version, self._step + 1
        with self._moving:
            self._server.move(start, self._reply)
            np.copyto(self._base, self._reply)
            self._version, self._samples = now.version, now.samples


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


def _stop(
    server: ParameterServer, channel: ChannelServer, threads: ThreadPoolExecutor, ended: threading.Event
) -> None:
    def release() -> None:
        for replica in server.statistics().replicas:
            server.leave(replica)

    ended.set()
    threads.shutdown(wait=False, cancel_futures=True)
    channel.stop(release)


def _stop_in_thread(*held: Any) -> None:
    threading.Thread(target=_stop, args=held, daemon=True).start()
