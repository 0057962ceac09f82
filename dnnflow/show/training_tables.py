"""What is shown of a parallel training, as numbers and text: figures and pages only draw it."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dnnflow.show.run_numbers import ReplicaNumbers, TrainingNumbers, pace_of, thinned

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
    return ReplicaNumbers(
        replica=number,
        worker=worker,
        samples=totals.samples,
        pushes=totals.pushes,
        lives=totals.lives,
        compute_s=totals.compute_s,
        exchange_s=totals.exchange_s,
        data_s=totals.data_s,
        resident_bytes=totals.resident_bytes,
        gpu_bytes=totals.gpu_bytes,
        processor_s=totals.processor_s,
        seen=tuple(seen[i] for i in kept),
        losses=tuple(losses[i] for i in kept),
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


def headline(numbers: TrainingNumbers) -> list[tuple[str, str, str]]:
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


def summary(numbers: TrainingNumbers, startup_s: float) -> list[tuple[str, str]]:
    """Return what was trained and how it ended, as names and values for a person."""
    return [
        *numbers.about,
        ("Ended by", numbers.ended_by),
        ("Time", f"{numbers.elapsed_s:,.1f} s, and {startup_s:,.1f} s of start-up"),
        ("Workers lost", str(len(numbers.lost)) if numbers.lost else "none"),
    ]
