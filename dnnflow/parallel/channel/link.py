"""Send and receive the frames of a direct connection between a replica and a server, with deadlines.

Nothing is pickled: a frame is a header of fixed length, then bytes whose number both ends know beforehand.
"""

import contextlib
import os
import socket
import ssl
import struct
import time

import numpy as np

from dnnflow.errors import ClusterError, TimeLimitError
from dnnflow.parallel.channel.wire import Data
from dnnflow.parallel.model.weights import aligned_vector

FRAME = struct.Struct("<IBBHi4x4q16x")
"""Magic number, two codes, a number of 16 and one of 32 bits, four of 64 bits, the last of them a length.

Padded so that what follows begins a cache line.
"""
HEADER = FRAME.size
MAGIC = 0x57F10DD4
TEXT_BYTES = 1024
"""Longest message of an error; every connection has room for it."""
FRAME_S = 60.0
"""How long a frame may take once it has begun, at either end."""
POLL_S = 1.0
"""How often a wait checks its deadline."""
SPINS = 20
"""How often to poll before sleeping: some 30 µs.

To be woken takes as long as a server needs for a small model: two replicas of 3,000 parameters got 41,000 to
51,000 updates a second instead of 24,000 where both ends spin. Where replicas compute in between, spinning
takes the time of a core that they could have.
"""
SPIN_WAIT_S = 120e-6
"""Who waited no longer than this spins the next time; a thread is woken within that, too."""
_NOT_YET = (BlockingIOError, TimeoutError, ssl.SSLWantReadError, ssl.SSLWantWriteError)


class ChannelError(ClusterError, ConnectionError):
    """A direct connection to a server cannot be made, was refused, or broke."""


