"""Say what a launcher is: it has runs done by somebody else, and keeps in the store where they stand."""

from pathlib import Path
from typing import Protocol

from dnnflow.errors import NotFoundError
from dnnflow.paths import directory_aside
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.results.store.run_record import RunKind, RunRecord, new_study_id

LOG_BYTES = 256 * 1024
"""Of the end of a log that is shown; a file holds up to twice as much."""


ENDING_S, ENDING_EVERY_S = 20.0, 0.2
"""How long, and how often, it is looked whether a run that has said it ends has ended: it closes its cluster,
and a Prefect server hears of it last."""


class Launcher(Protocol):
    """Has runs done somewhere else; safe for threads."""

    @property
    def name(self) -> str:
        """In words, e.g. `this machine`."""
        ...

    def launch(self, pipeline: Pipeline | TrainPipeline, run_id: str, *, key: str | None = None) -> RunRecord:
        """Hand a run over.

        Parameters
        ----------
        pipeline
            What to run; a study is a new one, with `run_id` for its id.
        key
            Idempotency key: the same key and pipeline give the run that was made first.

        Raises
        ------
        ConflictError
            If the key was used with another pipeline.
        LaunchError
            If it cannot be handed over, e.g. because the Prefect server is away.
        """
        ...

    def refresh(self, run_id: str | None = None) -> None:
        """Bring the row of a run, or of all, up to date, and see to it that somebody works on it.

        Raises
        ------
        LaunchError
            If who runs them cannot be asked.
        """
        ...

    def resume(self, run_id: str) -> RunRecord:
        """Run a stopped, failed or interrupted run on from where it was.

        Raises
        ------
        NotFoundError
            If there is none.
        ConflictError
            If it is still ending, and does not come to its end.
        """
        ...

    def cancel(self, run_id: str) -> RunRecord:
        """End a run that is queued, or that does not yet (or no longer) listen to the store."""
        ...

    def log(self, run_id: str) -> str:
        """Return the end of what it printed; empty where that is kept elsewhere."""
        ...


def kind_of(pipeline: Pipeline | TrainPipeline) -> RunKind:
    """Return what a pipeline describes."""
    return RunKind.STUDY if isinstance(pipeline, Pipeline) else RunKind.TRAINING


def run_not_found(run_id: str) -> NotFoundError:
    """Return what is raised for an id that no run has."""
    return NotFoundError(
        f"a job is found by its id, got {run_id!r}; GET /api/v1/studies and /api/v1/runs list them"
    )


def queue_of(directory: Path) -> str:
    """Return the name of a directory's queue, made at random: paths of two machines may be alike."""
    file = directory / "queue" / "name"
    if not file.is_file():
        with directory_aside(file.parent) as aside:
            (aside / file.name).write_text(new_study_id())
    return file.read_text()
