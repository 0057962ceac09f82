"""The Python door: what a notebook or a script calls."""

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cached_property
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, overload

from dnnflow.engines.keras.keras_code import keras_code
from dnnflow.engines.losses import loss_of
from dnnflow.errors import InputError, NotFoundError
from dnnflow.events import Event, Listener, Stage, StageFinished, StageStarted, ignore
from dnnflow.execute.opening import lend
from dnnflow.parallel.driver.history import History
from dnnflow.parallel.spec.algorithm import Algorithm
from dnnflow.paths import try_file
from dnnflow.pipeline.pipeline_file import as_pipeline, merge
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.store.store import Store
from dnnflow.results.view.leaderboard_frame import leaderboard_frame
from dnnflow.results.view.model_score import ModelScore
from dnnflow.results.view.next_steps import recommended_file
from dnnflow.run import execute as stages
from dnnflow.run.execute import StudyEnd, TrainingEnd
from dnnflow.run.models.model_export import export_model, file_of_model
from dnnflow.run.models.saved_model import SavedModel, load_model, predicted, probabilities
from dnnflow.run.run import Run, StudyRun, TrainingRun
from dnnflow.run.search import SearchRequest, executor_of, search_pipeline, sections_of
from dnnflow.run.study import Study
from dnnflow.run.widen import study_of_file
from dnnflow.settings import Settings
from dnnflow.show.live.listening import listening
from dnnflow.show.report import write_report
from dnnflow.table.columns.recipe import Recipe, TextOptions
from dnnflow.table.formats.frames import kept_label
from dnnflow.table.formats.given_table import place_table
from dnnflow.table.formats.rows_file import named_labels, rows_of, source_of
from dnnflow.table.rows.sources import Reading, open_source, with_weights
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.ingest import ingest as ingest_source

if TYPE_CHECKING:
    import pandas as pd
    from bokeh.plotting import figure as Figure
    from distributed import Client

    from dnnflow.execute.executor import Executor


SEARCHED = (Stage.UPLOAD, Stage.PREPROCESS)
"""Stages that a search has told before its run does them once more."""


class OpenStudy(Study):
    """A study that shows itself on the live page while it trains, and draws its report."""

    def __repr__(self) -> str:
        record, counts = self.record, self.store.counts(self.study_id)
        trained = f"{sum(counts.values()):,} of {record.n_designs:,} designs trained"
        return f"<study {self.study_id} ({record.name}): {record.standing}, {trained}>"

    def train(self, executor: "Executor", *, shard: tuple[int, int] | None = None,
              ends_s: float | None = None, listener: Listener = ignore) -> None:  # fmt: skip
        """See `Study.train`."""
        with listening(listener) as heard:
            super().train(executor, shard=shard, ends_s=ends_s, listener=heard)

    def finish(self, client: "Client | None" = None, listener: Listener | None = None) -> Self:
        """Do what is left of the study, as its pipeline says: train, save models, report, refit.

        `listener` is told of its progress, as in `run_study`.
        """
        self.__dict__.pop("model", None)  # another one may come of it
        with _shown(listener) as heard:
            execute(StudyRun.resumed(self), client=client, listener=heard)
        return self

    resume = finish

    def _repr_html_(self) -> str:
        """Return what a notebook shows: what the best is worth, the leaderboard, scores by depth."""
        from dnnflow.show.notebook import study_html

        return study_html(self.view())

    def to_keras_code(self, rank: int = 1) -> str:
        """Return Python that builds and fits the design at a rank of the leaderboard with Keras alone.

        Raises
        ------
        NotFoundError
            If no design has this rank.
        """
        places = self.view().leaderboard
        if not 1 <= rank <= len(places):
            raise NotFoundError(f"a rank is one of the leaderboard, 1 to {len(places)}, got {rank}")
        wanted = places[rank - 1].design_id
        design = next(one for one in self.designs if one.design_id == wanted)
        settings, dataset = self.pipeline.training_settings, self.dataset
        loss = loss_of(settings.loss, settings.quantile, dataset.task)
        return keras_code(design, dataset.n_features, dataset.n_outputs, loss)

    def export_model(
        self, out: str | Path, model: str | None = None, *, raw: bool = False
    ) -> tuple[str, ...]:  # fmt: skip
        """Write one of its models for others; return what to know of it, a sentence each.

        Parameters
        ----------
        out
            A `.keras` or `.onnx` file.
        model
            A rank of the leaderboard, `ensemble` or `final`; default: the one that is recommended.
        raw
            Whether it takes raw rows, column by column, in plain Keras or ONNX; else the network's input.

        Raises
        ------
        NotFoundError
            If the study has not saved this model.
        InputError
            If it cannot be written so.
        """
        try_file(Path(out))
        return export_model(model_file(self.id, model, settings=self.settings), Path(out), raw=raw)

    @cached_property
    def model(self) -> SavedModel:
        """The model to predict with: see `model_file`.

        Raises
        ------
        NotFoundError
            If the study has saved none yet.
        """
        return load_model(model_file(self.id, settings=self.settings))

    @property
    def _label_type(self) -> Literal["text", "truth"] | None:
        section = self.pipeline.dataset
        if not isinstance(section.label, str):
            return None
        return kept_label(Path(section.source), section.label)

    def predict(self, rows: Any, **reading: Any) -> "pd.Series[Any] | pd.DataFrame":
        """Predict raw rows with `model`: the class of each, or the number; of several labels a frame.

        Parameters
        ----------
        rows
            A DataFrame (pandas, polars, pyarrow, Dask) with the table's columns, an array of them in their
            order where they were given as one, or the path or URL of a table.
        reading
            How that table is read, where it is not as the one of the training: delimiter, encoding, header,
            sheet, query, …; `missing_values` are texts that stand for a missing value besides its own.
        """
        return predicted(*_raw_rows(self.model, rows, reading), self._label_type)

    def predict_proba(self, rows: Any, **reading: Any) -> "pd.DataFrame":
        """Return the probability of each class, a column each, for raw rows as `predict` takes them.

        Raises
        ------
        InputError
            If the study predicts numbers.
        """
        return probabilities(*_raw_rows(self.model, rows, reading), self._label_type)

    def leaderboard(self) -> "pd.DataFrame":
        """Return the best designs, at most 100, one row each, with their score as the metric is written."""
        return leaderboard_frame(self.view())

    def figure(self, name: str = "depth") -> "Figure":
        """Return one of the report's plots: depth, time, parameters, flops, confusion, curves-loss, …

        Raises
        ------
        NotFoundError
            If the study has no numbers for it.
        """
        from dnnflow.show.notebook import figure_of

        return figure_of(self.view(), name)

    def report(self, path: str | Path | None = None) -> Path:
        """Write the HTML report and return its path (default: the study's own directory)."""
        target = Path(path) if path is not None else self.settings.workspace.report(self.study_id)
        try_file(target)
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


