"""Make the pipeline of a search: the good rules of a table, under what is asked for."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Integral
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from dnnflow.errors import DataError, InputError, PipelineError
from dnnflow.events import Listener, Notice, except_notices, ignore
from dnnflow.parameters import plain_type
from dnnflow.pipeline.good_rules import TableFacts, good_rules
from dnnflow.pipeline.pipeline_file import merge
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.run.execute import preprocess, upload
from dnnflow.settings import Settings
from dnnflow.table.columns.kinds import nearest
from dnnflow.table.columns.preprocess import TextColumn
from dnnflow.table.columns.recipe import Source, TextOptions
from dnnflow.table.formats.given_table import GivenTable
from dnnflow.table.store.dataset import Dataset
from dnnflow.table.store.survey import survey

if TYPE_CHECKING:
    from distributed import Client

FLAT = ("dataset", "evaluation", "preprocess", "training")
"""Sections whose fields a search takes by their names alone."""
MOST_NAMES = 20


@dataclass(frozen=True)
class SearchRequest:
    """What is asked of a search.

    Raises
    ------
    InputError
        If designs and time are both given, or the time is none.
    """

    sections: Mapping[str, Any]
    """Sections of a pipeline, laid over the good rules; `dataset` has at least `source` and `label`."""
    designs: int | None = None
    """How many designs to train; default: what the good rules say."""
    minutes: float | None = None
    """How long the search may take: as many designs are trained as there is time for."""
    name: str = "search"
    """For people."""
    looks: bool = True
    """Whether columns that no network learns from are left out."""
    began_s: float = field(default_factory=time.monotonic)
    """When the time began to run."""
    left_out: Mapping[str, str] = field(default_factory=dict)
    """Columns that were left out since no network learns from them, and why."""

    def __post_init__(self) -> None:
        if self.designs is not None and self.minutes is not None:
            raise InputError(
                f"a search has a number of designs or a time, got designs={self.designs} and "
                f"minutes={self.minutes:g}; leave one of them out"
            )
        if self.minutes is not None and not 0 < self.minutes < float("inf"):
            raise InputError(f"minutes must be a number > 0, got {self.minutes:g}")

    @classmethod
    def of_table(cls, name: str, sections: Mapping[str, Any], **more: Any) -> "SearchRequest":
        """Return the request of a table's study, called by the table's and the label's names."""
        label = sections["dataset"]["label"]
        labels = label if isinstance(label, str) else ", ".join(label)
        return cls(sections, name=f"{labels} of {name}", **more)

    @property
    def title(self) -> str:
        """The study's name; that of a search by time says so."""
        limit = "" if self.minutes is None else f", {self.minutes:g} min"
        return f"{self.name[: 80 - len(limit)]}{limit}"


def search_pipeline(
    request: SearchRequest, settings: Settings, *, client: "Client | None" = None,
    listener: Listener = ignore,
) -> Pipeline:  # fmt: skip
    """Return the pipeline of a search, on a table that is preprocessed then.

    Raises
    ------
    DataError
        For everything wrong with the table.
    InputError
        If a section breaks a rule.
    OutputError
        If nothing can be kept.
    """
    request, dataset = _worthwhile(request, settings, client, listener)
    return _laid_over(good_rules(facts_of_dataset(dataset)), request)


@dataclass(frozen=True)
class ColumnFindings:
    """What a look at a table found before a study of it begins."""

    left_out: Mapping[str, str]
    """Columns that the good rules leave out, and why."""
    notes: tuple[str, ...]
    """What to know of the others, columns that predict the label alone among it."""


def look_at_columns(sections: Mapping[str, Any]) -> ColumnFindings:
    """Return what a search would leave out and tell of a table; nothing of it is kept.

    Parameters
    ----------
    sections
        As of `SearchRequest`.

    Raises
    ------
    DataError, InputError
        As of `search_pipeline`.
    """
    with TemporaryDirectory(prefix="dnnflow-columns-") as home:
        settings = Settings.from_environment({"DNNFLOW_HOME": home})
        request, dataset = _worthwhile(SearchRequest(sections), settings, None, ignore)
        return ColumnFindings(request.left_out, dataset.notes)


def _worthwhile(
    request: SearchRequest, settings: Settings, client: "Client | None", listener: Listener
) -> tuple[SearchRequest, Dataset]:
    """Return the request without columns that carry nothing, if it looks for them, and its dataset."""
    settings.workspace.require_writable()
    rules = good_rules(TableFacts(rows=0, numbers=0, categories=0, classes=0))
    upload(_laid_over(rules, request), listener)
    if request.looks:
        request = _without_useless(request, _laid_over(rules, request), listener)
    quiet = except_notices(listener)  # the study tells what is to be known of its table
    try:
        dataset = preprocess(_laid_over(rules, request), settings, client=client, listener=quiet)
    except DataError:  # perhaps for a column that looked well in the first block
        narrowed = request
        if request.looks:
            narrowed = _without_useless(request, _laid_over(rules, request), listener, whole_table=True)
        if narrowed is request:
            raise
        request = narrowed
        dataset = preprocess(_laid_over(rules, request), settings, client=client, listener=quiet)
    if request.looks and (narrowed := _without_worthless(request, dataset, listener)) is not request:
        request = narrowed
        dataset = preprocess(_laid_over(rules, request), settings, client=client, listener=quiet)
    return request, dataset


