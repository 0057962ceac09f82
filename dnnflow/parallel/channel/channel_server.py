"""Serve replicas past Dask, at the speed of memory on the same machine.

Dask's own way to an actor costs about a millisecond a call and two copies of each vector. The actor stays for
everything else: it hands out the addresses, and answers where no channel can be made.
"""

import logging
import os
import select
import selectors
import shutil
import socket
import ssl
import tempfile
import threading
import time
import weakref
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dnnflow.errors import ClusterError, InputError
from dnnflow.parallel.channel.connection import ConnectionHandler, Membership, WeightServer
from dnnflow.parallel.channel.handshake import HANDSHAKE_S, Addresses, VectorFormat, accept_handshake
from dnnflow.parallel.channel.link import SPIN_WAIT_S, SPINS, ChannelError, set_tcp_options, shut_down

LOG = logging.getLogger(__name__)
IDLE_S = 3600.0
"""How long a connection may say nothing: longer than a replica needs for the batches between two pushes."""
STOP_S = 10.0
"""How long stopping waits for threads that are in the middle of something."""
MOST_CONNECTIONS = 1024
TOKEN_BYTES = 16
"""Least length of a token."""
PARENT_BYTES = 80
"""Longest path of a directory for the socket's: a socket's path may have 107 bytes, on some systems 103."""
_POLL_S = 1.0
"""How often idle connections are looked for."""


