"""Hold a space: the set of designs that a study draws from, iterated lazily as a grid or at random."""

import random
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import accumulate
from math import prod
from typing import Any

import numpy as np

from dnnflow.design.draws import Choice, Convert, Draw, read_draw
from dnnflow.design.layers import (
    MAX_LAYERS,
    OPTIMIZERS,
    Design,
    EarlyStopping,
    Layer,
    Optimizer,
    Reference,
    Schedule,
)
from dnnflow.design.space_options import SpaceOptions
from dnnflow.errors import DesignError

LAYER_FIELDS = ("units", "activation", "dropout", "batch_norm", "initializer", "l2")
"""Fields that a hidden layer has; each may be drawn once for all layers or once for each."""

MOST_REPETITIONS = 100

_MAX_MISSES = 100_000
"""Draws in a row without a new design, after which a random sample ends."""


def _depth(value: Any) -> int:
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= MAX_LAYERS:
        raise DesignError(f"depth must be a whole number in [0, {MAX_LAYERS:,}], got {value!r}")
    return value


def _schedule(value: Any) -> Schedule:
    if isinstance(value, str):
        return Schedule(value)
    return value if isinstance(value, Schedule) else Design.from_dict({"schedule": value}).schedule


def _early_stopping(value: Any) -> EarlyStopping | None:
    if value is None or isinstance(value, EarlyStopping):
        return value
    return Design.from_dict({"early_stopping": value}).early_stopping


def _of_layer(name: str) -> Convert:
    return lambda value: getattr(Layer(**{"units": 1, name: value}), name)


def _of_design(name: str) -> Convert:
    return lambda value: getattr(Design(**{name: value}), name)


def _of_optimizer(optimizer: str, name: str) -> Convert:
    return lambda value: Optimizer(optimizer, parameters={name: value}).parameters[name]


def _parameter(value: Any) -> Any:
    return Reference("a:b", {"value": value}).parameters["value"]


_CONVERT: dict[str, Convert] = {
    "depth": _depth,
    **{name: _of_layer(name) for name in LAYER_FIELDS},
    **{name: _of_design(name) for name in ("residual", "batch_size", "epochs", "seed")},
    "optimizer": lambda value: Optimizer(value).name,
    "learning_rate": lambda value: Optimizer(learning_rate=value).learning_rate,
    "schedule": _schedule,
    "early_stopping": _early_stopping,
}
_NETWORK_FIELDS = ("depth", *LAYER_FIELDS, "residual")
_TRAINING_FIELDS = ("learning_rate", "schedule", "batch_size", "epochs", "early_stopping", "seed")

Slot = tuple[str, int | str | None]
"""Which value a dimension gives: a field, and for which layer or under which name of a parameter."""


