"""Hold what everything that a user sets has in common: written once, as the fields of a pydantic model.

A field's name, type, limits, default and docstring are all that doors know of a parameter: the key in a
pipeline's YAML, the option of the command line, the field of the web form, the JSON schema and the line in
a report are made from them.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from os import PathLike, fspath
from types import UnionType
from typing import Annotated, Any, Literal, Self, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from dnnflow.errors import InputError

Seed = Annotated[int, Field(ge=0, lt=2**63)]
Texts = Annotated[tuple[str, ...], Field(strict=False)]
"""Texts in a tuple; a list may stand for it."""


class Parameters(BaseModel):
    """Base of all: frozen, unknown names refused, field docstrings are the schema's descriptions."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


class CheckedParameters(Parameters):
    """Parameters that Python code builds: types are taken strictly, and what is wrong is an `InputError`.

    Positional arguments are fields in their order.
    """

    model_config = ConfigDict(strict=True)

    def __init__(self, /, *values: Any, **given: Any) -> None:
        names = tuple(type(self).model_fields)
        if len(values) > len(names) or set(names[: len(values)]) & set(given):
            raise TypeError(f"{type(self).__name__} takes {', '.join(names)}, each once")
        try:
            super().__init__(**dict(zip(names, values, strict=False)), **given)
        except ValidationError as error:
            raise InputError(rule_broken(type(self), error)) from None

    def replace(self, **changes: Any) -> Self:
        """Return a copy with other values, checked anew."""
        return type(self)(**{**dict(self), **changes})

    def to_dict(self) -> dict[str, Any]:
        """Return the fields as JSON types."""
        return self.model_dump(mode="json")

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Self:
        """Build from what `to_dict` gave.

        Raises
        ------
        InputError
            For an unknown name or a wrong value.
        """
        if not isinstance(data, Mapping):
            raise InputError(f"{cls.__name__} must be written {{field: value}}, got {data!r}")
        return cls(**data)


@dataclass(frozen=True)
class Place:
    """Marks a field that holds a path: where it is relative, it is so to the file that it is written in."""

    may_be_code: bool = False
    """Whether module:name stands there as well."""


PathText = Annotated[str, BeforeValidator(lambda path: fspath(path) if isinstance(path, PathLike) else path)]
"""A path, as text."""


@dataclass(frozen=True)
class Display:
    """How doors show a parameter, where its name and value do not say it; for the field's `Annotated`."""

    words: str = ""
    """In a report: a format string over all fields of the model."""
    label: str = ""
    """In a report, before the words."""
    option: str = ""
    """On the command line, without the dashes."""
    metavar: str = ""
    """On the command line, for the value."""
    is_told: bool | None = None
    """Whether a report tells it: always, never, or (None) where it is not at its default."""


def fields_of(model: type[BaseModel], section: BaseModel) -> dict[str, Any]:
    """Return those fields of a section that are a model's."""
    return {name: value for name, value in section if name in model.model_fields}


def require(condition: bool, rule: str, got: object) -> None:
    """Raise `InputError` with the rule and what was got, unless the condition holds."""
    if not condition:
        raise InputError(f"{rule}, got {got!r}")


def display_of(field: FieldInfo) -> Display:
    """Return how a field is shown."""
    return next((one for one in field.metadata if isinstance(one, Display)), Display())


def place_of(field: FieldInfo) -> Place | None:
    """Return what path a field holds, if any."""
    return next((one for one in field.metadata if isinstance(one, Place)), None)


def facts(parameters: BaseModel) -> dict[str, str]:
    """Return label and text of each parameter that a report tells, in their order."""
    return {
        display.label or name_in_words(name).capitalize(): text or _in_words(name, value)
        for name, value, display, text in _told(parameters)
    }


def phrases(parameters: BaseModel) -> list[str]:
    """Return what a report tells of parameters, each as some words of one line."""
    return [
        text or name_in_words(name) + ("" if value is True else f" {_in_words(name, value)}")
        for name, value, _, text in _told(parameters)
    ]