class ChannelServer:
    """Lets replicas connect to a server of weights, with one thread for each connection.

    Parameters
    ----------
    server
        Called by all threads.
    token
        What a client must know: at least 16 bytes drawn by chance.
    host
        Where to listen for other machines; None for this machine only.
    terms
        What the server's vectors are; what it lets pull, and all of it learned, without them.
    tls
        Context of a TLS server for TCP; without it vectors travel as they are, readable on the way.
    directory
        Where to put the socket, in a directory of its own; the system's for temporary files without it, and
        where the path would be too long for a socket.
    idle_s
        How long a connection may say nothing before it is closed; its client makes a new one when it has to.
    """

    def __init__(
        self, server: WeightServer, token: bytes, host: str | None = None, *,
        vectors: VectorFormat | None = None, tls: ssl.SSLContext | None = None,
        directory: Path | None = None, idle_s: float = IDLE_S,
    ) -> None:  # fmt: skip
        if len(token) < TOKEN_BYTES:
            raise InputError(
                f"a token must have at least {TOKEN_BYTES} bytes, got {len(token)}; use secrets.token_bytes"
            )
        self._server, self._token, self._tls, self._idle_s = server, token, tls, idle_s
        self._vectors = vectors or VectorFormat.of(server.pull(-1)[1])
        self._membership = Membership(server)
        self.refused = 0
        """Connections that did not show that they know the token."""
        self._lock = threading.Lock()
        self._open: dict[threading.Thread, socket.socket] = {}
        self._epoll_server = EpollServer(idle_s, self._membership.end)
        self._stopped = False
        private = _private_directory(directory)
        # Also when the process ends without `stop`
        self._clean = weakref.finalize(self, shutil.rmtree, private, ignore_errors=True)
        self._listeners = _listeners(private / "server", host)
        self.addresses = _addresses(self._listeners, host, encrypted=tls is not None)
        self._wake_read, self._wake_write = socket.socketpair()
        self._accept_thread = threading.Thread(
            target=self._accept_connections, name="dnnflow-channel-accept", daemon=True
        )
        self._accept_thread.start()

    @property
    def connections(self) -> int:
        """How many connections are open."""
        return sum(thread.is_alive() for thread in list(self._open)) + self._epoll_server.connections

    def stop(self, release: Callable[[], None] = lambda: None) -> None:
        """Close all connections, end all threads and remove the socket; a second call does nothing.

        Parameters
        ----------
        release
            Lets go who waits in the server of weights by other ways than a connection. Called when no
            connection can be answered any more: nobody is told that it has left.

        Raises
        ------
        ClusterError
            When a thread does not come back from the server of weights.
        """
        with self._lock:
            if self._stopped:
                return
            self._stopped = True
            threads = dict(self._open)
        self._wake_write.close()
        self._accept_thread.join(STOP_S)
        for sock in threads.values():
            shut_down(sock)
        deadline_s = time.monotonic() + STOP_S
        hanging = int(not self._epoll_server.stop(STOP_S))
        self._membership.end()  # those who wait for each other in the server are let go
        release()
        for thread in threads:
            thread.join(max(deadline_s - time.monotonic(), 0))
        for listener in [*self._listeners, self._wake_read]:
            listener.close()
        self._clean()
        hanging += sum(thread.is_alive() for thread in threads)
        if hanging:
            raise ClusterError(f"connections must end within {STOP_S:.0f} s, got {hanging} that wait in the "
                               "server; let its replicas leave first")  # fmt: skip

    def _accept_connections(self) -> None:
        with selectors.DefaultSelector() as selector:
            for sock in [*self._listeners, self._wake_read]:
                selector.register(sock, selectors.EVENT_READ)
            while True:
                for key, _ in selector.select():
                    if key.fileobj is self._wake_read:
                        return
                    self._accept(key.fileobj)

    def _accept(self, listener: Any) -> None:
        try:
            sock, _ = listener.accept()
        except OSError:
            time.sleep(0.1)  # no descriptors left, perhaps
            return
        thread = threading.Thread(target=self._serve, args=(sock,), name="dnnflow-channel", daemon=True)
        with self._lock:
            for ended in [known for known in self._open if not known.is_alive()]:
                del self._open[ended]
            if self._stopped or self.connections >= MOST_CONNECTIONS:
                sock.close()
                return
            self._open[thread] = sock
            thread.start()

    def _serve(self, sock: socket.socket) -> None:
        """Do all of one connection; whatever its other end does harms no other."""
        handler, handed_over = None, False
        try:
            if sock.family != socket.AF_UNIX:
                sock = self._secure(sock)
            link, wires = accept_handshake(sock, self._token, self._vectors)
            handler = ConnectionHandler(self._server, self._membership, link, wires)
            handed_over = handler.never_blocks and self._epoll_server.add(handler, sock)
            if not handed_over:
                handler.serve(self._idle_s)
        except OSError:  # ChannelError and TimeLimitError are
            self.refused += handler is None and not self._stopped
        finally:
            if not handed_over:
                self._open[threading.current_thread()].close()
                if handler is not None:
                    self._membership.end(handler)

    def _secure(self, sock: socket.socket) -> socket.socket:
        set_tcp_options(sock)
        if self._tls is None:
            return sock
        sock.settimeout(HANDSHAKE_S)
        with self._lock:
            if self._stopped:
                raise ChannelError("a stopped server takes no connection")
            sock = self._tls.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
            self._open[threading.current_thread()] = sock
        sock.do_handshake()
        return sock


@dataclass
class _Connection:
    handler: ConnectionHandler
    sock: socket.socket
    seen_s: float


