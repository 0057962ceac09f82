"""Train one model, data-parallel on the workers of a cluster: the command `dnnflow train`."""

import json
import sys
from functools import cached_property
from inspect import Parameter, Signature
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperCommand

from dnnflow.settings import Settings

if TYPE_CHECKING:
    from dnnflow.cli.model_options import ModelOptions
    from dnnflow.pipeline.training_pipeline import TrainPipeline
    from dnnflow.run.train import Trained


class TrainCommand(TyperCommand):
    """The command, whose options are made when it is called: they are the fields of a pipeline's sections."""

    @cached_property
    def _made(self) -> Any:
        app = typer.Typer(add_completion=False, pretty_exceptions_enable=False)
        app.command(help=self.help)(_command(train_options()))
        return typer.main.get_command(app)

    def make_context(self, *given: Any, **more: Any) -> Any:
        """Read the arguments as the made command does."""
        return self._made.make_context(*given, **more)


def train() -> None:
    """Train one model, data-parallel: replicas on the workers push to a parameter server."""


def train_options() -> "ModelOptions":
    """Return the options that describe a training."""
    from dnnflow.cli.model_options import ModelOptions
    from dnnflow.pipeline.training_pipeline import TrainPipeline

    return ModelOptions(
        TrainPipeline,
        ("data", "model", "parallel", "outputs"),
        arguments={"model": "model.source", "data": "data.source"},
        left_out=("model.parameters", "model.code_folder"),
        defaults={"outputs.model": "trained.keras"},
    )


def _command(options: "ModelOptions") -> Any:
    """Return the function of the command, whose signature lists the options."""

    def call(*, cluster: str | None, as_json: bool, **given: Any) -> None:
        for names in ("data_features", "data_labels"):
            given[names] = tuple(name.strip() for name in given[names].split(",") if name.strip())
        folder = Path.cwd()  # of own modules, as `python` does
        pipeline = options.read(given, model={"code_folder": str(folder)}, executor={"address": cluster})
        _train(_with_absolute_checkpoint(pipeline), as_json=as_json)

    own = (("cluster", str | None, typer.Option(help="Address of a Dask scheduler."), None),
           ("as_json", bool, typer.Option("--json", help="Print JSON for machines."), False))  # fmt: skip
    call.__signature__ = Signature(  # type: ignore[attr-defined]
        [
            *options.parameters(),
            *(
                Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=Annotated[kind, info])
                for name, kind, info, default in own
            ),
        ]
    )
    call.__annotations__ = {}
    return call


def _with_absolute_checkpoint(pipeline: "TrainPipeline") -> "TrainPipeline":
    if pipeline.parallel.checkpoint is None:
        return pipeline
    checkpoint = str(Path(pipeline.parallel.checkpoint).absolute())
    return pipeline.model_copy(
        update={"parallel": pipeline.parallel.model_copy(update={"checkpoint": checkpoint})}
    )


def _train(pipeline: "TrainPipeline", *, as_json: bool) -> None:
    from dnnflow.run.train import train_pipeline
    from dnnflow.show.terminal import Progress

    try:
        with Progress(quiet=as_json) as progress:
            trained = train_pipeline(pipeline, Settings.from_environment(), listener=progress)
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
    from dnnflow.show.terminal import show_training

    written = write_trained(trained, pipeline)
    if as_json:
        told = summary(trained.history) | {"files": [str(path) for path in written]}
        sys.stdout.write(json.dumps(told, indent=2, default=str) + "\n")
    else:
        show_training(trained.history, written)
