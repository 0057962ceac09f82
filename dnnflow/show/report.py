"""Write a run's report: one HTML file that needs neither network nor server."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader, Template
from markupsafe import Markup

from dnnflow.paths import write_file
from dnnflow.results.store.run_record import safe_link
from dnnflow.results.view.depth import timing
from dnnflow.results.view.next_steps import edges_in_words, next_steps
from dnnflow.results.view.study_view import StudyView
from dnnflow.show import run_numbers, study_tables
from dnnflow.show.plot_numbers import legend_of, numbers_of
from dnnflow.show.study_figures import draw_study
from dnnflow.show.training_figures import draw_training

if TYPE_CHECKING:
    from bokeh.plotting import figure

    from dnnflow.parallel.driver.history import History

MOST_NUMBERS = 100
"""Rows of a plot's table: a report holds all of them, whether or not somebody looks."""


def write_report(run: "StudyView | History", path: str | Path) -> Path:
    """Write the report of a study or a parallel training as one self-contained file; return its path.

    Parameters
    ----------
    path
        Replaced if it is there.
    """
    write_file(Path(path), render_report(run))
    return Path(path)


def render_report(run: "StudyView | History") -> str:
    """Return the report of a study or a parallel training as HTML text."""
    if isinstance(run, StudyView):
        return _render("study.html", draw_study(run), _of_study(run))
    numbers = run_numbers.training_numbers(run)
    return _render("training.html", draw_training(numbers), _of_training(run, numbers))


def _render(template: str, drawn: "Mapping[str, figure]", values: Mapping[str, Any]) -> str:
    script, divs = components(drawn) if drawn else ("", {})
    # Only the part of Bokeh that draws: no widgets, no TeX
    library = Resources(mode="inline", components=["bokeh"]).render_js() if drawn else ""
    # Every value that is no Markup is escaped
    environment = Environment(
        loader=PackageLoader("dnnflow.show"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    one = environment.get_template("figure.html")
    figures = {name: _with_numbers(one, drawn[name], div) for name, div in divs.items()}
    return environment.get_template(template).render(
        versions=study_tables.versions(),
        library=Markup(library),
        script=Markup(script),
        figure=figures,
        **values,
    )


def _with_numbers(template: Template, plot: "figure", div: str) -> Markup:
    """Return a plot's place with its name, and its numbers as tables."""
    name = plot.name or f"{plot.yaxis[0].axis_label} against {plot.xaxis[0].axis_label}"
    legend = [text for text in legend_of(plot) if not text.isdigit()]  # which say only whose line it is
    tables = numbers_of(plot, most=MOST_NUMBERS)
    return Markup(template.render(drawn=Markup(div), name=name, legend=legend, tables=tables))


def _of_study(view: StudyView) -> dict[str, Any]:
    rising = [edge for edge in view.edges if edge.is_rising]
    return {
        "title": view.record.name,
        "kind": "report",
        "view": view,
        "headline": study_tables.headline(view),
        "steps": next_steps(view),
        "summary": study_tables.summary(view),
        "dashboard": safe_link(view.record.dashboard),
        "sections": study_tables.place_sections(view),
        "tested": study_tables.measured_section(view),
        "names": study_tables.NAMES,
        "timings": study_tables.timings(view),
        "timing": timing,
        "time_fit": study_tables.telling_fit(view),
        "is_depth_sweep": study_tables.is_depth_sweep(view),
        "rising": edges_in_words(tuple(rising)),
        "n_timed": sum(band.n for band in view.time_by_depth),
        "n_deep": sum(band.n for band in view.score_by_depth),
        "confusion": study_tables.confusion(view),
        "table_columns": study_tables.table_columns(view),
        "pipeline": study_tables.pipeline_text(view),
        "many": len(view.trials) > study_tables.MOST_POINTS,
    }


def _of_training(history: "History", numbers: run_numbers.TrainingNumbers) -> dict[str, Any]:
    return {
        "kind": "training",
        "title": history.about.get("Model", "model"),
        "algorithm": history.about.get("Algorithm", ""),
        "numbers": numbers,
        "headline": run_numbers.training_headline(numbers),
        "summary": run_numbers.training_summary(numbers, history.startup_s),
        "replicas": run_numbers.replica_rows(numbers.replicas),
        "servers": history.servers,
    }
