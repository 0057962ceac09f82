"""Hold what is shown of a run as plain numbers, which travel to the scheduler and are drawn there.

Figures and pages only draw them. Nothing heavy is imported: the scheduler's process reads this.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

from dnnflow.events import ReplicaCounts
from dnnflow.show.wording import memory_in_words

if TYPE_CHECKING:
    from dnnflow.parallel.driver.history import History, ReplicaTotals


MOST_LOSSES = 3_000
"""Losses that are shown, over all replicas; more are thinned out."""
LEAST_LOSSES = 20
"""Of each replica, however many there are."""
MOST_ROWS = 300
"""Validations that are shown; more are thinned out."""
MOST_LATE = 30
"""Pushes that are as late or later are counted together..."""
TAIL = 0.005
"""...and so is the latest part of them, up to this share."""
NO_MEASURES = ("epoch", "samples", "elapsed_s", "evaluation_s")
"""What a validation's row has besides measures."""
LAST_S = 10.0
"""How fast a training is now is its mean over so long."""


@dataclass(frozen=True, kw_only=True)
class Numbers:
    """Numbers of one run at one moment. Fields have defaults: a page may be of another version."""

    kind: ClassVar[str]

    about: Sequence[tuple[str, str]] = ()
    """Names and values for a person."""
    elapsed_s: float = 0.0
    total: int = 0
    """What there is to do: rows times epochs, or designs; 0 where it is not known."""

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types; what they hold is shared, not copied."""
        return dict(vars(self))

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_dict` gave; what this version does not know is left out."""
        return cls(**_known(cls, data))


@dataclass(kw_only=True)
class ReplicaNumbers(ReplicaCounts):
    """One replica of a parallel training, as it is shown."""

    replica: int
    worker: str = ""
    """Address of the Dask worker it is on; empty where that is not known."""
    seen: Sequence[int] = ()
    """Samples of all replicas when each loss came."""
    losses: Sequence[float] = ()
    """Mean training loss between two reports, thinned out."""


@dataclass(frozen=True, kw_only=True)
class TrainingNumbers(Numbers):
    """A parallel training."""

    kind = "training"

    samples: int = 0
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
        replicas = tuple(ReplicaNumbers(**_known(ReplicaNumbers, one)) for one in data.get("replicas", ()))
        return super().from_dict({**data, "replicas": replicas})


@dataclass(frozen=True, kw_only=True)
class StudyNumbers(Numbers):
    """A study that trains."""

    kind = "study"

    completed: int = 0
    failed: int = 0
    best_design: str = ""
    best: Sequence[tuple[int, float]] = ()
    """(trials finished, best accuracy from then on)."""
    pace: Sequence[tuple[float, float]] = ()
    """(seconds since the beginning, trials a second)."""
    cells: Sequence[tuple[int, float, int]] = ()
    """(hidden layers, accuracy, trials) at the lower corner of each cell that holds a trial."""
    cell_size: tuple[int, float] = (1, 0.0)
    """Hidden layers and accuracy that a cell spans."""
    failures: Sequence[tuple[str, int]] = ()
    """(name of the exception's class, trials), the most frequent first."""


def _known(cls: type, data: Mapping[str, Any]) -> dict[str, Any]:
    return {item.name: data[item.name] for item in fields(cls) if item.name in data}


@dataclass(frozen=True)
class Measure:
    """One measure along the training."""

    name: str
    samples: tuple[float, ...]
    values: tuple[float, ...]


