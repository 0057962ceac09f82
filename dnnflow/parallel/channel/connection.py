"""Answer the frames of one connection by calls of the server of weights."""

import select
import threading
from typing import Protocol

import numpy as np

from dnnflow import errors
from dnnflow.errors import ClusterError, DnnflowError
from dnnflow.parallel.channel.link import TEXT_BYTES, ChannelError, Link
from dnnflow.parallel.channel.wire import Wire
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.server.messages import Push, PushReply
from dnnflow.parallel.spec.algorithm import PushKind

EXCHANGE, PULL, JOIN, LEAVE = 1, 2, 3, 4
"""What a replica asks for."""
DONE, FAILED = 1, 2
"""What it is answered: what it asked for, or the text of an error."""
KINDS = tuple(PushKind)


class WeightServer(Protocol):
    """Holds weights; see `ParameterServer`, which is one, for the methods."""

    def join(self, replica: int) -> int: ...

    def leave(self, replica: int) -> None: ...

    def pull(self, replica: int = -1, out: Vector | None = None) -> tuple[int, Vector]: ...

    def exchange(self, push: Push, out: Vector | None = None) -> PushReply: ...


class Membership:
    """Knows which connection is which replica's: one whose connection ends leaves, unless it has another."""

    def __init__(self, server: WeightServer) -> None:
        self._server = server
        self._lock = threading.Lock()
        self._handlers: dict[int, ConnectionHandler] = {}

    def join(self, replica: int, handler: "ConnectionHandler") -> int:
        """Let a replica take part by this connection, and return its first step."""
        with self._lock:
            step = self._server.join(replica)
            self._handlers[replica] = handler
            return step

    def leave(self, replica: int) -> None:
        """Let a replica go."""
        with self._lock:
            self._handlers.pop(replica, None)
            self._server.leave(replica)

    def end(self, handler: "ConnectionHandler | None" = None) -> None:
        """Let all replicas go that take part by a connection, or by any."""
        with self._lock:
            gone = [replica for replica, found in self._handlers.items() if handler in (None, found)]
            for replica in gone:
                del self._handlers[replica]
                self._server.leave(replica)


class ConnectionHandler:
    """Answers the frames of one connection; its buffers are used again for each."""

    def __init__(
        self, server: WeightServer, membership: Membership, link: Link, wires: tuple[Wire, Wire]
    ) -> None:
        self._server, self._membership, self._link = server, membership, link
        self._push_wire, self._reply_wire = wires
        self._push_vector = self._push_wire.buffer(link.inward)
        self._weights = self._reply_wire.buffer(link.out)

    def serve(self, idle_s: float) -> None:
        """Answer until the other end closes, or says nothing for too long.

        Raises
        ------
        ChannelError
            For a frame that no client of ours sends, and when the connection breaks.
        TimeLimitError
            When the other end is too slow.
        """
        while (frame := self._link.receive(idle_s)) is not None:
            self._handle(frame)

    def handle_one(self) -> bool:
        """Answer the frame that has come; False when the other end has closed instead.

        Raises
        ------
        ChannelError
            For a frame that no client of ours sends, one that came in part, and when the connection breaks.
        """
        frame = self._link.receive_ready()
        if frame is not None:
            self._handle(frame)
        return frame is not None

    @property
    def never_blocks(self) -> bool:
        """Whether an answer neither waits for another replica nor for what is still on its way."""
        plain = self._push_wire.plain and self._reply_wire.plain
        return (
            hasattr(select, "epoll")
            and plain
            and self._link.shared
            and getattr(self._server, "never_waits", False)
        )

    def _handle(self, frame: tuple[int, ...]) -> None:
        _, operation, kind, _, replica, step, version, count, length = frame
        expected = self._push_wire.nbytes if operation == EXCHANGE else 0
        if length != expected or not EXCHANGE <= operation <= LEAVE or kind >= len(KINDS):
            raise ChannelError(f"a frame must be one of ours, got operation {operation}, {length} bytes")
        try:
            if operation == EXCHANGE:
                if not self._push_wire.plain:
                    self._push_wire.decode(self._link.inward, self._push_vector)
                push = Push(replica, step, version, count, self._push_vector, KINDS[kind])
                reply = self._server.exchange(push, self._weights)
                answer = (reply.version, reply.staleness, reply.samples, self._write_weights())
            else:
                answer = self._handle_other(operation, replica)
            code = DONE
        except Exception as error:  # the replica must hear of the server's own faults too, and act on them
            text = encode_error(error)
            self._link.out[: len(text)] = np.frombuffer(text, np.uint8)
            code, answer = FAILED, (0, 0, 0, len(text))
        self._link.send(code, 0, 0, replica, *answer)

    def _handle_other(self, operation: int, replica: int) -> tuple[int, int, int, int]:
        if operation == PULL:
            version, _ = self._server.pull(replica, self._weights)
            return version, 0, 0, self._write_weights()
        if operation == JOIN:
            return self._membership.join(replica, self), 0, 0, 0
        self._membership.leave(replica)
        return 0, 0, 0, 0

    def _write_weights(self) -> int:
        if not self._reply_wire.plain:
            self._reply_wire.encode(self._weights, self._link.out)
        return self._reply_wire.nbytes


def encode_error(error: Exception) -> bytes:
    """Return the nearest class of `dnnflow.errors` and the message of an error, as bytes that fit a frame."""
    kinds = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == errors.__name__]
    text = str(error) if kinds else f"the server failed with {type(error).__name__}: {error}"
    return f"{(kinds or [ClusterError.__name__])[0]}\n{text}".encode()[:TEXT_BYTES]


def decode_error(data: bytes) -> DnnflowError:
    """Return the error that `encode_error` wrote."""
    name, _, text = data.decode(errors="replace").partition("\n")
    kind: object = getattr(errors, name, ClusterError)
    if isinstance(kind, type) and issubclass(kind, DnnflowError):
        return kind(text)
    return ClusterError(text)
