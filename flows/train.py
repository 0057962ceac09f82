"""The train flow: prepare the table if there is one, train one model data-parallel, write what came of it.

Tasks run in the flow's process; replicas and servers run on Dask workers.
"""

from pathlib import Path

from pipeline_form import TrainForm
from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from run_watch import Watch

from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.run import execute as stages
from dnnflow.run.run import TrainingRun
from dnnflow.run.train import Trained, write_trained
from dnnflow.settings import Settings
from dnnflow.show.live.listening import listening
from dnnflow.show.report import write_report


@task(task_run_name="prepare", cache_policy=NO_CACHE)
def prepare(run: TrainingRun, watch: Watch) -> TrainPipeline:
    """Make the dataset, if rows come from a table."""
    return stages.prepare_training(run, watch)


@task(task_run_name="train", cache_policy=NO_CACHE)
def train_model(placed: TrainPipeline, settings: Settings, watch: Watch) -> Trained:
    """Train on the cluster that the pipeline names."""
    with listening(watch) as heard:
        return stages.train_model(placed, settings, listener=heard)


@task(task_run_name="write", cache_policy=NO_CACHE)
def write(trained: Trained, placed: TrainPipeline, watch: Watch) -> list[Path]:
    """Write the model and what else is asked for."""
    written = write_trained(trained, placed, write_report)
    watch.show_training(trained.history, written)
    return written


@flow(flow_run_name="{pipeline.name}")
def train(pipeline: TrainForm) -> str:
    """Train one network data-parallel with a parameter server; returns the model's file."""
    run, watch = TrainingRun(pipeline, Settings.from_environment()), Watch(pipeline.name)
    placed = prepare(run, watch)
    trained = train_model(placed, run.settings, watch)
    model, *_ = write(trained, placed, watch)
    return str(model)
