"""Connect a replica to the channel of a server."""

import contextlib
import socket
import ssl
from collections.abc import Iterator
from typing import Self

import numpy as np

from dnnflow.errors import InputError
from dnnflow.parallel.channel.connection import EXCHANGE, FAILED, JOIN, KINDS, LEAVE, PULL, decode_error
from dnnflow.parallel.channel.handshake import Addresses, begin_handshake
from dnnflow.parallel.channel.link import ChannelError, Link, set_tcp_options
from dnnflow.parallel.channel.wire import Data
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.server.messages import Push, PushReply
from dnnflow.parallel.spec.algorithm import WIRES, PushKind

ANSWER_S = 600.0
"""How long a client waits for an answer: longer than a server lets a replica wait for the others."""
CONNECT_S = 10.0


class ChannelClient:
    """A replica's end of the channel: by memory on the server's machine, else by TCP.

    It connects when it is first used, and again when the connection broke: a push is known by its replica and
    step, so one that arrives twice counts once. Not for two threads at a time.

    Parameters
    ----------
    addresses
        Of the server.
    token
        Of the server.
    wire, reply_wire
        How pushes and weights travel, of `WIRES`. What int8 loses of a push is added to the next.
    tls
        Context of a TLS client, where the server's TCP speaks it.
    answer_s
        How long an answer may take, in seconds.
    """

    def __init__(
        self, addresses: Addresses, token: bytes, *, wire: str = "float32", reply_wire: str = "float32",
        tls: ssl.SSLContext | None = None, answer_s: float = ANSWER_S,
    ) -> None:  # fmt: skip
        for name, known in ((wire, WIRES), (reply_wire, WIRES[:3])):
            if name not in known:
                raise InputError(f"a wire must be one of {', '.join(known)}, got {name!r}")
        self.addresses = addresses
        self._token, self._names, self._tls, self._answer_s = token, (wire, reply_wire), tls, answer_s
        self._link: Link | None = None
        self._is_aborted = False
        self._joined: int | None = None
        self._residual: Vector | None = None
        self._unanswered: tuple[int, int] | None = None
        self._data: Data = np.zeros(0, np.uint8)

    @property
    def size(self) -> int:
        """Length of the server's vector."""
        self._connected()
        return self._push_wire.size

    @property
    def vector(self) -> Vector:
        """Where a push's vector may be written to spare a copy; another array after each connection."""
        self._connected()
        return self._push_vector

    @property
    def is_shared(self) -> bool:
        """Whether vectors travel by memory, on the server's machine."""
        return self._connected().shared

    def join(self, replica: int) -> int:
        """Take part until the connection ends, and return the replica's first step.

        A connection that is made again joins by itself.
        """
        answer = self._request(self._connected(), (JOIN, 0, 0, replica, 0, 0, 0, 0))
        self._joined = replica
        return answer[5]

    def leave(self, replica: int) -> None:
        """Take part no longer: nobody waits for this replica."""
        self._joined = None
        self._request(self._connected(), (LEAVE, 0, 0, replica, 0, 0, 0, 0))

    def pull(self, replica: int = -1, out: Vector | None = None) -> tuple[int, Vector]:
        """Return the version and the weights; see `exchange`."""
        answer = self._request(self._connected(), (PULL, 0, 0, replica, 0, 0, 0, 0))
        return answer[5], self._received(out)

    def exchange(self, push: Push, out: Vector | None = None) -> PushReply:
        """Push, and return the weights to go on from.

        Parameters
        ----------
        push
            Its vector may be any array of the server's length; `vector` is not copied.
        out
            Where to write the weights. Without it the reply's vector is the channel's own, which the next
            exchange overwrites.

        Raises
        ------
        ChannelError
            When the server has gone, after one more try.
        TimeLimitError
            When the answer takes too long.
        DnnflowError
            What the server raised, as the class that `dnnflow.errors` has for it.
        """
        link = self._link or self._connected()
        # What follows is written out: each call costs an exchange of a small model 3 %
        vector, wire = push.vector, self._push_wire
        if vector is not self._push_vector or not wire.plain:
            self._write_push(push, link)
        frame = (
            EXCHANGE, KINDS.index(push.kind), 0, push.replica,
            push.step, push.version, push.count, wire.nbytes,
        )  # fmt: skip
        answer = self._request(link, frame)
        self._unanswered = None
        found = self._weights if out is None and self._reply_wire.plain else self._received(out)
        return PushReply(answer[5], answer[6], found, answer[7])

    def connect(self, addresses: Addresses | None = None) -> None:
        """Connect now; to a server that has moved, if addresses are given.

        Raises
        ------
        ChannelError
            When no address has a server that knows the token.
        """
        self._disconnect()
        if self._is_aborted:
            raise ChannelError("a server must be wanted, got one that was given up")
        self.addresses = addresses or self.addresses
        reasons = []
        for dial in (self._dial_unix, self._dial_tcp):
            try:
                if (sock := dial()) is not None:
                    self._begin(sock)
                    return
            except OSError as error:
                reasons.append(f"{dial.__name__.removeprefix('_dial_')}: {error}")
        got = "; ".join(reasons) or "no address"
        raise ChannelError(f"a server must listen at {self.addresses}, got {got}; has its worker died?")

    def close(self) -> None:
        """End the connection and let its memory go; the next call makes a new one."""
        self._disconnect()
        self._push_vector = self._weights = np.zeros(0, np.float32)
        self._data, self._unanswered = np.zeros(0, np.uint8), None

    def abort(self) -> None:
        """Let a call that waits for the server fail, and every later one; for another thread."""
        self._is_aborted, link = True, self._link
        if link is not None:
            link.abort()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _connected(self) -> Link:
        if self._link is None:
            self.connect()
        if self._link is None:
            raise ChannelError("no connection")
        return self._link

    def _disconnect(self) -> None:
        if self._link is not None:
            self._link.close()
            self._link = None

    def _dial_unix(self) -> socket.socket | None:
        if self.addresses.unix is None:
            return None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with _closing_on_error(sock):
            sock.settimeout(CONNECT_S)
            sock.connect(self.addresses.unix)
        return sock

    def _dial_tcp(self) -> socket.socket | None:
        host = self.addresses.host
        if host is None:
            return None
        if self.addresses.encrypted and self._tls is None:
            raise ChannelError(f"TCP to {host} speaks TLS, got no context for it; give tls")
        sock = socket.create_connection((host, self.addresses.port), CONNECT_S)
        with _closing_on_error(sock):
            set_tcp_options(sock)
            if self.addresses.encrypted and self._tls:
                return self._tls.wrap_socket(sock, server_hostname=host)
        return sock

    def _begin(self, sock: socket.socket) -> None:
        with _closing_on_error(sock):
            link, (self._push_wire, self._reply_wire) = begin_handshake(sock, self._token, *self._names)
        self._link, self._push_vector = link, self._push_wire.buffer(link.out)
        self._weights = self._reply_wire.buffer(link.inward)
        if self._push_wire.name == "int8" and self._residual is None:
            self._residual = np.zeros(self._push_wire.size - self._push_wire.exact, self._push_wire.dtype)
        if self._joined is not None:
            self._request(link, (JOIN, 0, 0, self._joined, 0, 0, 0, 0), again=False)

    def _write_push(self, push: Push, link: Link) -> None:
        wire = self._push_wire
        if push.vector.shape != self._push_vector.shape:
            raise InputError(f"a push must have {wire.size} entries, the server's weights, "
                             f"got the shape {push.vector.shape}; is it the same model?")  # fmt: skip
        if wire.plain:
            np.copyto(self._push_vector, push.vector)
            return
        key = (push.replica, push.step)
        if key == self._unanswered:
            # What int8 lost of it is in the residual already
            link.out[: wire.nbytes] = self._data[: wire.nbytes]
        else:
            # Weights are no sum over pushes: what was lost of the last ones has no place in these
            wire.encode(push.vector, link.out, None if push.kind is PushKind.WEIGHTS else self._residual)
        self._unanswered, self._data = key, link.out

    def _received(self, out: Vector | None) -> Vector:
        """Return the weights that have come, in `out` if there is one."""
        found = self._weights if out is None else out
        if not self._reply_wire.plain:
            self._reply_wire.decode(self._connected().inward, found)
        elif out is not None:
            np.copyto(out, self._weights)
        return found

    def _request(self, link: Link, frame: tuple[int, ...], *, again: bool = True) -> tuple[int, ...]:
        """Return the answer to a frame; after a connection that broke, that of a new one."""
        try:
            link.send(*frame)
            answer = link.receive(self._answer_s)
            if answer is None:
                raise ChannelError("a server must answer, got the connection's end; has its worker died?")
        except ChannelError:
            self._disconnect()
            if not again:
                raise
            fresh, length = self._connected(), frame[-1]
            fresh.out[:length] = link.out[:length]
            return self._request(fresh, frame, again=False)
        except BaseException:  # what comes later would be taken for the answer of the next frame
            self._disconnect()
            raise
        if answer[1] == FAILED:
            raise decode_error(link.inward[: answer[-1]].tobytes())
        return answer


@contextlib.contextmanager
def _closing_on_error(sock: socket.socket) -> Iterator[None]:
    try:
        yield
    except BaseException:
        sock.close()
        raise
