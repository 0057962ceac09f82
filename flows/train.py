"""The train flow: prepare the table if there is one, train one model data-parallel, write what came of it.

Tasks run in the flow's process; replicas and servers run on Dask workers.
"""

from pathlib import Path

from pipeline_form import TrainForm
from prefect import State, flow, task
from prefect.cache_policies import NO_CACHE
from prefect.states import Cancelled
from run_watch import Watch

from dnnflow.errors import StudyStopped
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.run import execute as stages
from dnnflow.run.run import TrainingRun
from dnnflow.run.run_row import RunRow, recorded
from dnnflow.run.train import Trained
from dnnflow.settings import Settings
from dnnflow.show.live.listening import listening
from dnnflow.show.report import write_report


@task(task_run_name="prepare", cache_policy=NO_CACHE)
def prepare(run: TrainingRun, row: RunRow) -> TrainPipeline:
    """Make the dataset, if rows come from a table."""
    return stages.prepare_training(run, row)


@task(task_run_name="train", cache_policy=NO_CACHE)
def train_model(placed: TrainPipeline, run: TrainingRun, row: RunRow) -> Trained:
    """Train on the cluster that the pipeline names."""
    with listening(row) as heard:
        return stages.train_model(placed, run.settings, listener=heard)


@task(task_run_name="write", cache_policy=NO_CACHE)
def write(
    run: TrainingRun, trained: Trained, placed: TrainPipeline, row: RunRow, watch: Watch
) -> tuple[Path, ...]:
    """Write the model and what else is asked for."""
    written = stages.write_training(run, trained, placed, write_report, row)
    watch.show_training(trained.history, written)
    return written


@flow(flow_run_name="{pipeline.name}")
def train(pipeline: TrainForm, run_id: str | None = None) -> str | State[str]:
    """Train one network data-parallel with a parameter server; returns the model's file."""
    run, watch = TrainingRun(pipeline, Settings.from_environment(), run_id), Watch(pipeline.name)
    try:
        with recorded(run, watch) as row:
            placed = prepare(run, row)
            trained = train_model(placed, run, row)
            model, *_ = write(run, trained, placed, row, watch)
    except StudyStopped as error:
        return Cancelled(message=str(error))
    return str(model)
