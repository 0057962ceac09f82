"""Describe a run that is one parallel training: a model, its rows, and how it is trained.

A pipeline file with a `model` is of this kind; all others are studies (`dnnflow.pipeline.study_pipeline`).
"""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Field, model_validator

from dnnflow.errors import DnnflowError, InputError
from dnnflow.parallel.spec.algorithm import Exchange
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec
from dnnflow.parallel.spec.train_options import RunOptions
from dnnflow.parameters import Display, Place
from dnnflow.paths import Workspace
from dnnflow.pipeline.study_pipeline import (
    AlgorithmSection,
    DatasetSection,
    EvaluationSection,
    ExecutorSection,
    Pipeline,
    PreprocessSection,
    RunDescription,
    Section,
    SplitSection,
)

Names = str | tuple[str, ...]


def _is_optimizer(text: str) -> str:
    OptimizerSpec.parse(text)
    return text


class ModelSection(Section):
    """The network, and what it is trained for."""

    source: Annotated[str, Place(may_be_code=True)]
    """A .json file of Keras' to_json, a .keras file, or module:function that returns a model."""
    parameters: dict[str, Any] = Field(default={})
    """What the function is called with."""
    loss: str | None = None
    """Name or module:object; default: what the model was compiled with."""
    metrics: Annotated[tuple[str, ...], Display(option="metric")] = ()
    """Names or module:object, as the loss."""
    optimizer: Annotated[
        Annotated[str, AfterValidator(_is_optimizer)] | None, Display(metavar="NAME[:RATE]")
    ] = None
    """NAME or NAME:RATE, e.g. adam:0.001; default: the model's."""
    code_folder: Annotated[str | None, Place()] = None
    """Folder of the modules that are named in this file; default: the pipeline file's."""


class RowsSection(Section):
    """Files or own code that rows come from."""

    source: Annotated[Names, Place(may_be_code=True)]
    """Dataset directory, file (HDF5, zarr, npz, Parquet), glob, list, text file of paths, or module:name."""
    features: Names = "features"
    """Names in files; on the command line with commas between them."""
    labels: Names = "labels"
    """Names in files, written as the features'."""
    weights: Names = ()
    """Names in files of what says by how much each row counts; default: all alike."""
    class_weight: dict[int, float] = Field(default={})
    """{class: by how much its rows count}; as in Keras, 1 for those not named."""
    validation: Annotated[Names | None, Place(may_be_code=True)] = None
    """Rows to measure on, written as those to train on; default: a dataset's own test rows."""
    cache_dir: Annotated[str | None, Place()] = None
    """Directory on each machine that files are copied to when first read."""


class ParallelSection(RunOptions, Exchange, AlgorithmSection):
    """How it is trained; docs/parallel.md has the formulas."""


def _named(*suffixes: str) -> AfterValidator:
    """Refuse names that do not say what will be in the file: before hours of training, not after."""

    def check(path: str) -> str:
        if Path(path).suffix not in suffixes:
            raise InputError(f"must end in {' or '.join(suffixes)}, got {path}")
        return path

    return AfterValidator(check)


class TrainedSection(Section):
    """What is written."""

    model: Annotated[Annotated[str, _named(".keras")] | None, Place(), Display(option="out")] = None
    """The trained model, a .keras file; default: in the workspace, named after the pipeline."""
    history: Annotated[Annotated[str, _named(".json", ".csv")] | None, Place()] = None
    """.json as mpi_learn writes it, or .csv: one row a validation."""
    timeline: Annotated[Annotated[str, _named(".json")] | None, Place()] = None
    """A .json file that chrome://tracing and Perfetto open."""
    report: Annotated[Annotated[str, _named(".html")] | None, Place()] = None
    """An .html file: curves, staleness, where time went."""


class TrainPipeline(RunDescription):
    """One job: a model, rows, how it is trained data-parallel, and what is written."""

    code_section = "model"

    kind: Literal["training"] = "training"
    """Says that this is a training; may be left out, as a study has no model."""
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
    evaluation: SplitSection = SplitSection()
    """A table's test rows, on which the training is measured."""
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
        return self

    @property
    def written(self) -> tuple[Path, ...]:
        """The model, what was measured, and a checkpoint."""
        files, checkpoint = self.outputs, self.parallel.checkpoint
        named = [files.model, files.history, files.timeline, files.report]
        named += [None if checkpoint is None else f"{checkpoint}/checkpoint"]
        return tuple(Path(name) for name in named if name is not None)

    @property
    def has_code(self) -> bool:
        """Whether it may name modules of the user's."""
        return True

    @property
    def table(self) -> Pipeline | None:
        """A study's description of the same table, for the stages that prepare it; None without one."""
        if self.dataset is None:
            return None
        return Pipeline(
            name=self.name,
            dataset=self.dataset,
            preprocess=self.preprocess,
            evaluation=EvaluationSection(**dict(self.evaluation)),
            executor=self.executor,
            designs=1,
        )

    def placed(self, workspace: Workspace, dataset: str | None = None) -> "TrainPipeline":
        """Return the training with the rows of its prepared table, and a place for its model.

        Parameters
        ----------
        dataset
            Directory of the prepared table.
        """
        outputs = self.outputs
        if outputs.model is None:
            outputs = outputs.model_copy(update={"model": str(workspace.trained(self.name))})
        rows = self.data or RowsSection(source=str(dataset))
        return self.model_copy(update={"data": rows, "dataset": None, "outputs": outputs})


def find_doubts(pipeline: TrainPipeline, folder: Path) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Yield where a training is wrong although every field has its type, and what is wrong there."""
    model = pipeline.model
    if ":" not in model.source and not (folder / model.source).is_file():
        yield (
            ("model", "source"),
            f"a model must be a file or module:function, got {model.source}: no such file",
        )
    checks: list[tuple[tuple[str, ...], Callable[[], object]]] = []
    if (table := pipeline.table) is not None:
        checks = [(("dataset", "quote"), lambda: table.source), (("dataset", "drop"), lambda: table.recipe)]
    for where, build in checks:
        try:
            build()
        except DnnflowError as error:
            yield where, str(error)
