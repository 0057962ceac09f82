"""Record what happens during a run, for logs, progress bars, artifacts and pages alike.

Fields ending in `_s` are seconds; fields ending in `_at` are UTC in ISO 8601.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, NamedTuple


def utc_now() -> str:
    """Return the time in UTC, ISO 8601 with milliseconds."""
    return datetime.now(UTC).isoformat(timespec="milliseconds")


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
    FINALISTS = "finalists"
    TEST = "test"
    FINAL = "final"
    REPORT = "report"
    REFIT = "refit"


@dataclass(frozen=True)
class _StageEvent:
    stage: Stage
    detail: str
    """What it works on, or what came of it, in words for a person."""


class StageStarted(_StageEvent):
    """A stage begins."""


@dataclass(frozen=True)
class StageFinished(_StageEvent):
    """A stage has ended well."""

    seconds_s: float


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
class Compiling:
    """Machine code or graphs are being made, which no design's time counts."""

    workers: int
    """How many do it now; 0 when the last is through."""


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
    best_score: float | None
    """Best accuracy so far on the rows that designs are compared on, 0 to 1."""
    best_design: str | None
    """The best design in words, e.g. `3 x 64 relu, adam 0.003`."""


@dataclass(frozen=True)
class FinalsProgress:
    """Trainings after a study's screen have reached the store."""

    stage: Stage
    done: int
    total: int
    """Of the stage."""


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


@dataclass(kw_only=True)
class ReplicaCounts:
    """What one replica of a parallel training did so far."""

    samples: int = 0
    pushes: int = 0
    compute_s: float = 0.0
    exchange_s: float = 0.0
    """Waiting for servers, and in synchronous training for the others."""
    data_s: float = 0.0
    """Waiting for rows."""
    resident_bytes: int = 0
    """The most at any report."""
    gpu_bytes: int = 0
    """The most held on its worker's GPUs; 0 without any."""
    processor_s: float = 0.0
    starts: int = 1
    """Processes that were this replica, one after the other."""


@dataclass(frozen=True)
class ReplicaLost:
    """A replica's worker went away; its rows go to others, and it starts again on another worker."""

    replica: int
    worker: str


class TrialResult(NamedTuple):
    """What pages count of one trial."""

    depth: int | None
    """Hidden layers; None where they are not known."""
    score: float | None
    """On the rows that designs are compared on; None for a trial that did not complete."""
    error: str
    """Name of the exception's class; empty where there was none."""
    describe: Callable[[], str]
    """Returns the design in words."""


@dataclass(frozen=True)
class StudyBegun:
    """A study's missing designs begin to be trained; `RunEnded` follows."""

    name: str
    about: Sequence[tuple[str, str]]
    """Names and values for a person."""
    total: int
    """Designs of the study."""
    stored: Sequence[TrialResult]
    """Trials of earlier runs."""
    client: Any
    """The Dask client; None in this process."""


@dataclass(frozen=True)
class TrialsEnded:
    """Trials have reached the store, one by one."""

    results: Sequence[TrialResult]


@dataclass(frozen=True)
class TrainingBegun:
    """A parallel training begins; `RunEnded` follows."""

    name: str
    client: Any
    """The Dask client."""
    measured: Callable[[], tuple[Any, Mapping[int, str]]]
    """Returns the `History` so far, which goes on being written, and {replica: address of its worker}."""


@dataclass(frozen=True)
class RunEnded:
    """The study or training that began last has ended."""

    failed: bool


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
    | Compiling
    | TrialsStored
    | FinalsProgress
    | TrainingProgress
    | ReplicaLost
    | StudyBegun
    | TrialsEnded
    | TrainingBegun
    | RunEnded
    | Notice
)
Listener = Callable[[Event], None]
Draw = Callable[[Any, Path], Path]
"""Writes the report of a `StudyView` or a `History` as one file and returns it; doors hand it to runs."""


def ignore(event: Event) -> None:
    """Listen to nothing."""


def except_notices(listener: Listener) -> Listener:
    """Return a listener that hears everything but notices."""
    return lambda event: None if isinstance(event, Notice) else listener(event)


@contextmanager
def announced(begun: StudyBegun | TrainingBegun, listener: Listener) -> Iterator[None]:
    """Tell that a run begins, and how it ended when the block is left."""
    listener(begun)
    try:
        yield
    except BaseException:
        listener(RunEnded(failed=True))
        raise
    listener(RunEnded(failed=False))