class Space:
    """The designs that a study draws from.

    Each field of `SpaceOptions` is a constant, `{"choice": [...]}`, `{"int": [low, high]}` or
    `[low, high, step]` (both ends included), `{"log_int": [low, high, count]}` (evenly spaced in logarithm),
    `{"uniform": [low, high]}` or `{"loguniform": [low, high]}`. Instead of fields of a network, a space may
    have `reference` (code with parameters, drawn alike) or `designs` (a list, taken as it is).

    Examples
    --------
    >>> space = Space.from_dict({"depth": {"int": [0, 2]}, "units": {"choice": [16, 32]}})
    >>> space.length()
    5
    >>> [len(design.layers) for design in space.grid()]
    [0, 1, 1, 2, 2]

    Raises
    ------
    DesignError
        For an unknown field, one that is not written so, or a value that no design may have.
    """

    depth: Draw
    optimizer: Draw
    seed: Draw
    optimizer_parameters: Mapping[str, Draw]
    residual: Draw
    per_layer: tuple[str, ...]
    """Fields of `LAYER_FIELDS` that are drawn for each layer instead of once for all."""
    reference: Mapping[str, Any] | None
    """`{"function": "module:function", "parameters": {name: ...}}`."""
    designs: tuple[Mapping[str, Any], ...]
    """Designs as `Design.to_dict` gives them."""

    def __init__(self, **given: Any) -> None:
        unknown = sorted(set(given) - set(_defaults()))
        if unknown:
            raise DesignError(f"a space takes {', '.join(_defaults())}, got {', '.join(unknown)}")
        for name, written in {**_defaults(), **given}.items():
            convert = _CONVERT.get(name)
            setattr(self, name, read_draw(name, written, convert) if convert else written)
        self.per_layer = tuple(self.per_layer)
        self.designs = tuple(dict(design) for design in self.designs)
        unknown = sorted(set(self.per_layer) - set(LAYER_FIELDS))
        if unknown:
            raise DesignError(f"per_layer takes {', '.join(LAYER_FIELDS)}, got {', '.join(unknown)}")
        self.optimizer_parameters = self._read_optimizer_parameters()
        if self.reference is not None:
            self.reference = _read_reference(self.reference)
        self._check_kind()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Space) and self.to_dict() == other.to_dict()

    def __repr__(self) -> str:
        return f"Space({self.to_dict()})"

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Space":
        """Read a space as it is written in a pipeline.

        Raises
        ------
        DesignError
            For an unknown field or a value that no design may have.
        """
        return cls(**data)

    def to_dict(self) -> dict[str, Any]:
        """Return the fields that are not at their default, as JSON types."""
        plain: dict[str, Any] = {}
        for name in _defaults():
            value = getattr(self, name)
            if value != getattr(_default(), name):
                plain[name] = _spec(value)
        return plain

    def length(self) -> int | None:
        """Return how many different designs there are, seeds apart, or None with a continuous range."""
        if self.designs:
            return len(self._listed)
        total = 0
        for branch in self._branches():
            count = branch.length
            if count is None:
                return None
            total += count
        return total

    def grid(self) -> Iterator[Design]:
        """Yield every design once, with each of its seeds; the depth changes slowest, the seed fastest.

        Raises
        ------
        DesignError
            At once, when a parameter is a continuous range.
        """
        if self.designs:
            return iter(self._listed)
        for branch in self._branches():
            for (name, key), draw in branch.dimensions:
                if draw.length is None:
                    raise DesignError(
                        f"a grid needs values that can be counted, got {draw.spec()} for "
                        f"{key or name}; write a choice or take strategy random"
                    )
        drawn = (branch.at(index) for branch in self._branches() for index in _count(branch.length or 0))
        return self._with_seeds(drawn)

    def sample(self, n: int, seed: int = 0) -> Iterator[Design]:
        """Yield up to `n` different designs at random, each with all its seeds; all that the space has, if
        these are no more.

        The same seed gives the same designs in the same order. Each parameter is drawn by itself; when the
        space has at most 2n designs, they are a random part of all.
        """
        length = self.length()
        if length is not None and length <= 2 * n:
            order = np.random.Generator(np.random.Philox(seed)).permutation(length)[:n]
            return self._with_seeds(self._pick(order.tolist()))
        return self._with_seeds(self._draw(n, random.Random(seed)))

    @property
    def repetitions(self) -> int:
        """How often each design is trained: once a seed."""
        return 1 if self.designs else self.seed.length or 1

    def _with_seeds(self, designs: Iterator[Design]) -> Iterator[Design]:
        """Yield each design with every seed, one after the other."""
        if self.repetitions == 1:
            return designs
        return (replace(design, seed=seed) for design in designs for seed in _values(self.seed))

    def _pick(self, indices: list[int]) -> Iterator[Design]:
        """Yield the designs that have these numbers in the grid."""
        if self.designs:
            yield from (self._listed[index] for index in indices)
            return
        branches = list(self._branches())
        ends = list(accumulate(branch.length or 0 for branch in branches))
        for index in indices:
            number = bisect_right(ends, index)
            yield branches[number].at(index - (ends[number - 1] if number else 0))

    def _draw(self, n: int, source: random.Random) -> Iterator[Design]:
        seen: set[str] = set()
        misses = 0
        # Random.random() is the one method whose numbers Python promises not to change.
        while len(seen) < n and misses < _MAX_MISSES:
            branch = self._branch(self.depth.draw(source.random()), self.optimizer.draw(source.random()))
            design = branch.make([draw.draw(source.random()) for _, draw in branch.dimensions])
            misses += 1
            if design.design_id not in seen:
                seen.add(design.design_id)
                misses = 0
                yield design

    def _branches(self) -> Iterator["_Branch"]:
        """Yield the parts of the space in which the same fields matter: one a depth and optimizer."""
        for depth in _values(self.depth):
            for optimizer in _values(self.optimizer):
                yield self._branch(depth, optimizer)

    def _branch(self, depth: int, optimizer: str) -> "_Branch":
        found: list[tuple[Slot, Draw]] = []
        reference = ""
        if self.reference is not None:
            reference, depth = self.reference["function"], 0
            found += [(("reference", name), draw) for name, draw in self.reference["parameters"].items()]
        for name in LAYER_FIELDS if depth else ():
            draw = getattr(self, name)
            found += (
                [((name, i), draw) for i in range(depth)]
                if name in self.per_layer
                else [((name, None), draw)]
            )
        if depth:
            found.append((("residual", None), self.residual))
        found += [
            (("parameter", name), draw)
            for name, draw in self.optimizer_parameters.items()
            if name in OPTIMIZERS[optimizer]
        ]
        once = {"seed": _first_of(self.seed)}  # seeds repeat designs, they make none
        found += [((name, None), once.get(name) or getattr(self, name)) for name in _TRAINING_FIELDS]
        return _Branch(depth, optimizer, reference, tuple(found))

    @cached_property
    def _listed(self) -> tuple[Design, ...]:
        designs = [Design.from_dict(design) for design in self.designs]
        return tuple({design.design_id: design for design in designs}.values())

    def _read_optimizer_parameters(self) -> dict[str, Draw]:
        found: dict[str, Draw] = {}
        for name, spec in self.optimizer_parameters.items():
            takers = [optimizer for optimizer in _values(self.optimizer) if name in OPTIMIZERS[optimizer]]
            if not takers:
                known = sorted(
                    {key for optimizer in _values(self.optimizer) for key in OPTIMIZERS[optimizer]}
                )
                raise DesignError(f"optimizer_parameters takes {', '.join(known)}, got {name}")
            found[name] = read_draw(name, spec, _of_optimizer(takers[0], name))
        return found

    def _check_kind(self) -> None:
        """A space is one of: fields of a network, a reference, a list of designs; seeds can be counted."""
        if not 1 <= (self.seed.length or 0) <= MOST_REPETITIONS:
            raise DesignError(
                f"seed repeats the training of each design, at most {MOST_REPETITIONS} times, got "
                f"{self.seed.spec()}; write {{int: [0, 4]}} for five trainings of each, or leave it out"
            )
        if self.designs:
            given = sorted(set(self.to_dict()) - {"designs"})
            if given:
                raise DesignError(f"a space of designs takes nothing else, got {', '.join(given)}")
            _ = self._listed
        elif self.reference is not None:
            given = sorted(set(self.to_dict()) & {*_NETWORK_FIELDS, "per_layer"})
            if given:
                raise DesignError(f"a space by reference has no layers of its own, got {', '.join(given)}")


