"""Predictions, made by a process of its own that is started when first needed."""

import json
import os
import socket
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from dnnflow import errors
from dnnflow.errors import BusyError, DnnflowError, LimitError, TimeLimitError

DEADLINE_S = 60.0
"""For one request, the wait for others included."""
IDLE_S = 900.0
"""After which the process is ended: TensorFlow holds hundreds of megabytes."""
MOST_WAITING = 8


class Predictions:
    """Applies models in a child process; safe for threads, one request at a time.

    Parameters
    ----------
    deadline_s
        After which a request is given up and the process is started anew.
    """

    def __init__(self, *, deadline_s: float = DEADLINE_S) -> None:
        self._deadline_s = deadline_s
        self._turn = threading.Lock()
        self._waiting = threading.Semaphore(MOST_WAITING)
        self._process: subprocess.Popen[bytes] | None = None
        self._connection: Connection | None = None
        self._used_s = 0.0

    def predict(self, model: Path, text: bytes, *, rows: int, **reading: Any) -> dict[str, Any]:
        """Return `classes`, `predictions` and `probabilities` of the rows of a CSV.

        Parameters
        ----------
        rows
            How many there may be.
        reading
            `delimiter` and `header`, where they are not as in the table of the training.

        Raises
        ------
        DataError
            If the rows cannot be used.
        LimitError
            If there are more than `rows`.
        BusyError
            If too many requests wait.
        TimeLimitError
            If it takes too long.
        """
        end_s = time.monotonic() + self._deadline_s
        if not self._waiting.acquire(blocking=False):
            raise BusyError(
                f"{MOST_WAITING} requests for predictions may wait, got one more; try again later"
            )
        try:
            if not self._turn.acquire(timeout=self._deadline_s):
                raise self._too_slow()
            try:
                header = {"path": str(model), "rows": rows, **reading}
                return _unpack(self._ask(header, text, end_s))
            finally:
                self._turn.release()
        finally:
            self._waiting.release()

    def close(self) -> None:
        """End the process."""
        with self._turn:
            self._end()

    def rest(self) -> None:
        """End the process if it has not been used for a while."""
        if (
            self._process is not None
            and time.monotonic() - self._used_s > IDLE_S
            and self._turn.acquire(blocking=False)
        ):
            try:
                self._end()
            finally:
                self._turn.release()

    def _ask(self, header: dict[str, Any], text: bytes, end_s: float) -> dict[str, Any]:
        answer: bytes | None = None
        for _ in range(2):  # a process that died between two requests is replaced once
            try:
                answer = self._answer(header, text, end_s)
                break
            except (EOFError, OSError):
                self._end()
        else:
            raise LimitError(
                "predictions must fit their process' memory, got some that ended it; send fewer rows"
            )
        if answer is None:
            self._end()
            raise self._too_slow()
        self._used_s = time.monotonic()
        found: dict[str, Any] = json.loads(answer)
        return found

    def _answer(self, header: dict[str, Any], text: bytes, end_s: float) -> bytes | None:
        """Return what the process answers, None where it does not in time."""
        connection = self._started()
        connection.send_bytes(json.dumps(header).encode())
        connection.send_bytes(text)
        in_time = connection.poll(max(0.0, end_s - time.monotonic()))
        return connection.recv_bytes() if in_time else None

    def _started(self) -> Connection:
        if self._process is not None and self._process.poll() is None and self._connection is not None:
            return self._connection
        self._end()
        ours, theirs = socket.socketpair()
        with theirs:
            environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "CUDA_VISIBLE_DEVICES": "-1"}
            self._process = subprocess.Popen(
                [sys.executable, "-m", "dnnflow.web.answers.predictor", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                env=environment,
            )  # fmt: skip
        self._connection = Connection(ours.detach())
        return self._connection

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        self._process = self._connection = None

    def _too_slow(self) -> TimeLimitError:
        return TimeLimitError(
            f"predictions must be made within {self._deadline_s:g} s, got none by then; send fewer rows"
        )


def _unpack(found: dict[str, Any]) -> dict[str, Any]:
    if "error" not in found:
        return found
    kind = getattr(errors, str(found["error"]), errors.DataError)
    raise (kind if issubclass(kind, DnnflowError) else errors.DataError)(found["message"])
