"""Find where the best designs lie at the edge of their space, and widen the space there."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from dnnflow.design.draws import Choice, Draw, IntRange, LogIntRange, LogUniform, Uniform
from dnnflow.design.layers import Design, Layer
from dnnflow.design.space import Space

FIRST = 10
"""So many of the best designs are looked at."""
OFTEN = 0.5
"""Share of them that has to lie at an edge."""
NEAR = 0.1
"""Share of a continuous range that counts as its edge."""
PATIENCE = 10
"""Of the early stopping that comes with more epochs."""

Side = Literal["low", "high"]

_LEAST: Mapping[str, float] = {"units": 1, "batch_size": 1, "epochs": 1}
"""What a parameter is at least, where that is not 0."""
_MOST: Mapping[str, float] = {"dropout": 0.9, "depth": 1000, "units": 4096}
_OF_LAYER = ("units", "dropout", "l2")
_WATCHED = ("depth", "units", "learning_rate", "batch_size", "dropout", "l2", "epochs")


@dataclass(frozen=True)
class Edge:
    """A parameter whose best values lie at an end of what the space holds."""

    parameter: str
    side: Side
    value: float
    """The end of the space."""
    is_rising: bool = False
    """Whether it are learning curves that still rise where `epochs` end."""

    def __str__(self) -> str:
        if self.is_rising:
            return f"learning curves of the best still rise at the last of {self.value:g} epochs"
        end = "highest" if self.side == "high" else "lowest"
        name = self.parameter.replace("_", " ")
        return f"the best have the {end} {name} of the space, {self.value:g}"


def edges_of(space: Space, best: Sequence[Design], rising: Sequence[bool] = ()) -> tuple[Edge, ...]:
    """Return where designs, best first, lie at the edge of their space.

    Parameters
    ----------
    rising
        For designs in the same order: whether the validation loss still fell at their last epoch.
    """
    if space.designs or space.reference is not None:
        return ()
    first, found = best[:FIRST], []
    for name in _WATCHED:
        draw: Draw = getattr(space, name)
        ends = _ends(draw)
        if ends is None:
            continue
        values = [value for design in first for value in _values(design, name)]
        for side, end in zip(("low", "high"), ends, strict=True):
            reached = sum(_is_near(value, end, draw) for value in values)
            if values and reached >= OFTEN * len(values) and _may_go_on(name, side, end):
                found.append(Edge(name, side, end))  # type: ignore[arg-type]
    told = list(rising[:FIRST])
    if told and sum(told) >= OFTEN * len(told) and not any(one.parameter == "epochs" for one in found):
        found.append(Edge("epochs", "high", max(design.epochs for design in first), is_rising=True))
    return tuple(found)


def widened(space: Mapping[str, Any], edges: Sequence[Edge]) -> dict[str, Any]:
    """Return a space, as it is written in a pipeline, that goes on where the best designs ended."""
    known, wider = Space.from_dict(space), dict(space)
    for edge in edges:
        draw: Draw = getattr(known, edge.parameter)
        wider[edge.parameter] = _wider(edge.parameter, draw, edge.side)
        if edge.parameter == "epochs" and edge.side == "high" and not wider.get("early_stopping"):
            wider["early_stopping"] = {"patience": PATIENCE}
    return wider


def _ends(draw: Draw) -> tuple[float, float] | None:
    """Return the least and the most of several numbers; None where there are none."""
    match draw:
        case IntRange() | LogIntRange():
            ends = (float(draw.at(0)), float(draw.at((draw.length or 1) - 1)))
        case Uniform():
            ends = draw.uniform
        case LogUniform():
            ends = draw.loguniform
        case Choice() if all(type(one) in (int, float) for one in draw.choice):
            ends = (float(min(draw.choice)), float(max(draw.choice)))
        case _:
            return None
    return ends if ends[0] < ends[1] else None


def _values(design: Design, name: str) -> list[float]:
    if name == "depth":
        return [float(len(design.layers))]
    if name == "learning_rate":
        return [design.optimizer.learning_rate]
    if name in _OF_LAYER:
        layers: dict[Layer, None] = dict.fromkeys(design.layers)
        return [float(getattr(layer, name)) for layer in layers]
    return [float(getattr(design, name))]


def _is_near(value: float, end: float, draw: Draw) -> bool:
    match draw:
        case Uniform():
            low, high = draw.uniform
            return abs(value - end) <= NEAR * (high - low)
        case LogUniform():
            low, high = draw.loguniform
            return abs(math.log(value / end)) <= NEAR * math.log(high / low)
    return value == end


def _may_go_on(name: str, side: str, end: float) -> bool:
    return end > _LEAST.get(name, 0.0) if side == "low" else end < _MOST.get(name, math.inf)


def _wider(name: str, draw: Draw, side: Side) -> Any:
    """Return the values of a parameter, as they are written, with more of them beyond one end."""
    low, high = _ends(draw) or (float(draw.at(0)), float(draw.at(0)))
    beyond = _beyond(name, low, high, side)
    match draw:
        case IntRange():
            ends = [int(beyond), int(high)] if side == "low" else [int(low), int(beyond)]
            return {"int": [*ends, draw.step] if draw.step > 1 else ends}
        case LogIntRange():
            ends = [max(1, int(beyond)), int(high)] if side == "low" else [int(low), int(beyond)]
            return {"log_int": [*ends, min(ends[1] - ends[0] + 1, draw.log_int[2] * 3 // 2)]}
        case Uniform():
            return {"uniform": [beyond, high] if side == "low" else [low, beyond]}
        case LogUniform():
            return {"loguniform": [beyond, high] if side == "low" else [low, beyond]}
        case _:
            listed = [draw.at(index) for index in range(draw.length or 1)]
            if len(listed) == 1:
                return type(listed[0])(beyond)  # a constant is moved: it was the end
            return {"choice": sorted({*listed, *_between(type(listed[0]), low, high, beyond)})}


def _beyond(name: str, low: float, high: float, side: Side) -> float:
    """Return a new end: four times as far, within what the parameter may be."""
    if side == "high":
        return min(4 * high if high else 0.1, _MOST.get(name, math.inf))
    least = _LEAST.get(name, 0.0)
    return max(math.floor(low / 4) if float(low).is_integer() and low >= 1 else low / 4, least)


def _between(kind: type, low: float, high: float, beyond: float) -> list[Any]:
    """Return values from an end to the new one, each twice the one before."""
    if beyond > high:
        return [kind(one) for one in (high * 2, beyond) if one <= beyond]
    return [kind(one) for one in (low / 2, beyond) if one >= beyond]
