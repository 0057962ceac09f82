"""Compute results of studies once for all that look at them, and compare two studies."""

import json
import threading
import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from bokeh.embed import json_item
from bokeh.models import ColumnDataSource
from bokeh.plotting import figure

from dnnflow.errors import NotFoundError
from dnnflow.paths import Workspace
from dnnflow.results.store.run_record import RunRecord, RunState
from dnnflow.results.store.store import Store
from dnnflow.results.view.intervals import equal_within_noise
from dnnflow.results.view.study_view import StudyView, load_view
from dnnflow.show.canvas import canvas, quads, shades
from dnnflow.show.plot_numbers import legend_of, numbers_of
from dnnflow.show.report import render_report
from dnnflow.show.study_figures import draw_study
from dnnflow.web.answers.views import Views
from dnnflow.web.contract.replies import CellGrid, Compared, Comparison, Difference
from dnnflow.web.contract.trial_replies import PlotNumbers, PlotTable

MOST_KEPT = 4
"""Studies whose results are kept in memory."""
COST_FACTOR = 10.0
"""Results of a running study are computed anew after so many times what computing them took."""
QUICK = 5_000
"""Trials up to which results are computed while a page waits for them."""
PLACES = 10
"""Of a leaderboard, in a comparison."""
MOST_DIFFERENCES = 200
HIDDEN = ("dataset.source", "evaluation.test_source", "dataset.storage_options")
"""Of pipelines, what is not compared: places of the server."""
LIVE_PLOTS = {"live-score": ("score", "accuracy"), "live-time": ("time", "training time, s")}


@dataclass(frozen=True)
class DrawnPlot:
    """A plot for those who see it, and for those who do not."""

    item: str
    """The JSON that `Bokeh.embed.embed_item` takes."""
    numbers: PlotNumbers


def drawn(plot: figure) -> DrawnPlot:
    """Return a plot as pages need it."""
    tables = [PlotTable.model_validate(one, from_attributes=True) for one in numbers_of(plot)]
    return DrawnPlot(json.dumps(json_item(plot)), PlotNumbers(legend=list(legend_of(plot)), tables=tables))


@dataclass
class Kept:
    """Results of one study."""

    view: StudyView
    stored: int
    state: RunState
    outcome: Mapping[str, Any] | None
    """Of the study's row: what is measured on test rows comes after the last trial."""
    cost_s: float
    at_s: float
    plots: dict[str, DrawnPlot] | None = None
    """By name, made when first asked for."""
    report: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Results:
    """Computes and keeps what `results/view` and `show` make of studies.

    Safe for threads; one study is computed at a time. Methods block.
    """

    def __init__(self, store: Store, views: Views, workspace: Workspace) -> None:
        self._store, self.views, self._workspace = store, views, workspace
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._computing = threading.Lock()
        self._lock = threading.Lock()

    def view(self, study_id: str) -> StudyView:
        """Return all numbers of a study.

        Raises
        ------
        NotFoundError
            If it has not begun, or there is none.
        """
        return self._get(study_id).view

    def quick_view(self, study_id: str) -> StudyView | None:
        """Return all numbers of a study; None where that may take seconds, or it has not begun."""
        record = self._store.find(study_id)
        if record is None or not record.has_designs:
            return None
        stored = self.views.counted(record).stored
        with self._lock:
            kept = self._fresh(record, stored)
        if kept is not None:
            return kept.view
        return self.view(study_id) if stored <= QUICK else None

    def plot_names(self, study_id: str) -> list[str]:
        """Return the names of the plots that a study has numbers for."""
        return [*self._plots(study_id), *LIVE_PLOTS]

    def plot(self, study_id: str, name: str) -> DrawnPlot:
        """Return a plot.

        Raises
        ------
        NotFoundError
            If the study has no numbers for it.
        """
        if name in LIVE_PLOTS:
            return self._live_plot(study_id, name)
        plots = self._plots(study_id)
        if name not in plots:
            known = ", ".join([*plots, *LIVE_PLOTS])
            raise NotFoundError(
                f"a plot must be one that the study has numbers for ({known}), got {name[:64]!r}; "
                "wait for trials"
            )
        return plots[name]

    def report(self, study_id: str) -> str:
        """Return a study's report as HTML text, as it stands now."""
        kept = self._get(study_id)
        with kept.lock:
            if kept.report is None:
                kept.report = render_report(kept.view)
            return kept.report

    def _plots(self, study_id: str) -> dict[str, DrawnPlot]:
        kept = self._get(study_id)
        with kept.lock:
            if kept.plots is None:
                kept.plots = {name: drawn(plot) for name, plot in draw_study(kept.view).items()}
            return kept.plots

    def _live_plot(self, study_id: str, name: str) -> DrawnPlot:
        field_name, measure = LIVE_PLOTS[name]
        record = self.views.stored(study_id)
        live = self.views.counted(record).live
        cells = live.score if field_name == "score" else live.time
        if cells is None:
            raise NotFoundError(
                f"a plot needs a completed trial, got a study without one: {study_id}; wait for it"
            )
        return drawn(grid_figure(cells, measure=measure))

    def _get(self, study_id: str) -> Kept:
        record = self.views.stored(study_id)
        stored = self.views.counted(record).stored
        with self._lock:
            kept = self._fresh(record, stored)
        if kept is None:
            with self._computing:
                with self._lock:
                    kept = self._fresh(record, stored)
                kept = kept or self._compute(record)
        return kept

    def _fresh(self, record: RunRecord, stored: int) -> Kept | None:
        kept = self._kept.get(record.study_id)
        if kept is None:
            return None
        self._kept.move_to_end(record.study_id)
        same = kept.stored == stored and kept.state is record.state and kept.outcome == record.outcome
        young = time.monotonic() - kept.at_s < COST_FACTOR * kept.cost_s
        return (
            kept if same or (young and record.state is RunState.RUNNING and kept.stored <= stored) else None
        )

    def _compute(self, record: RunRecord) -> Kept:
        start_s = time.monotonic()
        view = load_view(self._store, record.study_id, self._workspace)
        now = time.monotonic()
        kept = Kept(
            view, sum(view.counts.values()), view.record.state, view.record.outcome, now - start_s, now
        )
        with self._lock:
            self._kept[record.study_id] = kept
            self._kept.move_to_end(record.study_id)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return kept


