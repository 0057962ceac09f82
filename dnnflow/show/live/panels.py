"""What the live page draws of a training, and of a study."""

from collections.abc import Mapping
from html import escape
from typing import Any

from bokeh.layouts import column, grid
from bokeh.models import Div
from bokeh.plotting import figure

from dnnflow.show.live.live_study_figures import StudyFigures, study_headline
from dnnflow.show.live.style import CARDS, facts, table
from dnnflow.show.run_numbers import ReplicaNumbers, StudyNumbers, TrainingNumbers
from dnnflow.show.training_figures import TrainingFigures
from dnnflow.show.training_tables import headline
from dnnflow.show.wording import memory_in_words

HEIGHT = 290
REPLICA_COLUMNS = ("replica", "worker", "samples", "pushes", "CPU", "memory", "workers lost")


class TrainingPanel:
    """Figures and replicas of a parallel training."""

    def __init__(self) -> None:
        self._figures = TrainingFigures(HEIGHT)
        self._workers = Div(sizing_mode="stretch_width", stylesheets=[CARDS])
        for plot in self._figures.figures.values():
            _still(plot)
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
        told = table(REPLICA_COLUMNS, rows, texts=("worker",))
        if lost:
            told += f"<h2>Lost workers</h2><p>{'<br>'.join(escape(one) for one in lost)}</p>"
        self._workers.text = told + facts(numbers.about)
        return headline(numbers)


class StudyPanel:
    """Figures of a study."""

    def __init__(self) -> None:
        self._figures = StudyFigures(HEIGHT)
        self._failures = Div(sizing_mode="stretch_width", stylesheets=[CARDS])
        drawn = self._figures.figures
        for plot in drawn.values():
            _still(plot)
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
        told = table(("failures", "designs"), rows, texts=("failures",)) if rows else ""
        best = f"<h2>Best so far</h2>{escape(numbers.best_design)}" if numbers.best_design else ""
        self._failures.text = best + told + facts(numbers.about)
        return study_headline(numbers)


def _still(plot: figure) -> None:
    """Leave a plot without tools but the pointer's: moved by hand, it would no longer follow its numbers."""
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
        str(replica.lives - 1),
    )