def _told(parameters: BaseModel) -> Iterator[tuple[str, Any, Display, str]]:
    values = dict(parameters)
    for name, field in type(parameters).model_fields.items():
        display, value = display_of(field), values[name]
        is_changed = value != field.get_default(call_default_factory=True)
        if is_changed if display.is_told is None else display.is_told:
            yield name, value, display, display.words.format(**values)


def name_in_words(name: str) -> str:
    """Return a field's name for people; a unit at its end belongs to the value."""
    return name.removesuffix("_s").replace("_", " ")


def _in_words(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    text = (
        f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else f"{value}"
    )
    return f"{text} s" if name.endswith("_s") else text


def rule_broken(model: type[BaseModel], error: ValidationError, spelled: str = "") -> str:
    """Return the first thing that pydantic refuses of a model's fields as rule and value.

    Parameters
    ----------
    spelled
        What the field is called where the user set it; default: its name.
    """
    first = error.errors(include_url=False)[0]
    kind, name = first["type"], next((str(part) for part in first["loc"] if part in model.model_fields), "")
    raised = first.get("ctx", {}).get("error")
    if isinstance(raised, Exception):
        return f"{spelled or name} {raised}" if str(raised).startswith("must ") else str(raised)
    if kind == "extra_forbidden":
        return f"{model.__name__} takes {', '.join(model.model_fields)}, got {first['loc'][-1]!r}"
    if kind == "missing":
        return f"{model.__name__} needs {first['loc'][-1]}, got none"
    rule = rule_of(model.model_fields[name], kind) if name else first["msg"]
    return f"{spelled or name} must be {rule}, got {first['input']!r}"


def rule_of(field: FieldInfo, broken: str = "") -> str:
    """Return what a field's value must be, e.g. `a whole number >= 1`.

    Parameters
    ----------
    broken
        Pydantic's name of what is wrong: a number beyond its limits is told these alone.
    """
    kind = plain_type(field.annotation)
    if choices := choices_of(kind):
        return f"one of {', '.join(choices)}"
    if kind is bool:
        return "true or false"
    limits = _limits(field)
    if kind in (int, float):
        if limits and broken in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
            return limits
        word = "whole number" if kind is int else "finite number" if broken == "finite_number" else "number"
        return f"a {word} {limits}".rstrip()
    return {str: "a text", dict: "a mapping", tuple: "a list of texts"}.get(get_origin(kind) or kind, "valid")


def plain_type(annotation: Any) -> Any:
    """Return a field's type without `None`."""
    if get_origin(annotation) in (Union, UnionType):
        return next(one for one in get_args(annotation) if one is not type(None))
    return annotation


def choices_of(kind: Any) -> tuple[str, ...]:
    """Return the values of a `Literal` or an enumeration, none of another type."""
    if get_origin(kind) is Literal:
        return tuple(map(str, get_args(kind)))
    return tuple(str(one.value) for one in kind) if isinstance(kind, type) and issubclass(kind, Enum) else ()


def _limits(field: FieldInfo) -> str:
    """Return the range of a number, e.g. `>= 1` or `in (0, 1]`; empty where there is none."""
    low = high = left = right = ""
    for one in field.metadata:
        match one:
            case Ge(ge=bound):
                low, left = f"{bound:g}", "["
            case Gt(gt=bound):
                low, left = f"{bound:g}", "("
            case Le(le=bound):
                high, right = f"{bound:g}", "]"
            case Lt(lt=bound):
                high, right = "2^63" if bound == 2**63 else f"{bound:g}", ")"
    if low and high:
        return f"in {left}{low}, {high}{right}"
    if low:
        return f"{'>=' if left == '[' else '>'} {low}"
    return f"{'<=' if right == ']' else '<'} {high}" if high else ""
