"""How the web server has work done: never by itself."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Protocol

from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline


class LaunchState(StrEnum):
    """Where a launched job stands."""

    QUEUED = "queued"
    RUNNING = "running"
    FINISHED = "finished"
    FAILED = "failed"
    CANCELLED = "cancelled"

    @property
    def has_ended(self) -> bool:
        """Whether nothing more will happen."""
        return self in (LaunchState.FINISHED, LaunchState.FAILED, LaunchState.CANCELLED)


@dataclass(frozen=True, kw_only=True)
class Launch:
    """A job that was handed to a launcher."""

    launch_id: str
    """Of a study also the study's id, from the beginning; made by `new_study_id`."""
    kind: str
    """`study` or `train`."""
    name: str
    state: LaunchState
    created_at: str
    started_at: str | None = None
    ended_at: str | None = None
    pipeline: Mapping[str, Any]
    """As JSON types, without secrets."""
    stage: str | None = None
    """What it does now, in words, where that is known."""
    queue_place: int | None = None
    """Jobs before it, while it is queued."""
    error: str | None = None
    """Rule, value, remedy; of a failed job."""
    run_url: str | None = None
    """Page of the Prefect run."""
    dashboard: str | None = None
    """Page of the Dask cluster, where it is known."""
    progress: Mapping[str, Any] | None = None
    """Of a parallel training: the last `TrainingProgress` as JSON types."""
    outcome: Mapping[str, Any] | None = None
    """Of a finished parallel training: its history's last row, the model's and the report's file names."""


class Launcher(Protocol):
    """Runs pipelines somewhere else; safe for threads."""

    @property
    def name(self) -> str:
        """In words, e.g. `this machine`."""
        ...

    def launch(self, pipeline: Pipeline | TrainPipeline, launch_id: str, *, key: str | None = None) -> Launch:
        """Hand a job over.

        Parameters
        ----------
        pipeline
            What to run; a study is a new one, with `launch_id` for its id.
        key
            Idempotency key: the same key and pipeline give the launch that was made first.

        Raises
        ------
        ConflictError
            If the key was used with another pipeline.
        LaunchError
            If it cannot be handed over, e.g. because the Prefect server is away.
        """
        ...

    def get(self, launch_id: str) -> Launch:
        """Return a launch as it stands now.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        ...

    def all(self) -> Sequence[Launch]:
        """Return all launches, the newest first."""
        ...

    def resume(self, launch_id: str) -> Launch:
        """Run a stopped, failed or interrupted job on from where it was.

        Raises
        ------
        NotFoundError
            If there is none.
        """
        ...

    def cancel(self, launch_id: str) -> Launch:
        """End a job that is queued, or that does not yet (or no longer) listen to the store."""
        ...

    def log(self, launch_id: str) -> str:
        """Return the end of what it printed; empty where that is kept elsewhere."""
        ...
