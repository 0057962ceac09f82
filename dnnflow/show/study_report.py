"""The report: one HTML file that needs neither network nor server."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from dnnflow.results.view.depth import timed_alike, timing
from dnnflow.results.view.study_view import StudyView
from dnnflow.show import study_figures as figures
from dnnflow.show import study_tables as tables

if TYPE_CHECKING:
    from bokeh.plotting import figure

SHOWN_PLACES = 15
"""Of the leaderboard; the rest unfolds."""
MARGINAL_FIGURES = 8
"""Parameters that get a figure, those that explain most."""

NAMES = {
    "depth": "hidden layers",
    "units": "units a layer",
    "units_min": "units of the narrowest layer",
    "units_max": "units of the widest layer",
    "batch_norm": "batch normalisation",
    "l2": "L2 penalty",
    "residual": "layers a residual group",
    "learning_rate": "learning rate",
    "batch_size": "batch size",
    "early_stopping": "early stopping, patience",
}
"""Parameters in words, where their own name is not a word."""


def render_report(view: StudyView) -> str:
    """Return a study's report as HTML text."""
    drawn = draw(view)
    script, divs = components(drawn) if drawn else ("", {})
    # Only the part of Bokeh that draws: no widgets, no TeX
    library = Resources(mode="inline", components=["bokeh"]).render_js() if drawn else ""
    # Every value that is no Markup is escaped
    environment = Environment(
        loader=PackageLoader("dnnflow.show"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("page.html").render(
        view=view,
        headline=tables.headline(view),
        summary=tables.summary(view),
        dashboard=_link(view.record.dashboard),
        shown_places=SHOWN_PLACES,
        names=NAMES,
        marks=tables.time_marks(view),
        timings=tables.timings(view),
        timing=timing,
        n_timed=sum(band.n for band in view.time_by_depth),
        n_deep=sum(band.n for band in view.accuracy_by_depth),
        confusion=tables.confusion(view),
        pipeline=tables.pipeline_text(view),
        versions=tables.versions(),
        library=Markup(library),
        script=Markup(script),
        figure={name: Markup(div) for name, div in divs.items()},
        many=len(view.trials) > tables.MOST_POINTS,
    )


def draw(view: StudyView) -> "Mapping[str, figure]":
    """Return the figures that a study has numbers for, by name."""
    drawn: dict[str, figure] = {}
    if view.accuracy_by_depth:
        drawn["accuracy"] = figures.by_depth(
            view.accuracy_by_depth,
            tables.depth_points(view.trials, "test_accuracy"),
            measure="test accuracy",
            guess=view.majority_rate,
        )
        drawn["time"] = _time_figure(view)
    for column, words in (("parameters", "weights"), ("flops", "FLOPs of one row's forward pass")):
        cloud = tables.cloud(view.trials, column)
        if cloud:
            drawn[column] = figures.cloud_figure(cloud, x=words)
    for place, marginal in enumerate(view.marginals[:MARGINAL_FIGURES]):
        drawn[f"marginal-{place}"] = figures.marginal_figure(marginal)
    for measure in ("accuracy", "loss"):
        curves = tables.curves(view, measure)
        if curves:
            drawn[f"curves-{measure}"] = figures.curves_figure(curves)
    confusion = tables.confusion(view)
    if confusion:
        drawn["confusion"] = figures.confusion_figure(confusion)
    if view.spectrum:
        drawn["spectrum"] = figures.spectrum_figure(view.spectrum)
    return drawn


def _time_figure(view: StudyView) -> "figure":
    alike = timed_alike(view.trials)
    measure = f"training time, s ({timing(bool(alike['amortised'].iloc[0]))})"
    points = tables.depth_points(alike, "training_s")
    return figures.by_depth(view.time_by_depth, points, measure=measure, line=view.time_fit)


def _link(dashboard: str | None) -> str | None:
    """Return an address that is safe to be followed, or None."""
    return dashboard if dashboard and dashboard.startswith(("http://", "https://")) else None
