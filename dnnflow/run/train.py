"""Train one Keras model data-parallel, as a pipeline or a call in Python says."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING, Any

from dnnflow.errors import InputError
from dnnflow.events import Draw, Listener, ignore
from dnnflow.parallel.spec.algorithm import Algorithm, PushKind
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec
from dnnflow.parallel.spec.train_options import RunOptions, TrainOptions
from dnnflow.parameters import fields_of
from dnnflow.paths import try_directory, try_file, write_file
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.settings import Settings
from dnnflow.table.rows.source import RowSource
from dnnflow.table.rows.sources import Reading, open_source

if TYPE_CHECKING:
    from distributed import Client

    from dnnflow.parallel.driver.history import History
    from dnnflow.parallel.model.model_spec import ModelSpec

_ALGORITHM = frozenset(Algorithm.model_fields)
_OPTIONS = frozenset(TrainOptions.model_fields) - {"algorithm"}


@dataclass(frozen=True, kw_only=True)
class TrainingPlan:
    """A parallel training whose model and rows are read: all that it does, wherever it was asked for."""

    spec: "ModelSpec"
    source: RowSource
    options: TrainOptions
    validation: RowSource | None = None
    callbacks: Sequence[Any] = ()
    import_paths: Sequence[str] = ()
    """Folders of own code, on the workers too."""


@dataclass(frozen=True)
class Trained:
    """What came of a training."""

    model: Any
    history: "History"
    source: RowSource


def train_pipeline(pipeline: TrainPipeline, settings: Settings, *, client: "Client | None" = None,
                   listener: Listener = ignore) -> Trained:  # fmt: skip
    """Train as a pipeline says that is `placed`; nothing is written.

    Raises
    ------
    DnnflowError
        As `dnnflow.train` does.
    """
    from dnnflow.engines.process_setup import import_tensorflow
    from dnnflow.engines.seam import make_importable

    folder = pipeline.model.code_folder
    paths = (folder,) if folder else ()
    make_importable(paths)
    rows = pipeline.data
    if rows is None:
        raise InputError("a training needs rows, got a table that is not prepared; report it")
    reading = Reading(
        features=_plain(rows.features), labels=_plain(rows.labels), weights=_plain(rows.weights),
        cache_dir=rows.cache_dir,
    )  # fmt: skip
    source = open_source(_plain(rows.source), reading)
    validation = validation_source(source, _plain(rows.validation) if rows.validation else None, reading)
    import_tensorflow()
    spec = _spec_of(pipeline)
    if pipeline.outputs.model is not None:
        try_file(Path(pipeline.outputs.model), spec.vector.nbytes)
    plan = bound_plan(
        spec, source, _options_of(pipeline, spec), validation=validation, class_weight=rows.class_weight,
        import_paths=paths,
    )  # fmt: skip
    executor = pipeline.executor.model_dump(mode="json", exclude_unset=True)
    with open_workers(
        executor, settings, workers=own_workers(plan.options), client=client, listener=listener
    ) as opened:
        return carry_out(plan, opened, listener)


def bound_plan(
    spec: "ModelSpec", source: RowSource, options: TrainOptions, *, validation: RowSource | None = None,
    class_weight: Mapping[int, float] | None = None, callbacks: Sequence[Any] = (),
    import_paths: Sequence[str] = (),
) -> TrainingPlan:  # fmt: skip
    """Return a training whose rows are bound to the model by names, and whose first rows were tried.

    Raises
    ------
    InputError
        For rows that are not those of the model.
    """
    from dnnflow.parallel.rows.bind_rows import BoundRows

    model = BoundRows(spec, options.batch_size)
    return TrainingPlan(
        spec=spec, source=model.bind(source, class_weight=class_weight), options=options,
        validation=None if validation is None else model.bind(validation, "the validation rows"),
        callbacks=callbacks, import_paths=import_paths,
    )  # fmt: skip


def carry_out(plan: TrainingPlan, client: "Client", listener: Listener = ignore) -> Trained:
    """Train on a cluster's workers."""
    from dnnflow.parallel.driver.training import Training

    if plan.options.checkpoint is not None:
        try_directory(Path(plan.options.checkpoint), plan.spec.vector.nbytes)
    training = Training(
        client, plan.spec, plan.source, plan.options, validation=plan.validation, callbacks=plan.callbacks,
        listener=listener, import_paths=plan.import_paths,
    )  # fmt: skip
    model, history = training.run()
    return Trained(model, history, plan.source)