class Link:
    """One end of a connection after its handshake. Not for two threads: both ends take turns.

    Parameters
    ----------
    sock
        Connected; the link closes it.
    out_bytes, in_bytes
        Longest payload that this end sends, and that it takes.
    memory
        Shared between both ends, `out` and `inward` of this end, if payloads do not pass through the socket.
    eager
        Whether `receive` polls `SPINS` times before it sleeps; not with TLS.
    """

    def __init__(
        self, sock: socket.socket, out_bytes: int, in_bytes: int, memory: tuple[Data, Data] | None = None, *,
        spins: bool = False,
    ) -> None:  # fmt: skip
        self._sock = sock
        self.shared = memory is not None
        self._wait_all = 0 if isinstance(sock, ssl.SSLSocket) else socket.MSG_WAITALL
        frame_out, frame_in = (
            aligned_vector(HEADER // 4 + (0 if memory else payload_room(nbytes) // 4)).view(np.uint8)
            for nbytes in (out_bytes, in_bytes)
        )
        self.out: Data
        self.inward: Data
        self.out, self.inward = memory or (frame_out[HEADER:], frame_in[HEADER:])
        self._out, self._in, self._room = frame_out.data, frame_in.data, len(self.inward)
        self._send, self._recv_into = sock.send, sock.recv_into
        self._first_read = self._spin if spins else sock.recv_into
        self._spins = SPINS
        _set_poll_interval(sock)

    def send(self, *fields: int) -> None:
        """Send a frame: the header's fields after the magic number, then as much of `out` as the last says.

        Raises
        ------
        ChannelError
            When the other end has gone.
        TimeLimitError
            When it does not take the frame in time.
        """
        FRAME.pack_into(self._out, 0, MAGIC, *fields)
        frame = self._out if self.shared else self._out[: HEADER + fields[-1]]
        try:
            sent = self._send(frame)  # mostly all of it: nothing else is looked at then
        except OSError:
            sent = 0
        if sent < len(frame):
            self._send_remaining(frame, sent)

    def receive(self, wait_s: float) -> tuple[int, ...] | None:
        """Wait for a frame; its payload is then in `inward`.

        Returns
        -------
        tuple of int
            The header's fields, the magic number first; None if the other end closed before a frame began.

        Raises
        ------
        ChannelError
            When the other end goes in the middle of a frame, or sends something else.
        TimeLimitError
            When it does not send in time.
        """
        try:
            have = self._first_read(self._in)
        except OSError:
            have = self._receive_some(0, len(self._in), 0, wait_s)
        if not have:
            return None
        if have < HEADER:
            have = self._receive_remaining(have, HEADER)
        return self._parse(have)

    def receive_ready(self) -> tuple[int, ...] | None:
        """Return the frame that has come, as `receive`; one of which a part has come ends the connection."""
        try:
            have = self._recv_into(self._in, 0, socket.MSG_DONTWAIT)
        except ConnectionResetError:
            return None
        except OSError as error:
            raise ChannelError(f"the connection broke: {error}") from error
        if not have:
            return None
        if have < HEADER:
            raise ChannelError(f"a frame must come whole, got {have} bytes of it")
        return self._parse(have)

    def _spin(self, into: memoryview) -> int:
        """Poll for what comes at once, letting others run in between; then sleep until something comes.

        It does not poll if what came last was long in coming.
        """
        start_s = time.perf_counter()
        for _ in range(self._spins):
            try:
                return self._recv_into(into, 0, socket.MSG_DONTWAIT)
            except BlockingIOError:
                os.sched_yield()
        have = self._recv_into(into)
        self._spins = SPINS if time.perf_counter() - start_s < SPIN_WAIT_S else 0
        return have

    def _parse(self, have: int) -> tuple[int, ...]:
        """Return the header's fields, with the whole payload there."""
        fields: tuple[int, ...] = FRAME.unpack_from(self._in)
        length = fields[-1]
        if fields[0] != MAGIC or not 0 <= length <= self._room:
            raise ChannelError(f"a frame must have at most {self._room} bytes, got {length} announced, "
                               f"magic {fields[0]:#x}; is another program connected?")  # fmt: skip
        stop = HEADER if self.shared else HEADER + length
        if have < stop:
            have = self._receive_remaining(have, stop)
        if have > stop:
            raise ChannelError(f"a frame must end after {stop} bytes, got {have}; both ends take turns")
        return fields

    def abort(self) -> None:
        """Wake whoever waits for the other end, with an error; for another thread."""
        shut_down(self._sock)

    def close(self) -> None:
        """Close the socket; whoever waits for it is woken."""
        shut_down(self._sock)
        self._sock.close()

    def _send_remaining(self, frame: memoryview, sent: int) -> None:
        deadline_s = time.monotonic() + FRAME_S
        while sent < len(frame):
            try:
                sent += self._send(frame[sent:])
            except _NOT_YET:
                check_deadline(
                    deadline_s, f"a frame must be taken within {FRAME_S:g} s, got {sent} bytes out"
                )
            except OSError as error:
                raise ChannelError(f"the other end has gone: {error}") from error

    def _receive_remaining(self, start: int, stop: int) -> int:
        """Read on until the frame is as long as it must be, and return that."""
        deadline_s = time.monotonic() + FRAME_S
        while start < stop:
            count = self._receive_some(start, stop, self._wait_all, deadline_s - time.monotonic())
            if not count:
                raise ChannelError(f"the other end has gone in mid-frame, {start} of {stop} bytes in")
            start += count
        return stop

    def _receive_some(self, start: int, stop: int, flags: int, wait_s: float) -> int:
        """Return how many bytes came, 0 if no more will."""
        deadline_s = time.monotonic() + wait_s
        while True:
            try:
                return self._recv_into(self._in[start:stop], 0, flags)
            except _NOT_YET:
                check_deadline(
                    deadline_s, f"a frame must come within {wait_s:.1f} s; does the other end hang?"
                )
            except ConnectionResetError:
                return 0
            except OSError as error:
                raise ChannelError(f"the connection broke: {error}") from error


def payload_room(nbytes: int) -> int:
    """Return how many bytes a payload gets: whole cache lines, and enough for an error's message."""
    return -(-max(nbytes, TEXT_BYTES) // 64) * 64


def shut_down(sock: socket.socket) -> None:
    """End all reads and writes of a socket, in whatever thread they wait."""
    with contextlib.suppress(OSError):  # it has gone already
        # Not SSLSocket.shutdown, which takes the encryption away under a thread that reads
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def set_tcp_options(sock: socket.socket) -> None:
    """Make TCP send small frames at once, and notice a machine that has gone without a word."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def _set_poll_interval(sock: socket.socket) -> None:
    if isinstance(sock, ssl.SSLSocket):
        sock.settimeout(POLL_S)
        return
    # The kernel's own time limit: Python's would cost a system call more for each read and write
    sock.settimeout(None)
    limit = struct.pack("ll", int(POLL_S), int(POLL_S % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        sock.setsockopt(socket.SOL_SOCKET, option, limit)


def check_deadline(deadline_s: float, rule: str) -> None:
    """Raise a TimeLimitError that says the rule, once a deadline of the monotonic clock has passed."""
    if time.monotonic() > deadline_s:
        raise TimeLimitError(rule)
