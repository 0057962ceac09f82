"""Hold what a parameter of a space may be: one value, some values, or a range. Finite ones can be counted."""

import json
import math
from collections.abc import Callable, Mapping
from functools import cached_property
from types import UnionType
from typing import Annotated, Any, ClassVar, get_args, get_origin

from pydantic import BeforeValidator, ConfigDict, Discriminator, Field, Tag

from dnnflow.design.checks import whole
from dnnflow.errors import DesignError
from dnnflow.parameters import Parameters

MOST_LOG_VALUES = 100_000
"""Values that a `log_int` may have: they are listed."""
Convert = Callable[[Any], Any]
"""Checks one value of a parameter and returns it in its one type, or raises `DesignError`."""
Scalar = bool | int | float | str


class Draw(Parameters):
    """A parameter's values: a mapping of one key where they are written."""

    model_config = ConfigDict(populate_by_name=True, serialize_by_alias=True)

    label: ClassVar[str]
    """What a form calls it."""
    hint: ClassVar[str]
    """What is typed in a form."""

    @classmethod
    def lengths(cls) -> tuple[int, ...]:
        """Return how many values may be written."""
        (field,) = cls.model_fields.values()
        tuples = (
            get_args(field.annotation) if get_origin(field.annotation) is UnionType else [field.annotation]
        )
        return tuple(len(get_args(one)) for one in tuples)

    @property
    def length(self) -> int | None:
        """How many values there are, None for a continuous range."""
        raise NotImplementedError

    def at(self, index: int) -> Any:
        """Return one of finitely many values."""
        raise NotImplementedError

    def draw(self, u: float) -> Any:
        """Return the value at `u` of [0, 1), so that a uniform `u` draws from the distribution."""
        return self.at(int(u * (self.length or 0)))

    def spec(self) -> Any:
        """Return the values as they are written in a pipeline."""
        return self.model_dump(mode="json", by_alias=True)


class Choice(Draw):
    """One of a list."""

    label, hint = "one of", "values with commas between"

    choice: tuple[Scalar, ...] = Field(min_length=1)
    """The values to choose from."""

    @property
    def length(self) -> int:
        """How many values there are."""
        return len(self.choice)

    def at(self, index: int) -> Any:
        """Return one of the values."""
        return self.choice[index]

    def draw(self, u: float) -> Any:
        """Return the value at `u` of [0, 1)."""
        return self.choice[int(u * len(self.choice))]

    def spec(self) -> Any:
        """Return the values as they are written in a pipeline; a constant is a choice of one."""
        plain = [_plain(value) for value in self.choice]
        return plain[0] if len(plain) == 1 else {"choice": plain}


class IntRange(Draw):
    """A whole number from a range."""

    label, hint = "whole range", "lowest, highest (and step)"

    int_: tuple[int, int] | tuple[int, int, int] = Field(alias="int")
    """Lowest, highest (included) and, optionally, the step."""

    @property
    def step(self) -> int:
        """What is between two values."""
        return self.int_[2] if len(self.int_) == 3 else 1

    @property
    def length(self) -> int:
        """How many values there are."""
        return (self.int_[1] - self.int_[0]) // self.step + 1

    def at(self, index: int) -> int:
        """Return one of the values."""
        return self.int_[0] + index * self.step


class LogIntRange(Draw):
    """A whole number from a range, evenly spaced in logarithm.

    Each value divides what is left of the range in equal ratios: after v, with k values to go, comes
    v · (high/v)^(1/k), rounded, and at least v + 1. Values are therefore distinct, and there are exactly
    as many as are asked for: consecutive numbers where equal ratios would be less than 1 apart, equal ratios
    beyond.
    """

    label, hint = "whole, log", "lowest, highest, how many"

    log_int: tuple[int, int, int]
    """Lowest, highest (included) and how many different values."""

    @cached_property
    def values(self) -> tuple[int, ...]:
        """All values, ascending."""
        low, high, count = self.log_int
        found = [low]
        for left in range(count - 1, 0, -1):
            last = found[-1]
            found.append(max(last + 1, math.floor(last * (high / last) ** (1 / left) + 0.5)))
        return tuple(found)

    @property
    def length(self) -> int:
        """How many values there are."""
        return self.log_int[2]

    def at(self, index: int) -> int:
        """Return one of the values."""
        return self.values[index]


class _Continuous(Draw):
    @property
    def length(self) -> None:
        """A continuous range cannot be counted."""
        return None

    def at(self, index: int) -> float:
        """Refuse: there is no value of that number."""
        raise DesignError(f"a grid needs values that can be counted, got {self.spec()}; write a choice")


class Uniform(_Continuous):
    """A number, all in a range equally likely."""

    label, hint = "range", "lowest, highest"

    uniform: tuple[float, float]
    """Lowest and highest."""

    def draw(self, u: float) -> float:
        """Return the value at `u` of [0, 1)."""
        low, high = self.uniform
        return low + u * (high - low)


class LogUniform(_Continuous):
    """A number whose logarithm is spread evenly."""

    label, hint = "range, log", "lowest, highest, both above 0"

    loguniform: tuple[float, float]
    """Lowest and highest, both above 0."""

    def draw(self, u: float) -> float:
        """Return the value at `u` of [0, 1)."""
        low, high = map(math.log, self.loguniform)
        return math.exp(low + u * (high - low))


