"""The study flow: upload, preprocess, train, aggregate, report, and refit where the pipeline asks for it.

Tasks run in the flow's process; designs run as Dask futures inside the training tasks.
"""

import math
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from distributed import Client
from pipeline_form import PipelineForm
from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import FlowRun, TaskRun
from prefect.context import FlowRunContext
from prefect.flows import Flow
from prefect.logging.loggers import flow_run_logger
from prefect.states import Cancelled
from run_watch import Watch

from dnnflow.errors import ClusterError, StudyStopped
from dnnflow.execute.executor import Executor
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.view.study_view import StudyView
from dnnflow.run import stages
from dnnflow.run.study import Study
from dnnflow.settings import Settings
from dnnflow.show.live.listening import listening
from dnnflow.show.report import write_report
from dnnflow.table.store.dataset import Dataset

DESIGNS_PER_SHARD = 50
PORTIONS_PER_SHARD = 8
"""At the end of a shard workers wait for the last portion: they should have had several before."""
MAX_SHARDS = 10


@dataclass(frozen=True)
class Shard:
    """A part of a study's designs that is one task run."""

    number: int
    """1 for the first."""
    of: int


def shards(study: Study) -> list[Shard]:
    """Return the parts of a study: several, where each has enough portions to keep its workers busy."""
    designs, portions = len(study.designs), len(study.plan.portions)
    count = min(MAX_SHARDS, math.ceil(designs / DESIGNS_PER_SHARD), max(1, portions // PORTIONS_PER_SHARD))
    return [Shard(number, count) for number in range(1, count + 1)]


def begin(pipeline: Pipeline, dataset: Dataset, settings: Settings, watch: Watch,
          study_id: str | None = None) -> Study:  # fmt: skip
    """Return the run's study: that of the id given; a scheduled run's own, also in a retry; else by key."""
    if study_id is not None:
        return stages.begin(pipeline, dataset, settings, study_id=study_id, listener=watch)
    context = FlowRunContext.get()
    run = context.flow_run if context else None
    if run is None or not run.auto_scheduled:
        study = stages.begin(pipeline, dataset, settings, listener=watch)
        # A scheduled run of the same pipeline may be at it now: that study is not this run's.
        is_taken = study.store.driver(study.id) is not None
        return stages.begin(pipeline, dataset, settings, new=True) if is_taken else study
    if run.run_count > 1 and run.start_time is not None:
        study = stages.begin(pipeline, dataset, settings)
        # Studies are dated to the second; an older one is another run's.
        if datetime.fromisoformat(study.record.created_at) > run.start_time - timedelta(seconds=1):
            return study
    return stages.begin(pipeline, dataset, settings, new=True)


def may_pass(task: object, task_run: TaskRun, state: State[object]) -> bool:
    """Tell whether a failed task is worth another try: networks and clusters recover, bad input stays bad."""
    error = state.result(raise_on_failure=False)
    cause = getattr(error, "__cause__", None) or error
    if isinstance(cause, FileNotFoundError | IsADirectoryError | NotADirectoryError | PermissionError):
        return False
    return isinstance(error, ClusterError) or isinstance(cause, OSError)


def say_how_to_go_on(flow: Flow[..., object], run: FlowRun, state: State[object]) -> None:
    """Log what to do after a run that did not end well."""
    flow_run_logger(run, flow).error(
        "The run did not finish: %s Designs that were trained are stored: when the cause is removed, "
        "retry this run (or run the pipeline again) to train only what is missing.",
        state.message,
    )


@task(task_run_name="upload {pipeline.dataset.source}", retries=2, retry_delay_seconds=[5, 30],
      retry_condition_fn=may_pass, cache_policy=NO_CACHE)  # fmt: skip
def upload(pipeline: Pipeline, watch: Watch) -> stages.Upload:
    """Look whether the table is there."""
    return stages.upload(pipeline, listener=watch)


@task(task_run_name="preprocess {pipeline.dataset.label}", cache_policy=NO_CACHE)
def preprocess(pipeline: Pipeline, settings: Settings, client: Client | None, watch: Watch) -> Dataset:
    """Make the dataset, or find it again."""
    return stages.preprocess(pipeline, settings, client=client, listener=watch)


@task(task_run_name="train {shard.number} of {shard.of}", retries=1, retry_delay_seconds=10,
      retry_condition_fn=may_pass, cache_policy=NO_CACHE)  # fmt: skip
def train(study: Study, executor: Executor, shard: Shard, watch: Watch) -> int:
    """Train what is missing of one part of the designs."""
    with listening(watch) as listener:
        return stages.train(study, executor, shard=(shard.number - 1, shard.of), listener=listener)


@task(task_run_name="aggregate", cache_policy=NO_CACHE)
def aggregate(study: Study, watch: Watch) -> StudyView:
    """Rank the designs and save the best models."""
    view = stages.aggregate(study, listener=watch)
    watch.show_leaderboard(view)
    return view


@task(task_run_name="report", cache_policy=NO_CACHE)
def report(study: Study, view: StudyView, path: str | None, watch: Watch) -> Path:
    """Write the report."""
    written = stages.report(study, write_report, listener=watch, path=path)
    watch.show_report(view, written)
    return written


@task(task_run_name="refit", cache_policy=NO_CACHE)
def refit(study: Study, pipeline: Pipeline, watch: Watch) -> Path | None:
    """Train the best design on the whole table, if the pipeline says so."""
    with listening(watch) as listener:
        return stages.refit(study, pipeline, listener=listener)


@flow(flow_run_name="{pipeline.name}", on_failure=[say_how_to_go_on], on_crashed=[say_how_to_go_on])
def study(pipeline: PipelineForm, study_id: str | None = None) -> str | State[str]:
    """Train many network designs on one table and report which work best; returns the study's id."""
    watch, settings = Watch(pipeline.name), Settings.from_environment()
    upload(pipeline, watch)
    with stages.open_named_client(pipeline, settings, listener=watch) as client:
        dataset = preprocess(pipeline, settings, client, watch)
        run = begin(pipeline, dataset, settings, watch, study_id)
        if not run.is_finished:
            with stages.open_executor(pipeline, settings, client=client, listener=watch) as executor:
                try:
                    for shard in shards(run):
                        train(run, executor, shard, watch)
                except StudyStopped as error:
                    return Cancelled(message=str(error))
    view = aggregate(run, watch)
    report(run, view, pipeline.outputs.report, watch)
    if pipeline.refit is not None:
        refit(run, pipeline, watch)
    stages.require_success(run)
    return run.id
