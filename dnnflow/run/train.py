"""The Python door to parallel training: `train(model, data, ...)`."""

import sys
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dnnflow.errors import InputError
from dnnflow.events import Listener, ignore
from dnnflow.parallel.spec.algorithm import Algorithm, PushKind
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec
from dnnflow.parallel.spec.train_options import Target, TrainOptions
from dnnflow.table.rows.source import Source
from dnnflow.table.rows.sources import Reading, open_source

if TYPE_CHECKING:
    from distributed import Client

    from dnnflow.parallel.model.model_spec import ModelSpec

_ALGORITHM = frozenset(Algorithm.model_fields)
_OPTIONS = frozenset(TrainOptions.model_fields) - {"algorithm"}


def train(
    model: Any, data: Any, *, client: "Client | None" = None, validation: Any = None,
    algorithm: Algorithm | str = "downpour", loss: Any = None, metrics: Any = None, optimizer: Any = None,
    parameters: Mapping[str, Any] | None = None, custom_objects: Sequence[str] = (),
    devices: Mapping[str, str] | None = None, features: Any = "features", labels: Any = "labels",
    callbacks: Sequence[Any] = (), listener: Listener = ignore, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train one Keras model on the workers of a Dask cluster, data-parallel, with a parameter server.

    Parameters
    ----------
    model
        A Keras model, the path of a `.json` or `.keras` file, `module:function` that returns a model (called
        with `parameters`), or a `ModelSpec`.
    data, validation
        A dataset of dnnflow, a pair of arrays (inputs, targets), files (HDF5, zarr, npz, Parquet; a list, a
        glob, or a text file with one path a line), `module:name` of a `Data` class, or a `Source`. A
        dataset's own test rows validate where nothing else is given.
    client
        A Dask client, which is left open. Without one a cluster of this machine is made, with a worker for
        each replica and server.
    algorithm
        `downpour`, `easgd`, `gem`, `diloco`, or an `Algorithm`.
    loss, metrics, optimizer
        As `compile` takes them; what is not given is the compiled model's. The optimizer is the server's
        with downpour, else the replicas'.
    devices
        {glob on a layer's name: device} on the workers.
    features, labels
        Names in files.
    callbacks
        Of Keras; they run in this process, on snapshots of the weights, at each validation.
    settings
        Fields of `Algorithm` (synchronous, sync_every, damping, ...) and of `TrainOptions` (replicas,
        servers, epochs, batch_size, seed, target, checkpoint, ...).

    Returns
    -------
    dict
        `model`, a compiled Keras model with the last weights, and `history`, a `History`.

    Raises
    ------
    DnnflowError
        Saying the rule, what was got and the remedy.

    Examples
    --------
    >>> dnnflow.run.train.train(model, (x, y), replicas=4, epochs=5)["history"].frame()  # doctest: +SKIP
    """
    from dnnflow.engines.process_setup import import_tensorflow

    import_tensorflow()
    spec = describe_model(
        model, parameters, custom_objects=tuple(custom_objects), devices=devices, loss=loss, metrics=metrics,
        optimizer=optimizer,
    )  # fmt: skip
    options = read_options(spec, algorithm, settings)
    reading = Reading(features=features, labels=labels, cache_dir=options.cache_dir)
    source = open_source(data, reading)
    return run(
        spec, source, options, client=client, callbacks=callbacks, listener=listener,
        validation=validation_source(source, validation, reading),
    )  # fmt: skip


def run(
    spec: "ModelSpec", source: Source, options: TrainOptions, *, client: "Client | None" = None,
    validation: Source | None = None, callbacks: Sequence[Any] = (), listener: Listener = ignore,
) -> dict[str, Any]:  # fmt: skip
    """Train what `train` has read its arguments into."""
    from dnnflow.execute.cluster import ClusterSpec, open_cluster
    from dnnflow.parallel.driver.training import Training

    # Without a limit: Dask would divide the machine's memory among them
    own = ClusterSpec(workers=own_workers(options), memory_limit="0")
    with nullcontext(client) if client is not None else open_cluster(own, listener) as opened:
        training = Training(
            opened, spec, source, options, validation=validation, callbacks=callbacks, listener=listener,
            import_paths=tuple(sys.path) if client is None else (),
        )  # fmt: skip
        trained, history = training.run()
    return {"model": trained, "history": history}


def own_workers(options: TrainOptions) -> int:
    """Return how many workers a cluster of this machine needs: one for each replica and server."""
    return (options.replicas or max(2, options.groups)) + options.n_servers


def describe_model(model: Any, parameters: Mapping[str, Any] | None, **training: Any) -> "ModelSpec":
    """Return the description of a model, in whatever form it is given."""
    from dnnflow.parallel.model.model_spec import ModelSpec

    if isinstance(model, ModelSpec):
        return model
    if isinstance(model, str | Path):
        return ModelSpec.load(model, parameters, **training)
    return ModelSpec.of(model, **training)


def read_options(spec: "ModelSpec", algorithm: Algorithm | str, settings: Mapping[str, Any]) -> TrainOptions:
    """Return the options of a training; the model's optimizer is the server's or the replicas'.

    Raises
    ------
    InputError
        For an unknown setting.
    """
    unknown = sorted(set(settings) - _ALGORITHM - _OPTIONS)
    if unknown:
        known = ", ".join(sorted(_ALGORITHM | _OPTIONS))
        raise InputError(f"a training takes {known}, got {', '.join(unknown)}")
    given = {name: value for name, value in settings.items() if name in _ALGORITHM}
    if isinstance(algorithm, Algorithm):
        if given:
            raise InputError(
                f"settings of an Algorithm are given in it, got {', '.join(sorted(given))} beside it"
            )
        chosen = with_optimizer(algorithm, spec.optimizer)
    else:
        for name in ("server_optimizer", "replica_optimizer"):
            if isinstance(given.get(name), str):
                given[name] = OptimizerSpec(given[name])
        chosen = with_optimizer(Algorithm(kind=algorithm, **given), spec.optimizer)  # type: ignore[arg-type]
    rest = {name: value for name, value in settings.items() if name in _OPTIONS}
    if isinstance(rest.get("target"), str):
        rest["target"] = Target.parse(rest["target"])
    return TrainOptions(algorithm=chosen, **rest)


def with_optimizer(algorithm: Algorithm, optimizer: OptimizerSpec | None) -> Algorithm:
    """Give the model's optimizer to whoever applies gradients, unless the algorithm names one."""
    if optimizer is None:
        return algorithm
    if algorithm.push_kind is PushKind.GRADIENT:
        return algorithm if algorithm.server_optimizer else algorithm.replace(server_optimizer=optimizer)
    if algorithm.replica_optimizer or algorithm.used_replica_optimizer is None or algorithm.momentum:
        return algorithm
    return algorithm.replace(replica_optimizer=optimizer)


def validation_source(data: Any, validation: Any, reading: Reading) -> Source | None:
    """Return the rows to measure on: those given, or a dataset's own test rows."""
    from dnnflow.table.rows.array_source import DatasetSource

    if validation is not None:
        return open_source(validation, reading)
    trained = open_source(data, reading)
    if not isinstance(trained, DatasetSource):
        return None
    return DatasetSource.open(trained.path, "test")
