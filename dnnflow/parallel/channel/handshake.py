"""Begin a connection between a replica and a server: both show that they know the token.

On one Linux machine vectors do not pass through the socket: they lie in memory that the server makes, seals
and hands over as a file descriptor. It has no name, so nothing of it is left however a process ends.
"""

import hmac
import mmap
import os
import secrets
import socket
import struct
import time
from dataclasses import dataclass
from typing import Self

import numpy as np

from dnnflow.parallel.channel.link import ChannelError, Link, check_deadline, payload_room
from dnnflow.parallel.channel.wire import Wire
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.spec.algorithm import WIRES

GREETING = b"dnnflow1"
NONCE_BYTES = 32
MAC_BYTES = 32
HANDSHAKE_S = 10.0
"""How long a connection may take to show that it knows the token."""
_OPTIONS = struct.Struct("<BBB5x")
_FORMAT = struct.Struct("<QQc7xQ")
_DTYPES = {b"f": "float32", b"d": "float64"}


@dataclass(frozen=True)
class Addresses:
    """Where a server listens."""

    unix: str | None = None
    """Path of its socket on its own machine."""
    host: str | None = None
    port: int = 0
    """Of TCP, for other machines."""
    encrypted: bool = False
    """Whether TCP speaks TLS here."""


@dataclass(frozen=True)
class VectorFormat:
    """The format of a server's vectors; the client learns it when it connects."""

    size: int
    exact: int = 0
    """Entries at the end that no wire rounds."""
    dtype: str = "float32"

    @classmethod
    def of(cls, weights: Vector, exact: int = 0) -> Self:
        """Return the format of vectors like these weights."""
        return cls(weights.size, exact, str(weights.dtype))

    def wire(self, name: str) -> Wire:
        """Return how these vectors travel under a wire's name."""
        return Wire(name, self.size, self.exact, self.dtype)


def accept_handshake(
    sock: socket.socket, token: bytes, vectors: VectorFormat
) -> tuple[Link, tuple[Wire, Wire]]:
    """Do a server's part of the handshake.

    Both ends prove that they know the token by a keyed hash of what each has drawn by chance; the token
    itself does not travel.

    Returns
    -------
    tuple
        The link, and the wires of pushes and of replies.

    Raises
    ------
    ChannelError
        When the other end does not know the token, or asks for what does not exist.
    TimeLimitError
        When it takes too long.
    """
    deadline_s = time.monotonic() + HANDSHAKE_S
    ours = secrets.token_bytes(NONCE_BYTES)
    _write(sock, GREETING + ours, deadline_s)
    hello = _read(sock, NONCE_BYTES + _OPTIONS.size + MAC_BYTES, deadline_s)
    body, mac = hello[:-MAC_BYTES], hello[-MAC_BYTES:]
    if not hmac.compare_digest(mac, _mac(token, b"client", ours, body)):
        raise ChannelError("a replica must know the server's token, got another one")
    push_code, reply_code, wants_memory = _OPTIONS.unpack(body[NONCE_BYTES:])
    if max(push_code, reply_code) >= len(WIRES):
        raise ChannelError(f"a wire must be below {len(WIRES)}, got {push_code} and {reply_code}")
    push, reply = vectors.wire(WIRES[push_code]), vectors.wire(WIRES[reply_code])
    cut = payload_room(push.nbytes)
    total = cut + payload_room(reply.nbytes)
    made = _make_memory(total) if wants_memory and sock.family == socket.AF_UNIX else None
    body = _FORMAT.pack(
        vectors.size, vectors.exact, np.dtype(vectors.dtype).char.encode(), total if made else 0
    )
    answer = body + _mac(token, b"server", ours, hello + body)
    if made is None:
        _write(sock, answer, deadline_s)
        return Link(sock, reply.nbytes, push.nbytes), (push, reply)
    descriptor, mapped = made
    try:
        socket.send_fds(sock, [answer], [descriptor])
    finally:
        os.close(descriptor)
    memory = np.frombuffer(mapped, np.uint8)
    return Link(sock, reply.nbytes, push.nbytes, (memory[cut:], memory[:cut])), (push, reply)


