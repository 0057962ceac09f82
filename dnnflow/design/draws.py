"""What a parameter of a space may be: one value, some values, or a range. Finite ones can be counted."""

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

from dnnflow.design.checks import whole
from dnnflow.errors import DesignError

KINDS = ("choice", "int", "log_int", "uniform", "loguniform")
MOST_LOG_VALUES = 100_000
"""Values that a `log_int` may have: they are listed."""
Convert = Callable[[Any], Any]
"""Checks one value of a parameter and returns it in its one type, or raises `DesignError`."""


class Draw(Protocol):
    """A parameter's values."""

    @property
    def length(self) -> int | None:
        """How many values there are, None for a continuous range."""
        ...

    def at(self, index: int) -> Any:
        """Return one of finitely many values."""
        ...

    def draw(self, u: float) -> Any:
        """Return the value at `u` of [0, 1), so that a uniform `u` draws from the distribution."""
        ...

    def spec(self) -> Any:
        """Return the values as they are written in a pipeline."""
        ...


@dataclass(frozen=True)
class Choice:
    """Some values, each as likely as the others; a constant is a choice of one."""

    values: tuple[Any, ...]

    @property
    def length(self) -> int:
        """How many values there are."""
        return len(self.values)

    def at(self, index: int) -> Any:
        """Return one of the values."""
        return self.values[index]

    def draw(self, u: float) -> Any:
        """Return the value at `u` of [0, 1)."""
        return self.values[int(u * len(self.values))]

    def spec(self) -> Any:
        """Return the values as they are written in a pipeline."""
        plain = [value.to_dict() if hasattr(value, "to_dict") else value for value in self.values]
        return plain[0] if len(plain) == 1 else {"choice": plain}


@dataclass(frozen=True)
class IntRange:
    """Whole numbers low, low + step, ..., up to and including high."""

    low: int
    high: int
    step: int = 1

    @property
    def length(self) -> int:
        """How many values there are."""
        return (self.high - self.low) // self.step + 1

    def at(self, index: int) -> int:
        """Return one of the values."""
        return self.low + index * self.step

    def draw(self, u: float) -> int:
        """Return the value at `u` of [0, 1)."""
        return self.at(int(u * self.length))

    def spec(self) -> dict[str, list[int]]:
        """Return the range as it is written in a pipeline."""
        return {"int": [self.low, self.high] if self.step == 1 else [self.low, self.high, self.step]}


@dataclass(frozen=True)
class LogIntRange:
    """So many whole numbers from low to high, both included, their logarithms spread evenly.

    Each value divides what is left of the range in equal ratios: after v, with k values to go, comes
    v · (high/v)^(1/k), rounded, and at least v + 1. Values are therefore distinct, and there are exactly
    `count` of them: consecutive numbers where equal ratios would be less than 1 apart, equal ratios beyond.
    """

    low: int
    high: int
    count: int

    @cached_property
    def values(self) -> tuple[int, ...]:
        """All values, ascending."""
        found = [self.low]
        for left in range(self.count - 1, 0, -1):
            last = found[-1]
            found.append(max(last + 1, math.floor(last * (self.high / last) ** (1 / left) + 0.5)))
        return tuple(found)

    @property
    def length(self) -> int:
        """How many values there are."""
        return self.count

    def at(self, index: int) -> int:
        """Return one of the values."""
        return self.values[index]

    def draw(self, u: float) -> int:
        """Return the value at `u` of [0, 1)."""
        return self.at(int(u * self.count))

    def spec(self) -> dict[str, list[int]]:
        """Return the range as it is written in a pipeline."""
        return {"log_int": [self.low, self.high, self.count]}


@dataclass(frozen=True)
class Uniform:
    """Real numbers between low and high, or with `log` their logarithms, uniformly."""

    low: float
    high: float
    log: bool = False

    @property
    def length(self) -> None:
        """A continuous range cannot be counted."""
        return None

    def at(self, index: int) -> float:
        """Refuse: there is no value of that number."""
        raise DesignError(f"a grid needs values that can be counted, got {self.spec()}; write a choice")

    def draw(self, u: float) -> float:
        """Return the value at `u` of [0, 1)."""
        if self.log:
            return math.exp(math.log(self.low) + u * (math.log(self.high) - math.log(self.low)))
        return self.low + u * (self.high - self.low)

    def spec(self) -> dict[str, list[float]]:
        """Return the range as it is written in a pipeline."""
        return {"loguniform" if self.log else "uniform": [self.low, self.high]}


def read_draw(name: str, spec: Any, convert: Convert) -> Draw:
    """Read a parameter's values as they are written in a pipeline.

    Parameters
    ----------
    name
        Of the parameter, for messages.
    spec
        A constant, or one of `{"choice": [...]}`, `{"int": [low, high]}` or `[low, high, step]`,
        `{"log_int": [low, high, count]}`, `{"uniform": [low, high]}`, `{"loguniform": [low, high]}`.
    convert
        Checks a value.

    Raises
    ------
    DesignError
        When it is written otherwise, or holds a value that no design may have.
    """
    if isinstance(spec, Choice | IntRange | LogIntRange | Uniform):
        spec = spec.spec()
    try:
        if isinstance(spec, Mapping) and len(spec) == 1 and next(iter(spec)) in KINDS:
            kind, given = next(iter(spec.items()))
            return _read_kind(kind, given, convert)
        if isinstance(spec, list | tuple):
            raise DesignError(f"several values are written {{choice: [...]}}, got {spec}")
        return Choice((convert(spec),))
    except DesignError as error:
        raise DesignError(f"{name}: {error}") from error


def _read_kind(kind: str, given: Any, convert: Convert) -> Draw:
    if not isinstance(given, list | tuple) or not given:
        raise DesignError(f"{kind} takes a list, got {given!r}")
    if kind == "choice":
        return Choice(_distinct([convert(value) for value in given]))
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
    found = IntRange(*given)
    convert(found.low)
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
    return LogIntRange(low, high, count)


def _uniform(kind: str, given: Any, convert: Convert) -> Uniform:
    numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in given)
    if not numbers or len(given) != 2 or not given[0] < given[1]:
        raise DesignError(f"{kind} takes [low, high] with low < high, got {given}")
    low, high = float(given[0]), float(given[1])
    if kind == "loguniform" and low <= 0:
        raise DesignError(f"loguniform needs low > 0, got {given}; write uniform")
    convert(low)
    convert(high)
    return Uniform(low, high, kind == "loguniform")


def _distinct(values: list[Any]) -> tuple[Any, ...]:
    """Drop repeated values, so that a grid has no design twice."""
    kept: dict[str, Any] = {}
    for value in values:
        plain = value.to_dict() if hasattr(value, "to_dict") else value
        kept.setdefault(json.dumps(plain, sort_keys=True), value)
    return tuple(kept.values())
