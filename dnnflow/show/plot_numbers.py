"""Read the numbers of a plot as tables, for those who do not see it: what its hovers tell of each mark."""

import math
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from bokeh.models import ColumnDataSource, GlyphRenderer, HoverTool
from bokeh.plotting import figure

MOST_ROWS = 500
"""Of one table."""
FIELD = re.compile(r"@(\w+)")

Value = str | float | int | None


@dataclass(frozen=True)
class NumberTable:
    """Numbers of the marks of one kind in a plot."""

    columns: tuple[str, ...]
    """As the hover names them."""
    rows: tuple[tuple[Value, ...], ...]
    """One a mark, at most `MOST_ROWS`; None where a number is not finite."""
    left_out: int
    """Further marks."""


def numbers_of(plot: figure, *, most: int = MOST_ROWS) -> tuple[NumberTable, ...]:
    """Return the numbers of a plot, the shortest table first."""
    found = (_table(hover, plot, most) for hover in plot.tools if isinstance(hover, HoverTool))
    return tuple(sorted(filter(None, found), key=lambda table: len(table.rows) + table.left_out))


def legend_of(plot: figure) -> tuple[str, ...]:
    """Return what the legends of a plot say."""
    items = (item for legend in plot.legend for item in legend.items)
    return tuple(_text(item.label.value) for item in items if getattr(item.label, "value", None))


def _table(hover: HoverTool, plot: figure, most: int) -> NumberTable | None:
    columns = dict(_columns(hover.tooltips))
    rows = [row for source in _sources(hover, plot) for row in _rows(source, columns)]
    if not rows:
        return None
    return NumberTable(tuple(columns.values()), tuple(rows[:most]), max(0, len(rows) - most))


def _columns(tooltips: Sequence[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Yield each column that tooltips tell, and its name in words."""
    for words, told in tooltips:
        fields = FIELD.findall(told)
        for field in fields:
            is_alone = len(fields) == 1 or field == words
            yield field, words if is_alone else f"{words}, {field}"


def _sources(hover: HoverTool, plot: figure) -> list[ColumnDataSource]:
    """Return the sources that a hover tells of, each once: lines and marks may share one."""
    drawn = plot.renderers if hover.renderers == "auto" else hover.renderers
    wanted = {field for field, _ in _columns(hover.tooltips)}
    sources = [one.data_source for one in drawn if isinstance(one, GlyphRenderer)]
    return list({id(one): one for one in sources if wanted <= set(one.data)}.values())


def _rows(source: ColumnDataSource, columns: dict[str, str]) -> Iterator[tuple[Value, ...]]:
    for row in zip(*(source.data[name] for name in columns), strict=True):
        if not any(isinstance(value, list | np.ndarray) for value in row):  # of whole lines a hover names one
            yield tuple(map(_value, row))


def _value(value: Any) -> Value:
    value = value.item() if hasattr(value, "item") else value
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return _text(value) if isinstance(value, str) else value


def _text(value: str) -> str:
    """Return a text without what keeps Bokeh from reading it as TeX, or labels apart."""
    return value.replace("\u200b", "")
