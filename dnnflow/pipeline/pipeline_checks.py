"""Check what can be wrong with a pipeline although every field has its type: each by itself, then together.

What pydantic refuses is left out first, so that one mistake hides no other.
"""

import importlib
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from dnnflow.design.layers import Reference
from dnnflow.design.space import Space
from dnnflow.errors import DesignError, DnnflowError, InputError
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.pipeline.training_pipeline import find_doubts as find_doubts_of_training

Location = tuple[str | int, ...]
Doubt = tuple[Location, str]
"""Where in the file, and what is wrong there."""

_SIZE = re.compile(r"\s*(\d+\.?\d*(?:e\d{1,3})?|\.\d+)\s*(?:[kmgtp]i?)?b?\s*", re.IGNORECASE)
"""What Dask takes for a size: a number and its unit."""
_ROUNDS = 3
"""Fields refused, then the rule about the number of designs, then nothing."""


def validate_training(data: Mapping[str, Any]) -> tuple[TrainPipeline | None, list[Any]]:
    """Validate plain data of a training; return it, or None and pydantic's errors."""
    try:
        return TrainPipeline.model_validate(data), []
    except ValidationError as error:
        return None, error.errors(include_url=False)


def find_training_doubts(pipeline: TrainPipeline, folder: Path) -> list[Doubt]:
    """Return what is wrong with the fields of a training although each has its type."""
    found = [*find_doubts_of_training(pipeline, folder), *check_executor(pipeline)]
    if ":" in pipeline.model.source:
        with _importable(folder):
            found += _refusal(("model", "source"), partial(_find, pipeline.model.source))
    return found


def validate_leniently(data: Mapping[str, Any]) -> tuple[Pipeline | None, list[Any]]:
    """Validate plain data, leaving out what is refused.

    Returns
    -------
    tuple of Pipeline or None, and list
        What remains, with stand-ins for required fields; pydantic's errors. Without errors: the pipeline.
    """
    errors: list[Any] = []
    for _ in range(_ROUNDS):
        try:
            return Pipeline.model_validate(data), errors
        except ValidationError as error:
            found = error.errors(include_url=False)
            errors += found
            data = _without(data, [item["loc"] for item in found])
    return None, errors


def _without(data: Mapping[str, Any], refused: list[Location]) -> dict[str, Any]:
    """Return data without fields that were refused; what is required gets a stand-in."""
    left = {key: dict(value) if isinstance(value, dict) else value for key, value in data.items()}
    for where in refused:
        section, *inside = where or ("designs",)  # the one rule about the pipeline as a whole
        part = left.get(str(section))
        if inside and isinstance(part, dict):
            part.pop(inside[0], None)
        else:
            left.pop(str(section), None)
        if section == "designs":
            left.pop("minutes", None)
            left["designs"] = 1
    left["dataset"] = {"source": "-", "label": "-", **left.get("dataset", {})}
    return left


def find_doubts(pipeline: Pipeline, refused: set[Location], folder: Path) -> list[Doubt]:
    """Return what is wrong with the fields of a pipeline, in no order.

    Parameters
    ----------
    pipeline
        Of `validate_leniently`.
    refused
        Where pydantic found errors: nothing is said of how those fields go together with others.
    folder
        Where code that the pipeline names is looked for besides what is installed.
    """
    fields = {where[:2] for where in refused}
    found: list[Doubt] = []
    with _importable(folder):
        for check in (_space, _reference, _engine, check_executor):
            found += check(pipeline)
        if ("space", "optimizer") not in fields | {where for where, _ in found}:
            found += _optimizer_parameters(pipeline)
        for sections, check_together in _TOGETHER:
            wrong = {where[0] for where in [*fields, *(place for place, _ in found)] if where}
            if not wrong & sections:
                found += check_together(pipeline)
    return found


@contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Let modules beside the pipeline be imported, after what is installed."""
    path = str(folder.absolute())
    sys.path.append(path)
    importlib.invalidate_caches()
    try:
        yield
    finally:
        sys.path.remove(path)


def _refusal(where: Location, build: Callable[[], object]) -> Iterator[Doubt]:
    """Yield why something cannot be built, if so."""
    try:
        build()
    except DnnflowError as error:
        yield where, str(error).removeprefix(f"{where[-1]}: ")


def _space(pipeline: Pipeline) -> Iterator[Doubt]:
    given = pipeline.space.model_dump(mode="json", exclude_unset=True, by_alias=True)
    for name, value in given.items():
        if name not in ("explicit", "reference", "optimizer_parameters", "code_folder"):
            yield from _refusal(("space", name), partial(Space, **{name: value}))
    for index, design in enumerate(given.get("explicit", ())):
        yield from _refusal(("space", "explicit", index), partial(Space, designs=[design]))


def _optimizer_parameters(pipeline: Pipeline) -> Iterator[Doubt]:
    """Check each against the optimizers that may take it; those are right."""
    section = pipeline.space.model_dump(mode="json", by_alias=True)
    for name, value in section["optimizer_parameters"].items():
        build = partial(Space, optimizer=section["optimizer"], optimizer_parameters={name: value})
        yield from _refusal(("space", "optimizer_parameters", name), build)


def _reference(pipeline: Pipeline) -> Iterator[Doubt]:
    if pipeline.space.reference is None:
        return
    section = pipeline.space.reference.model_dump(mode="json", by_alias=True)
    function = section["function"]
    yield from _refusal(("space", "reference", "function"), partial(_find, function))
    for name, value in section["parameters"].items():
        reference = {"function": "module:function", "parameters": {name: value}}
        yield from _refusal(("space", "reference", "parameters", name), partial(Space, reference=reference))


def _find(function: str) -> None:
    """Import the code of designs by reference.

    Raises
    ------
    DesignError
        If it is not written so, cannot be imported, or is no function.
    """
    Reference(function)
    module, _, name = function.partition(":")
    rule = f"a design's function must be importable here and on every worker, got {function!r}"
    try:
        found = getattr(importlib.import_module(module), name)
    except Exception as error:  # a module may raise anything while it is imported
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise DesignError(f"{rule}: {reason}; install it, or put it beside the pipeline") from error
    if not callable(found):
        raise DesignError(f"{rule}, a {type(found).__name__}; name a function")


def _engine(pipeline: Pipeline) -> Iterator[Doubt]:
    from dnnflow.engines.registry import find_engine

    yield from _refusal(("training", "engine"), partial(find_engine, pipeline.training.engine))


def check_executor(pipeline: "Pipeline | TrainPipeline") -> Iterator[Doubt]:
    """Yield what is wrong with the section about the cluster."""
    section = pipeline.executor
    yield from _refusal(("executor", "address"), partial(_check_address, section.address))
    yield from _refusal(("executor", "memory_limit"), partial(_check_memory, section.memory_limit))
    if section.address and section.scheduler_file:
        yield (
            ("executor", "scheduler_file"),
            f"a cluster has an address or a scheduler_file, got both; drop {section.address}",
        )


def _check_address(address: str | None) -> None:
    if address is None:
        return
    try:
        url = urlsplit(address)
        right = url.scheme in ("tcp", "tls") and bool(url.hostname) and url.port != 0
    except ValueError:  # of a port that is no number, or brackets that do not close
        right = False
    if not right:
        raise InputError(f"an address must be tcp://host:port or tls://host:port, got {address!r}")


def _check_memory(limit: str) -> None:
    if limit in ("auto", "0"):
        return
    size = _SIZE.fullmatch(limit)
    if size is None or not 0 < float(size[1]) < float("inf"):
        raise InputError(f"memory_limit must be a size, e.g. 2GB, or auto, or 0 for none, got {limit!r}")


def _whole_dataset(pipeline: Pipeline) -> Iterator[Doubt]:
    yield from _refusal(("dataset", "quote"), lambda: pipeline.source)
    yield from _refusal(("dataset", "drop"), lambda: pipeline.recipe)


def _whole_space(pipeline: Pipeline) -> Iterator[Doubt]:
    yield from _refusal(("space",), pipeline.space.to_space)


def _validation_rows(pipeline: Pipeline) -> Iterator[Doubt]:
    """Check that what watches validation rows has some."""
    from dnnflow.engines.seam import check_training

    section = pipeline.space.model_dump(mode="json", by_alias=True)

    def watch(name: str) -> None:
        for design in Space(**{name: section[name]}).grid():
            check_training(design, holds_rows=pipeline.training_settings.held_share > 0)

    for name in ("early_stopping", "schedule"):
        yield from _refusal(("space", name), partial(watch, name))


def _designs(pipeline: Pipeline) -> Iterator[Doubt]:
    from dnnflow.pipeline.designs import draw_designs

    yield from _refusal(("space",), partial(draw_designs, pipeline))


_TOGETHER: tuple[tuple[set[str], Callable[[Pipeline], Iterator[Doubt]]], ...] = (
    ({"dataset", "evaluation"}, _whole_dataset),
    ({"space"}, _whole_space),
    ({"space", "training", "evaluation"}, _validation_rows),
    ({"space", "training", "strategy"}, _designs),
)
"""Sections whose fields must be right by themselves, and what checks them together."""
