"""Draw what the best design predicts of numbers beside what is true, target by target."""

import numpy as np
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.plotting import figure

from dnnflow.results.view.target_points import TargetPoints
from dnnflow.show.canvas import BLUE, GREEN, canvas, plain


def regression_figures(points: tuple[TargetPoints, ...]) -> dict[str, figure]:
    """Return two figures for each target, by name: `predicted-0` and `residuals-0` for the first."""
    drawn = {}
    for place, one in enumerate(points):
        drawn[f"predicted-{place}"] = predicted_figure(one)
        drawn[f"residuals-{place}"] = residuals_figure(one)
    return drawn


def predicted_figure(points: TargetPoints) -> figure:
    """Draw what is predicted against what is true: on the line both are equal."""
    plot = canvas(x=f"true {plain(points.name)}", y="predicted")
    ends = [min(points.truth.min(), points.predicted.min()), max(points.truth.max(), points.predicted.max())]
    return _scattered(plot, points, x="true", y="predicted", line=(ends, ends))


def residuals_figure(points: TargetPoints) -> figure:
    """Draw how far what is true lies above what is predicted, against the latter."""
    plot = canvas(x=f"predicted {plain(points.name)}", y="true - predicted")
    ends = [points.predicted.min(), points.predicted.max()]
    return _scattered(plot, points, x="predicted", y="residual", line=(ends, [0, 0]))


def _scattered(
    plot: figure, points: TargetPoints, *, x: str, y: str, line: tuple[list[float], list[float]]
) -> figure:
    source = ColumnDataSource(
        {"true": points.truth, "predicted": points.predicted, "residual": points.residuals}
    )
    alpha = float(np.clip(60 / np.sqrt(len(points.truth)) / 10, 0.2, 0.7))
    dots = plot.scatter(x, y, source=source, size=5, color=BLUE, alpha=alpha, line_color=None)
    plot.line(*line, color=GREEN, line_width=2, line_dash="dashed")
    names = {"true": "true", "predicted": "predicted", "residual": "true - predicted"}
    rows = [(words, f"@{name}{{0.[0000]}}") for name, words in names.items()]
    plot.add_tools(HoverTool(renderers=[dots], tooltips=rows))
    return plot
