"""The Python door: what a notebook or a script calls."""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, overload

from dnnflow.events import Listener, ignore
from dnnflow.parallel.driver.history import History
from dnnflow.parallel.spec.algorithm import Algorithm
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.store.store import Store
from dnnflow.results.view.model_score import ModelScore
from dnnflow.run import execute as stages
from dnnflow.run.execute import StudyEnd, TrainingEnd
from dnnflow.run.run import Run, StudyRun, TrainingRun
from dnnflow.run.saved_model import load_model
from dnnflow.run.study import Study
from dnnflow.settings import Settings
from dnnflow.show.live.listening import listening
from dnnflow.show.report import write_report
from dnnflow.table.columns.recipe import Recipe, TextOptions
from dnnflow.table.formats.rows_file import named_labels, read_rows, rows_of, source_of
from dnnflow.table.rows.sources import Reading, open_source
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest as ingest_source

if TYPE_CHECKING:
    from distributed import Client

    from dnnflow.execute.executor import Executor


class OpenStudy(Study):
    """A study that shows itself on the live page while it trains, and draws its report."""

    def train(self, executor: "Executor", *, shard: tuple[int, int] | None = None,
              listener: Listener = ignore) -> None:  # fmt: skip
        """See `Study.train`."""
        with listening(listener) as heard:
            super().train(executor, shard=shard, listener=heard)

    def finish(self, client: "Client | None" = None, listener: Listener = ignore) -> Self:
        """Do what is left of the study, as its pipeline says: train, save models, report, refit."""
        execute(StudyRun.resumed(self), client=client, listener=listener)
        return self

    resume = finish

    def report(self, path: str | Path | None = None) -> Path:
        """Write the HTML report and return its path (default: the study's own directory)."""
        target = Path(path) if path is not None else self.settings.workspace.report(self.study_id)
        return write_report(self.view(), target)


class ReportedHistory(History):
    """A training's history that draws its report."""

    def report(self, path: str | Path) -> Path:
        """Write the HTML report, one self-contained file, and return its path."""
        return write_report(self, path)


@overload
def execute(run: StudyRun, *, client: "Client | None" = ..., listener: Listener = ...) -> StudyEnd: ...


@overload
def execute(run: TrainingRun, *, client: "Client | None" = ..., listener: Listener = ...) -> TrainingEnd: ...


def execute(
    run: Run, *, client: "Client | None" = None, listener: Listener = ignore
) -> StudyEnd | TrainingEnd:
    """Do all stages of a run in this process and draw it for people: for each door but flows.

    Raises
    ------
    DnnflowError
        Saying the rule, what was got and the remedy.
    """
    with listening(listener) as heard:
        return stages.execute(run, client=client, listener=heard, draw=write_report)


