"""The description of a job that is one parallel training: a model, its rows, and how it is trained.

A pipeline file with a `model` is of this kind; all others are studies (`dnnflow.pipeline.study_pipeline`).
"""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from dnnflow.errors import DnnflowError
from dnnflow.parallel.spec.algorithm import Algorithm
from dnnflow.parallel.spec.train_options import Target
from dnnflow.paths import Workspace
from dnnflow.pipeline.sections import Section
from dnnflow.pipeline.study_pipeline import (
    DatasetSection,
    ExecutorSection,
    Pipeline,
    PreprocessSection,
    absolute,
)
from dnnflow.run.train_job import Files, Job, read_optimizer

Names = str | tuple[str, ...]


class ModelSection(Section):
    """The network, and what it is trained for."""

    source: str
    """A .json file of Keras' to_json, a .keras file, or module:function that returns a model."""
    parameters: dict[str, Any] = Field(default={})
    """What the function is called with."""
    loss: str | None = None
    """Name or module:object; default: what the model was compiled with."""
    metrics: tuple[str, ...] = ()
    """As loss."""
    optimizer: str | None = None
    """NAME or NAME:RATE, e.g. adam:0.001; default: the model's."""
    code_folder: str | None = None
    """Folder of the modules that are named in this file; default: the pipeline file's."""


class RowsSection(Section):
    """Files or own code that rows come from."""

    source: Names
    """Dataset directory, file (HDF5, zarr, npz, Parquet), glob, list, text file of paths, or module:name."""
    features: Names = "features"
    """Names in files."""
    labels: Names = "labels"
    """Names in files."""
    validation: Names | None = None
    """As source; default: a dataset's own test rows."""
    cache_dir: str | None = None
    """Directory on each machine that files are copied to when first read."""


class ParallelSection(Section):
    """How it is trained; docs/parallel.md has the formulas."""

    algorithm: Literal["downpour", "easgd", "gem", "diloco"] = "downpour"
    """What replicas push, and what the server does with it."""
    synchronous: bool = False
    """Whether the server waits for all replicas and averages, or applies each push when it comes."""
    sync_every: int = Field(default=1, ge=1)
    """Batches a replica trains on between two pushes."""
    overlap: bool = False
    """Whether a replica computes on while its push is on its way; every push is then one update later."""
    damping: bool = False
    """Whether a push that is late by some updates is applied with a lower rate."""
    damping_rule: Literal["relative", "inverse"] = "relative"
    """relative: what is later than usual is damped, the mean rate stays; inverse: rate / (1 + late)."""
    staleness_bound: int | None = Field(default=None, ge=0)
    """Pushes that an asynchronous replica may be ahead of the slowest; null for no bound."""
    quorum: float = Field(default=1.0, gt=0.0, le=1.0)
    """Share of the replicas that a synchronous round waits for."""
    wire: Literal["float32", "float16", "bfloat16", "int8"] = "float32"
    """How pushes travel."""
    replicas: int | None = Field(default=None, ge=1)
    """Copies of the model that compute at once; default: 2, or one a worker of a running cluster."""
    servers: int = Field(default=1, ge=1)
    """Parameter servers, each of which holds a slice of the weights."""
    groups: int = Field(default=1, ge=1)
    """Groups of replicas, with a server each below one above."""
    group_every: int = Field(default=10, ge=1)
    """Updates of a group between two pushes upwards."""
    epochs: int = Field(default=1, ge=1)
    """How often every row is trained on."""
    batch_size: int = Field(default=100, ge=1)
    """Rows of one replica's step."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Of the order of rows."""
    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: replicas on workers that declare a GPU, if there are any."""
    validate_every: int | None = Field(default=None, ge=1)
    """Samples between two validations; default: once an epoch."""
    target: str | None = None
    """Where it ends early, e.g. val_accuracy,>,0.97."""
    time_limit_s: float | None = Field(default=None, gt=0.0)
    """Seconds after which it ends, with the weights it has by then."""
    checkpoint: str | None = None
    """Directory of the checkpoint; default: none."""
    checkpoint_every_s: float = Field(default=300.0, gt=0.0)
    """Seconds between two checkpoints."""
    restore: bool = False
    """Whether to go on from the checkpoint."""

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        named = ("synchronous", "sync_every", "overlap", "damping", "damping_rule", "staleness_bound",
                 "quorum", "wire")  # fmt: skip
        given: dict[str, Any] = self.model_dump(include=set(named))
        Algorithm(kind=self.algorithm, **given)  # type: ignore[arg-type]
        if self.target is not None:
            Target.parse(self.target)
        if self.groups > 1 and self.servers > 1:
            raise ValueError("groups have a server each below one; set groups or servers to 1")
        if self.restore and self.checkpoint is None:
            raise ValueError("restore needs the directory of a checkpoint; set checkpoint")
        return self


class TrainedSection(Section):
    """What is written."""

    model: str | None = None
    """The trained model, a .keras file; default: in the workspace, named after the pipeline."""
    history: str | None = None
    """.json as mpi_learn writes it, or .csv: one row a validation."""
    timeline: str | None = None
    """A .json file that chrome://tracing and Perfetto open."""
    report: str | None = None
    """An .html file: curves, staleness, where time went."""


