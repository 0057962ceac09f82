"""Describe a run that is a study, from data to report: what every door accepts.

The command line, Python, Prefect parameters, the web form and REST all read this one model; its JSON schema
(`dnnflow schema`) is made from it. Unknown keys are refused. Relative paths in a pipeline file are relative
to that file, those laid over it (`--set`) to the current directory.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import ConfigDict, Field, model_validator

from dnnflow.design.space import Space
from dnnflow.design.space_options import SpaceOptions
from dnnflow.engines.records import FinalOptions, SelectionOptions, TrainingOptions, TrainingSettings
from dnnflow.parallel.spec.algorithm import Algorithm, Exchange, Kind, KindName, RefitExchange
from dnnflow.parallel.spec.train_options import RefitOptions
from dnnflow.parameters import Parameters, Place, Seed, fields_of, place_of, plain_type
from dnnflow.table.columns.recipe import (
    ColumnOptions,
    FileUrl,
    PreprocessOptions,
    Recipe,
    Source,
    SplitOptions,
    TextOptions,
)


class Section(Parameters):
    """Base of all parts."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)


class TableSection(Section):
    """Where a table is."""

    source: Annotated[FileUrl, Place()]
    """Path or URL (any that fsspec knows) of a table: CSV, Parquet, Arrow, ORC, JSON lines, Excel, ARFF,
    KEEL, SQLite, NPZ, HDF5 or zarr, plain or compressed (.gz, .bz2, .xz, .zst, or one file in a .zip); a glob
    or directory of files of one kind; or the address of a database that SQLAlchemy knows."""


class DatasetSection(TextOptions, ColumnOptions, TableSection):
    """Where the table is and how it is read."""

    seed: Seed = 0
    """Seeds the split and the order of rows in training."""


class PreprocessSection(PreprocessOptions, Section):
    """How columns become the network's input. Statistics come from the training rows only."""


class SpaceSection(SpaceOptions, Section):
    """The designs to draw from: each parameter a constant, a choice or a range."""

    explicit: tuple[dict[str, Any], ...] = ()
    """Designs written out one by one; everything else in the space is then unused."""
    code_folder: Annotated[str | None, Place()] = None
    """Folder of the modules that designs by reference name; default: the pipeline file's."""

    @property
    def has_code(self) -> bool:
        """Whether some design is given by code."""
        return self.reference is not None or any("reference" in design for design in self.explicit)

    def to_space(self) -> Space:
        """Return the space that this section describes.

        Raises
        ------
        DesignError
            If it describes none.
        """
        data = self.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude={"code_folder"})
        if "explicit" in data:
            data["designs"] = data.pop("explicit")
        return Space.from_dict(data)


class SplitSection(SplitOptions, Section):
    """Which rows are kept for the test."""


class EvaluationSection(FinalOptions, SelectionOptions, SplitSection):
    """Which rows designs are compared and measured on, and what is made of the best."""


class TrainingSection(TrainingOptions, Section):
    """How designs are trained."""

    device: Literal["auto", "cpu", "gpu"] = "auto"
    """auto: GPU workers where the cluster has some, and CPU workers too."""


class ExecutorSection(Section):
    """Where designs are trained."""

    kind: Literal["dask", "in-process"] = "dask"
    """dask: on a Dask cluster; in-process: one after the other, for debugging."""
    address: str | None = None
    """Address of a running Dask scheduler; where absent, workers are started on this machine."""
    scheduler_file: Annotated[str | None, Place()] = None
    """Scheduler file of a running cluster, instead of an address."""
    workers: int | None = Field(default=None, ge=1)
    """Worker processes to start on this machine; default: one a core."""
    memory_limit: str = "auto"
    """Memory of each worker started here, e.g. 2GB."""
    dashboard_port: int | None = Field(default=None, ge=0, lt=65536)
    """Port of the Dask dashboard of a cluster started here; default: 8787 or a free one."""


class AlgorithmSection(Section):
    """How a model is trained, in every section that says so."""

    algorithm: KindName = Kind.DOWNPOUR

    @model_validator(mode="after")
    def _makes_an_algorithm(self) -> Self:
        self.to_algorithm()
        return self

    def to_algorithm(self) -> Algorithm:
        """Return the algorithm, without the model's optimizer.

        Raises
        ------
        ValueError
            If its parts do not fit together.
        """
        return Algorithm(kind=self.algorithm, **fields_of(Exchange, self))


class RefitSection(RefitExchange, AlgorithmSection, RefitOptions):
    """How the best design is trained once more, data-parallel, on training and test rows together."""

    epochs: int | None = Field(default=None, ge=1)
    """Passes over the whole table; default: the epochs that the design was trained for."""
    batch_size: int | None = Field(default=None, ge=1)
    """Rows of one replica's step; default: the design's."""


class OutputsSection(Section):
    """What is kept besides the results of every design."""

    models: int = Field(default=3, ge=0, le=100)
    """How many of the best designs' models are saved; the winner's and the ensemble's are
    in any case, where there are finalists."""
    raw: bool = False
    """Whether each of these models is saved once more, with its preprocessing as layers: plain Keras takes
    raw rows by best-1-raw.keras, ensemble-raw.keras and final-raw.keras."""
    report: Annotated[str | None, Place()] = None
    """Where the HTML report is written besides the study's own directory."""


