"""Results of studies, computed once for all that look at them."""

import json
import threading
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from dnnflow.errors import NotFoundError
from dnnflow.results.store.store import Store
from dnnflow.results.store.study_record import StudyRecord, StudyState
from dnnflow.results.view.study_view import StudyView, load_view

if TYPE_CHECKING:
    from dnnflow.web.answers.views import Views

MOST_KEPT = 4
"""Studies whose results are kept in memory."""
COST_FACTOR = 10.0
"""Results of a running study are computed anew after so many times what computing them took."""
LIVE_PLOTS = {"live-accuracy": ("accuracy", "test accuracy"), "live-time": ("time", "training time, s")}


@dataclass
class Kept:
    """Results of one study."""

    view: StudyView
    stored: int
    state: StudyState
    cost_s: float
    at_s: float
    plots: dict[str, str] | None = None
    """Bokeh's JSON by name, made when first asked for."""
    report: str | None = None
    lock: threading.Lock = field(default_factory=threading.Lock)


class Results:
    """Computes and keeps what `dnnflow.results.view.study_view` and `dnnflow.report` make of studies.

    Safe for threads; one study is computed at a time. Methods block.
    """

    def __init__(self, store: Store, views: "Views") -> None:
        self._store, self._views = store, views
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

    def plot_names(self, study_id: str) -> list[str]:
        """Return the names of the plots that a study has numbers for."""
        return [*self._plots(study_id), *LIVE_PLOTS]

    def plot(self, study_id: str, name: str) -> str:
        """Return a plot as the JSON that `Bokeh.embed.embed_item` takes.

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
        from dnnflow.show.study_report import render_report

        kept = self._get(study_id)
        with kept.lock:
            if kept.report is None:
                kept.report = render_report(kept.view)
            return kept.report

    def _plots(self, study_id: str) -> dict[str, str]:
        from bokeh.embed import json_item

        from dnnflow.show.study_report import draw

        kept = self._get(study_id)
        with kept.lock:
            if kept.plots is None:
                drawn = draw(kept.view)
                kept.plots = {name: json.dumps(json_item(plot)) for name, plot in drawn.items()}
            return kept.plots

    def _live_plot(self, study_id: str, name: str) -> str:
        from bokeh.embed import json_item

        from dnnflow.web.answers.live_figures import grid_figure

        field_name, measure = LIVE_PLOTS[name]
        record = self._views.stored(study_id)
        live = self._views.counted(record).live
        cells = live.accuracy if field_name == "accuracy" else live.time
        if cells is None:
            raise NotFoundError(
                f"a plot needs a completed trial, got a study without one: {study_id}; wait for it"
            )
        return json.dumps(json_item(grid_figure(cells, measure=measure)))

    def _get(self, study_id: str) -> Kept:
        record = self._views.stored(study_id)
        stored = self._views.counted(record).stored
        with self._lock:
            kept = self._fresh(record, stored)
        if kept is None:
            with self._computing:
                with self._lock:
                    kept = self._fresh(record, stored)
                kept = kept or self._compute(record)
        return kept

    def _fresh(self, record: StudyRecord, stored: int) -> Kept | None:
        kept = self._kept.get(record.study_id)
        if kept is None:
            return None
        self._kept.move_to_end(record.study_id)
        same = kept.stored == stored and kept.state is record.state
        young = time.monotonic() - kept.at_s < COST_FACTOR * kept.cost_s
        return (
            kept if same or (young and record.state is StudyState.RUNNING and kept.stored <= stored) else None
        )

    def _compute(self, record: StudyRecord) -> Kept:
        start_s = time.monotonic()
        view = load_view(self._store, record.study_id)
        now = time.monotonic()
        kept = Kept(view, sum(view.counts.values()), view.record.state, now - start_s, now)
        with self._lock:
            self._kept[record.study_id] = kept
            self._kept.move_to_end(record.study_id)
            while len(self._kept) > MOST_KEPT:
                self._kept.popitem(last=False)
        return kept
