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
    from dnnflow.run.train import Trained


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
        left_out=("model.parameters", "model.code_folder"),
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
        for names in ("data_features", "data_labels"):
            given[names] = tuple(name.strip() for name in given[names].split(",") if name.strip())
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
    from dnnflow.run.train import train_pipeline
    from dnnflow.show.live.listening import listening
    from dnnflow.show.terminal import Progress

    try:
        with Progress(quiet=as_json) as progress, listening(progress) as listener:
            trained = train_pipeline(pipeline, Settings.from_environment(), listener=listener)
    except KeyboardInterrupt:
        say_stopped(pipeline)
        raise typer.Exit(130) from None
    show(trained, pipeline, as_json=as_json)


def say_stopped(pipeline: "TrainPipeline") -> None:
    """Say what a training leaves behind that Ctrl-C has ended."""
    checkpoint = pipeline.parallel.checkpoint
    left = f"restore goes on from {checkpoint}" if checkpoint else "nothing is kept without a checkpoint"
    sys.stderr.write(f"dnnflow: error: stopped; {left}\n")


def show(trained: "Trained", pipeline: "TrainPipeline", *, as_json: bool) -> None:
    """Write a training's files, and print what it has measured."""
    from dnnflow.run.train import summary, write_trained
    from dnnflow.show.report import write_report
    from dnnflow.show.terminal import show_training

    written = write_trained(trained, pipeline, write_report)
    if as_json:
        told = summary(trained.history) | {"files": [str(path) for path in written]}
        sys.stdout.write(json.dumps(told, indent=2, default=str) + "\n")
    else:
        show_training(trained.history, written)