@dataclass(frozen=True)
class _Branch:
    """Designs of one depth and optimizer: a product of dimensions."""

    depth: int
    optimizer: str
    reference: str
    dimensions: tuple[tuple[Slot, Draw], ...]

    @property
    def length(self) -> int | None:
        lengths = [draw.length for _, draw in self.dimensions]
        return None if None in lengths else prod(length for length in lengths if length is not None)

    def at(self, index: int) -> Design:
        """Return a design by its number; the last dimension changes fastest."""
        values = []
        for _, draw in reversed(self.dimensions):
            index, digit = divmod(index, draw.length or 1)
            values.append(draw.at(digit))
        return self.make(values[::-1])

    def make(self, values: list[Any]) -> Design:
        """Return the design that has these values in the dimensions."""
        given = {slot: value for (slot, _), value in zip(self.dimensions, values, strict=True)}
        parameters = {str(key): value for (name, key), value in given.items() if name == "parameter"}
        plain = {name: given[name, None] for name in _TRAINING_FIELDS}
        reference = None
        if self.reference:
            called = {str(key): value for (name, key), value in given.items() if name == "reference"}
            reference = Reference(self.reference, called)
        return Design(
            layers=self._layers(given),
            residual=given.get(("residual", None), 0),
            optimizer=Optimizer(self.optimizer, plain.pop("learning_rate"), parameters),
            reference=reference,
            **plain,
        )

    def _layers(self, given: dict[Slot, Any]) -> tuple[Layer, ...]:
        if not self.depth:
            return ()
        if (LAYER_FIELDS[0], 0) not in given and all((name, None) in given for name in LAYER_FIELDS):
            return (_layer(*(given[name, None] for name in LAYER_FIELDS)),) * self.depth
        return tuple(
            _layer(
                *(
                    given[name, index] if (name, index) in given else given[name, None]
                    for name in LAYER_FIELDS
                )
            )
            for index in range(self.depth)
        )


@lru_cache(maxsize=4096)
def _layer(*values: Any) -> Layer:
    """Make a layer, or take the one that was made before: they are frozen, and checking costs."""
    return Layer(*values)


@lru_cache(maxsize=1)
def _defaults() -> Mapping[str, Any]:
    """Name → default of everything that a space takes, as it is written."""
    fields = SpaceOptions.model_fields.items()
    return {name: field.get_default(call_default_factory=True) for name, field in fields} | {"designs": ()}


@lru_cache(maxsize=1)
def _default() -> Space:
    return Space()


def _values(draw: Draw) -> Iterator[Any]:
    return (draw.at(index) for index in _count(draw.length or 0))


def _first_of(draw: Draw) -> Draw:
    return Choice.model_construct(choice=(draw.at(0),))


def _count(end: int) -> Iterator[int]:
    """Count up to a number that may be too large for a machine word."""
    return iter(range(end))


def _read_reference(data: Mapping[str, Any]) -> dict[str, Any]:
    unknown = sorted(set(data) - {"function", "parameters"})
    if unknown or "function" not in data:
        raise DesignError(f"reference takes function and parameters, got {', '.join(sorted(data))}")
    function = Reference(data["function"]).function
    parameters = {
        name: read_draw(name, spec, _parameter) for name, spec in data.get("parameters", {}).items()
    }
    return {"function": function, "parameters": parameters}


def _spec(value: Any) -> Any:
    """Return drawn values inside a field as they are written in a pipeline."""
    if isinstance(value, Mapping):
        return {key: _spec(item) for key, item in value.items()}
    if isinstance(value, tuple):
        return list(value)
    return value.spec() if hasattr(value, "spec") else value