class TrainPipeline(Section):
    """One job: a model, rows, how it is trained data-parallel, and what is written."""

    name: str = Field(default="train", min_length=1, max_length=80)
    """A name for people."""
    model: ModelSection
    """The network."""
    data: RowsSection | None = None
    """Rows of files or own code; or else `dataset`."""
    dataset: DatasetSection | None = None
    """A CSV table; or else `data`."""
    preprocess: PreprocessSection = PreprocessSection()
    """A table's columns to network input."""
    parallel: ParallelSection = ParallelSection()
    """Algorithm, replicas, epochs, ends."""
    executor: ExecutorSection = ExecutorSection()
    """The cluster."""
    outputs: TrainedSection = TrainedSection()
    """Model, history, timeline, report."""

    @model_validator(mode="after")
    def _has_rows(self) -> Self:
        if (self.data is None) == (self.dataset is None):
            raise ValueError("data: rows come from data or from dataset; give one of the two")
        if self.executor.kind != "dask":
            raise ValueError("executor: training needs workers, got kind in-process; set it to dask")
        files = self._files(Path("trained.keras"))
        files.check("outputs.{}")
        return self

    def plain(self) -> dict[str, Any]:
        """Return what was set, as JSON types; `TrainPipeline.model_validate` reads it back."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def resolved(self, folder: Path) -> "TrainPipeline":
        """Return the pipeline with its relative paths taken from `folder`."""
        plain = self.plain()
        plain["model"]["code_folder"] = absolute(self.model.code_folder or ".", folder)
        return TrainPipeline.model_validate(with_absolute_paths(plain, folder))

    @property
    def table(self) -> Pipeline | None:
        """A study's description of the same table, for the stages that prepare it; None without one."""
        if self.dataset is None:
            return None
        return Pipeline(
            name=self.name,
            dataset=self.dataset,
            preprocess=self.preprocess,
            executor=self.executor,
            designs=1,
        )

    def job(self, workspace: Workspace, dataset: str | None = None) -> Job:
        """Return what is to be done.

        Parameters
        ----------
        dataset
            Directory of the prepared table.
        """
        rows, model, how = self.data or RowsSection(source=str(dataset)), self.model, self.parallel
        settings = how.model_dump(mode="json", exclude={"algorithm"})
        return Job(
            model=model.source, parameters=model.parameters, loss=model.loss, metrics=model.metrics,
            optimizer=model.optimizer, data=rows.source, validation=rows.validation, features=rows.features,
            labels=rows.labels, algorithm=how.algorithm, settings=settings | {"cache_dir": rows.cache_dir},
            executor=self.executor.model_dump(mode="json", exclude_unset=True),
            folder=model.code_folder or "", files=self._files(workspace.trained(self.name)),
        )  # fmt: skip

    def _files(self, default: Path) -> Files:
        given = self.outputs
        return Files(
            Path(given.model) if given.model else default,
            Path(given.timeline) if given.timeline else None,
            Path(given.history) if given.history else None,
            Path(given.report) if given.report else None,
        )


_PATHS = (
    ("model", ("source", "code_folder")),
    ("data", ("source", "validation", "cache_dir")),
    ("dataset", ("source",)),
    ("parallel", ("checkpoint",)),
    ("executor", ("scheduler_file",)),
    ("outputs", ("model", "history", "timeline", "report")),
)
"""Fields that hold paths; some of them, names of own code as well."""


def with_absolute_paths(data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return plain data of a training, or a part of it, with its relative paths taken from `folder`."""
    changed = dict(data)
    for name, fields in _PATHS:
        section = changed.get(name)
        if isinstance(section, Mapping):
            paths = {key: _absolute_all(section[key], folder) for key in fields if section.get(key)}
            changed[name] = {**section, **paths}
    return changed


def _absolute_all(given: Any, folder: Path) -> Any:
    if isinstance(given, str):
        return given if ":" in given else absolute(given, folder)
    return [_absolute_all(one, folder) for one in given] if isinstance(given, list | tuple) else given


def find_doubts(pipeline: TrainPipeline, folder: Path) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield where a training is wrong although every field has its type, and what is wrong there."""
    model = pipeline.model
    if ":" not in model.source and not (folder / model.source).is_file():
        yield (
            ("model", "source"),
            f"a model must be a file or module:function, got {model.source}: no such file",
        )
    checks: list[tuple[tuple[str, ...], Callable[[], object]]] = [
        (("model", "optimizer"), lambda: read_optimizer(model.optimizer))
    ]
    if (table := pipeline.table) is not None:
        checks += [(("dataset", "quote"), lambda: table.source), (("dataset", "drop"), lambda: table.recipe)]
    for where, build in checks:
        try:
            build()
        except DnnflowError as error:
            yield where, str(error)
