"""Describe a run, of a study or of a training, and find the study that it belongs to."""

from dataclasses import dataclass

from dnnflow.design.layers import Design
from dnnflow.engines.seam import now
from dnnflow.events import Listener, Notice, ignore
from dnnflow.paths import content_id
from dnnflow.pipeline.designs import draw_designs
from dnnflow.pipeline.pipeline_file import AnyPipeline
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.results.store.run_record import (
    RunRecord,
    RunState,
    check_study_id,
    mask_credentials,
    new_study_id,
    taken_id,
)
from dnnflow.results.store.store import Store
from dnnflow.run.study import Study
from dnnflow.settings import Settings
from dnnflow.table.store.dataset import Dataset


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

    def __post_init__(self) -> None:
        if self.study_id is not None:  # before hours of preprocessing
            check_study_id(self.study_id)

    @classmethod
    def resumed(cls, study: Study) -> "StudyRun":
        """Return the run that does what is left of a study, as its pipeline says."""
        return cls(study.pipeline, study.settings, study=study)

    @property
    def scheduled_id(self) -> str | None:
        """The id of a scheduled run's own study."""
        is_own = self.is_scheduled and self.flow_run_id is not None
        return content_id(self.flow_run_id)[:16] if is_own else None

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


Run = StudyRun | TrainingRun


def run_of(pipeline: AnyPipeline, settings: Settings, *, new: bool = False) -> Run:
    """Return the run that a pipeline describes."""
    if isinstance(pipeline, TrainPipeline):
        return TrainingRun(pipeline, settings)
    return StudyRun(pipeline, settings, new=new)


def begin(run: StudyRun, dataset: Dataset, listener: Listener = ignore) -> Study:
    """Return the study of a run on its preprocessed table: one that goes on, or a new one.

    A study that goes on takes device, executor and outputs from this run's pipeline: they are no part of its
    key.

    Raises
    ------
    ConflictError
        If another study has the run's id.
    """
    pipeline, store = run.pipeline, Store(run.settings.store_url)
    designs = draw_designs(pipeline)
    if pipeline.designs is not None and len(designs) < pipeline.designs:
        listener(Notice(f"the space holds {len(designs):,} different designs, not {pipeline.designs:,}"))
    key = study_key(pipeline, dataset, designs)
    known = run.find(store, key)
    path = str(dataset.path.absolute())
    plain = mask_credentials(pipeline.plain())
    if known is not None:
        store.renew(known.study_id, pipeline=plain, dataset_path=path)
        store.start(known.study_id)
    else:
        known = RunRecord(
            run_id=run.new_id(store),
            key=key,
            name=pipeline.name,
            state=RunState.RUNNING,
            created_at=now(),
            updated_at=now(),
            dataset_id=dataset.id,
            dataset_path=path,
            n_designs=len(designs),
            pipeline=plain,
            dataset=dataset.describe(),
            dashboard=None,
        )
        store.add_study(known, designs)
    return Study(store, run.settings, known.study_id)


def study_key(pipeline: Pipeline, dataset: Dataset, designs: list[Design]) -> str:
    """Return what makes two studies the same: sha256 of dataset, designs and training settings."""
    training = pipeline.training_settings.to_dict()
    return content_id(
        {"dataset": dataset.id, "designs": [x.design_id for x in designs], "training": training}
    )
