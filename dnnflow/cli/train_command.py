"""The command `dnnflow train`: one model, data-parallel on the workers of a cluster."""

import json
import sys
from pathlib import Path
from typing import Any

import typer

from dnnflow.cli import train_options_cli as options
from dnnflow.errors import InputError
from dnnflow.run.train_job import Files, Job
from dnnflow.settings import Settings

SETTINGS = ("synchronous", "sync_every", "overlap", "damping", "damping_rule", "staleness_bound", "quorum",
            "wire", "replicas", "servers", "groups", "group_every", "epochs", "seed", "device", "target",
            "restore")  # fmt: skip
"""Options that are fields of `Algorithm` or `TrainOptions` under the same name."""
DEVICES = ("auto", "cpu", "gpu")


def train(
    context: typer.Context, model: options.Model, data: options.Data,
    validation: options.Validation = None, features: options.Features = "features",
    labels: options.Labels = "labels", loss: options.Loss = None, metric: options.Metric = None,
    optimizer: options.Optimizer = None, algorithm: options.Algorithm = "downpour",
    synchronous: options.Synchronous = False, sync_every: options.SyncEvery = 1,
    overlap: options.Overlap = False, damping: options.Damping = False,
    damping_rule: options.DampingRule = "relative",
    staleness_bound: options.StalenessBound = None, quorum: options.Quorum = 1.0,
    wire: options.Wire = "float32", replicas: options.Replicas = None, servers: options.Servers = 1,
    groups: options.Groups = 1, group_every: options.GroupEvery = 10, epochs: options.Epochs = 1,
    batch: options.Batch = 100, seed: options.Seed = 0, device: options.Device = "auto",
    target: options.Target = None, time_limit: options.TimeLimit = None,
    checkpoint: options.Checkpoint = None, checkpoint_every: options.CheckpointEvery = 300.0,
    restore: options.Restore = False, out: options.Out = Path("trained.keras"),
    history: options.History = None, timeline: options.Timeline = None, report: options.Report = None,
    cluster: options.Cluster = None, as_json: options.AsJson = False,
) -> None:  # fmt: skip
    """Train one model, data-parallel: replicas on the workers push to a parameter server."""
    from dnnflow.run.train_job import train_job
    from dnnflow.show.terminal import Progress

    job = job_of(context.params)
    try:
        with Progress(quiet=as_json) as progress:
            trained = train_job(job, Settings.from_environment(), listener=progress)
    except KeyboardInterrupt:
        say_stopped(job)
        raise typer.Exit(130) from None
    show(trained, job, as_json=as_json)


def job_of(given: dict[str, Any]) -> Job:
    """Return what the command's options ask for.

    Raises
    ------
    InputError
        For files whose names do not say what is in them, or a device that there is not.
    """
    files = Files(given["out"], given["timeline"], given["history"], given["report"])
    files.check("--{}")
    if given["device"] not in DEVICES:
        raise InputError(f"--device must be one of {', '.join(DEVICES)}, got {given['device']}")
    checkpoint = given["checkpoint"]
    settings = {name: given[name] for name in SETTINGS} | {
        "batch_size": given["batch"],
        "time_limit_s": given["time_limit"],
        "checkpoint_every_s": given["checkpoint_every"],
        "checkpoint": str(checkpoint.absolute()) if checkpoint else None,
    }
    return Job(
        model=given["model"], data=given["data"], validation=given["validation"],
        features=_names(given["features"]), labels=_names(given["labels"]), loss=given["loss"],
        metrics=given["metric"] or (), optimizer=given["optimizer"], algorithm=given["algorithm"],
        settings=settings, executor={"address": given["cluster"]}, files=files,
        folder=str(Path.cwd()),  # as `python` does
    )  # fmt: skip


def say_stopped(job: Job) -> None:
    """Say what a training leaves behind that Ctrl-C has ended."""
    checkpoint = job.settings.get("checkpoint")
    left = f"restore goes on from {checkpoint}" if checkpoint else "nothing is kept without a checkpoint"
    sys.stderr.write(f"dnnflow: error: stopped; {left}\n")


def show(trained: Any, job: Job, *, as_json: bool) -> None:
    """Write a training's files, and print what it has measured."""
    from dnnflow.run.train_job import summary, write_trained
    from dnnflow.show.terminal import show_training

    written = write_trained(trained, job)
    if as_json:
        told = summary(trained.history) | {"files": [str(path) for path in written]}
        sys.stdout.write(json.dumps(told, indent=2, default=str) + "\n")
    else:
        show_training(trained.history, written)


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