@contextmanager
def _shown(listener: Listener | None) -> Iterator[Listener]:
    """Yield the listener, or one that shows progress on stderr."""
    if listener is not None:
        yield listener
        return
    from dnnflow.show.terminal import Progress

    with Progress() as progress:
        yield progress


def run_study(
    pipeline: Pipeline | str | Path | Mapping[str, Any], client: "Client | None" = None, *, new: bool = False,
    settings: Settings | None = None, listener: Listener | None = None,
) -> OpenStudy:  # fmt: skip
    """Run a pipeline from data to report and return its study.

    Parameters
    ----------
    pipeline
        A `Pipeline`, the path of a YAML file, or a mapping of its sections (`{"dataset": {...}, "designs":
        100}`).
    client
        A Dask client to use; it is left open. Without one the pipeline's executor section says where to run.
    new
        Make a new study even if there is one of the same dataset, designs and training settings.
    settings
        Where things are kept; read from the environment by default.
    listener
        Called with each event of `dnnflow.events`; by default progress is shown on stderr, and
        `listener=dnnflow.events.ignore` is silent.

    Raises
    ------
    DnnflowError
        Saying the rule, what was got and the remedy.

    Examples
    --------
    ::

        study = dnnflow.run_study("pipelines/quickstart.yaml")
    """
    run = StudyRun(as_pipeline(pipeline), settings or Settings.from_environment(), new=new)
    with _shown(listener) as heard:
        study = execute(run, client=client, listener=heard).study
    return OpenStudy(study.store, study.settings, study.study_id)


