"""Write a run's report: one HTML file that needs neither network nor server."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from dnnflow.paths import write_file
from dnnflow.results.store.run_record import safe_link
from dnnflow.results.view.depth import timing
from dnnflow.results.view.next_steps import edges_in_words, next_steps
from dnnflow.results.view.study_view import StudyView
from dnnflow.show import run_numbers, study_tables
from dnnflow.show.study_figures import draw_study
from dnnflow.show.training_figures import draw_training

if TYPE_CHECKING:
    from bokeh.plotting import figure

    from dnnflow.parallel.driver.history import History


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
    return environment.get_template(template).render(
        versions=study_tables.versions(),
        library=Markup(library),
        script=Markup(script),
        figure={name: Markup(div) for name, div in divs.items()},
        **values,
    )


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
