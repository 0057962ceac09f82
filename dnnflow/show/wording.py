"""Say events as lines for people: the same words in a terminal, a log and an artifact."""

from collections.abc import Mapping

from dnnflow import events
from dnnflow.events import Event, TrainingProgress, TrialsStored


def in_words(event: Event) -> str:
    """Return an event as one line."""
    match event:
        case events.StageStarted():
            return f"{event.stage}: {event.detail}"
        case events.StageFinished():
            return f"{event.stage}: {event.detail} ({event.seconds_s:.1f} s)"
        case events.RowsRead():
            return f"{event.rows:,} rows read"
        case events.ClusterReady():
            dashboard = f", dashboard {event.dashboard}" if event.dashboard else ""
            return f"cluster {event.address}: {event.workers} workers{dashboard}"
        case events.WorkerLost():
            return f"worker {event.worker} was lost; {event.designs} designs will be run again"
        case events.WorkerRecycled():
            return f"worker {event.worker} was restarted at {event.resident_bytes / 1e9:.1f} GB"
        case events.Compiling():
            who = f"{event.workers} worker{'' if event.workers == 1 else 's'}"
            return f"compiling on {who}, once a process" if event.workers else "compiled"
        case events.TrialsStored():
            return f"{event.completed + event.failed:,} of {event.total:,} designs, {pace_in_words(event)}"
        case events.FinalsProgress():
            what = "on all rows" if event.stage is events.Stage.FINAL else "of finalists"
            return f"{event.done:,} of {event.total:,} trainings {what}"
        case events.TrainingProgress():
            return training_in_words(event)
        case events.ReplicaLost():
            return f"replica {event.replica} was lost with worker {event.worker}; others take its rows"
        case events.StudyBegun() | events.TrainingBegun():
            return f"{event.name} begins"
        case events.TrialsEnded():
            return f"{len(event.results):,} designs trained"
        case events.RunEnded():
            return "failed" if event.failed else "finished"
        case events.Notice():
            return event.message


def range_in_words(interval: tuple[float | None, float | None] | None) -> str:
    """Return the ends of an interval, e.g. `0.912 – 0.954`; a dash where there is none."""
    low, high = interval or (None, None)
    return "–" if low is None or high is None else f"{low:.3f} – {high:.3f}"


def training_in_words(event: TrainingProgress) -> str:
    """Return how far a parallel training is."""
    return f"{event.samples:,} of {event.total:,} samples, {measures_in_words(event)}"


def measures_in_words(event: TrainingProgress) -> str:
    """Return rate, replicas at work, loss and the last validation."""
    replicas = f"{event.replicas} replica{'' if event.replicas == 1 else 's'}"
    loss = [] if event.loss is None else [f"loss {event.loss:.4f}"]
    measures = [f"{name} {value:.4f}" for name, value in event.measures.items()]
    return ", ".join([f"{event.rate:,.0f}/s, {replicas}", *loss, *measures])


def staleness_in_words(staleness: Mapping[int, int], most: int = 8) -> str:
    """Return how late pushes were, e.g. `0: 75 %, 1: 20 %, 2 and more: 5 %`."""
    total = sum(staleness.values())
    late = sorted(staleness.items())
    shown = late if len(late) <= most else late[: most - 1]
    parts = [f"{updates}: {count / total:.0%}" for updates, count in shown]
    rest = total - sum(count for _, count in shown)
    if rest:
        parts.append(f"{late[len(shown)][0]} and more: {rest / total:.0%}")
    return ", ".join(parts).replace("%", " %")


def memory_in_words(resident_bytes: float, gpu_bytes: float = 0) -> str:
    """Return what a process holds, on GPUs too where it does."""
    gpu = f", GPU {gpu_bytes / 1e6:,.0f} MB" if gpu_bytes else ""
    return f"{resident_bytes / 1e6:,.0f} MB{gpu}"


def pace_in_words(event: TrialsStored) -> str:
    """Return rate, time left, failures and the best so far."""
    parts = [f"{event.rate:.1f}/s" if event.rate >= 1 else f"{event.rate * 60:.1f}/min"]
    if event.eta_s:
        parts.append(f"{duration(event.eta_s)} left")
    if event.failed:
        parts.append(f"{event.failed:,} failed")
    if event.best_score is not None:
        parts.append(f"best {event.best_score:.4f} ({event.best_design})")
    return ", ".join(parts)


def duration(seconds_s: float) -> str:
    """Return a duration, e.g. `45s`, `3m05s`, `2h10m`."""
    minutes, seconds = divmod(round(seconds_s), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02}m"
    return f"{minutes}m{seconds:02}s" if minutes else f"{seconds}s"


def size_in_words(size_bytes: float) -> str:
    """Return a number of bytes, e.g. `1.4 MB`."""
    for unit in ("B", "kB", "MB", "GB"):
        if size_bytes < 1000:
            return (
                f"{size_bytes:.1f} {unit}" if unit != "B" and size_bytes < 100 else f"{size_bytes:.0f} {unit}"
            )
        size_bytes /= 1000
    return f"{size_bytes:.1f} TB"