def search(
    table: Any, label: str | Sequence[str] | None = None, *, minutes: float | None = None,
    designs: int | None = None, metric: str | None = None, drop: Sequence[str] = (),
    client: "Client | None" = None, n_jobs: int | None = None, new: bool = False,
    settings: Settings | None = None, listener: Listener | None = None, **options: Any,
) -> OpenStudy:  # fmt: skip
    """Find out which network design works best on a table, by good rules; return the study.

    A search that was stopped, or is called again, goes on with what is missing.

    Parameters
    ----------
    table
        Path or URL of a table, a DataFrame (pandas, polars, pyarrow, Dask), or a pair (X, y).
    label
        The column to predict, or several; not of a pair.
    minutes
        How long it may take: as many designs are trained as there is time for.
    designs
        How many designs to train, instead; without either as many as the good rules say.
    metric
        What designs are compared by; default: accuracy, RMSE of one number, R² of several.
    drop
        Columns to leave out.
    client
        A Dask client to use; it is left open.
    n_jobs
        Worker processes on this machine: 1 for none (designs are trained in this process); default: one a
        core, or the cluster that `DNNFLOW_CLUSTER` names.
    new
        Make a new study even if there is one of the same table and options.
    settings
        Where things are kept; read from the environment by default.
    listener
        Hears of progress; default: a bar in a terminal or a notebook.
    options
        Fields of a pipeline's sections dataset, evaluation, preprocess and training (task, sheet, groups,
        scale, …), or whole sections (space={"depth": 2}).

    Raises
    ------
    DnnflowError
        Saying the rule, what was got and the remedy.

    Examples
    --------
    ::

        study = dnnflow.search("iris.csv", label="species", minutes=5)
        study.predict(new_rows)
    """
    lend(client)
    settings = settings or Settings.from_environment()
    settings.workspace.require_writable()
    labels = (label,) if isinstance(label, str) else tuple(label or ())
    given = place_table(table, settings.workspace.frames, labels)
    named = options | ({"metric": metric} if metric else {}) | ({"drop": list(drop)} if drop else {})
    sections = merge({"executor": executor_of(n_jobs)}, sections_of(given, label, named))
    request = SearchRequest.of_table(given.name, sections, designs=designs, minutes=minutes)
    with ExitStack() as stack:
        if listener is None:
            from dnnflow.show.notebook import progress

            listener = stack.enter_context(progress())
        study = search_study(request, settings, client=client, new=new, listener=listener).study
    return OpenStudy(study.store, study.settings, study.study_id)


def search_study(
    request: SearchRequest, settings: Settings, *, client: "Client | None" = None, new: bool = False,
    listener: Listener = ignore, told: Callable[[Pipeline], None] | None = None,
) -> StudyEnd:  # fmt: skip
    """Do a search and return its study at its end.

    Parameters
    ----------
    told
        Called with the pipeline before designs are trained.

    Raises
    ------
    DnnflowError
        Saying the rule, what was got and the remedy.
    """
    pipeline = search_pipeline(request, settings, client=client, listener=listener)
    if told is not None:
        told(pipeline)

    def hear(event: Event) -> None:
        if isinstance(event, StageStarted | StageFinished) and event.stage in SEARCHED:
            return
        listener(event)

    run = StudyRun(pipeline, settings, new=new, began_s=request.began_s)
    return execute(run, client=client, listener=hear)


