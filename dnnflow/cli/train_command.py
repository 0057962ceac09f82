"""Train one model, data-parallel on the workers of a cluster: the command `dnnflow train`."""

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from dnnflow.settings import Settings

if TYPE_CHECKING:
    from dnnflow.cli.model_options import ModelOptions
    from dnnflow.pipeline.training_pipeline import TrainPipeline
    from dnnflow.run.execute import TrainingEnd


def train() -> None:
    """Train one model, data-parallel: replicas on the workers push to a parameter server."""


def train_options() -> "ModelOptions":
    """Return the options that describe a training: the fields of a pipeline's sections."""
    from dnnflow.cli.model_options import ModelOptions
    from dnnflow.pipeline.training_pipeline import TrainPipeline

    return ModelOptions(
        TrainPipeline,
        ("data", "model", "parallel", "outputs"),
        arguments={"model": "model.source", "data": "data.source"},
        left_out=("model.parameters", "model.code_folder", "data.class_weight"),
        defaults={"outputs.model": "trained.keras"},
    )


def train_command() -> Callable[..., None]:
    """Return the function of `dnnflow train`."""
    options = train_options()

    def call(
        given: dict[str, Any], *,
        cluster: Annotated[str | None, typer.Option(help="Address of a Dask scheduler.")] = None,
        as_json: Annotated[bool, typer.Option("--json", help="Print JSON for machines.")] = False,
    ) -> None:  # fmt: skip
        for names in ("data_features", "data_labels", "data_weights"):
            texts = [given[names]] if isinstance(given[names], str) else given[names] or ()
            given[names] = tuple(name.strip() for text in texts for name in text.split(",") if name.strip())
        folder = Path.cwd()  # of own modules, as `python` does
        pipeline = options.read(given, model={"code_folder": str(folder)}, executor={"address": cluster})
        _train(_with_absolute_checkpoint(pipeline), as_json=as_json)

    return options.command(call)


def _with_absolute_checkpoint(pipeline: "TrainPipeline") -> "TrainPipeline":
    if pipeline.parallel.checkpoint is None:
        return pipeline
    checkpoint = str(Path(pipeline.parallel.checkpoint).absolute())
    return pipeline.model_copy(
        update={"parallel": pipeline.parallel.model_copy(update={"checkpoint": checkpoint})}
    )


def _train(pipeline: "TrainPipeline", *, as_json: bool) -> None:
    from dnnflow.api import execute
    from dnnflow.run.run import TrainingRun
    from dnnflow.show.terminal import Progress

    try:
        with Progress(quiet=as_json, stages=False) as progress:
            ended = execute(TrainingRun(pipeline, Settings.from_environment()), listener=progress)
    except KeyboardInterrupt:
        say_stopped(pipeline)
        raise typer.Exit(130) from None
    show_training(ended, as_json=as_json)


def say_stopped(pipeline: "TrainPipeline") -> None:
    """Say what a training leaves behind that Ctrl-C has ended."""
    checkpoint = pipeline.parallel.checkpoint
    left = f"restore goes on from {checkpoint}" if checkpoint else "nothing is kept without a checkpoint"
    sys.stderr.write(f"dnnflow: error: stopped; {left}\n")


def show_training(ended: "TrainingEnd", *, as_json: bool) -> None:
    """Print what a training has measured, and its files."""
    from dnnflow.run.train import summary
    from dnnflow.show.terminal import show_training

    if as_json:
        measured = summary(ended.history) | {"files": [str(path) for path in ended.written]}
        sys.stdout.write(json.dumps(measured, indent=2, default=str) + "\n")
    else:
        show_training(ended.history, ended.written)
