"""Draw a parallel training: the same figures in a report, once, and on the live page, again and again."""

from collections.abc import Sequence
from typing import Any

from bokeh.models import (
    BasicTicker,
    BasicTickFormatter,
    ColumnDataSource,
    FactorRange,
    HoverTool,
    NumeralTickFormatter,
)
from bokeh.plotting import figure

from dnnflow.show.canvas import BLUE, GREEN, ORANGE, PALETTE, canvas, pace_figure, plain, with_legend
from dnnflow.show.run_numbers import Measure, TrainingNumbers, measures, time_shares

MOST_NAMED = len(PALETTE)
"""More replicas have no legend."""
PARTS = (("compute", BLUE), ("exchange", ORANGE), ("wait for rows", GREEN))
"""What takes a replica's time, and its colour."""
SAMPLES = "samples, all replicas"


class TrainingFigures:
    """Figures by name, whose sources `fill` gives numbers."""

    def __init__(self, height: int = 320) -> None:
        self._lines = {name: _line_source() for name in ("replicas", "validation", "measures")}
        self._columns = {
            "samples_pace": ColumnDataSource({"x": [], "y": []}),
            "updates_pace": ColumnDataSource({"x": [], "y": []}),
            "staleness": ColumnDataSource({"x": [], "count": [], "share": [], "late": []}),
            "shares": ColumnDataSource({"replica": [], **{name: [] for name, _ in PARTS}}),
        }
        self.figures: dict[str, figure] = {
            "loss": _loss_figure(self._lines["replicas"], self._lines["validation"], height),
            "measures": _measure_figure(self._lines["measures"], height),
            "samples_pace": pace_figure(self._columns["samples_pace"], "samples a second", height),
            "updates_pace": pace_figure(self._columns["updates_pace"], "updates a second", height),
            "staleness": _staleness_figure(self._columns["staleness"], height),
            "shares": _shares_figure(self._columns["shares"], height),
        }

    def fill(self, numbers: TrainingNumbers) -> None:
        """Draw other numbers."""
        replicas = numbers.replicas
        named = len(replicas) <= MOST_NAMED
        self._lines["replicas"].data = _lines(
            [Measure(f"replica {one.replica}", tuple(one.seen), tuple(one.losses)) for one in replicas]
        )
        self.figures["loss"].legend.visible = named
        self._lines["validation"].data = _lines(measures(numbers, losses=True), ["#444b55"])
        self._lines["measures"].data = _lines(measures(numbers, losses=False))
        for name in ("samples_pace", "updates_pace"):
            pace = getattr(numbers, name)
            self._columns[name].data = {"x": [x for x, _ in pace], "y": [y for _, y in pace]}
        self._columns["staleness"].data = _staleness(numbers)
        self._fill_shares(numbers)

    def _fill_shares(self, numbers: TrainingNumbers) -> None:
        names = [f"replica {one.replica}" for one in numbers.replicas]
        shares = [time_shares(one) for one in numbers.replicas]
        plot = self.figures["shares"]
        plot.y_range.factors = names[::-1]
        plot.height = max(160, min(900, 90 + 34 * len(names)))
        parts = {name: [share[place] for share in shares] for place, (name, _) in enumerate(PARTS)}
        self._columns["shares"].data = {"replica": names, **parts}


def draw_training(numbers: TrainingNumbers) -> dict[str, figure]:
    """Return the figures that a training has numbers for, by name."""
    figures = TrainingFigures()
    figures.fill(numbers)
    there = {
        "loss": any(one.losses for one in numbers.replicas),
        "measures": bool(measures(numbers, losses=False)),
        "samples_pace": len(numbers.samples_pace) > 1,
        "updates_pace": len(numbers.updates_pace) > 1,
        "staleness": bool(numbers.staleness),
        "shares": any(sum(time_shares(one)) for one in numbers.replicas),
    }
    return {name: plot for name, plot in figures.figures.items() if there[name]}


