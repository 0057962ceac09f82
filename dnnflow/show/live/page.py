"""The live page in the Dask dashboard: a list of runs, and the numbers of the one that is chosen."""

from html import escape
from typing import TYPE_CHECKING, Any

from bokeh.layouts import column, row
from bokeh.models import Div, Select

from dnnflow.show.live.board import Board, Run
from dnnflow.show.live.panels import StudyPanel, TrainingPanel
from dnnflow.show.live.style import CARDS, PAGE, cards
from dnnflow.show.run_numbers import StudyNumbers, TrainingNumbers

if TYPE_CHECKING:
    from bokeh.document import Document
    from distributed import Scheduler

EVERY_MS = 1000
NEWEST = "newest"
"""Choice that follows whichever run began last."""


def show_page(board: Board, scheduler: "Scheduler", extra: Any, document: "Document") -> None:
    """Fill a new document of the dashboard; it follows the board until its browser goes."""
    page = Page(board, scheduler)
    document.title = "dnnflow"
    document.template = PAGE
    document.add_root(page.root)
    page.update()
    document.add_periodic_callback(page.update, EVERY_MS)


class Page:
    """One browser's view of the board."""

    def __init__(self, board: Board, scheduler: "Scheduler") -> None:
        self._board, self._scheduler = board, scheduler
        self._choice = Select(value=NEWEST, options=[(NEWEST, "the newest run")], width=560)
        self._choice.on_change("value", lambda attribute, old, new: self.update())
        self._head = Div(sizing_mode="stretch_width", stylesheets=[CARDS])
        self._training, self._study = TrainingPanel(), StudyPanel()
        self._told: tuple[str, float, bool] | None = None
        self.root = column(
            row(self._choice, sizing_mode="stretch_width"),
            self._head,
            self._training.root,
            self._study.root,
            sizing_mode="stretch_width",
        )

    def update(self) -> None:
        """Show the chosen run as it is now."""
        runs = self._board.runs
        self._choice.options = [(NEWEST, "the newest run"), *((run.id, _title(run)) for run in runs)]
        chosen = next((run for run in runs if run.id == self._choice.value), runs[0] if runs else None)
        self._training.root.visible = chosen is not None and chosen.kind == "training"
        self._study.root.visible = chosen is not None and chosen.kind == "study"
        told = None if chosen is None else (chosen.id, chosen.heard_at, chosen.is_silent)
        if told is not None and told == self._told:
            return
        self._told = told
        if chosen is None:
            self._head.text = (
                '<p class="soft">No run yet. Trainings and studies show here when they begin.</p>'
            )
            return
        state = f"{chosen.state}, silent: its driver may be gone" if chosen.is_silent else chosen.state
        if chosen.kind == "training":
            training = TrainingNumbers.from_dict(chosen.numbers)
            numbers = self._training.show(training, self._scheduler.workers)
        else:
            numbers = self._study.show(StudyNumbers.from_dict(chosen.numbers))
        self._head.text = (
            f'<h1>{escape(chosen.name)}</h1><div class="soft">{chosen.kind}, '
            f'<span class="state {chosen.state}">{escape(state)}</span></div>{cards(numbers)}'
        )


def _title(run: Run) -> str:
    return f"{run.kind}: {run.name} ({run.state})"
