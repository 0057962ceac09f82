"""Plots for those who do not see them: tables of the same numbers, and legends that hide nothing."""

from math import nan

from bokeh.models import HoverTool

from dnnflow.show.canvas import canvas
from dnnflow.show.plot_numbers import legend_of, numbers_of


def test_what_hovers_tell_is_a_table() -> None:
    plot = canvas(x="x", y="y")
    source = {"x": [1, 2, 3], "y": [0.123456789, nan, 5.0], "name": ["a\u200b", "b", "c"], "low": [0, 1, 2]}
    dots = plot.scatter("x", "y", source=source, legend_label="all: 3")
    plot.line("x", "y", source=dots.data_source)
    rows = [("design", "@name"), ("y", "@y{0.00} (@low{0} or more)")]
    plot.add_tools(HoverTool(renderers=[dots], tooltips=rows))
    (table,) = numbers_of(plot, most=2)
    assert table.columns == ("design", "y", "y, low")
    assert table.rows == (("a", 0.123457, 0), ("b", None, 1))
    assert table.left_out == 1
    assert legend_of(plot) == ("all: 3",)


def test_marks_of_one_source_are_told_once() -> None:
    plot = canvas(x="x", y="y")
    for values in ([1, 2], [3, 4]):
        line = plot.line("x", "y", source={"x": values, "y": values})
        plot.scatter("x", "y", source=line.data_source)
    plot.add_tools(HoverTool(tooltips=[("epoch", "@x"), ("loss", "@y")]))
    (table,) = numbers_of(plot)
    assert [row[0] for row in table.rows] == [1, 2, 3, 4]