@contextmanager
def open_workers(
    executor: Mapping[str, Any], settings: Settings, *, workers: int | None = None,
    client: "Client | None" = None, listener: Listener = ignore,
) -> "Iterator[Client]":  # fmt: skip
    """Yield a client of the cluster that an executor section names, else of one that trainings start.

    Parameters
    ----------
    workers
        Of an own cluster, where the section does not say; None for one a core.

    Raises
    ------
    InputError
        For an executor without workers.
    """
    from dnnflow.execute.opening import open_client

    given = {key: value for key, value in executor.items() if value is not None}
    # Without a limit, since Dask would divide the machine's memory among the workers
    own = {"memory_limit": "0", "workers": workers}
    with open_client(own | given, settings, client=client, listener=listener) as opened:
        if opened is None:
            raise InputError(
                "a parallel training needs workers, got executor.kind in-process; set it to dask"
            )
        yield opened


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
    return TrainOptions(
        algorithm=chosen, **{name: value for name, value in settings.items() if name in _OPTIONS}
    )


def with_optimizer(algorithm: Algorithm, optimizer: OptimizerSpec | None) -> Algorithm:
    """Give the model's optimizer to whoever applies gradients, unless the algorithm names one."""
    if optimizer is None:
        return algorithm
    if algorithm.push_kind is PushKind.GRADIENT:
        return algorithm if algorithm.server_optimizer else algorithm.replace(server_optimizer=optimizer)
    if algorithm.replica_optimizer or algorithm.used_replica_optimizer is None or algorithm.momentum:
        return algorithm
    return algorithm.replace(replica_optimizer=optimizer)


def validation_source(data: Any, validation: Any, reading: Reading) -> RowSource | None:
    """Return the rows to measure on: those given, or a dataset's own test rows."""
    from dnnflow.table.rows.array_source import DatasetSource

    if validation is not None:
        return open_source(validation, reading)
    trained = open_source(data, reading)
    if not isinstance(trained, DatasetSource):
        return None
    return DatasetSource.open(trained.path, "test")


def _spec_of(pipeline: TrainPipeline) -> "ModelSpec":
    from dnnflow.parallel.model.keras_optimizers import build_keras_optimizer

    model = pipeline.model
    optimizer = OptimizerSpec.parse(model.optimizer) if model.optimizer else None
    return describe_model(
        model.source, model.parameters or None, loss=model.loss, metrics=list(model.metrics) or None,
        optimizer=build_keras_optimizer(optimizer) if optimizer else None,
    )  # fmt: skip


def _options_of(pipeline: TrainPipeline, spec: "ModelSpec") -> TrainOptions:
    """Return the options of a pipeline's training; an optimizer that nothing would use is refused."""
    how, chosen = pipeline.parallel, with_optimizer(pipeline.parallel.to_algorithm(), spec.optimizer)
    if pipeline.model.optimizer and not (chosen.server_optimizer or chosen.replica_optimizer):
        raise InputError(
            f"{chosen.kind} with sync_every {chosen.sync_every} steps by a rule of its own, got optimizer "
            f"{pipeline.model.optimizer}; leave it out"
        )
    cache_dir = pipeline.data.cache_dir if pipeline.data else None
    timeline = pipeline.outputs.timeline is not None
    return TrainOptions(
        algorithm=chosen, timeline=timeline, cache_dir=cache_dir, **fields_of(RunOptions, how)
    )


