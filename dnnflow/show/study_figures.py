"""Draw what came of a study, from numbers that are ready: the figures of the report and of the web pages.

Backgrounds are transparent and colours can be read on light and dark pages; the page recolours the axes.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from bokeh.models import (
    BasicTickFormatter,
    ColumnDataSource,
    FixedTicker,
    HoverTool,
    NumeralTickFormatter,
    Whisker,
)
from bokeh.plotting import figure

from dnnflow.results.view.depth import Band, LinearFit, Spectrum, timed_alike, timing
from dnnflow.results.view.marginals import Group, Marginal
from dnnflow.results.view.study_view import StudyView
from dnnflow.show import study_tables as tables
from dnnflow.show.canvas import BLUE, GREEN, GREY, ORANGE, PALETTE, canvas, plain, quads, shades, with_legend
from dnnflow.show.regression_figures import regression_figures
from dnnflow.show.study_tables import Cells, Cloud, ConfusionTable, Curves, Points, spans_much

MOST_TICKS = 25
"""A longer depth axis is not labelled at every depth."""
MARGINAL_FIGURES = 8
"""Parameters that get a figure, those that explain most."""
LONGEST = 24
"""Characters of a name on an axis."""
INK = "ink"
"""Tag of text that has the page's text colour."""


def draw_study(view: StudyView) -> dict[str, figure]:
    """Return the figures that a study has numbers for, by name."""
    drawn: dict[str, figure] = {}
    if view.score_by_depth:
        drawn["score"] = by_depth(
            view.score_by_depth,
            tables.depth_points(view.trials, "score"),
            measure=view.metric.label,
            guess=view.majority_rate,
        )
        drawn["time"] = _time_figure(view)
    for column, words in (("parameters", "weights"), ("flops", "FLOPs of one row's forward pass")):
        cloud = tables.cloud(view.trials, column)
        if cloud and (column != "flops" or tables.flops_differ(view.trials)):
            drawn[column] = cloud_figure(cloud, x=words, y=view.metric.label)
    for place, marginal in enumerate(view.marginals[:MARGINAL_FIGURES]):
        drawn[f"marginal-{place}"] = marginal_figure(marginal, view.metric.label)
    for name, measure in (("score", view.followed), ("loss", "loss")):
        curves = tables.curves(view, measure)
        if curves:
            drawn[f"curves-{name}"] = curves_figure(curves)
    confusion = tables.confusion(view)
    if confusion:
        drawn["confusion"] = confusion_figure(confusion)
    drawn |= regression_figures(view.points)
    if view.spectrum and tables.is_depth_sweep(view):
        drawn["spectrum"] = spectrum_figure(view.spectrum)
    return drawn


def _time_figure(view: StudyView) -> figure:
    alike = timed_alike(view.trials)
    measure = f"training time, s ({timing(bool(alike['amortised'].iloc[0]))})"
    points = tables.depth_points(alike, "training_s")
    return by_depth(view.time_by_depth, points, measure=measure, line=tables.telling_fit(view))


