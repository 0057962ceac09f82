"""Hold what the scheduler keeps of runs: the latest numbers of the last runs, and no more."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

RUNS = 20
"""Runs that are kept; of more, those that ended first are dropped."""
SILENT_S = 30.0
"""A run that has said nothing for so long has probably lost its driver."""


@dataclass(frozen=True)
class Run:
    """One run as last heard of."""

    id: str
    kind: str
    """training or study."""
    name: str
    state: str
    """running, finished or failed."""
    numbers: Mapping[str, Any]
    begun_at: float
    """Unix time in seconds, of the scheduler, at which it was first heard of."""
    heard_at: float

    @property
    def is_silent(self) -> bool:
        """Whether a run that should be running says nothing."""
        return self.state == "running" and time.time() - self.heard_at > SILENT_S


class Board:
    """Keeps runs; all methods belong to the scheduler's event loop."""

    def __init__(self) -> None:
        self._runs: dict[str, Run] = {}

    def show(self, id: str, kind: str, name: str, state: str, numbers: Mapping[str, Any]) -> None:
        """Take note of how a run is."""
        now = time.time()
        known = self._runs.get(id)
        run = Run(id, kind, name, state, numbers, now, now)
        self._runs[id] = run if known is None else replace(run, begun_at=known.begun_at)
        while len(self._runs) > RUNS:
            first = min(self._runs.values(), key=lambda one: (_is_alive(one), one.heard_at))
            del self._runs[first.id]

    @property
    def runs(self) -> list[Run]:
        """All runs, the latest first."""
        return sorted(self._runs.values(), key=lambda run: run.begun_at, reverse=True)


def _is_alive(run: Run) -> bool:
    return run.state == "running" and not run.is_silent