def training_numbers(history: "History", workers: Mapping[int, str] | None = None) -> TrainingNumbers:
    """Return what is shown of a training, while it runs or after it.

    Parameters
    ----------
    history
        Another thread may go on writing it.
    workers
        {replica: address of its Dask worker}, where that is of interest.
    """
    versions = list(history.versions)
    rows = list(history.rows)
    late = history.staleness
    staleness = staleness_shown(late)
    most = max(LEAST_LOSSES, MOST_LOSSES // max(1, len(history.replicas)))
    heard = _moments(history, most)
    return TrainingNumbers(
        about=tuple(history.about.items()),
        elapsed_s=history.seconds_s or max([heard[-1][0] if heard else 0.0, *(x for x, _ in versions[-1:])]),
        samples=history.samples,
        total=history.total,
        restored=history.restored,
        updates=versions[-1][1] if versions else 0,
        ended_by=history.ended_by if history.seconds_s else "",
        replicas=tuple(
            _replica(number, totals, (workers or {}).get(number, ""), most)
            for number, totals in sorted(history.replicas.items())
        ),
        rows=tuple({k: float(v) for k, v in rows[i].items()} for i in thinned(len(rows), MOST_ROWS)),
        staleness=staleness,
        staleness_open=len(staleness) < len(late),
        mean_staleness=mean_staleness(late),
        samples_pace=tuple(pace_of([(0.0, 0), *heard])),
        updates_pace=tuple(pace_of(versions)),
        lost=tuple((one.elapsed_s, one.replica, one.worker) for one in list(history.lost)),
    )


def _moments(history: "History", most: int) -> list[tuple[float, float]]:
    """Return (seconds, samples of all replicas by then) at some of each replica's reports, in order."""
    found: list[tuple[float, float]] = []
    for totals in history.replicas.values():
        length = min(len(totals.seen), len(totals.heard_s))
        found += [(totals.heard_s[i], totals.seen[i]) for i in thinned(length, most)]
    return sorted(found)


def _replica(number: int, totals: "ReplicaTotals", worker: str, most: int) -> ReplicaNumbers:
    seen, losses = totals.seen, totals.losses  # another thread may append, nobody takes away
    kept = thinned(min(len(seen), len(losses)), most)
    counts = {item.name: getattr(totals, item.name) for item in fields(ReplicaCounts)}
    return ReplicaNumbers(
        replica=number,
        worker=worker,
        seen=tuple(seen[i] for i in kept),
        losses=tuple(losses[i] for i in kept),
        **counts,
    )


def staleness_shown(staleness: Mapping[int, int]) -> tuple[tuple[int, int], ...]:
    """Return (updates late, pushes); the last counts the few that are later, too."""
    pushes, seen = sum(staleness.values()), 0
    found: list[tuple[int, int]] = []
    for late, count in sorted(staleness.items()):
        rest = pushes - seen
        if found and (late >= MOST_LATE or rest <= TAIL * pushes):
            return (*found, (late, rest))
        found.append((late, count))
        seen += count
    return tuple(found)


def measures(numbers: TrainingNumbers, *, losses: bool) -> list[Measure]:
    """Return validation losses, or all other measures, over the samples of all replicas."""
    names = dict.fromkeys(name for row in numbers.rows for name in row if name not in NO_MEASURES)
    found = []
    for name in names:
        if (name in ("loss", "val_loss")) is not losses or (losses and name == "loss"):
            continue
        rows = [row for row in numbers.rows if name in row]
        found.append(Measure(name, tuple(x["samples"] for x in rows), tuple(x[name] for x in rows)))
    return found


def pace_now(pace: Sequence[tuple[float, float]]) -> float | None:
    """Return the mean of the last seconds, None where nothing is known."""
    if not pace:
        return None
    recent = [value for time_s, value in pace if time_s >= pace[-1][0] - LAST_S]
    return sum(recent) / len(recent)


def mean_staleness(staleness: Mapping[int, int]) -> float | None:
    """Return how many updates late pushes were on average, None without a push."""
    pushes = sum(staleness.values())
    return sum(late * count for late, count in staleness.items()) / pushes if pushes else None


def time_shares(replica: ReplicaNumbers) -> tuple[float, float, float]:
    """Return which shares of its time a replica computed, exchanged and waited for rows."""
    parts = (replica.compute_s, replica.exchange_s, replica.data_s)
    total = sum(parts)
    return tuple(part / total if total else 0.0 for part in parts)  # type: ignore[return-value]


def training_headline(numbers: TrainingNumbers) -> list[tuple[str, str, str]]:
    """Return the numbers that matter most: name, value, what to know about it."""
    done = (numbers.restored + numbers.samples) / max(1, numbers.total)
    share = f"{done:.0%} of {numbers.total:,}" if numbers.total else ""
    shown = [("samples", f"{numbers.samples:,}", share.replace("%", " %"))]
    running = not numbers.ended_by
    for name, count, pace in (
        ("samples a second", numbers.samples, numbers.samples_pace),
        ("updates a second", numbers.updates, numbers.updates_pace),
    ):
        value = pace_now(pace) if running else count / max(numbers.elapsed_s, 1e-9)
        note = f"of the last {LAST_S:g} s" if running else f"over {numbers.elapsed_s:,.1f} s"
        if value is not None:
            shown.append((name, f"{value:,.0f}" if value >= 10 else f"{value:.2f}", note))
    last = numbers.rows[-1] if numbers.rows else {}
    validated = [(name, value) for name, value in last.items() if name.startswith("val_")]
    for name, value in validated[:2] or [(k, v) for k, v in last.items() if k not in NO_MEASURES][:2]:
        shown.append((name.replace("_", " "), f"{value:.4f}", f"at {last['samples']:,.0f} samples"))
    if numbers.mean_staleness is not None:
        shown.append(("mean staleness", f"{numbers.mean_staleness:.2f}", "updates late"))
    return shown


def training_summary(numbers: TrainingNumbers, startup_s: float) -> list[tuple[str, str]]:
    """Return what was trained and how it ended, as names and values for a person."""
    return [
        *numbers.about,
        ("Ended by", numbers.ended_by),
        ("Time", f"{numbers.elapsed_s:,.1f} s, and {startup_s:,.1f} s of start-up"),
        ("Workers lost", str(len(numbers.lost)) if numbers.lost else "none"),
    ]


def replica_rows(replicas: Sequence[ReplicaNumbers]) -> list[tuple[str, ...]]:
    """Return a row of text for each replica, as the report's table has them."""
    return [
        (
            f"{one.replica}", f"{one.samples:,}", f"{one.pushes:,}", f"{one.compute_s:,.1f} s",
            f"{one.exchange_s:,.1f} s", f"{one.data_s:,.1f} s", f"{one.processor_s:,.1f} s",
            memory_in_words(one.resident_bytes, one.gpu_bytes), f"{one.starts - 1}",
        )
        for one in replicas
    ]  # fmt: skip


def study_headline(numbers: StudyNumbers) -> list[tuple[str, str, str]]:
    """Return the numbers that matter most: name, value, what to know about it."""
    done = numbers.completed + numbers.failed
    share = f"{done / max(1, numbers.total):.0%} of {numbers.total:,}".replace("%", " %")
    shown = [("designs trained", f"{done:,}", share)]
    pace = pace_now(numbers.pace)
    if pace is not None:
        shown.append(("trials a second", f"{pace:,.1f}", f"of the last {LAST_S:g} s"))
    if numbers.best:
        at, score = numbers.best[-1]
        shown.append(("best accuracy", f"{score:.4f}", f"since trial {at:,}"))
    kinds = f"{len(numbers.failures)} kinds" if numbers.failures else ""
    waiting = f"{max(0, numbers.total - done):,}"
    return [*shown, ("failed", f"{numbers.failed:,}", kinds), ("waiting", waiting, "designs")]


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
    edges = np.linspace(start_s, end_s, n + 1)
    counts = np.interp(edges, *np.array(moments, dtype=float).T)
    middles = (edges[:-1] + edges[1:]) / 2
    return list(zip(middles.tolist(), (np.diff(counts) / np.diff(edges)).tolist(), strict=True))


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