def write_trained(trained: Trained, pipeline: TrainPipeline, draw: Draw, aside: Path) -> "Written":
    """Write the model, history, timeline and report where a `placed` pipeline says.

    Parameters
    ----------
    aside
        Directory for what cannot be written there.
    """
    from dnnflow.run.models.saved_model import write_model
    from dnnflow.table.rows.array_source import DatasetSource
    from dnnflow.table.store.dataset import open_cached

    source, measured, files = trained.source, trained.history, pipeline.outputs
    dataset = open_cached(Path(source.path)) if isinstance(source, DatasetSource) else None
    written = Written(aside)
    written.write(str(files.model), lambda path: write_model(path, trained.model, dataset))
    written.write(files.history, lambda path: write_file(path, _history_text(measured, path, pipeline)))
    written.write(files.timeline, lambda path: write_file(path, measured.to_chrome_trace()))
    written.write(files.report, lambda path: draw(measured, path))
    return written


class Written:
    """The files of a training; what could not be written where it was asked to lies aside."""

    def __init__(self, aside: Path) -> None:
        self._aside = aside
        self.files: list[Path] = []
        """Those that there are, in the order in which they were written."""
        self.problems: list[str] = []
        """Why one is not where it was asked to be, and where it is."""

    def write(self, name: str | None, write: Callable[[Path], object]) -> None:
        """Write one file, if it is asked for."""
        if name is None:
            return
        path = Path(name)
        places, why = [path, self._aside / path.name, Path(gettempdir()) / self._aside.name / path.name], ""
        for place in places:
            try:
                write(place)
            except OSError as error:
                why = why or str(error)
                continue
            self.files.append(place)
            if place is not path:
                self.problems.append(f"{why}; what was to be written is kept in {place}")
            return
        self.problems.append(f"{why}; and neither {places[1]} nor {places[2]} could be written")


def _history_text(measured: "History", path: Path, pipeline: TrainPipeline) -> str:
    if path.suffix == ".csv":
        return str(measured.frame().to_csv(index=False))
    plain = pipeline.model_dump(mode="json", include={"model", "data", "parallel"})
    model, data = plain["model"], plain["data"]
    # In one mapping, as mpi_learn has it
    return measured.to_mpi_learn(
        {**data, **model, **plain["parallel"], "model": model["source"], "data": data["source"]}
    )


def outcome_of_training(trained: Trained, written: Sequence[Path]) -> dict[str, Any]:
    """Return what the row of a training keeps of it: its last numbers, and its files."""
    history = trained.history
    kinds = {path.suffix: str(path) for path in written}
    return {
        "samples": history.samples,
        "seconds_s": history.seconds_s,
        "last": {name: float(value) for name, value in history.rows[-1].items()} if history.rows else None,
        "model": kinds.get(".keras"),
        "report": kinds.get(".html"),
    }


def summary(history: "History") -> dict[str, Any]:
    """Return what a training measured as JSON types, without timeline and single losses."""
    left_out = ("losses", "seen", "heard_s", "spans", "starts")
    return {
        "samples": history.samples,
        "seconds_s": history.seconds_s,
        "startup_s": history.startup_s,
        "samples_per_s": history.samples / max(history.seconds_s, 1e-9),
        "ended_by": history.ended_by,
        "rows": history.rows,
        "staleness": history.staleness,
        "replicas": {
            number: {name: value for name, value in vars(totals).items() if name not in left_out}
            | {"lives": totals.starts}
            for number, totals in sorted(history.replicas.items())
        },
        "servers": [asdict(server) for server in history.servers],
    }


def _plain(given: str | Sequence[str]) -> Any:
    """Return one name or path as it is, several as they were given."""
    return given[0] if not isinstance(given, str) and len(given) == 1 else given
