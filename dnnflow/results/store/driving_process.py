"""Which process drives a study, and whether it is still alive."""

import os
import socket
from dataclasses import dataclass

import psutil

SILENT_AFTER_S = 30.0
"""A driver on another host counts as gone once its last heartbeat is older than this."""

START_TOLERANCE_S = 2.0
"""A process' start time is derived from the clock, which may be set a little between two looks."""


@dataclass(frozen=True)
class Driver:
    """One process, told apart from a later one with the same number by when it began."""

    host: str
    pid: int
    started_s: float
    """Seconds since 1970, UTC."""

    @classmethod
    def this_process(cls) -> "Driver":
        """Describe the calling process."""
        return cls(socket.gethostname(), os.getpid(), psutil.Process().create_time())

    @classmethod
    def parse(cls, text: str) -> "Driver":
        """Read what `str(driver)` gave."""
        host, pid, started_s = text.rsplit(":", 2)
        return cls(host, int(pid), float(started_s))

    def __str__(self) -> str:
        return f"{self.host}:{self.pid}:{self.started_s:.3f}"

    def same_process(self, other: "Driver") -> bool:
        """Whether both mean the same process."""
        near = abs(self.started_s - other.started_s) < START_TOLERANCE_S
        return near and (self.host, self.pid) == (other.host, other.pid)

    def is_alive(self, silent_s: float) -> bool:
        """Whether the process still runs; of another host only its silence is known.

        Parameters
        ----------
        silent_s : float
            Seconds since its last heartbeat.
        """
        if self.host != socket.gethostname():
            return silent_s < SILENT_AFTER_S
        try:
            process = psutil.Process(self.pid)
            running = process.status() not in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD)
            return running and abs(process.create_time() - self.started_s) < START_TOLERANCE_S
        except psutil.NoSuchProcess:
            return False
        except psutil.AccessDenied:  # it exists and belongs to somebody else
            return silent_s < SILENT_AFTER_S
