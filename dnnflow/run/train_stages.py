"""A pipeline's parallel training, stage by stage, called alike by the command line and the flow."""

from typing import TYPE_CHECKING

from dnnflow.events import Listener, Stage, ignore
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.run import stages
from dnnflow.run.train import Trained, train_pipeline, write_trained
from dnnflow.settings import Settings

if TYPE_CHECKING:
    from distributed import Client


def prepare(pipeline: TrainPipeline, settings: Settings, listener: Listener = ignore) -> TrainPipeline:
    """Prepare the table, if there is one, and return the training with its rows.

    Raises
    ------
    DataError
        For everything wrong with the table.
    """
    table = pipeline.table
    if table is None:
        return pipeline.placed(settings.workspace)
    stages.upload(table, listener)
    dataset = stages.preprocess(table, settings, listener=listener)
    return pipeline.placed(settings.workspace, str(dataset.path))


def train(pipeline: TrainPipeline, settings: Settings, *, client: "Client | None" = None,
          listener: Listener = ignore) -> Trained:  # fmt: skip
    """Train as a pipeline says."""
    with stages.stage(Stage.TRAIN, f"{pipeline.model.source}, data-parallel", listener) as told:
        trained = train_pipeline(pipeline, settings, client=client, listener=listener)
        told.append(f"{trained.history.samples:,} samples in {trained.history.seconds_s:.1f} s")
    return trained


def run_training(pipeline: TrainPipeline, settings: Settings, *, client: "Client | None" = None,
                 listener: Listener = ignore) -> tuple[TrainPipeline, Trained]:  # fmt: skip
    """Run a training's pipeline in this process; `write_trained` writes what comes of it."""
    placed = prepare(pipeline, settings, listener)
    return placed, train(placed, settings, client=client, listener=listener)


__all__ = ["prepare", "run_training", "train", "write_trained"]
