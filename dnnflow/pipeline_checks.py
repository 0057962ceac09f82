"""What can be wrong with a pipeline although every field has its type: each field by itself, then together.

What pydantic refuses is left out first, so that one mistake hides no other.
"""

import importlib
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from pydantic import ValidationError

from dnnflow.data.recipe import Recipe, Source
from dnnflow.design.space import Space
from dnnflow.errors import DesignError, DnnflowError
from dnnflow.pipeline import Pipeline

Location = tuple[str | int, ...]
Doubt = tuple[Location, str]
"""Where in the file, and what is wrong there."""

_ROUNDS = 3
"""Fields refused, then the rule about the number of designs, then nothing."""
_SOURCE = {"source": "url", "delimiter": "delimiter", "quote": "quote", "encoding": "encoding"}
_RECIPE = {"label": "label", "drop": "drop", "missing_values": "missing_values",
           "text_columns": "text_columns"}  # fmt: skip


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
    wrong = {where[0] if where else "designs" for where in refused}
    found: list[Doubt] = []
    with _importable(folder):
        for check in (_dataset, _space, _reference, _training, _executor):
            found += check(pipeline)
        wrong |= {where[0] for where, _ in found}
        for sections, where, build in _TOGETHER:
            if not wrong & sections:
                found += _refusal(where, lambda build=build: build(pipeline))  # type: ignore[misc]
                wrong |= {part[0] for part, _ in found}
    return found


def _draw(pipeline: Pipeline) -> None:
    from dnnflow.stages import draw_designs

    draw_designs(pipeline)


_TOGETHER: tuple[tuple[set[str], Location, Callable[[Pipeline], object]], ...] = (
    ({"dataset"}, ("dataset", "quote"), lambda pipeline: pipeline.source),
    ({"dataset"}, ("dataset", "drop"), lambda pipeline: pipeline.recipe),
    ({"space"}, ("space",), lambda pipeline: pipeline.space.to_space()),
    ({"space", "training", "strategy"}, ("space",), _draw),
)
"""Sections that must be right, where what is wrong with them together is told, and what finds it."""


def _refusal(where: Location, build: Callable[[], object], *, name: str | None = None) -> Iterator[Doubt]:
    try:
        build()
    except DnnflowError as error:
        yield where, str(error).removeprefix(f"{name or where[-1]}: ")


def _dataset(pipeline: Pipeline) -> Iterator[Doubt]:
    given = pipeline.dataset.model_dump(exclude_unset=True)
    for name, value in given.items():
        if field := _SOURCE.get(name):
            yield from _refusal(("dataset", name), lambda: Source(**{"url": "-", field: value}))
        if field := _RECIPE.get(name):
            yield from _refusal(("dataset", name), lambda: Recipe(**{"label": "-", field: value}))


def _space(pipeline: Pipeline) -> Iterator[Doubt]:
    given = pipeline.space.model_dump(mode="json", exclude_unset=True, by_alias=True)
    explicit = given.pop("explicit", ())
    named = given.pop("optimizer_parameters", {})
    given.pop("reference", None)
    for name, value in given.items():
        yield from _refusal(("space", name), lambda: Space(**{name: value}))
    for index, design in enumerate(explicit):
        yield from _refusal(("space", "explicit", index), lambda: Space(designs=[design]))
    if named and not list(_refusal((), lambda: Space(optimizer=pipeline_optimizer(given)), name="optimizer")):
        for name, value in named.items():
            yield from _refusal(
                ("space", "optimizer_parameters", name),
                lambda: Space(optimizer=pipeline_optimizer(given), optimizer_parameters={name: value}),
            )