def train(
    model: Any, data: Any, *, client: "Client | None" = None, validation: Any = None,
    algorithm: Algorithm | str = "downpour", loss: Any = None, metrics: Any = None, optimizer: Any = None,
    parameters: Mapping[str, Any] | None = None, custom_objects: Sequence[str] = (),
    devices: Mapping[str, str] | None = None, features: Any = "features", labels: Any = "labels",
    weights: Any = (), sample_weight: Any = None, class_weight: Mapping[int, float] | None = None,
    callbacks: Sequence[Any] = (), listener: Listener = ignore, **settings: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train one Keras model on the workers of a Dask cluster, data-parallel, with a parameter server.

    Parameters
    ----------
    model
        A Keras model, the path of a `.json` or `.keras` file, `module:function` that returns a model (called
        with `parameters`), or a `ModelSpec`.
    data, validation
        What `fit` takes: (inputs, targets) or (inputs, targets, weights), each an array, a frame, or a list
        or dict of them; a `PyDataset`, a `tf.data.Dataset`, or a generator of one epoch's batches. Or a frame
        or dict whose columns or keys `features`, `labels` and `weights` name, a dataset of dnnflow, files
        (HDF5, zarr, npz, Parquet; a list, a glob, or a text file with one path a line), `module:name` of a
        `Data` class, or a `RowSource`. Keys are names of the model's inputs and outputs. A dataset's own test
        rows validate where nothing else is given.
    client
        A Dask client, which is left open. Without one a cluster of this machine is made, with a worker for
        each replica and server.
    algorithm
        `downpour`, `easgd`, `gem`, `diloco`, or an `Algorithm`.
    loss, metrics, optimizer
        As `compile` takes them; what is not given is the compiled model's. The optimizer is the server's
        with downpour, else the replicas'.
    parameters, custom_objects
        What a `module:function` is called with; `module:name` of own classes that the model's file names.
    devices
        {glob on a layer's name: device} on the workers.
    features, labels, weights
        Names in files, frames and dicts; weights say by how much each row counts.
    sample_weight, class_weight
        As `fit` takes them: for each row, beside a pair of arrays; {class: weight}.
    callbacks
        Of Keras; they run in this process, on snapshots of the weights, at each validation.
    listener
        Called with each event of `dnnflow.events`.
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

    lend(client)
    import_tensorflow()
    spec = training.describe_model(
        model, parameters, custom_objects=tuple(custom_objects), devices=devices, loss=loss, metrics=metrics,
        optimizer=optimizer,
    )  # fmt: skip
    options = training.read_options(spec, algorithm, settings)
    reading = Reading(features=features, labels=labels, weights=weights, cache_dir=options.cache_dir)
    source = open_source(with_weights(data, sample_weight), reading)
    plan = training.bound_plan(
        spec, source, options, class_weight=class_weight,
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


def open_study(study_id: str | Path, *, settings: Settings | None = None) -> OpenStudy:
    """Open a study by its id, the beginning of it, or its name; or by a file of it.

    A file is a pipeline in YAML, whose newest study it is, or a model that a study saved.

    Raises
    ------
    NotFoundError
        If there is none.
    InputError
        If the file is none of a study.
    """
    settings = settings or Settings.from_environment()
    store = Store(settings.store_url)
    path = Path(study_id)
    if path.suffix in (".yaml", ".yml", ".keras") and path.is_file():
        study_id = study_of_file(path, store)
    return OpenStudy(store, settings, store.study(str(study_id)).study_id)


def model_file(
    given: str | Path, model: str | None = None, *, settings: Settings | None = None
) -> Path:  # fmt: skip
    """Return the file of a model: the given one, or one of a study.

    Parameters
    ----------
    given
        A `.keras` file, or a study as `open_study` takes it.
    model
        Which of the study's: a rank, `ensemble` or `final`; default: the one that it recommends.

    Raises
    ------
    NotFoundError
        If there is neither, or the study has saved no model.
    """
    path = Path(given)
    if path.suffix == ".keras" or (path.exists() and path.suffix not in (".yaml", ".yml")):
        if model is not None:
            raise InputError(f"a model is chosen of a study, got {model!r} of the file {path}; leave it out")
        return path
    try:
        study = open_study(str(given), settings=settings)
    except NotFoundError as error:
        said = str(error) if path.exists() else f"no such file, and {error}"
        raise NotFoundError(
            f"a model is a .keras file that a study saved, or a study that saved one, got {str(given)!r}: "
            f"{said}"
        ) from error
    workspace = study.settings.workspace
    if model is not None:
        return file_of_model(workspace, study.id, model)
    file = recommended_file(study.view(), workspace)
    if not file.is_file():
        raise NotFoundError(
            f"a study predicts with a model that it saved, got study {study.id}, which has none; "
            f"dnnflow resume {study.id} does what is left of it"
        )
    return file


def score(model: str | Path, rows: Any, *, settings: Settings | None = None, **reading: Any) -> ModelScore:
    """Score a model that a study saved on rows whose label is known.

    Parameters
    ----------
    model
        A `.keras` file, or a study whose model is taken: see `model_file`.
    rows
        Raw rows: a pandas or polars DataFrame, an Arrow table, or the path or URL of a table of any kind
        that `ingest` takes.
    settings
        Where the study is kept, if it is given; read from the environment by default.
    reading
        How the rows are read, where it is not as the table of the training: delimiter, encoding, header,
        sheet, query, …; `missing_values` are texts that stand for a missing value besides its own.

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
    saved, raw = _raw_rows(load_model(model_file(model, settings=settings)), rows, reading)
    return saved.score(raw)


def _raw_rows(model: SavedModel, rows: Any, reading: Mapping[str, Any]) -> tuple[SavedModel, "pd.DataFrame"]:
    """Return raw rows in memory, or of a table that is read as that of a model's training, and that model."""
    how = {name: value for name, value in reading.items() if name != "missing_values"}
    model = model.with_missing_values(reading.get("missing_values") or ())
    if isinstance(rows, str | PathLike):
        return model, model.rows(fspath(rows), **how)
    return model, rows_of(source_of(rows, **how))


def ingest(
    source: Any, label: str | Sequence[str] | None = None, *, out: str | Path | None = None,
    client: "Client | None" = None, settings: Settings | None = None, listener: Listener = ignore,
    **options: Any,
) -> Dataset:  # fmt: skip
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
    client, settings, listener
        A Dask client that reads in parallel; where things are kept; called with each event.
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
    lend(client)
    settings = settings or Settings.from_environment()
    reading = {name: options.pop(name) for name in TextOptions.model_fields if name in options}
    datasets = Path(out) if out is not None else settings.workspace.datasets
    given = source_of(source, **reading)
    recipe = Recipe.from_dict({"label": named_labels(given) if label is None else label, **options})
    return ingest_source(given, recipe, datasets, client=client, listener=listener)