def _labels(texts: Iterable[str]) -> list[str]:
    """Return short texts that differ from one another, as an axis of names needs."""
    labels: list[str] = []
    for text in texts:
        label = plain(text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…") or "(empty)"
        while label in labels:
            label += "\u200b"
        labels.append(label)
    return labels


def _points_source(points: Points) -> ColumnDataSource:
    return ColumnDataSource({"x": points.x, "y": points.y, "name": [plain(name) for name in points.names]})


def by_depth(
    bands: Sequence[Band],
    points: Points | None,
    *,
    measure: str,
    line: LinearFit | None = None,
    guess: float | None = None,
) -> figure:
    """Draw a measure against hidden layers.

    Parameters
    ----------
    bands : sequence of Band
        Drawn as boxes (half of the trials) and whiskers (nine tenths), unless there are points.
    points : Points or None
        Trials, drawn one by one.
    measure : str
        For the axis.
    line : LinearFit, optional
        Drawn over the depths.
    guess : float, optional
        Accuracy of always guessing the largest class, drawn over the depths.
    """
    logarithmic = spans_much(np.array([band.depth for band in bands]))
    plot = canvas(x="hidden layers", y=measure, x_axis_type="log" if logarithmic else "linear")
    if logarithmic:
        plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
    elif len(bands) <= MOST_TICKS:
        plot.xaxis.ticker = FixedTicker(ticks=[band.depth for band in bands])
    if points is not None:
        dots = plot.scatter(
            "x", "y", source=_points_source(points), size=5, color=BLUE, alpha=0.45, line_color=None
        )
        plot.add_tools(HoverTool(renderers=[dots], tooltips=[("design", "@name"), (measure, "@y{0.0000}")]))
    else:
        _boxes(plot, bands, logarithmic=logarithmic)
    _means(plot, bands, measure)
    # Many points: on a logarithmic axis a straight line is a curve
    x = np.linspace(bands[0].depth, bands[-1].depth, 200)
    dashed = {"color": GREEN, "line_width": 2.5, "line_dash": "dashed"}
    if line is not None:
        label = f"{line.intercept:.3g} s + {line.slope:.3g} s a layer, R² = {line.r2:.3f}"
        plot.line(x, line.intercept + line.slope * x, legend_label=label, **dashed)
    if guess is not None:
        plot.line(x[[0, -1]], [guess, guess], legend_label=f"always the largest class: {guess:.4f}", **dashed)
    return with_legend(plot, "above")


def _boxes(plot: figure, bands: Sequence[Band], *, logarithmic: bool) -> None:
    x = np.array([band.depth for band in bands], dtype=float)
    q = np.array([band.quantiles for band in bands])  # (depths, quantiles)
    place = np.log(x) if logarithmic else x
    half = 0.3 * min(np.diff(place), default=0.1 if logarithmic else 1.0)
    left, right = (np.exp(place - half), np.exp(place + half)) if logarithmic else (x - half, x + half)
    plot.segment(x, q[:, 0], x, q[:, 4], color=BLUE, line_width=2, alpha=0.6, legend_label="90 % of trials")
    plot.quad(
        left,
        right,
        q[:, 3],
        q[:, 1],
        fill_color=BLUE,
        fill_alpha=0.35,
        line_color=None,
        legend_label="half of them",
    )
    plot.segment(left, q[:, 2], right, q[:, 2], color=BLUE, line_width=2, legend_label="median")


def _means(plot: figure, bands: Sequence[Band], measure: str) -> None:
    source = ColumnDataSource(
        {
            "x": [band.depth for band in bands],
            "mean": [band.mean for band in bands],
            "low": [(band.interval or (band.mean,) * 2)[0] for band in bands],
            "high": [(band.interval or (band.mean,) * 2)[1] for band in bands],
            "n": [band.n for band in bands],
            "largest": [band.largest for band in bands],
        }
    )
    legend = "mean and its 95 % interval"
    plot.line("x", "mean", source=source, color=ORANGE, line_width=2, legend_label=legend)
    dots = plot.scatter("x", "mean", source=source, size=7, color=ORANGE, legend_label=legend)
    _whiskers(plot, source, "x", vertical=True)
    rows = [
        ("hidden layers", "@x"),
        (f"mean {measure}", "@mean{0.0000}"),
        ("largest", "@largest{0.0000}"),
        ("trials", "@n{0,0}"),
    ]
    plot.add_tools(HoverTool(renderers=[dots], tooltips=rows))


def _whiskers(plot: figure, source: ColumnDataSource, base: str, *, vertical: bool) -> None:
    whisker = Whisker(
        base=base,
        lower="low",
        upper="high",
        source=source,
        line_color=ORANGE,
        line_width=2,
        dimension="height" if vertical else "width",
    )
    for head in (whisker.upper_head, whisker.lower_head):
        head.size, head.line_color = 6, ORANGE
    plot.add_layout(whisker)


def cloud_figure(cloud: Cloud, *, x: str, y: str = "accuracy") -> figure:
    """Draw the score against a measure, as points or as a grid of counts."""
    plot = canvas(x=x, y=y, x_axis_type="log" if cloud.logarithmic else "linear")
    if not cloud.logarithmic:
        plot.xaxis.formatter = NumeralTickFormatter(format="0.[0]a")
    trials = cloud.trials
    if isinstance(trials, Points):
        plot.scatter("x", "y", source=_points_source(trials), size=5, color=BLUE, alpha=0.45, line_color=None)
        rows = [("design", "@name"), (x, "@x{0,0}"), (y, "@y{0.0000}")]
    else:
        rows = [
            ("trials", "@count{0,0}"),
            (y, "@bottom{0.000} – @top{0.000}"),
            (x, "@left{0,0} – @right{0,0}"),
        ]
        return quads(plot, _cells_source(trials), rows)
    plot.add_tools(HoverTool(tooltips=rows))
    return plot


def _cells_source(cells: Cells) -> ColumnDataSource:
    alpha = shades(cells.counts.tolist(), 0.12)
    edges = {"left": cells.left, "right": cells.right, "bottom": cells.bottom, "top": cells.top}
    return ColumnDataSource({**edges, "count": cells.counts, "alpha": alpha})


def marginal_figure(marginal: Marginal, measure: str = "accuracy") -> figure:
    """Draw the mean score for each value of a parameter, with the interval of the mean and the best."""
    labels = _labels(group.label for group in marginal.groups)
    height = 72 + 26 * len(labels)
    plot = canvas(x=measure, y="", height=height, y_range=labels[::-1], x_range=_span(marginal.groups))
    plot.name = f"{measure} by {tables.NAMES.get(marginal.parameter, marginal.parameter)}"
    source = _marginal_source(marginal.groups, labels)
    _whiskers(plot, source, "label", vertical=False)
    dots = plot.scatter("mean", "label", source=source, size=8, color=ORANGE)
    best = plot.scatter("best", "label", source=source, size=7, marker="diamond", color=BLUE, alpha=0.8)
    rows = [
        ("value", "@label"),
        ("mean", "@mean{0.0000} (@low{0.000} – @high{0.000})"),
        ("median", "@median{0.0000}"),
        ("best", "@best{0.0000}"),
        ("trials", "@n{0,0}"),
    ]
    plot.add_tools(HoverTool(renderers=[dots, best], tooltips=rows))
    plot.ygrid.visible = False
    return plot


def _marginal_source(groups: Sequence[Group], labels: list[str]) -> ColumnDataSource:
    intervals = [group.interval or (group.mean, group.mean) for group in groups]
    return ColumnDataSource(
        {
            "label": labels,
            "mean": [group.mean for group in groups],
            "median": [group.median for group in groups],
            "best": [group.best for group in groups],
            "n": [group.n for group in groups],
            "low": [low for low, _ in intervals],
            "high": [high for _, high in intervals],
        }
    )


def _span(groups: Sequence[Group]) -> tuple[float, float]:
    """Return the range of accuracies to draw; a vast interval of two trials does not stretch it."""
    lowest, highest = min(group.mean for group in groups), max(group.best for group in groups)
    room = max(highest - lowest, 0.002)
    low = min(group.interval[0] if group.interval else group.mean for group in groups)
    return max(low, lowest - room) - 0.05 * room, highest + 0.05 * room


def curves_figure(curves: Curves) -> figure:
    """Draw one measure of the best designs, epoch by epoch."""
    plot = canvas(x="epoch", y=curves.measure)
    lines = zip(curves.epochs, curves.values, curves.names, curves.ranks, strict=True)
    for colour, (epochs, values, name, rank) in zip(PALETTE, lines, strict=False):
        source = ColumnDataSource({"x": epochs, "y": values, "name": [plain(name)] * len(epochs)})
        plot.line("x", "y", source=source, color=colour, line_width=2, alpha=0.85, legend_label=str(rank))
        if len(epochs) < 30:
            plot.scatter("x", "y", source=source, color=colour, size=4, legend_label=str(rank))
    plot.add_tools(HoverTool(tooltips=[("design", "@name"), ("epoch", "@x"), (curves.measure, "@y{0.0000}")]))
    return with_legend(plot)


def confusion_figure(table: ConfusionTable) -> figure:
    """Draw the counts of true against predicted classes; the shade is the share of the true class."""
    names = _labels(table.names)
    size = len(names)
    plot = canvas(
        x="predicted", y="true", height=min(760, 120 + 34 * size), x_range=names, y_range=names[::-1]
    )
    true, predicted = np.divmod(np.arange(size * size), size)
    counts, shares = table.counts.ravel(), table.shares.ravel()
    source = ColumnDataSource(
        {
            "true": [names[i] for i in true],
            "predicted": [names[j] for j in predicted],
            "count": counts,
            "share": shares,
            "alpha": np.sqrt(shares),
            "pale": [str(n) if n and a < 0.5 else "" for n, a in zip(counts, np.sqrt(shares), strict=True)],
            "full": [str(n) if n and a >= 0.5 else "" for n, a in zip(counts, np.sqrt(shares), strict=True)],
        }
    )
    plot.rect(
        "predicted", "true", 0.96, 0.96, source=source, fill_color=BLUE, fill_alpha="alpha", line_color=None
    )
    font = {"text_align": "center", "text_baseline": "middle", "text_font_size": "12px"}
    plot.text("predicted", "true", text="full", source=source, text_color="white", **font)
    pale = plot.text("predicted", "true", text="pale", source=source, text_color=GREY, **font)
    pale.glyph.tags = [INK]
    rows = [
        ("true", "@true"),
        ("predicted", "@predicted"),
        ("rows", "@count{0,0}"),
        ("share", "@share{0.0%}"),
    ]
    plot.add_tools(HoverTool(tooltips=rows))
    plot.grid.visible = False
    plot.xaxis.major_label_orientation = 0.0 if size <= 12 and max(map(len, names)) <= 6 else 0.8
    return plot


def spectrum_figure(spectrum: Spectrum) -> figure:
    """Draw the amplitude of each frequency along the depth axis."""
    plot = canvas(x="cycles a layer", y="amplitude of mean accuracy", height=280)
    frequency = np.array(spectrum.frequency)
    period = [f"{1 / value:.3g} layers" if value else "" for value in frequency]
    source = ColumnDataSource({"x": frequency, "y": spectrum.magnitude, "period": period})
    plot.segment("x", 0, "x", "y", source=source, color=BLUE, line_width=3)
    dots = plot.scatter("x", "y", source=source, color=BLUE, size=8)
    plot.y_range.start = 0
    plot.yaxis.formatter = BasicTickFormatter(power_limit_low=-4)
    rows = [("cycles a layer", "@x{0.000}"), ("period", "@period"), ("amplitude", "@y{0.0000}")]
    plot.add_tools(HoverTool(renderers=[dots], tooltips=rows))
    return plot
