"""A study shows itself in a notebook's cell, and so does the progress of a search."""

import re
import sys
from collections.abc import Iterator
from html import unescape
from types import ModuleType, SimpleNamespace

import pytest

from dnnflow.design.layers import Design, Layer
from dnnflow.engines.records import Trial, TrialState
from dnnflow.errors import NotFoundError
from dnnflow.events import Notice, Stage, StageFinished, StageStarted, TrialsStored
from dnnflow.results.store.run_record import RunRecord, RunState
from dnnflow.results.store.store import Store
from dnnflow.results.view.leaderboard_frame import leaderboard_frame
from dnnflow.results.view.study_view import StudyView, load_view
from dnnflow.show.notebook import CellProgress, figure_of, progress, study_html
from dnnflow.show.terminal import Progress

HOSTILE = "<script>alert(1)</script>"


def view_of(folder, trials: int) -> Iterator[StudyView]:
    designs = [Design((Layer(8),) * (1 + number % 3), seed=0, batch_size=8 + number) for number in range(12)]
    pairs = [
        (one, Trial(design_id=one.design_id, state=TrialState.COMPLETED, engine="keras", training_s=0.1,
                    epochs_run=3, parameters=100, score=(200 - number) / 300,
                    confusion=((100 - number, number), (100, 100))))
        for number, one in enumerate(designs)
    ]  # fmt: skip
    record = RunRecord(run_id="s1", key="k" * 64, name="twelve", state=RunState.FINISHED, n_designs=12,
                       dataset={"class_names": [HOSTILE, "b"]})  # fmt: skip
    with Store(f"sqlite:///{folder}/results.db") as store:
        store.add_study(record, designs)
        store.add_trials(record.study_id, pairs[:trials])
        yield load_view(store, record.study_id)


@pytest.fixture
def view(tmp_path) -> Iterator[StudyView]:
    yield from view_of(tmp_path, 12)


@pytest.fixture
def untrained(tmp_path) -> Iterator[StudyView]:
    yield from view_of(tmp_path, 0)


def test_a_cell_shows_leaderboard_and_plot_and_loads_nothing(view: StudyView):
    html = study_html(view)
    assert html.count("<tr>") == 11  # a header and ten places
    (page,) = re.findall(r'srcdoc="([^"]*)"', html)
    assert "default-src 'none'" in unescape(page)
    assert "Bokeh" in page
    assert "<script" not in html.replace(page, "")
    assert 'sandbox="allow-scripts"' in html


def test_a_study_without_trials_shows_what_there_is(untrained: StudyView):
    html = study_html(untrained)
    assert "<iframe" not in html
    assert "s1" in html
    assert leaderboard_frame(untrained).empty


def test_figures_are_found_by_name(view: StudyView):
    assert figure_of(view, "depth").xaxis[0].axis_label == "hidden layers"
    with pytest.raises(NotFoundError, match=r"got 'width'; there are depth, score, time"):
        figure_of(view, "width")


def test_nothing_is_drawn_of_a_study_without_trials(untrained: StudyView):
    with pytest.raises(NotFoundError, match="there are none yet"):
        figure_of(untrained, "depth")


def test_a_leaderboard_has_the_metric_as_it_is_written(view: StudyView):
    frame = leaderboard_frame(view)
    assert list(frame.columns[:5]) == ["rank", "design_id", "design", "accuracy", "score"]
    assert frame["accuracy"].is_monotonic_decreasing
    assert len(frame) == 12


class Cell:
    """What IPython's `display` module does, as far as it is used."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    HTML = staticmethod(str)

    def display(self, html: str, display_id: bool) -> "Cell":
        assert display_id
        self.shown.append(html)
        return self

    def update(self, html: str) -> None:
        self.shown.append(html)


def stored(done: int) -> TrialsStored:
    return TrialsStored(total=100, completed=done, failed=0, elapsed_s=1.0, rate=5.0, eta_s=None,
                        best_score=0.9, best_design="2 x 8 relu")  # fmt: skip


def test_progress_is_one_cell_that_is_drawn_anew():
    cell = Cell()
    hear = CellProgress(cell)
    hear(StageStarted(Stage.TRAIN, "study <s1>"))
    for done in (1, 2, 3, 100):
        hear(stored(done))
    hear(Notice("left out: column 'id'"))
    hear(StageFinished(Stage.TRAIN, "100 designs", 2.0))
    first, *_, last = cell.shown
    assert "study &lt;s1&gt;" in first
    assert [bar for html in cell.shown for bar in re.findall(r'value="(\d+)" max="100"', html)][-1] == "100"
    assert len(cell.shown) < 7  # what comes too soon is not drawn
    assert "left out: column" in last
    assert "(2.0 s)" in last


def test_a_cell_that_is_interrupted_says_how_far_it_came_and_what_goes_on(monkeypatch: pytest.MonkeyPatch):
    cell = Cell()
    monkeypatch.setattr("dnnflow.show.notebook._notebook_display", lambda: cell)

    def run() -> None:
        with progress() as hear:
            hear(stored(7))
            hear(Notice("left out: column 'id'"))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run()
    assert 'value="7" max="100"' in cell.shown[-1]
    assert "stopped; run the cell again to go on with what is missing" in cell.shown[-1]


def test_progress_is_a_terminals_outside_of_notebooks():
    with progress(quiet=True) as heard:
        assert isinstance(heard, Progress)


def test_progress_is_a_cells_in_a_notebooks_kernel(monkeypatch: pytest.MonkeyPatch):
    python = ModuleType("IPython")
    shell = type("ZMQInteractiveShell", (), {})()
    monkeypatch.setattr(python, "get_ipython", lambda: shell, raising=False)
    monkeypatch.setitem(sys.modules, "IPython", python)
    monkeypatch.setitem(sys.modules, "IPython.display", SimpleNamespace())
    with progress() as heard:
        assert isinstance(heard, CellProgress)
