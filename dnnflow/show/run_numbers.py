"""What the live page shows of a run, as plain numbers that travel to the scheduler and are drawn there."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any, ClassVar, Self


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers of one run at one moment. Fields have defaults: a page may be of another version."""

    kind: ClassVar[str]

    about: Sequence[tuple[str, str]] = ()
    """Names and values for a person."""
    elapsed_s: float = 0.0

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types; what they hold is shared, not copied."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_dict` gave; what this version does not know is left out."""
        known = {item.name for item in fields(cls)}
        return cls(**{name: value for name, value in data.items() if name in known})


@dataclass(frozen=True, kw_only=True)
class ReplicaNumbers:
    """One replica of a parallel training."""

    replica: int
    worker: str = ""
    """Address of the Dask worker it is on; empty where that is not known."""
    samples: int = 0
    pushes: int = 0
    lives: int = 1
    """Processes that were this replica, one after the other."""
    compute_s: float = 0.0
    exchange_s: float = 0.0
    """Waiting for servers, and in synchronous training for the others."""
    data_s: float = 0.0
    """Waiting for rows."""
    resident_bytes: int = 0
    """The most at any report."""
    gpu_bytes: int = 0
    """The most held on its worker's GPUs."""
    processor_s: float = 0.0
    seen: Sequence[int] = ()
    """Samples of all replicas when each loss came."""
    losses: Sequence[float] = ()
    """Mean training loss between two reports, thinned out."""


@dataclass(frozen=True, kw_only=True)
class TrainingNumbers(Numbers):
    """A parallel training."""

    kind = "training"

    samples: int = 0
    total: int = 0
    """Rows times epochs; 0 where it is not known."""
    restored: int = 0
    """Samples of the checkpoint that it went on from."""
    updates: int = 0
    ended_by: str = ""
    """epochs, target, callback or time limit; empty while it runs."""
    replicas: Sequence[ReplicaNumbers] = ()
    rows: Sequence[Mapping[str, float]] = ()
    """Validations, as in the history."""
    staleness: Sequence[tuple[int, int]] = ()
    """(updates late, pushes), the least late first; the last may stand for all that are later, too."""
    staleness_open: bool = False
    """Whether it does."""
    mean_staleness: float | None = None
    samples_pace: Sequence[tuple[float, float]] = ()
    """(seconds since the beginning, samples a second)."""
    updates_pace: Sequence[tuple[float, float]] = ()
    lost: Sequence[tuple[float, int, str]] = ()
    """(seconds since the beginning, replica, worker) of each worker that was lost."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types; what they hold is shared, not copied."""
        return {**vars(self), "replicas": [dict(vars(one)) for one in self.replicas]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_dict` gave; what this version does not know is left out."""
        known = {item.name for item in fields(ReplicaNumbers)}
        replicas = tuple(
            ReplicaNumbers(**{name: value for name, value in one.items() if name in known})
            for one in data.get("replicas", ())
        )
        return super().from_dict({**data, "replicas": replicas})


@dataclass(frozen=True, kw_only=True)
class StudyNumbers(Numbers):
    """A study that trains."""

    kind = "study"

    total: int = 0
    completed: int = 0
    failed: int = 0
    best_design: str = ""
    best: Sequence[tuple[int, float]] = ()
    """(trials finished, best test accuracy from then on)."""
    pace: Sequence[tuple[float, float]] = ()
    """(seconds since the beginning, trials a second)."""
    cells: Sequence[tuple[int, float, int]] = ()
    """(hidden layers, test accuracy, trials) at the lower corner of each cell that holds a trial."""
    cell_size: tuple[int, float] = (1, 0.0)
    """Hidden layers and accuracy that a cell spans."""
    failures: Sequence[tuple[str, int]] = ()
    """(name of the exception's class, trials), the most frequent first."""


def pace_of(
    moments: Sequence[tuple[float, float]], *, bins: int = 120, least_s: float = 2.0
) -> list[tuple[float, float]]:
    """Return how fast a count grew, as (seconds, count a second) at the middle of equal spans.

    Parameters
    ----------
    moments
        (seconds since the beginning, count so far), in order.
    bins
        Spans at most.
    least_s
        A span is no shorter, unless there is only one.

    Examples
    --------
    >>> pace_of([(0.0, 0), (1.0, 10), (2.0, 20), (4.0, 80)])
    [(1.0, 10.0), (3.0, 30.0)]
    """
    start_s, end_s = (moments[0][0], moments[-1][0]) if moments else (0.0, 0.0)
    if end_s <= start_s:
        return []
    n = max(1, min(bins, int((end_s - start_s) / least_s)))
    edges = [start_s + (end_s - start_s) * i / n for i in range(n + 1)]
    counts = _at(moments, edges)
    return [
        ((a + b) / 2, (y - x) / (b - a))
        for a, b, x, y in zip(edges, edges[1:], counts, counts[1:], strict=False)
    ]


def _at(moments: Sequence[tuple[float, float]], times_s: Sequence[float]) -> list[float]:
    """Return a count at times that ascend, on straight lines between moments."""
    found, place = [], 1
    for time_s in times_s:
        while place < len(moments) - 1 and moments[place][0] <= time_s:
            place += 1
        (start_s, low), (end_s, high) = moments[place - 1], moments[place]
        share = (time_s - start_s) / (end_s - start_s) if end_s > start_s else 1.0
        found.append(low + (high - low) * min(share, 1.0))
    return found


def thinned(length: int, most: int) -> list[int]:
    """Return at most so many indices of a sequence, evenly, first and last among them.

    Examples
    --------
    >>> thinned(9, 3)
    [0, 4, 8]
    """
    if length <= most:
        return list(range(length))
    return [round(i * (length - 1) / (most - 1)) for i in range(most)]
