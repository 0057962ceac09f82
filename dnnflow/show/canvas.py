"""Make plots as all pages have them: transparent, plain axes, few tools, colours for light and dark.

Light enough for a scheduler's process: nothing but Bokeh is imported.
"""

import math
from collections.abc import Sequence

from bokeh.models import ColumnDataSource, HoverTool, NumeralTickFormatter
from bokeh.plotting import figure

BLUE, ORANGE, GREEN, GREY = "#3f7fd5", "#e07b39", "#2a9d76", "#7d8590"
PALETTE = (BLUE, ORANGE, GREEN, "#b65fc4", "#d4a017", "#d64f62", "#2aa5b8", "#8a6d4b", "#7a86e0", "#6ea83a")


def plain(text: str) -> str:
    """Return text that Bokeh takes literally, not as TeX, for which it would load a script from afar."""
    for mark in ("$$", "\\(", "\\["):
        text = text.replace(mark, f"{mark[0]}\u200b{mark[1]}")
    return text


def canvas(*, x: str, y: str, height: int = 340, **options: object) -> figure:
    """Return an empty plot with two axes that are named."""
    plot = figure(
        height=height,
        sizing_mode="stretch_width",
        x_axis_label=x,
        y_axis_label=y,
        toolbar_location="right",
        tools="pan,box_zoom,reset,save",
        background_fill_color=None,
        border_fill_color=None,
        outline_line_color=None,
        **options,
    )
    plot.toolbar.logo = None
    plot.toolbar.autohide = True
    plot.grid.grid_line_alpha = 0.18
    for axis in plot.axis:
        axis.axis_label_text_font_style = "normal"
        axis.axis_label_text_font = axis.major_label_text_font = "system-ui, sans-serif"
        axis.axis_label_text_font_size = "13px"
        axis.major_label_text_font_size = "12px"
        axis.axis_line_alpha = axis.major_tick_line_alpha = 0.4
        axis.minor_tick_line_color = None
    return plot


def with_legend(plot: figure, place: str = "right") -> figure:
    """Move the legend out of the plot: to the right, or above."""
    for legend in plot.legend:
        legend.background_fill_alpha = 0.0
        legend.border_line_color = None
        legend.label_text_font = "system-ui, sans-serif"
        legend.label_text_font_size = "12px"
        legend.spacing = 12 if place == "above" else 2
        legend.orientation = "horizontal" if place == "above" else "vertical"
        plot.add_layout(legend, place)
    return plot


def quads(plot: figure, source: ColumnDataSource, rows: Sequence[tuple[str, str]]) -> figure:
    """Draw cells of a grid: columns `left`, `right`, `bottom`, `top` and `alpha`; `rows` tell of one."""
    drawn = plot.quad(
        "left", "right", "bottom", "top", source=source, fill_color=BLUE, fill_alpha="alpha", line_color=None
    )
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=rows))
    return plot


def shades(counts: Sequence[float], least: float) -> list[float]:
    """Return a shade for each count, on a logarithm that shows single trials beside cells of thousands."""
    most = math.log1p(max(counts, default=1))
    return [least + (1 - least) * math.log1p(count) / most for count in counts]


def pace_figure(source: ColumnDataSource, name: str, height: int) -> figure:
    """Draw how fast something went: columns `x`, seconds, and `y`."""
    plot = canvas(x="seconds", y=name, height=height)
    plot.varea("x", 0, "y", source=source, fill_color=BLUE, fill_alpha=0.14)
    line = plot.line("x", "y", source=source, color=BLUE, line_width=2)
    plot.scatter("x", "y", source=source, color=BLUE, size=4)
    plot.x_range.start = plot.y_range.start = 0
    plot.yaxis.formatter = NumeralTickFormatter(format="0.[0]a")
    plot.add_tools(HoverTool(renderers=[line], tooltips=[("second", "@x{0.0}"), (name, "@y{0,0.0}")]))
    return plot