def _line_source() -> ColumnDataSource:
    return ColumnDataSource({"xs": [], "ys": [], "name": [], "label": [], "color": []})


def _lines(lines: Sequence[Measure], colours: Sequence[str] = PALETTE) -> dict[str, list[Any]]:
    names = [plain(line.name.replace("_", " ")) for line in lines]
    return {
        "xs": [list(line.samples) for line in lines],
        "ys": [list(line.values) for line in lines],
        "name": names,
        "label": names,
        "color": [colours[place % len(colours)] for place in range(len(lines))],
    }


def _multi(plot: figure, source: ColumnDataSource, **looks: Any) -> None:
    drawn = plot.multi_line("xs", "ys", source=source, line_color="color", line_join="round", **looks)
    rows = [("", "@name"), ("samples", "$data_x{0,0}"), ("value", "$data_y{0.0000}")]
    plot.add_tools(HoverTool(renderers=[drawn], tooltips=rows))


def _loss_figure(replicas: ColumnDataSource, validation: ColumnDataSource, height: int) -> figure:
    plot = _samples_axis(canvas(x=SAMPLES, y="loss", height=height))
    _multi(plot, replicas, line_width=1.6, line_alpha=0.75, legend_field="name")
    # Of another field: Bokeh makes one entry of all lines that name the same
    _multi(plot, validation, line_width=3, line_dash="dashed", legend_field="label")
    return with_legend(plot, "above")


def _measure_figure(source: ColumnDataSource, height: int) -> figure:
    plot = _samples_axis(canvas(x=SAMPLES, y="measure", height=height))
    _multi(plot, source, line_width=2.2, legend_field="name")
    return with_legend(plot, "above")


def _samples_axis(plot: figure) -> figure:
    plot.xaxis.formatter = NumeralTickFormatter(format="0.[0]a")
    plot.x_range.range_padding = 0.02
    return plot


def _staleness(numbers: TrainingNumbers) -> dict[str, list[Any]]:
    late, counts = [x for x, _ in numbers.staleness], [count for _, count in numbers.staleness]
    names = [str(x) for x in late]
    if numbers.staleness_open:
        names[-1] += " and more"
    pushes = sum(counts) or 1
    return {"x": late, "count": counts, "share": [count / pushes for count in counts], "late": names}


def _staleness_figure(source: ColumnDataSource, height: int) -> figure:
    plot = canvas(x="updates late", y="share of pushes", height=height)
    bars = plot.vbar("x", 0.82, "share", source=source, fill_color=BLUE, fill_alpha=0.8, line_color=None)
    plot.y_range.start = 0
    plot.yaxis.formatter = NumeralTickFormatter(format="0%")
    plot.xaxis.formatter = BasicTickFormatter(precision=0)
    plot.xaxis.ticker = BasicTicker(min_interval=1)
    plot.x_range.start, plot.x_range.bounds = -0.6, None
    rows = [("updates late", "@late"), ("pushes", "@count{0,0}"), ("share", "@share{0.0%}")]
    plot.add_tools(HoverTool(renderers=[bars], tooltips=rows))
    return plot


def _shares_figure(source: ColumnDataSource, height: int) -> figure:
    plot = canvas(x="share of the replica's time", y="", height=height, y_range=FactorRange())
    names, colours = [name for name, _ in PARTS], [colour for _, colour in PARTS]
    bars = plot.hbar_stack(
        names, y="replica", height=0.62, source=source, color=colours, line_color=None, legend_label=names
    )
    plot.x_range.start, plot.x_range.end = 0, 1
    plot.xaxis.formatter = NumeralTickFormatter(format="0%")
    plot.ygrid.visible = False
    rows = [("", "@replica"), *((name, f"@{{{name}}}{{0.0%}}") for name in names)]
    plot.add_tools(HoverTool(renderers=bars, tooltips=rows))
    return with_legend(plot, "above")
