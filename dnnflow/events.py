"""What happens during a run, as records that logs, progress bars, artifacts and pages read alike.

Fields ending in `_s` are seconds; fields ending in `_at` are UTC in ISO 8601.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum


class Command(StrEnum):
    """What a person wants of a run that has not finished; its driver acts within a second."""

    RUN = "run"
    PAUSE = "pause"
    """Nothing more is handed out; the process and its cluster wait."""
    CANCEL = "cancel"
    """What is in flight is stopped, and the process ends; what has been stored stays."""


class Stage(StrEnum):
    """The stages of a study, in order."""

    UPLOAD = "upload"
    PREPROCESS = "preprocess"
    TRAIN = "train"
    AGGREGATE = "aggregate"
    REPORT = "report"
    REFIT = "refit"


@dataclass(frozen=True)
class StageStarted:
    """A stage begins."""

    stage: Stage
    detail: str
    """What it works on, in words for a person."""


@dataclass(frozen=True)
class StageFinished:
    """A stage has ended well."""

    stage: Stage
    seconds_s: float
    detail: str
    """What came of it, in words for a person."""


@dataclass(frozen=True)
class RowsRead:
    """A part of a table has been read."""

    rows: int
    """Rows read so far."""
    read_bytes: int
    """Bytes of text read so far (uncompressed)."""
    total_bytes: int | None
    """Bytes in all, where that is known."""


@dataclass(frozen=True)
class ClusterReady:
    """Workers are there."""

    address: str
    dashboard: str | None
    """URL of the Dask dashboard."""
    workers: int


@dataclass(frozen=True)
class WorkerLost:
    """A worker process went away with designs in hand; they will be run again."""

    worker: str
    designs: int
    """How many unfinished designs it held."""


@dataclass(frozen=True)
class WorkerRecycled:
    """A worker process was restarted between tasks because its memory had grown."""

    worker: str
    resident_bytes: int


@dataclass(frozen=True)
class TrialsStored:
    """Trials have reached the store; counts are of the whole study."""

    total: int
    """Designs of the study."""
    completed: int
    failed: int
    elapsed_s: float
    """Since this run of the study began."""
    rate: float
    """Trials a second over this run."""
    eta_s: float | None
    best_accuracy: float | None
    """Best test accuracy so far, 0 to 1."""
    best_design: str | None
    """The best design in words, e.g. `3 x 64 relu, adam 0.003`."""


@dataclass(frozen=True)
class TrainingProgress:
    """A parallel training has gone on."""

    samples: int
    """Trained on so far, over all replicas and epochs."""
    total: int
    """Rows times epochs."""
    elapsed_s: float
    rate: float
    """Samples a second."""
    loss: float | None
    """Mean training loss of the replicas' last reports."""
    measures: Mapping[str, float]
    """Of the last validation, as `val_loss`."""
    replicas: int
    """At work now."""


@dataclass(frozen=True)
class ReplicaLost:
    """A replica's worker went away; its rows go to others, and it starts again on another worker."""

    replica: int
    worker: str


@dataclass(frozen=True)
class Notice:
    """Something a person should know, without a consequence for the run."""

    message: str


Event = (
    StageStarted
    | StageFinished
    | RowsRead
    | ClusterReady
    | WorkerLost
    | WorkerRecycled
    | TrialsStored
    | TrainingProgress
    | ReplicaLost
    | Notice
)
Listener = Callable[[Event], None]


def ignore(event: Event) -> None:
    """Listen to nothing."""
