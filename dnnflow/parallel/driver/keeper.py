"""Keep a copy of what a training's servers hold, taken again and again beside it."""

import threading
import time

from dnnflow.errors import DnnflowError
from dnnflow.parallel.driver.actors import TrainingActors, TrainingState

SHARE = 20
"""Copies take at most one part in so many of the time: large ones are taken less often."""
BYTES_S = 200e6
"""How many bytes of state are copied, packed, sent and unpacked in a second on one core."""


class Keeper:
    """Takes the servers' state into the driver's memory, in a thread, until they are lost or it is ended.

    The driver's own death ends a training anyway: no worker holds what may not be lost.

    Parameters
    ----------
    actors
        Called before, by a thread whose client is the current one.
    state
        What they hold now.
    every_s
        Seconds between two copies; more of large states, and on slow lines at least twice what one takes.
    """

    def __init__(self, actors: TrainingActors, state: TrainingState, every_s: float) -> None:
        self._actors, self._state, self._every_s = actors, state, every_s
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="dnnflow-keeper", daemon=True)
        self._thread.start()

    @property
    def state(self) -> TrainingState:
        """What was taken last."""
        return self._state

    def end(self) -> TrainingState:
        """Take no more, and return what was taken last."""
        self._ended.set()
        return self._state

    def _run(self) -> None:
        wait_s = self._every_s
        while not self._ended.wait(wait_s):
            start_s = time.monotonic()
            try:
                found = self._actors.snapshot()
            except DnnflowError:  # the driver finds that out for itself, and does more about it
                continue
            if not self._ended.is_set():
                self._state = found or self._state
            taken_s = time.monotonic() - start_s
            wait_s = max(self._every_s, SHARE * self._state.nbytes / BYTES_S, 2 * taken_s)
