"""Draws a study that runs, again and again."""

from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter
from bokeh.plotting import figure

from dnnflow.show.canvas import BLUE, GREEN, canvas, pace_figure
from dnnflow.show.run_numbers import StudyNumbers
from dnnflow.show.training_tables import LAST_S, pace_now

HALF = 0.42
"""Half the width of a cell that is one hidden layer wide."""


class StudyFigures:
    """Figures by name, whose sources `fill` gives numbers."""

    def __init__(self, height: int) -> None:
        names = ("left", "right", "bottom", "top", "alpha", "layers", "count")
        self._cells = ColumnDataSource({name: [] for name in names})
        self._best = ColumnDataSource({"x": [], "y": []})
        self._pace = ColumnDataSource({"x": [], "y": []})
        self.figures: dict[str, figure] = {
            "cells": _cell_figure(self._cells, height + 40),
            "best": _best_figure(self._best, height),
            "pace": pace_figure(self._pace, "trials a second", height),
        }

    def fill(self, numbers: StudyNumbers) -> None:
        """Draw other numbers."""
        width, height = numbers.cell_size
        most: dict[int, int] = {}  # of each depth, so that depths with few trials show as well
        for depth, _, count in numbers.cells:
            most[depth] = max(count, most.get(depth, 0))
        self._cells.data = {
            "left": [depth - HALF for depth, *_ in numbers.cells],
            "right": [depth + width - 1 + HALF for depth, *_ in numbers.cells],
            "bottom": [accuracy for _, accuracy, _ in numbers.cells],
            "top": [accuracy + height for _, accuracy, _ in numbers.cells],
            "alpha": [0.2 + 0.8 * count / most[depth] for depth, _, count in numbers.cells],
            "layers": [f"{x}" if width == 1 else f"{x} to {x + width - 1}" for x, *_ in numbers.cells],
            "count": [count for *_, count in numbers.cells],
        }
        end = numbers.completed + numbers.failed
        best = [*numbers.best, *([(end, numbers.best[-1][1])] if numbers.best else [])]
        self._best.data = {"x": [x for x, _ in best], "y": [y for _, y in best]}
        self._pace.data = {"x": [x for x, _ in numbers.pace], "y": [y for _, y in numbers.pace]}


def study_headline(numbers: StudyNumbers) -> list[tuple[str, str, str]]:
    """Return the numbers that matter most: name, value, what to know about it."""
    done = numbers.completed + numbers.failed
    share = f"{done / max(1, numbers.total):.0%} of {numbers.total:,}".replace("%", " %")
    shown = [("designs trained", f"{done:,}", share)]
    pace = pace_now(numbers.pace)
    if pace is not None:
        shown.append(("trials a second", f"{pace:,.1f}", f"of the last {LAST_S:g} s"))
    if numbers.best:
        at, accuracy = numbers.best[-1]
        shown.append(("best accuracy", f"{accuracy:.4f}", f"since trial {at:,}"))
    shown.append(
        ("failed", f"{numbers.failed:,}", f"{len(numbers.failures)} kinds" if numbers.failures else "")
    )
    shown.append(("waiting", f"{max(0, numbers.total - done):,}", "designs"))
    return shown


def _cell_figure(source: ColumnDataSource, height: int) -> figure:
    plot = canvas(x="hidden layers", y="test accuracy", height=height)
    cells = plot.quad(
        "left", "right", "bottom", "top", source=source, fill_color=BLUE, fill_alpha="alpha", line_color=None
    )
    rows = [
        ("hidden layers", "@layers"),
        ("test accuracy", "@bottom{0.000} – @top{0.000}"),
        ("trials", "@count{0,0}"),
    ]
    plot.add_tools(HoverTool(renderers=[cells], tooltips=rows))
    return plot


def _best_figure(source: ColumnDataSource, height: int) -> figure:
    plot = canvas(x="trials", y="best test accuracy so far", height=height)
    line = plot.step("x", "y", source=source, mode="after", color=GREEN, line_width=2.4)
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
    rows = [("trial", "@x{0,0}"), ("accuracy", "@y{0.0000}")]
    plot.add_tools(HoverTool(renderers=[line], tooltips=rows))
    return plot
