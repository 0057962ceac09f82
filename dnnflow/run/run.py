"""Describe a run, of a study or of a training, and find the study that it belongs to."""

import time
from dataclasses import dataclass, field

from dnnflow.paths import content_id
from dnnflow.pipeline.pipeline_file import AnyPipeline
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.results.store.run_record import (
    RunRecord,
    check_study_id,
    new_study_id,
    taken_id,
)
from dnnflow.results.store.store import Store
from dnnflow.run.study import Study
from dnnflow.settings import Settings


@dataclass(frozen=True)
class StudyRun:
    """Study a table with many designs: all stages from data to report, or what is left of them.

    Raises
    ------
    InputError
        If `study_id` is no id.
    """

    pipeline: Pipeline
    settings: Settings
    new: bool = False
    """Whether to make a new study even if there is one of the same key."""
    study_id: str | None = None
    """Of a new study; the study that has it already goes on, if it is of the same key."""
    flow_run_id: str | None = None
    """Of the flow run that does it, the same in each of its retries."""
    is_scheduled: bool = False
    """Whether a schedule started the flow run, and no person: such a run has a study of its own."""
    study: Study | None = None
    """The study that goes on, with the dataset that it has."""
    began_s: float = field(default_factory=time.monotonic, compare=False)
    """When its time began to run, as `time.monotonic` counts."""

    def __post_init__(self) -> None:
        if self.study_id is not None:  # before hours of preprocessing
            check_study_id(self.study_id)

    @classmethod
    def resumed(cls, study: Study) -> "StudyRun":
        """Return the run that does what is left of a study, as its pipeline says."""
        return cls(study.pipeline, study.settings, study=study)

    @property
    def until_s(self) -> float | None:
        """When it should have ended, as `time.monotonic` counts; None without a time."""
        minutes = self.pipeline.minutes
        return None if minutes is None else self.began_s + 60 * minutes

    @property
    def scheduled_id(self) -> str | None:
        """The id of a scheduled run's own study."""
        is_own = self.is_scheduled and self.flow_run_id is not None
        return content_id(self.flow_run_id)[:16] if is_own else None

    @property
    def own_id(self) -> str | None:
        """The id of the run's row, where it is known beforehand."""
        return self.study.id if self.study is not None else self.study_id or self.scheduled_id

    def find(self, store: Store, key: str) -> RunRecord | None:
        """Return the study that goes on; None where a new one is to be made.

        Raises
        ------
        ConflictError
            If another study has this run's id.
        """
        if self.study_id is not None:
            held = store.find(self.study_id)
            if held is None or not held.has_designs:
                return None
            if self.new or held.key != key:
                raise taken_id(self.study_id)
            return held
        if self.new:
            return None
        if self.scheduled_id is not None:
            own = store.find(self.scheduled_id)
            return own if own is not None and own.key == key else None
        held = store.study_of(key)
        # A scheduled run of the same pipeline may be at it now: that study is not this flow run's
        is_taken = held is not None and self.flow_run_id and store.driver(held.study_id) is not None
        return None if is_taken else held

    def new_id(self, store: Store) -> str:
        """Return the id of a new study of this run."""
        own = self.study_id or self.scheduled_id
        held = store.find(own) if own is not None else None
        # The table may have changed between a scheduled run and its retry: then its id is taken
        is_free = held is None or not held.has_designs
        return own if own is not None and is_free else new_study_id()


@dataclass(frozen=True)
class TrainingRun:
    """Train one model data-parallel, on a table that is prepared first or on rows that are there."""

    pipeline: TrainPipeline
    settings: Settings
    run_id: str | None = None
    """Of its row; None for a random one."""

    @property
    def own_id(self) -> str | None:
        """The id of the run's row, where it is known beforehand."""
        return self.run_id


Run = StudyRun | TrainingRun


def run_of(pipeline: AnyPipeline, settings: Settings, *, new: bool = False) -> Run:
    """Return the run that a pipeline describes."""
    if isinstance(pipeline, TrainPipeline):
        return TrainingRun(pipeline, settings)
    return StudyRun(pipeline, settings, new=new)
