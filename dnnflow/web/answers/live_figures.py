"""Draws the grids of a study that runs."""

import math

from bokeh.models import ColumnDataSource, HoverTool
from bokeh.plotting import figure

from dnnflow.show.canvas import BLUE, canvas
from dnnflow.web.contract.replies import CellGrid


def grid_figure(cells: CellGrid, *, measure: str) -> figure:
    """Draw trials counted by hidden layers and a measure; the shade is the logarithm of the count."""
    plot = canvas(x="hidden layers", y=measure)
    most = max((count for _, _, count in cells.cells), default=1)
    left = [cells.first_depth + x * cells.depth_width for x, _, _ in cells.cells]
    low = [cells.low + y * cells.height for _, y, _ in cells.cells]
    source = ColumnDataSource(
        {
            "left": [x - 0.5 for x in left],
            "right": [x + cells.depth_width - 0.5 for x in left],
            "low": low,
            "high": [y + cells.height for y in low],
            "count": [count for _, _, count in cells.cells],
            "alpha": [0.15 + 0.85 * math.log1p(count) / math.log1p(most) for _, _, count in cells.cells],
        }
    )
    plot.quad(
        "left", "right", "high", "low", source=source, fill_color=BLUE, fill_alpha="alpha", line_color=None
    )
    rows = [("trials", "@count{0,0}"), (measure, "@low{0.000} – @high{0.000}")]
    plot.add_tools(HoverTool(tooltips=rows))
    return plot
