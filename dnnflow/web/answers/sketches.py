"""Small drawings that a page carries in itself: lines as points of an SVG."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

WIDTH, HEIGHT, LEFT, BOTTOM, TOP, RIGHT = 460, 260, 52, 38, 10, 10


@dataclass(frozen=True)
class Line:
    """One measure, epoch by epoch."""

    name: str
    points: str
    """Of an SVG polyline."""
    last: float
    last_at: tuple[float, float]


@dataclass(frozen=True)
class Sketch:
    """Lines over one axis of epochs."""

    lines: tuple[Line, ...]
    ticks: tuple[tuple[float, str], ...]
    """(y, label)"""
    epochs: tuple[tuple[float, str], ...]
    """(x, label)"""


def sketch(history: Mapping[str, Sequence[float | None]]) -> Sketch | None:
    """Return the lines of some measures, None where none has a value."""
    finite = {
        name: [
            (epoch, value)
            for epoch, value in enumerate(values, 1)
            if value is not None and math.isfinite(value)
        ]
        for name, values in history.items()
    }
    finite = {name: pairs for name, pairs in finite.items() if pairs}
    if not finite:
        return None
    values = [value for pairs in finite.values() for _, value in pairs]
    low, high = min(values), max(values)
    high = high if high > low else low + 1e-3
    last = max(epoch for pairs in finite.values() for epoch, _ in pairs)

    def x(epoch: float) -> float:
        return round(LEFT + (WIDTH - LEFT - RIGHT) * (epoch - 1) / max(1, last - 1), 1)

    def y(value: float) -> float:
        return round(TOP + (HEIGHT - TOP - BOTTOM) * (1 - (value - low) / (high - low)), 1)

    lines = tuple(
        Line(name, " ".join(f"{x(epoch)},{y(value)}" for epoch, value in pairs), pairs[-1][1],
             (x(pairs[-1][0]), y(pairs[-1][1])))
        for name, pairs in finite.items()
    )  # fmt: skip
    ticks = tuple(
        (y(low + part * (high - low) / 4), f"{low + part * (high - low) / 4:.3g}") for part in range(5)
    )
    marked = sorted({1, *(1 + round(part * (last - 1) / 4) for part in range(5))})
    return Sketch(lines, ticks, tuple((x(epoch), str(epoch)) for epoch in marked))