class EpollServer:
    """Answers the connections that are handed to it in turn, in a thread that begins with the first.

    For a server that makes no replica wait: threads of one Python process would hand its lock to each other
    for every message.

    Parameters
    ----------
    idle_s
        How long a connection may say nothing before it is closed.
    on_close
        Called with the handler of each connection that has ended.
    """

    def __init__(self, idle_s: float, on_close: Callable[[ConnectionHandler], None]) -> None:
        self._idle_s, self._on_close = idle_s, on_close
        self._lock = threading.Lock()
        self._connections: dict[int, _Connection] = {}
        self._wake_read, self._wake_write = socket.socketpair()
        self._poll: Any = None  # made for the first connection: not every system has epoll
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._spins = SPINS

    @property
    def connections(self) -> int:
        """How many connections are answered."""
        return len(self._connections)

    def add(self, handler: ConnectionHandler, sock: socket.socket) -> bool:
        """Answer a connection from now on, and close its socket at its end; False once stopped."""
        with self._lock:
            if self._stopped:
                return False
            if self._poll is None:
                self._poll = select.epoll()
                self._poll.register(self._wake_read.fileno(), select.EPOLLIN)
            number = sock.fileno()
            self._connections[number] = _Connection(handler, sock, time.monotonic())
            self._poll.register(number, select.EPOLLIN)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dnnflow-channel-epoll", daemon=True)
                self._thread.start()
            return True

    def stop(self, wait_s: float) -> bool:
        """Close all connections, and say whether the thread came to its end in time."""
        with self._lock:
            already, self._stopped, thread = self._stopped, True, self._thread
        if already:
            return True
        self._wake_write.close()
        if thread is not None:
            thread.join(wait_s)
            if thread.is_alive():
                return False
        for number in list(self._connections):
            self._close(number)
        if self._poll is not None:
            self._poll.close()
        self._wake_read.close()
        return True

    def _run(self) -> None:
        looked_s, wake_read = time.monotonic(), self._wake_read.fileno()
        while True:
            ready = self._ready()
            now_s = time.monotonic()
            for number, _ in ready:
                if number == wake_read:
                    return
                self._handle(number, now_s)
            if now_s - looked_s > _POLL_S:
                looked_s = now_s
                for number, connection in list(self._connections.items()):
                    if now_s - connection.seen_s > self._idle_s:
                        self._close(number)

    def _ready(self) -> list[tuple[int, int]]:
        """Return which sockets have something, having polled some times if that was of use the last time."""
        start_s = time.perf_counter()
        for _ in range(self._spins):
            if ready := self._poll.poll(0):
                return list(ready)
            os.sched_yield()
        ready = list(self._poll.poll(_POLL_S))
        self._spins = SPINS if time.perf_counter() - start_s < SPIN_WAIT_S else 0
        return ready

    def _handle(self, number: int, now_s: float) -> None:
        connection = self._connections[number]
        connection.seen_s = now_s
        try:
            goes_on = connection.handler.handle_one()
        except OSError:  # ChannelError and TimeLimitError are
            goes_on = False
        except Exception:  # a fault of ours ends one connection, as in a thread of its own, not all of them
            LOG.exception("a connection ended by a fault of the server")
            goes_on = False
        if not goes_on:
            self._close(number)

    def _close(self, number: int) -> None:
        with self._lock:
            connection = self._connections.pop(number)
            self._poll.unregister(number)
        connection.sock.close()
        self._on_close(connection.handler)


def _private_directory(parent: Path | None) -> Path:
    """Return a new directory that only this user may enter."""
    if parent is not None and len(os.fsencode(parent)) <= PARENT_BYTES:
        return Path(tempfile.mkdtemp(prefix="dnnflow-", dir=parent))
    return Path(tempfile.mkdtemp(prefix="dnnflow-"))


def _listeners(path: Path, host: str | None) -> list[socket.socket]:
    """Return a listening socket of this machine, and one of TCP if there is a host."""
    found = []
    unix = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        unix.bind(str(path))
        unix.listen()
        found.append(unix)
    except OSError as error:
        unix.close()
        if host is None:
            raise InputError(
                f"a socket must have a short path, got {path}: {error}; set TMPDIR to a short one"
            ) from error
    if host is not None:
        family = socket.getaddrinfo(host, 0, type=socket.SOCK_STREAM)[0][0]
        found.append(socket.create_server((host, 0), family=family))
    return found


def _addresses(listeners: list[socket.socket], host: str | None, *, encrypted: bool) -> Addresses:
    names = {listener.family: listener.getsockname() for listener in listeners}
    unix = names.pop(socket.AF_UNIX, None)
    port = next(iter(names.values()))[1] if names else 0
    return Addresses(unix, host, port, encrypted)