class RunDescription(Section):
    """One run: what a study and a training have in common."""

    code_section: ClassVar[str]
    """The section that names modules of the user's, and their folder."""

    @property
    def has_code(self) -> bool:
        """Whether it names modules of the user's."""
        raise NotImplementedError

    @property
    def written(self) -> tuple[Path, ...]:
        """The files that it is asked to write, beside the workspace's."""
        raise NotImplementedError

    def plain(self) -> dict[str, Any]:
        """Return what was set, as JSON types; `model_validate` reads it back."""
        return self.model_dump(mode="json", by_alias=True, exclude_unset=True)

    def resolved(self, folder: Path) -> Self:
        """Return the description with its relative paths taken from `folder`."""
        plain = self.plain()
        if self.has_code:
            plain[self.code_section] = {"code_folder": ".", **plain[self.code_section]}
        return self.model_validate(self.with_absolute_paths(plain, folder))

    @classmethod
    def with_absolute_paths(cls, data: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Return plain data of a run, or a part of it, with its relative paths taken from `folder`."""
        changed = dict(data)
        for name, field in cls.model_fields.items():
            given, section = changed.get(name), plain_type(field.annotation)
            if isinstance(given, Mapping) and hasattr(section, "model_fields"):
                places = {key: place_of(one) for key, one in section.model_fields.items()}
                changed[name] = {
                    key: _absolute(value, folder, place) if value and (place := places.get(key)) else value
                    for key, value in given.items()
                }
        return changed


def _absolute(given: Any, folder: Path, place: Place) -> Any:
    """Return a path, or each of several, taken from `folder`; URLs and names of code are as they were."""
    if isinstance(given, list | tuple):
        return [_absolute(one, folder, place) for one in given]
    if not isinstance(given, str) or (":" in given if place.may_be_code else "://" in given):
        return given
    if given.startswith("~/"):
        return str(Path(given).expanduser())
    return given if Path(given).is_absolute() else str((folder / given).resolve())


class Pipeline(RunDescription):
    """One job: a dataset, a space of designs, how to train them, and what to keep."""

    code_section = "space"

    kind: Literal["study"] = "study"
    """Says that this is a study; may be left out, as a training has a model."""
    name: str = Field(default="study", min_length=1, max_length=80)
    """A name for people."""
    dataset: DatasetSection
    """The table."""
    preprocess: PreprocessSection = PreprocessSection()
    """Columns to network input."""
    space: SpaceSection = SpaceSection()
    """The designs to draw from."""
    designs: int | None = Field(default=None, ge=1, le=1_000_000)
    """How many designs to train; may be absent with strategy grid (all of them), and with minutes."""
    minutes: float | None = Field(default=None, gt=0.0, allow_inf_nan=False)
    """How long the whole run may take, instead of designs: as many are drawn as there is time for. The study
    is then that of so many designs, and is stored as such."""
    strategy: Literal["random", "grid"] = "random"
    """random: drawn with `seed`, without repeats; grid: all combinations in order."""
    seed: int = Field(default=0, ge=0, lt=2**63)
    """Seed of the random strategy."""
    training: TrainingSection = TrainingSection()
    """Engine, device, time limit, whether designs are timed alone."""
    evaluation: EvaluationSection = EvaluationSection()
    """Validation rows to compare designs on, test rows to measure what is handed out."""
    executor: ExecutorSection = ExecutorSection()
    """The cluster, or this process."""
    outputs: OutputsSection = OutputsSection()
    """Models and report."""
    refit: RefitSection | None = None
    """Train the best design on the whole table at the end, data-parallel; needs executor.kind dask."""

    @model_validator(mode="after")
    def _needs_a_number_or_a_time(self) -> Self:
        if self.minutes is not None:
            if self.designs is not None:
                raise ValueError(
                    f"minutes: a study has a number of designs or a time, got designs={self.designs} and "
                    f"minutes={self.minutes:g}; leave one of them out (designs: null)"
                )
            if self.strategy == "grid" or self.space.explicit:
                given = "strategy grid" if self.strategy == "grid" else "a list of designs"
                raise ValueError(
                    f"minutes: as many designs are drawn as there is time for, got {given}; set strategy: "
                    "random and ranges in space, or leave minutes out"
                )
        elif self.strategy == "random" and self.designs is None and not self.space.explicit:
            raise ValueError(
                "designs: strategy random needs a number of designs, got none; add designs: 100 or minutes: 5"
            )
        return self

    @model_validator(mode="after")
    def _refits_on_workers(self) -> Self:
        if self.refit is not None and self.executor.kind != "dask":
            raise ValueError("refit: needs workers, got executor.kind in-process; set it to dask")
        return self

    @property
    def source(self) -> Source:
        """How the table's text is read."""
        return Source(url=self.dataset.source, **fields_of(TextOptions, self.dataset))

    @property
    def recipe(self) -> Recipe:
        """What makes the table a dataset."""
        columns, split = fields_of(ColumnOptions, self.dataset), fields_of(SplitOptions, self.evaluation)
        return Recipe(split_seed=self.dataset.seed, **columns, **split, **dict(self.preprocess))

    @property
    def training_settings(self) -> TrainingSettings:
        """What of training and evaluation makes studies differ."""
        evaluation = fields_of(SelectionOptions, self.evaluation)
        return TrainingSettings(**fields_of(TrainingOptions, self.training), **evaluation)

    @property
    def written(self) -> tuple[Path, ...]:
        """A copy of the report."""
        return () if self.outputs.report is None else (Path(self.outputs.report),)

    @property
    def has_code(self) -> bool:
        """Whether it names modules of the user's."""
        return self.space.has_code
