"""Draw the live page of the Dask dashboard: a list of runs, and the numbers of the one that is chosen."""

from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING, Any

from bokeh.layouts import column, grid, row
from bokeh.models import Checkbox, ColumnDataSource, Div, HoverTool, NumeralTickFormatter, Select
from bokeh.plotting import figure

from dnnflow.show.canvas import GREEN, canvas, pace_figure, quads
from dnnflow.show.live.board import Board, Run
from dnnflow.show.live.style import CARDS, PAGE, cards, facts, table
from dnnflow.show.plot_numbers import numbers_of
from dnnflow.show.run_numbers import (
    ReplicaNumbers,
    StudyNumbers,
    TrainingNumbers,
    study_headline,
    training_headline,
)
from dnnflow.show.training_figures import TrainingFigures
from dnnflow.show.wording import memory_in_words

if TYPE_CHECKING:
    from bokeh.document import Document
    from distributed import Scheduler

EVERY_MS = 1000
NEWEST = "newest"
"""Choice that follows whichever run began last."""
HEIGHT = 290
"""Of a figure."""
CELL = [
    ("hidden layers", "@layers"),
    ("accuracy", "@bottom{0.000} – @top{0.000}"),
    ("trials", "@count{0,0}"),
]
"""What is told of a cell under the pointer."""
HALF = 0.42
"""Half the width of a cell that is one hidden layer wide."""
MOST_ROWS = 100
"""Of a table of a plot's numbers."""
STUDY_PLOTS = {
    "cells": "Trials by hidden layers and accuracy", "best": "Best accuracy so far",
    "pace": "Trials a second",
}  # fmt: skip
TRAINING_PLOTS = {
    "loss": "Loss by samples", "measures": "Measures by samples", "samples_pace": "Samples a second",
    "updates_pace": "Updates a second", "staleness": "Staleness of pushes", "shares": "What takes the time",
}  # fmt: skip
"""Names of plots."""
REPLICA_COLUMNS = ("replica", "worker", "samples", "pushes", "CPU", "memory", "workers lost")


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
        self._told = Checkbox(label="Numbers of the plots as tables")
        self._told.on_change("active", lambda attribute, old, new: self._tell_numbers())
        self._numbers = Div(sizing_mode="stretch_width", stylesheets=[CARDS])
        self._drawn: tuple[str, float, bool] | None = None
        self.root = column(
            row(self._choice, sizing_mode="stretch_width"),
            self._head,
            self._training.root,
            self._study.root,
            self._told,
            self._numbers,
            sizing_mode="stretch_width",
        )

    def _tell_numbers(self) -> None:
        """Show the numbers of the plots that are seen, if they are wanted."""
        shown = [one for one in (self._training, self._study) if one.root.visible]
        self._numbers.text = numbers_as_text(shown[0].plots) if shown and self._told.active else ""

    def update(self) -> None:
        """Show the chosen run as it is now."""
        runs = self._board.runs
        self._choice.options = [(NEWEST, "the newest run"), *((run.id, _title(run)) for run in runs)]
        chosen = next((run for run in runs if run.id == self._choice.value), runs[0] if runs else None)
        self._training.root.visible = chosen is not None and chosen.kind == "training"
        self._study.root.visible = chosen is not None and chosen.kind == "study"
        latest = None if chosen is None else (chosen.id, chosen.heard_at, chosen.is_silent)
        if latest is not None and latest == self._drawn:
            return
        self._drawn = latest
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
        self._tell_numbers()


def _title(run: Run) -> str:
    return f"{run.kind}: {run.name} ({run.state})"


class TrainingPanel:
    """Figures and replicas of a parallel training."""

    def __init__(self) -> None:
        self._figures = TrainingFigures(HEIGHT)
        self._workers = Div(sizing_mode="stretch_width", stylesheets=[CARDS])
        self.plots: Mapping[str, figure] = self._figures.figures
        for name, plot in self.plots.items():
            _still(plot, TRAINING_PLOTS[name])
        order = (("loss", "measures"), ("samples_pace", "updates_pace"), ("staleness", "shares"))
        plots = [[self._figures.figures[name] for name in names] for names in order]
        self.root = column(
            grid(plots, sizing_mode="stretch_width"),
            self._workers,
            sizing_mode="stretch_width",
            visible=False,
        )

    def show(self, numbers: TrainingNumbers, workers: Mapping[str, Any]) -> list[tuple[str, str, str]]:
        """Draw a training and return its headline.

        Parameters
        ----------
        workers
            {address: what the scheduler knows of the worker}.
        """
        self._figures.fill(numbers)
        rows = [replica_row(one, workers.get(one.worker)) for one in numbers.replicas]
        lost = [f"after {at_s:.0f} s: replica {number} with {name}" for at_s, number, name in numbers.lost]
        text = table(REPLICA_COLUMNS, rows, texts=("worker",))
        if lost:
            text += f"<h2>Lost workers</h2><p>{'<br>'.join(escape(one) for one in lost)}</p>"
        self._workers.text = text + facts(numbers.about)
        return training_headline(numbers)