def run_study(pipeline: Pipeline, client: "Client | None" = None, *, new: bool = False,
              settings: Settings | None = None, listener: Listener = ignore) -> OpenStudy:  # fmt: skip
    """Run a pipeline from data to report and return its study.

    Parameters
    ----------
    client
        A Dask client to use; it is left open. Without one the pipeline's executor section says where to run.
    new
        Make a new study even if there is one of the same dataset, designs and training settings.
    settings
        Where things are kept; read from the environment by default.

    Raises
    ------
    DnnflowError
        Saying the rule, what was got and the remedy.
    """
    run = StudyRun(pipeline, settings or Settings.from_environment(), new=new)
    study = execute(run, client=client, listener=listener).study
    return OpenStudy(study.store, study.settings, study.study_id)


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
        glob, or a text file with one path a line), `module:name` of a `Data` class, or a `RowSource`. A
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
        `model`, a compiled Keras model with the last weights, and `history`, a `ReportedHistory`.

    Raises
    ------
    DnnflowError
        Saying the rule, what was got and the remedy.

    Examples
    --------
    >>> dnnflow.train(model, (x, y), replicas=4, epochs=5)["history"].frame()  # doctest: +SKIP
    """
    from dnnflow.engines.process_setup import import_tensorflow
    from dnnflow.run import train as training

    import_tensorflow()
    spec = training.describe_model(
        model, parameters, custom_objects=tuple(custom_objects), devices=devices, loss=loss, metrics=metrics,
        optimizer=optimizer,
    )  # fmt: skip
    options = training.read_options(spec, algorithm, settings)
    reading = Reading(features=features, labels=labels, cache_dir=options.cache_dir)
    source = open_source(data, reading)
    plan = training.TrainingPlan(
        spec=spec, source=source, options=options,
        validation=training.validation_source(source, validation, reading), callbacks=callbacks,
        import_paths=tuple(sys.path) if client is None else (),
    )  # fmt: skip
    own = Settings.from_environment({})  # a cluster of this machine, whatever the installation names
    workers = training.own_workers(options)
    with (
        listening(listener) as heard,
        training.open_workers({}, own, workers=workers, client=client, listener=heard) as opened,
    ):
        trained = training.carry_out(plan, opened, heard)
    return {"model": trained.model, "history": ReportedHistory(**vars(trained.history))}


def open_study(study_id: str, *, settings: Settings | None = None) -> OpenStudy:
    """Open a study by its id, or by the beginning of it.

    Raises
    ------
    NotFoundError
        If there is none.
    """
    settings = settings or Settings.from_environment()
    store = Store(settings.store_url)
    return OpenStudy(store, settings, store.study(study_id).study_id)


def score(model: str | Path, rows: Any, **reading: Any) -> ModelScore:
    """Score a model that a study saved on rows whose label is known.

    Parameters
    ----------
    model
        A `.keras` file.
    rows
        Raw rows: a pandas or polars DataFrame, an Arrow table, or the path or URL of a table of any kind
        that `ingest` takes.
    reading
        `delimiter` and `header` of a CSV, where they are not as in the table of the training.

    Raises
    ------
    NotFoundError
        If there is no such file.
    DataError
        If it is no model of a study, or the rows have no label that it knows.

    Examples
    --------
    ::

        dnnflow.score("models/ensemble.keras", "new_rows.csv").measures["accuracy"]
    """
    saved = load_model(Path(model))
    is_named = isinstance(rows, str | Path)
    return saved.score(read_rows(saved.source(str(rows), **reading)) if is_named else rows_of(rows))


def ingest(
    source: Any,
    label: str | Sequence[str] | None = None,
    *,
    out: str | Path | None = None,
    client: "Client | None" = None,
    settings: Settings | None = None,
    listener: Listener = ignore,
    **options: Any,
) -> Dataset:
    """Make a dataset of a table, or find it again.

    Parameters
    ----------
    source
        Path of a file (CSV, Parquet, Arrow, ORC, JSON lines, Excel, ARFF, KEEL, SQLite, NPZ, HDF5, zarr), a
        glob or directory of such files, a URL of fsspec or of SQLAlchemy; or a pandas, polars or Dask
        DataFrame, an Arrow table, or a pair (X, y).
    label
        Name of the column to predict, or names of several; not needed of a pair, whose labels are those of
        y, and of a KEEL file, which names its outputs.
    out
        Directory in which datasets are kept; default: the workspace's.
    options
        Fields of `Source` (delimiter, quote, encoding, header, storage_options, format, sheet, query) and of
        `Recipe` (task, drop, missing_values, standard_missing, missing_labels, rare_classes, text_columns,
        numbers, test_fraction, groups, time, split, test_source, split_seed, missing, indicator, scale,
        clip). What was done that nobody asked for stands in the dataset's `notes`.

    Raises
    ------
    DataError
        For everything wrong with the table, with row, column and value.
    """
    settings = settings or Settings.from_environment()
    reading = {name: options.pop(name) for name in TextOptions.model_fields if name in options}
    datasets = Path(out) if out is not None else settings.workspace.datasets
    given = source_of(source, **reading)
    recipe = Recipe.from_dict({"label": named_labels(given) if label is None else label, **options})
    return ingest_source(given, recipe, datasets, client=client, listener=listener)