def _kind_of(value: Any) -> str:
    """Say which form a parameter is written in, by its key."""
    if isinstance(value, Mapping):
        return next((kind for kind in KINDS if kind in value), "choice")
    return next((kind for kind, draw in KINDS.items() if isinstance(value, draw)), "constant")


_Form = (
    Annotated[Scalar, Tag("constant")]
    | Annotated[Choice, Tag("choice")]
    | Annotated[IntRange, Tag("int")]
    | Annotated[LogIntRange, Tag("log_int")]
    | Annotated[Uniform, Tag("uniform")]
    | Annotated[LogUniform, Tag("loguniform")]
)


def as_choice(value: Any) -> Any:
    """Return a list as a choice of what is in it, anything else as it is."""
    return {"choice": value} if isinstance(value, list | tuple) else value


Parameter = Annotated[_Form, Discriminator(_kind_of), BeforeValidator(as_choice)]
"""A constant, a list to choose from, or a mapping of one key: choice, int, log_int, uniform or loguniform."""
KINDS: Mapping[str, type[Draw]] = {
    tag.tag: draw for draw, tag in map(get_args, get_args(_Form)) if tag.tag != "constant"
}
"""What a parameter may be besides a constant, by the key that it is written with."""


def read_draw(name: str, spec: Any, convert: Convert) -> Draw:
    """Read a parameter's values as they are written in a pipeline.

    Parameters
    ----------
    name
        Of the parameter, for messages.
    spec
        A constant, a list to choose from, or one of `{"choice": [...]}`, `{"int": [low, high]}` or
        `[low, high, step]`, `{"log_int": [low, high, count]}`, `{"uniform": [low, high]}`,
        `{"loguniform": [low, high]}`.
    convert
        Checks a value.

    Raises
    ------
    DesignError
        When it is written otherwise, or holds a value that no design may have.
    """
    if isinstance(spec, Draw):
        spec = spec.spec()
    spec = as_choice(spec)
    try:
        if isinstance(spec, Mapping) and len(spec) == 1 and next(iter(spec)) in KINDS:
            kind, given = next(iter(spec.items()))
            return _read_kind(kind, given, convert)
        return _choice((convert(spec),))
    except DesignError as error:
        raise DesignError(f"{name}: {error}") from error


def _choice(values: tuple[Any, ...]) -> Choice:
    """Return a choice of values that are checked, and no scalars any more."""
    return Choice.model_construct(choice=values)


def _read_kind(kind: str, given: Any, convert: Convert) -> Draw:
    if not isinstance(given, list | tuple) or not given:
        raise DesignError(f"{kind} takes a list, got {given!r}")
    if kind == "choice":
        return _choice(_distinct([convert(value) for value in given]))
    if kind == "int":
        return _int_range(given, convert)
    return _log_int_range(given, convert) if kind == "log_int" else _uniform(kind, given, convert)


def _int_range(given: Any, convert: Convert) -> IntRange:
    if (
        not all(map(whole, given))
        or len(given) not in (2, 3)
        or given[0] > given[1]
        or (len(given) == 3 and given[2] < 1)
    ):
        raise DesignError(
            f"int takes whole numbers [low, high] or [low, high, step] with low <= high, got {given}"
        )
    low, high, *step = given
    found = IntRange.model_validate({"int": (low, high) if step in ([], [1]) else (low, high, *step)})
    convert(low)
    convert(found.at(found.length - 1))
    return found


def _log_int_range(given: Any, convert: Convert) -> LogIntRange:
    if not all(map(whole, given)) or len(given) != 3 or not 1 <= given[0] < given[1] <= 2**53:
        raise DesignError(
            f"log_int takes whole numbers [low, high, count] with 1 <= low < high <= 2^53, got {given}"
        )
    low, high, count = given
    convert(low)
    convert(high)
    most = min(high - low + 1, MOST_LOG_VALUES)
    if not 2 <= count <= most:
        raise DesignError(
            f"log_int takes a count in [2, {most:,}], as its values are distinct whole numbers, got {count}"
        )
    return LogIntRange(log_int=(low, high, count))


def _uniform(kind: str, given: Any, convert: Convert) -> Uniform | LogUniform:
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in given)
    if not numbers or len(given) != 2 or not given[0] < given[1]:
        raise DesignError(f"{kind} takes [low, high] with low < high, got {given}")
    low, high = float(given[0]), float(given[1])
    if kind == "loguniform" and low <= 0:
        raise DesignError(f"loguniform needs low > 0, got {given}; write uniform")
    convert(low)
    convert(high)
    return Uniform(uniform=(low, high)) if kind == "uniform" else LogUniform(loguniform=(low, high))


def _distinct(values: list[Any]) -> tuple[Any, ...]:
    """Drop repeated values, so that a grid has no design twice."""
    kept: dict[str, Any] = {}
    for value in values:
        kept.setdefault(json.dumps(_plain(value), sort_keys=True), value)
    return tuple(kept.values())


def _plain(value: Any) -> Any:
    return value.to_dict() if hasattr(value, "to_dict") else value