def begin_handshake(
    sock: socket.socket, token: bytes, push: str, reply: str
) -> tuple[Link, tuple[Wire, Wire]]:
    """Do a client's part of the handshake; see `accept_handshake`.

    Parameters
    ----------
    push, reply
        Names of the wires to use.

    Raises
    ------
    ChannelError
        When the server closes, which it does for a wrong token, or does not know the token itself.
    """
    deadline_s = time.monotonic() + HANDSHAKE_S
    greeting = _read(sock, len(GREETING) + NONCE_BYTES, deadline_s)
    if not greeting.startswith(GREETING):
        raise ChannelError("a server must greet as dnnflow does, got something else; is the address right?")
    theirs = greeting[len(GREETING) :]
    body = secrets.token_bytes(NONCE_BYTES) + _OPTIONS.pack(
        WIRES.index(push), WIRES.index(reply), _can_share()
    )
    hello = body + _mac(token, b"client", theirs, body)
    _write(sock, hello, deadline_s)
    answer, descriptors = _read_with_memory(sock, _FORMAT.size + MAC_BYTES, deadline_s)
    try:
        body = answer[:-MAC_BYTES]
        if not hmac.compare_digest(answer[-MAC_BYTES:], _mac(token, b"server", theirs, hello + body)):
            raise ChannelError(
                "a server must know the token, got an answer without it; is the address right?"
            )
        size, exact, dtype, total = _FORMAT.unpack(body)
        vectors = VectorFormat(size, exact, _DTYPES[dtype])
        there, back = vectors.wire(push), vectors.wire(reply)
        if not total:
            return Link(sock, there.nbytes, back.nbytes), (there, back)
        memory = np.frombuffer(_map(descriptors[0], total), np.uint8)
        cut = payload_room(there.nbytes)
        memory_parts = memory[:cut], memory[cut:]
        return Link(sock, there.nbytes, back.nbytes, memory_parts, spins=True), (there, back)
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def _mac(token: bytes, role: bytes, nonce: bytes, body: bytes) -> bytes:
    return hmac.digest(token, role + nonce + body, "sha256")


def _can_share() -> bool:
    return hasattr(os, "memfd_create")


def _make_memory(nbytes: int) -> tuple[int, mmap.mmap] | None:
    """Return memory without a name and its descriptor; None where there is no such thing."""
    if not _can_share():
        return None
    import fcntl

    descriptor = os.memfd_create("dnnflow", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        # Taken now: a page that is missing later would end the process by a signal
        os.posix_fallocate(descriptor, 0, nbytes)
        # And the other end cannot take pages away
        seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_SEAL
        fcntl.fcntl(descriptor, fcntl.F_ADD_SEALS, seals)
        return descriptor, _map(descriptor, nbytes)
    except OSError:
        os.close(descriptor)
        return None


def _map(descriptor: int, nbytes: int) -> mmap.mmap:
    return mmap.mmap(descriptor, nbytes, flags=mmap.MAP_SHARED | mmap.MAP_POPULATE)


def _limit_wait(sock: socket.socket, deadline_s: float) -> None:
    check_deadline(
        deadline_s, f"a handshake must end within {HANDSHAKE_S:.0f} s, got no further; is the address right?"
    )
    sock.settimeout(max(deadline_s - time.monotonic(), 0.001))


def _write(sock: socket.socket, data: bytes, deadline_s: float) -> None:
    _limit_wait(sock, deadline_s)
    sock.sendall(data)


def _read(sock: socket.socket, count: int, deadline_s: float) -> bytes:
    data = b""
    while len(data) < count:
        _limit_wait(sock, deadline_s)
        piece = sock.recv(count - len(data))
        if not piece:
            raise ChannelError(
                "the other end closed in the handshake, got no answer; is the token the server's?"
            )
        data += piece
    return data


def _read_with_memory(sock: socket.socket, count: int, deadline_s: float) -> tuple[bytes, list[int]]:
    if sock.family != socket.AF_UNIX:
        return _read(sock, count, deadline_s), []
    _limit_wait(sock, deadline_s)
    data, descriptors, _, _ = socket.recv_fds(sock, count, 1)
    return data + _read(sock, count - len(data), deadline_s), descriptors
