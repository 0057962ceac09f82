"""Open the fastest way to a server: its channel, else calls of its actor."""

import ssl
from typing import Any, Protocol

import numpy as np

from dnnflow.errors import DnnflowError, TimeLimitError
from dnnflow.parallel.channel.channel_client import ANSWER_S, ChannelClient
from dnnflow.parallel.channel.connection import WeightServer
from dnnflow.parallel.channel.link import ChannelError
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.server.messages import Push, PushReply

ADDRESS_S = 60.0


class Channel(WeightServer, Protocol):
    """A replica's way to a server; see `ChannelClient`."""

    def close(self) -> None: ...

    def abort(self) -> None: ...


class ActorChannel:
    """Reaches a server by plain calls of its actor: slower, but there wherever Dask is.

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
        return version, _copied_to(out, weights)

    def exchange(self, push: Push, out: Vector | None = None) -> PushReply:
        """Push, and return the weights to go on from; see `ChannelClient.exchange`."""
        reply: PushReply = self.call("exchange", push)
        reply.vector = _copied_to(out, reply.vector)
        return reply

    def close(self) -> None:
        """Do nothing: there is no connection."""

    def abort(self) -> None:
        """Do nothing: a call ends with its deadline."""

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


def _copied_to(out: Vector | None, found: Vector) -> Vector:
    if out is None:
        return found
    np.copyto(out, found)
    return out
