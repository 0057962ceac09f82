"""The report of a parallel training: one HTML file that needs neither network nor server."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader
from markupsafe import Markup

from dnnflow.show import training_tables
from dnnflow.show.run_numbers import ReplicaNumbers
from dnnflow.show.study_tables import versions
from dnnflow.show.training_figures import drawn
from dnnflow.show.wording import memory_in_words

if TYPE_CHECKING:
    from dnnflow.parallel.driver.history import History


def render_training_report(history: "History") -> str:
    """Return a training's report as HTML text."""
    numbers = training_tables.training_numbers(history)
    figures = drawn(numbers)
    script, divs = components(figures) if figures else ("", {})
    library = Resources(mode="inline", components=["bokeh"]).render_js() if figures else ""
    # Every value that is no Markup is escaped
    environment = Environment(
        loader=PackageLoader("dnnflow.show"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("training.html").render(
        title=history.about.get("Model", "model"),
        algorithm=history.about.get("Algorithm", ""),
        numbers=numbers,
        headline=training_tables.headline(numbers),
        summary=training_tables.summary(numbers, history.startup_s),
        replicas=replica_rows(numbers.replicas),
        servers=history.servers,
        versions=versions(),
        library=Markup(library),
        script=Markup(script),
        figure={name: Markup(div) for name, div in divs.items()},
    )


def replica_rows(replicas: Sequence[ReplicaNumbers]) -> list[tuple[str, ...]]:
    """Return a row of text for each replica, as the report's table has them."""
    return [
        (
            str(one.replica),
            f"{one.samples:,}",
            f"{one.pushes:,}",
            f"{one.compute_s:,.1f} s",
            f"{one.exchange_s:,.1f} s",
            f"{one.data_s:,.1f} s",
            f"{one.processor_s:,.1f} s",
            memory_in_words(one.resident_bytes, one.gpu_bytes),
            str(one.lives - 1),
        )
        for one in replicas
    ]
