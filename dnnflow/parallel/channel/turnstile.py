"""One thread for many connections of a server that makes no replica wait.

Threads of one Python process would hand its lock to each other for every message.
"""

import logging
import os
import select
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dnnflow.parallel.channel.desk import Desk
from dnnflow.parallel.channel.link import LOOKS, SOON_S

LOG = logging.getLogger(__name__)
_TICK_S = 1.0
"""How often idle connections are looked for."""


@dataclass
class _Visitor:
    desk: Desk
    sock: socket.socket
    seen_s: float


class Turnstile:
    """Answers the connections that are handed to it in turn, in a thread that begins with the first.

    Parameters
    ----------
    idle_s
        How long a connection may say nothing before it is closed.
    ended
        Called with the desk of each connection that has ended.
    """

    def __init__(self, idle_s: float, ended: Callable[[Desk], None]) -> None:
        self._idle_s, self._ended = idle_s, ended
        self._lock = threading.Lock()
        self._visitors: dict[int, _Visitor] = {}
        self._bell, self._rope = socket.socketpair()
        self._poll: Any = None  # made for the first connection: not every system has epoll
        self._thread: threading.Thread | None = None
        self._stopped = False
        self._looks = LOOKS

    @property
    def connections(self) -> int:
        """How many connections are answered."""
        return len(self._visitors)

    def take(self, desk: Desk, sock: socket.socket) -> bool:
        """Answer a connection from now on, and close its socket at its end; False once stopped."""
        with self._lock:
            if self._stopped:
                return False
            if self._poll is None:
                self._poll = select.epoll()
                self._poll.register(self._bell.fileno(), select.EPOLLIN)
            number = sock.fileno()
            self._visitors[number] = _Visitor(desk, sock, time.monotonic())
            self._poll.register(number, select.EPOLLIN)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="dnnflow-channel-turns", daemon=True)
                self._thread.start()
            return True

    def stop(self, wait_s: float) -> bool:
        """Close all connections, and say whether the thread came to its end in time."""
        with self._lock:
            already, self._stopped, thread = self._stopped, True, self._thread
        if already:
            return True
        self._rope.close()
        if thread is not None:
            thread.join(wait_s)
            if thread.is_alive():
                return False
        for number in list(self._visitors):
            self._let_go(number)
        if self._poll is not None:
            self._poll.close()
        self._bell.close()
        return True

    def _run(self) -> None:
        looked_s, bell = time.monotonic(), self._bell.fileno()
        while True:
            ready = self._ready()
            now_s = time.monotonic()
            for number, _ in ready:
                if number == bell:
                    return
                self._answer(number, now_s)
            if now_s - looked_s > _TICK_S:
                looked_s = now_s
                for number, visitor in list(self._visitors.items()):
                    if now_s - visitor.seen_s > self._idle_s:
                        self._let_go(number)

    def _ready(self) -> list[tuple[int, int]]:
        """Return which sockets have something, having looked some times if that was of use the last time."""
        start_s = time.perf_counter()
        for _ in range(self._looks):
            if ready := self._poll.poll(0):
                return list(ready)
            os.sched_yield()
        ready = list(self._poll.poll(_TICK_S))
        self._looks = LOOKS if time.perf_counter() - start_s < SOON_S else 0
        return ready

    def _answer(self, number: int, now_s: float) -> None:
        visitor = self._visitors[number]
        visitor.seen_s = now_s
        try:
            goes_on = visitor.desk.answer_one()
        except OSError:  # ChannelError and TimeLimitError are
            goes_on = False
        except Exception:  # a fault of ours ends one connection, as in a thread of its own, not all of them
            LOG.exception("a connection ended by a fault of the server")
            goes_on = False
        if not goes_on:
            self._let_go(number)

    def _let_go(self, number: int) -> None:
        with self._lock:
            visitor = self._visitors.pop(number)
            self._poll.unregister(number)
        visitor.sock.close()
        self._ended(visitor.desk)