def grid_figure(cells: CellGrid, *, measure: str) -> figure:
    """Draw trials counted by hidden layers and a measure; the shade is the logarithm of the count."""
    left = [cells.first_depth + x * cells.depth_width for x, _, _ in cells.cells]
    low = [cells.low + y * cells.height for _, y, _ in cells.cells]
    counts = [count for *_, count in cells.cells]
    source = ColumnDataSource(
        {
            "left": [x - 0.5 for x in left],
            "right": [x + cells.depth_width - 0.5 for x in left],
            "bottom": low,
            "top": [y + cells.height for y in low],
            "count": counts,
            "alpha": shades(counts, 0.15),
        }
    )
    rows = [("trials", "@count{0,0}"), (measure, "@bottom{0.000} – @top{0.000}")]
    return quads(canvas(x="hidden layers", y=measure), source, rows)


# ---- two studies side by side


def compare(results: Results, first: str, second: str) -> Comparison:
    """Return how two studies stand beside one another.

    Raises
    ------
    NotFoundError
        If one of them is not there.
    """
    a, b = results.view(first), results.view(second)
    return Comparison(
        a=_compared(results, first, a),
        b=_compared(results, second, b),
        same_table=a.record.dataset_id == b.record.dataset_id,
        best_difference=_difference(a, b),
        within_noise=_within_noise(a, b),
        pipeline=_differences(a.record.pipeline, b.record.pipeline),
    )


def _compared(results: Results, study_id: str, view: StudyView) -> Compared:
    return Compared(
        status=results.views.status(study_id, live=False),
        places=list(view.leaderboard[:PLACES]),
        median_score=_median(view, "score"),
        median_training_s=_median(view, "training_s"),
        measured_rows=view.measured_rows,
        majority_rate=view.majority_rate,
    )


def _median(view: StudyView, column: str) -> float | None:
    return float(view.trials[column].median()) if len(view.trials) else None


def _difference(a: StudyView, b: StudyView) -> float | None:
    if not a.leaderboard or not b.leaderboard:
        return None
    return b.leaderboard[0].score - a.leaderboard[0].score


def _within_noise(a: StudyView, b: StudyView) -> bool | None:
    """Whether the two best cannot be told apart on the smaller number of rows."""
    if not a.leaderboard or not b.leaderboard:
        return None
    rows = min(a.measured_rows, b.measured_rows)
    return bool(equal_within_noise(a.leaderboard[0].score, b.leaderboard[0].score, rows))


def _differences(a: Mapping[str, Any], b: Mapping[str, Any]) -> list[Difference]:
    left, right = dict(_flat(a)), dict(_flat(b))
    keys = [key for key in [*left, *(key for key in right if key not in left)] if not key.startswith(HIDDEN)]
    return [
        Difference(where=key, a=left.get(key), b=right.get(key))
        for key in keys
        if left.get(key) != right.get(key)
    ][:MOST_DIFFERENCES]


def _flat(value: Mapping[str, Any], where: str = "") -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    for key, item in value.items():
        found += _flat(item, f"{where}{key}.") if isinstance(item, Mapping) else [(f"{where}{key}", item)]
    return found
