"""The study flow: upload, preprocess, train, aggregate, finalists, test, final, report, and refit if asked.

Tasks run in the flow's process; designs run as Dask futures inside the training tasks.
"""

from pathlib import Path
from typing import Any

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

from dnnflow.errors import ClusterError, OutputError, StudyStopped
from dnnflow.execute.executor import Executor
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.view.study_view import StudyView
from dnnflow.run import execute as stages
from dnnflow.run.final_stage import has_final_model, has_finals
from dnnflow.run.run import StudyRun
from dnnflow.run.run_row import RunRow, recorded
from dnnflow.run.study import Shard, Study, shards
from dnnflow.settings import Settings
from dnnflow.show.live.listening import listening
from dnnflow.show.report import write_report
from dnnflow.table.store.dataset import Dataset


def run_of(pipeline: Pipeline, study_id: str | None) -> StudyRun:
    """Return what this flow run is asked to do."""
    context = FlowRunContext.get()
    flow_run = context.flow_run if context else None
    settings = Settings.from_environment()
    if flow_run is None:
        return StudyRun(pipeline, settings, study_id=study_id)
    scheduled = bool(flow_run.auto_scheduled)
    return StudyRun(
        pipeline, settings, study_id=study_id, flow_run_id=str(flow_run.id), is_scheduled=scheduled
    )


def may_pass(task: object, task_run: TaskRun, state: State[object]) -> bool:
    """Tell whether a failed task is worth another try: networks and clusters recover, bad input stays bad."""
    error = state.result(raise_on_failure=False)
    cause = getattr(error, "__cause__", None) or error
    if isinstance(
        cause, FileNotFoundError | IsADirectoryError | NotADirectoryError | PermissionError | OutputError
    ):
        return False
    return isinstance(error, ClusterError) or isinstance(cause, OSError)


def say_how_to_go_on(flow: Flow[..., Any], flow_run: FlowRun, state: State[Any]) -> None:
    """Log what to do after a run that did not end well."""
    flow_run_logger(flow_run, flow).error(
        "The run did not finish: %s Designs that were trained are stored: when the cause is removed, "
        "retry this run (or run the pipeline again) to train only what is missing.",
        state.message,
    )


@task(task_run_name="upload {run.pipeline.dataset.source}", retries=2, retry_delay_seconds=[5, 30],
      retry_condition_fn=may_pass, cache_policy=NO_CACHE)  # fmt: skip
def upload(run: StudyRun, row: RunRow) -> None:
    """Look whether the table is there."""
    stages.upload(run.pipeline, row)


@task(task_run_name="preprocess {run.pipeline.dataset.label}", cache_policy=NO_CACHE)
def preprocess(run: StudyRun, client: Client | None, row: RunRow) -> Dataset:
    """Make the dataset, or find it again."""
    return stages.preprocess(run.pipeline, run.settings, client=client, listener=row)


@task(task_run_name="train {shard.number} of {shard.of}", retries=1, retry_delay_seconds=10,
      retry_condition_fn=may_pass, cache_policy=NO_CACHE)  # fmt: skip
def train(study: Study, executor: Executor, shard: Shard, until_s: float | None, row: RunRow) -> int:
    """Train what is missing of one part of the designs."""
    part = shard.number - 1, shard.of
    with listening(row) as heard:
        return stages.train(study, executor, shard=part, until_s=until_s, listener=heard)


@task(task_run_name="aggregate", cache_policy=NO_CACHE)
def aggregate(study: Study, row: RunRow) -> StudyView:
    """Rank the designs."""
    return stages.aggregate(study, row)


@task(task_run_name="finalists", retries=1, retry_delay_seconds=10, retry_condition_fn=may_pass,
      cache_policy=NO_CACHE)  # fmt: skip
def finalists(study: Study, view: StudyView, executor: Executor, row: RunRow) -> StudyView:
    """Train the best designs again, with folds and seeds."""
    return stages.finalists(study, view, executor, row)


@task(task_run_name="test", cache_policy=NO_CACHE)
def measure_once(study: Study, view: StudyView, row: RunRow, watch: Watch) -> StudyView:
    """Save the best models, measured once on the test rows."""
    tested = stages.measure_once(study, view, row)
    watch.show_leaderboard(tested)
    return tested


@task(task_run_name="final", retries=1, retry_delay_seconds=10, retry_condition_fn=may_pass,
      cache_policy=NO_CACHE)  # fmt: skip
def fit_all_rows(study: Study, view: StudyView, executor: Executor, row: RunRow) -> StudyView:
    """Train what is handed out once more, on all rows."""
    return stages.fit_all_rows(study, view, executor, row)


@task(task_run_name="report", cache_policy=NO_CACHE)
def report(run: StudyRun, study: Study, view: StudyView, row: RunRow, watch: Watch) -> Path:
    """Write the report."""
    written = stages.report(run, study, view, write_report, row)
    watch.show_report(view, written)
    return written


@task(task_run_name="refit", cache_policy=NO_CACHE)
def refit(run: StudyRun, study: Study, view: StudyView, row: RunRow) -> Path | None:
    """Train the best design on the whole table."""
    with listening(row) as heard:
        return stages.refit(run, study, view, listener=heard)


def all_stages(run: StudyRun, row: RunRow, watch: Watch) -> str:
    """Do the stages of a study one after the other; return its id."""
    upload(run, row)
    with stages.Workers(run, None, row) as workers:
        held = stages.begin(run, preprocess(run, workers.client, row), row, row)
        for shard in shards(held):
            train(held, workers.executor(), shard, run.until_s, row)
        view = aggregate(held, row)
        if has_finals(held, view):
            view = finalists(held, view, workers.executor(), row)
        view = measure_once(held, view, row, watch)
        if has_final_model(held, view):
            view = fit_all_rows(held, view, workers.executor(), row)
    report(run, held, view, row, watch)
    if run.pipeline.refit is not None:
        refit(run, held, view, row)
    stages.require_success(view)
    return held.id


@flow(flow_run_name="{pipeline.name}", on_failure=[say_how_to_go_on], on_crashed=[say_how_to_go_on])
def study(pipeline: PipelineForm, study_id: str | None = None) -> str | State[str]:
    """Train many network designs on one table and report which work best; returns the study's id."""
    run, watch = run_of(pipeline, study_id), Watch(pipeline.name)
    try:
        with recorded(run, watch) as row:
            return all_stages(run, row, watch)
    except StudyStopped as error:
        return Cancelled(message=str(error))