def sections_of(table: GivenTable, label: Any, options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the sections of a pipeline that fields of some of them, or whole sections, ask for.

    Raises
    ------
    InputError
        If there is no label, or a name is of no section.
    """
    label = table.label if label is None else label
    if label is None:
        raise InputError(f"a search needs a label, got none; {_columns_in_words(table, options)}")
    dataset: dict[str, Any] = {"source": table.source, "label": label}
    if table.has_classes:
        own = {**options, **options.get("dataset", {})}.get("missing_values", ())
        dataset |= {"task": "classification", "missing_labels": ["", *own]}
    sections: dict[str, Any] = {"dataset": dataset}
    for name, value in options.items():
        where = next((one for one in FLAT if name in _fields_of_section(one)), None)
        if name in Pipeline.model_fields:
            where = name
        if where is None:
            known = [*Pipeline.model_fields, *(field for one in FLAT for field in _fields_of_section(one))]
            raise InputError(
                f"a search takes sections of a pipeline and fields of {', '.join(FLAT)}, got {name!r}; "
                f"{nearest(name, known)}"
            )
        sections = merge(sections, {where: value if where == name else {name: value}})
    return sections


def _fields_of_section(name: str) -> Mapping[str, Any]:
    fields: Mapping[str, Any] = plain_type(Pipeline.model_fields[name].annotation).model_fields
    return fields


def _columns_in_words(table: GivenTable, options: Mapping[str, Any]) -> str:
    reading = {name: value for name, value in options.items() if name in TextOptions.model_fields}
    found = survey(Source(url=table.source, **reading))
    names = ", ".join(repr(one.name) for one in found.columns[:MOST_NAMES])
    more = ", …" if len(found.columns) > MOST_NAMES else ""
    return f"name one of {names}{more}" + (f", perhaps label={found.label!r}" if found.label else "")


def executor_of(n_jobs: Any) -> dict[str, Any]:
    """Return a pipeline's executor for a number of jobs, as scikit-learn counts them.

    None leaves it to the pipeline: workers on all cores, unless a cluster is named; -1 asks for all cores; 1
    trains in this process.

    Raises
    ------
    InputError
        If it is no such number.
    """
    if n_jobs is None or n_jobs == -1:
        return {}
    if isinstance(n_jobs, bool) or not isinstance(n_jobs, Integral) or n_jobs < 1:
        raise InputError(f"n_jobs must be a number of workers >= 1, or -1 for one a core, got {n_jobs!r}")
    return {"kind": "in-process"} if n_jobs == 1 else {"workers": int(n_jobs), "dashboard_port": 0}


def facts_of_dataset(dataset: Dataset) -> TableFacts:
    """Return what of a table the good rules depend on."""
    texts = [column for column in dataset.fitted.columns if isinstance(column, TextColumn)]
    return TableFacts(
        rows=sum(dataset.rows.values()),
        numbers=len(dataset.fitted.columns) - len(texts),
        categories=sum(len(column.feature_names) for column in texts),
        classes=dataset.n_classes,
    )


def _laid_over(rules: Mapping[str, Any], request: SearchRequest) -> Pipeline:
    """Return the pipeline of rules under what is asked for; `PipelineError` where that breaks a rule."""
    asked = {"name": request.title, "dataset": {}, **rules}
    plain = merge(asked, request.sections)
    if request.designs is not None:
        plain["designs"] = request.designs
    if request.minutes is not None:
        plain = {name: value for name, value in plain.items() if name != "designs"}
        plain["minutes"] = request.minutes
    try:
        return Pipeline.model_validate(plain).resolved(Path.cwd())
    except ValidationError as error:
        first = error.errors()[0]
        where, told = ".".join(map(str, first["loc"])), first["msg"].removeprefix("Value error, ")
        got = "" if ", got " in told else f", got {first['input']!r}"
        raise PipelineError(f"a search makes a valid pipeline, but {where}: {told}{got}") from None


def _without_useless(
    request: SearchRequest, pipeline: Pipeline, listener: Listener, *, whole_table: bool = False
) -> SearchRequest:
    """Leave out the columns that no network learns from, and say so; look at the first block, or at all."""
    recipe = pipeline.recipe
    kept = (*recipe.labels, *recipe.drop, *recipe.mark.values(), recipe.weights or "",
            *recipe.text_columns, *recipe.styles)  # fmt: skip
    found = survey(pipeline.source, missing_values=recipe.missing_values, whole_table=whole_table)
    return _narrowed(request, found.useless(kept), recipe.drop, listener)


def _without_worthless(request: SearchRequest, dataset: Dataset, listener: Listener) -> SearchRequest:
    """Leave out the columns that carry nothing, as a dataset found, and say so."""
    recipe = dataset.recipe
    kept = {*recipe.text_columns, *recipe.styles}
    useless = {name: why for name, why in dataset.useless.items() if name not in kept}
    if all(column.name in useless for column in dataset.fitted.columns):
        return request
    return _narrowed(request, useless, recipe.drop, listener)


def _narrowed(
    request: SearchRequest, useless: Mapping[str, str], drop: Sequence[str], listener: Listener
) -> SearchRequest:
    """Return the request without columns, and say why."""
    if not useless:
        return request
    told = "; ".join(f"column {name!r}, since {why}" for name, why in useless.items())
    listener(Notice(f"left out: {told}"))
    sections = merge(request.sections, {"dataset": {"drop": [*drop, *useless]}})
    return replace(request, sections=sections, left_out={**request.left_out, **useless})
