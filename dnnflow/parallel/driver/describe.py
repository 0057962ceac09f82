"""Describe a parallel training for people: what it is in words, and how far it is."""

import json
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnflow.events import TrainingBegun, TrainingProgress
from dnnflow.parallel.driver.history import History, ReplicaTotals
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec
from dnnflow.parallel.spec.train_options import TrainOptions
from dnnflow.parameters import facts
from dnnflow.table.rows.source import RowSource

if TYPE_CHECKING:
    from distributed import Client

    from dnnflow.parallel.model.model_spec import ModelSpec


def begin_history(spec: "ModelSpec", source: RowSource, options: TrainOptions, replicas: int) -> History:
    """Return the history of a training that is about to begin."""
    return History(
        replicas={number: ReplicaTotals() for number in range(replicas)},
        about=about_training(spec, source, options, replicas),
        total=source.rows * options.epochs,
    )


def begun_training(
    client: "Client", measured: Callable[[], tuple[History, Mapping[int, str]]]
) -> TrainingBegun:
    """Return what is told of a training that is about to begin."""
    history, _ = measured()
    name = f"{history.about['Model']}: {history.about['Algorithm']}, {len(history.replicas)} replicas"
    return TrainingBegun(name, client, measured)


def progress_of(history: History, elapsed_s: float, replicas: int) -> TrainingProgress:
    """Return how far a training is.

    Parameters
    ----------
    replicas
        At work now.
    """
    recent = [totals.losses[-1] for totals in history.replicas.values() if totals.losses]
    last = history.rows[-1] if history.rows else {}
    return TrainingProgress(
        samples=history.restored + history.samples,
        total=history.total,
        elapsed_s=elapsed_s,
        rate=history.samples / max(elapsed_s, 1e-9),
        loss=float(np.mean(recent)) if recent else None,
        measures={name: value for name, value in last.items() if name.startswith("val_")},
        replicas=replicas,
    )


def about_training(
    spec: "ModelSpec", source: RowSource, options: TrainOptions, replicas: int
) -> dict[str, str]:
    """Return names and values for a person; settings that do nothing here are left out."""
    algorithm = options.algorithm
    told = {
        "Model": _model(spec),
        "Weights": f"{spec.layout.size:,}",
        "Loss": _named(spec.compiled.get("loss")),
        "Algorithm": algorithm.in_words(),
        "Server's optimizer": _optimizer(algorithm.used_server_optimizer),
        "Replicas' optimizer": _optimizer(algorithm.used_replica_optimizer),
        "Replicas": str(replicas),
        "Servers": _servers(options),
        "Rows": f"{source.rows:,}",
        **facts(options),
    }
    return {name: value for name, value in told.items() if value}


def _model(spec: "ModelSpec") -> str:
    if spec.builder:
        return spec.builder
    config = json.loads(spec.architecture).get("config", {})
    return f"{config.get('name', 'model')}, {len(config.get('layers', ()))} layers"


def _servers(options: TrainOptions) -> str:
    if options.groups > 1:
        return f"{options.groups} groups, one server each, below one"
    return f"{options.servers}, each with a slice of the weights" if options.servers > 1 else "1"


def _optimizer(spec: OptimizerSpec | None) -> str:
    if spec is None:
        return ""
    rest = [f"{name} {value}" for name, value in spec.parameters.items() if value is not None]
    return ", ".join([f"{spec.name} {spec.learning_rate:g}", *rest])


def _named(value: Any) -> str:
    """Return what a loss is called, however it is given."""
    if isinstance(value, Mapping):
        config = value.get("config")
        name = (config.get("name") if isinstance(config, Mapping) else config) or value.get("class_name")
        return str(name) if name else ", ".join(f"{key}: {_named(one)}" for key, one in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(_named(one) for one in value)
    return "" if value is None else str(value)
