"""Show a study and its progress in a notebook; needs none of a notebook's packages until there is one."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from html import escape
from typing import TYPE_CHECKING, Any

from bokeh.embed import components
from bokeh.resources import Resources
from jinja2 import Environment, PackageLoader

from dnnflow.errors import NotFoundError
from dnnflow.events import (
    Event,
    FinalsProgress,
    Listener,
    Notice,
    StageFinished,
    StageStarted,
    TrialsStored,
)
from dnnflow.show.study_figures import draw_study
from dnnflow.show.study_tables import place_sections
from dnnflow.show.terminal import Progress
from dnnflow.show.wording import in_words

if TYPE_CHECKING:
    from bokeh.plotting import figure

    from dnnflow.results.view.study_view import StudyView

EVERY_S = 0.5
"""The cell is drawn anew at most this often."""
TOP = 10
HEAD = (
    '<!DOCTYPE html><meta charset="utf-8"><meta http-equiv="Content-Security-Policy" content="'
    "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; img-src data:\">"
)
FIGURES = {"depth": "score"}
"""Figures that are asked for by what they show, and what they are called elsewhere."""


def figure_of(view: "StudyView", name: str) -> "figure":
    """Return a study's figure: `depth`, `time`, `parameters`, `flops`, `confusion`, `curves-loss`, …

    Raises
    ------
    NotFoundError
        If the study has no such figure.
    """
    drawn = draw_study(view)
    wanted = FIGURES.get(name, name)
    if wanted not in drawn:
        known = ", ".join([*(one for one, other in FIGURES.items() if other in drawn), *drawn])
        raise NotFoundError(
            f"a study's figure is one of those it has numbers for, got {name!r}; "
            + (f"there are {known}" if known else "there are none yet")
        )
    return drawn[wanted]


def study_html(view: "StudyView") -> str:
    """Return a study for a notebook's cell: the sentence, the leaderboard and its scores by depth.

    The plot is a page of its own in a frame, which loads nothing from afar.
    """
    page = ""
    if view.score_by_depth:
        script, div = components(figure_of(view, "depth"))
        library = Resources(mode="inline", components=["bokeh"]).render_js()
        page = f"{HEAD}<body>{div}{library}{script}</body>"
    environment = Environment(
        loader=PackageLoader("dnnflow.show"), autoescape=True, trim_blocks=True, lstrip_blocks=True
    )
    return environment.get_template("notebook.html").render(
        view=view, sections=place_sections(view, TOP), page=page
    )


class CellProgress:
    """A listener that shows how far a run is in the cell of a notebook: a bar, and a line under it."""

    def __init__(self, display: Any) -> None:
        """Show nothing yet.

        Parameters
        ----------
        display
            IPython's `display` module.
        """
        self._display = display
        self._cell: Any = None
        self._bar = (0, 0)
        self._stage, self._notices = "", list[str]()
        self._last_s = 0.0

    def __call__(self, event: Event) -> None:
        """Show one event."""
        done = total = 0
        match event:
            case StageStarted():
                self._stage = event.stage.value
            case StageFinished():
                self._stage = ""
            case Notice():
                self._notices.append(event.message)
            case TrialsStored():
                done, total = event.completed + event.failed, event.total
            case FinalsProgress():
                done, total = event.done, event.total
            case _:
                return
        is_soon = time.monotonic() - self._last_s < EVERY_S
        if not (total and is_soon and done < total):
            self._last_s = time.monotonic()
            self._show(in_words(event), done, total)

    def say_stopped(self) -> None:
        """Show how far it came when a person interrupted it, and what goes on from there."""
        self._show("stopped; run the cell again to go on with what is missing", *self._bar)

    def _show(self, line: str, done: int, total: int) -> None:
        self._bar = (done, total) if total else self._bar
        bar = f'<progress value="{done}" max="{total}" style="width: 24em"></progress> ' if total else ""
        notices = "".join(f"<br>{escape(one)}" for one in self._notices)
        html = self._display.HTML(f"<div>{bar}{escape(line)}<small>{notices}</small></div>")
        if self._cell is None:
            self._cell = self._display.display(html, display_id=True)
        else:
            self._cell.update(html)


@contextmanager
def progress(*, quiet: bool = False) -> Iterator[Listener]:
    """Yield a listener that shows progress where this process is: in a notebook's cell, else on stderr."""
    display = None if quiet else _notebook_display()
    if display is not None:
        cell = CellProgress(display)
        try:
            yield cell
        except KeyboardInterrupt:
            cell.say_stopped()
            raise
        return
    with Progress(quiet=quiet) as shown:
        yield shown


def _notebook_display() -> Any:
    """Return IPython's `display` module in a notebook's kernel; None elsewhere."""
    python = sys.modules.get("IPython")
    shell = python.get_ipython() if python is not None else None
    if shell is None or type(shell).__name__ != "ZMQInteractiveShell":
        return None
    from importlib import import_module

    return import_module("IPython.display")