class StudyPanel:
    """Figures of a study."""

    def __init__(self) -> None:
        self._figures = StudyFigures(HEIGHT)
        self._failures = Div(sizing_mode="stretch_width", stylesheets=[CARDS])
        drawn = self._figures.figures
        self.plots: Mapping[str, figure] = drawn
        for name, plot in drawn.items():
            _still(plot, STUDY_PLOTS[name])
        self.root = column(
            drawn["cells"],
            grid([[drawn["best"], drawn["pace"]]], sizing_mode="stretch_width"),
            self._failures,
            sizing_mode="stretch_width",
            visible=False,
        )

    def show(self, numbers: StudyNumbers) -> list[tuple[str, str, str]]:
        """Draw a study and return its headline."""
        self._figures.fill(numbers)
        rows = [(kind, f"{count:,}") for kind, count in numbers.failures]
        failures = table(("failures", "designs"), rows, texts=("failures",)) if rows else ""
        best = f"<h2>Best so far</h2>{escape(numbers.best_design)}" if numbers.best_design else ""
        self._failures.text = best + failures + facts(numbers.about)
        return study_headline(numbers)


def numbers_as_text(plots: Mapping[str, figure]) -> str:
    """Return the numbers of plots as tables in HTML, under the plots' names."""
    told = []
    for plot in plots.values():
        name = plot.html_attributes["aria-label"]
        for found in numbers_of(plot, most=MOST_ROWS):
            rows = [["" if value is None else str(value) for value in row] for row in found.rows]
            more = f"<p>and {found.left_out:,} more</p>" if found.left_out else ""
            told.append(f"<h2>{escape(name)}</h2>{table(found.columns, rows)}{more}")
    return "".join(told) or "<p>No numbers yet.</p>"


def _still(plot: figure, name: str) -> None:
    """Name a plot, and leave it without tools but the pointer's.

    Moved by hand, it would no longer follow its numbers.
    """
    plot.html_attributes = {"role": "img", "aria-label": name}
    plot.toolbar.active_drag = None
    plot.toolbar.visible = False


def replica_row(replica: ReplicaNumbers, worker: Any) -> tuple[str, ...]:
    """Return a replica's row; of its worker what the last heartbeat told the scheduler."""
    metrics = getattr(worker, "metrics", None) or {}
    cpu, memory = metrics.get("cpu"), metrics.get("memory")
    return (
        str(replica.replica),
        replica.worker,
        f"{replica.samples:,}",
        f"{replica.pushes:,}",
        f"{cpu:.0f} %" if cpu is not None else "–",
        memory_in_words(memory if memory is not None else replica.resident_bytes, replica.gpu_bytes),
        str(replica.starts - 1),
    )


class StudyFigures:
    """Figures by name, whose sources `fill` gives numbers."""

    def __init__(self, height: int) -> None:
        names = ("left", "right", "bottom", "top", "alpha", "layers", "count")
        self._cells = ColumnDataSource({name: [] for name in names})
        self._best = ColumnDataSource({"x": [], "y": []})
        self._pace = ColumnDataSource({"x": [], "y": []})
        self.figures: dict[str, figure] = {
            "cells": quads(canvas(x="hidden layers", y="accuracy", height=height + 40), self._cells, CELL),
            "best": _best_figure(self._best, height),
            "pace": pace_figure(self._pace, "trials a second", height),
        }

    def fill(self, numbers: StudyNumbers) -> None:
        """Draw other numbers."""
        width, height = numbers.cell_size
        most: dict[int, int] = {}  # of each depth, so that depths with few trials show as well
        for depth, _, count in numbers.cells:
            most[depth] = max(count, most.get(depth, 0))
        self._cells.data = {
            "left": [depth - HALF for depth, *_ in numbers.cells],
            "right": [depth + width - 1 + HALF for depth, *_ in numbers.cells],
            "bottom": [accuracy for _, accuracy, _ in numbers.cells],
            "top": [accuracy + height for _, accuracy, _ in numbers.cells],
            "alpha": [0.2 + 0.8 * count / most[depth] for depth, _, count in numbers.cells],
            "layers": [f"{x}" if width == 1 else f"{x} to {x + width - 1}" for x, *_ in numbers.cells],
            "count": [count for *_, count in numbers.cells],
        }
        end = numbers.completed + numbers.failed
        best = [*numbers.best, *([(end, numbers.best[-1][1])] if numbers.best else [])]
        self._best.data = {"x": [x for x, _ in best], "y": [y for _, y in best]}
        self._pace.data = {"x": [x for x, _ in numbers.pace], "y": [y for _, y in numbers.pace]}


def _best_figure(source: ColumnDataSource, height: int) -> figure:
    plot = canvas(x="trials", y="best accuracy so far", height=height)
    line = plot.step("x", "y", source=source, mode="after", color=GREEN, line_width=2.4)
    plot.xaxis.formatter = NumeralTickFormatter(format="0,0")
    rows = [("trial", "@x{0,0}"), ("accuracy", "@y{0.0000}")]
    plot.add_tools(HoverTool(renderers=[line], tooltips=rows))
    return plot
