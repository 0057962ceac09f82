"""The live page: what runs tell the scheduler, what a browser sees of it, and runs that go on without it."""

import logging
import pickle
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import keras
import numpy as np
import pytest
from distributed import Client, LocalCluster

from dnnflow.api import run_study, train
from dnnflow.events import (
    Event,
    Notice,
    StudyBegun,
    TrainingBegun,
    TrainingProgress,
    TrialResult,
    TrialsEnded,
    announced,
)
from dnnflow.pipeline.pipeline_file import load_pipeline
from dnnflow.show.live import plugin
from dnnflow.show.live.board import RUNS, SILENT_S, Board, Run
from dnnflow.show.live.listening import LOG, listening, open_page
from dnnflow.show.live.study_tally import MOST_CELLS, MOST_MOMENTS, StudyTally
from dnnflow.show.run_numbers import StudyNumbers, TrainingNumbers, pace_of, study_headline, thinned
from tests.browser import TEXTS, browser
from tests.conftest import PIPELINES

ROWS = 400
SOURCES = """(name) => [...Bokeh.documents[0]._all_models.values()]
    .filter(model => model.type === "ColumnDataSource" && name in model.data)
    .map(model => [...model.data[name]])"""
"""Gives the column of a name, of each source that has it."""


def counted(total: int) -> str:
    """Return a script that says whether a histogram holds so many; figures may follow words by an update."""
    return f"({SOURCES})('count').some(found => found.reduce((a, b) => a + b, 0) === {total})"


# Numbers


def test_a_pace_is_the_slope_of_a_count() -> None:
    steady = [(float(second), 50.0 * second) for second in range(1001)]
    pace = pace_of(steady, bins=100)
    assert len(pace) == 100
    assert np.allclose([value for _, value in pace], 50.0)
    assert pace[0][0] == 5.0
    assert pace_of([]) == []
    assert pace_of([(3.0, 9.0)]) == []  # of one moment nothing is known


def test_a_pace_keeps_the_whole_count() -> None:
    moments = [(0.0, 0.0), (0.3, 7.0), (5.1, 90.0), (5.2, 91.0), (17.0, 400.0)]
    pace = pace_of(moments)
    assert sum(value for _, value in pace) * 17.0 / len(pace) == pytest.approx(400.0)


def test_thinning_keeps_the_ends() -> None:
    kept = thinned(10_000, 50)
    assert len(kept) == 50
    assert (kept[0], kept[-1]) == (0, 9_999)
    assert thinned(3, 50) == [0, 1, 2]


def test_a_tally_counts_every_trial_once() -> None:
    tally = StudyTally(10)
    tally.add([TrialResult(1, 0.5, "", lambda: "first")])
    tally.begin()
    tally.add([TrialResult(2, 0.9, "", lambda: "second"), TrialResult(2, 0.7, "", lambda: "worse")])
    tally.add([TrialResult(3, None, "DivergedError", str), TrialResult(3, None, "", str)])
    numbers = tally.numbers()
    assert (numbers.total, numbers.completed, numbers.failed) == (10, 3, 2)
    assert numbers.best == ((1, 0.5), (2, 0.9))
    assert numbers.best_design == "second"
    assert dict(numbers.failures) == {"DivergedError": 1, "lost": 1}
    assert sorted(numbers.cells) == [(1, 0.5, 1), (2, pytest.approx(0.7), 1), (2, pytest.approx(0.9), 1)]
    ((middle_s, rate),) = numbers.pace
    assert 2 * middle_s * rate == pytest.approx(4)  # of this run
    assert ("waiting", "5", "designs") in study_headline(numbers)


def test_fifty_thousand_trials_stay_small_and_keep_their_places() -> None:
    tally, generator = StudyTally(50_000), np.random.default_rng(0)
    depths = generator.integers(1, 1001, 50_000)
    accuracies = generator.uniform(0, 1, 50_000)
    start_s = time.perf_counter()
    for depth, accuracy in zip(depths.tolist(), accuracies.tolist(), strict=True):
        tally.add([TrialResult(depth, accuracy, "", str)])
    assert time.perf_counter() - start_s < 10
    for _ in range(2 * MOST_MOMENTS):
        tally.tick()
    numbers = tally.numbers()
    assert len(numbers.cells) <= MOST_CELLS
    assert sum(count for *_, count in numbers.cells) == 50_000
    width, height = numbers.cell_size
    counted = {(x // width, round(y / height)): count for x, y, count in numbers.cells}
    expected = np.sum((depths // width == 1) & ((accuracies / height + 1e-9).astype(int) == 2))
    assert counted.get((1, 2), 0) == expected
    assert len(pickle.dumps(numbers.to_dict())) < 100_000  # bytes a second to the scheduler


def test_numbers_of_another_version_are_read_as_far_as_they_are_known() -> None:
    told = TrainingNumbers(samples=7).to_dict()
    told["replicas"] = [{"replica": 3, "news": 1}]
    read = TrainingNumbers.from_dict({**told, "news": 1})
    assert (read.samples, read.replicas[0].replica) == (7, 3)
    assert StudyNumbers.from_dict({}).total == 0


# The board


def test_a_board_forgets_what_ended_first_and_nothing_that_runs() -> None:
    board = Board()
    board.show("alive", "study", "alive", "running", {})
    for number in range(RUNS + 5):
        board.show(f"run {number}", "training", "", "running", {})
        board.show(f"run {number}", "training", "", "finished", {"samples": number})
    kept = [run.id for run in board.runs]
    assert len(kept) == RUNS
    assert "alive" in kept
    assert "run 0" not in kept
    assert kept[0] == f"run {RUNS + 4}"


def test_a_run_that_says_nothing_is_called_silent() -> None:
    now = time.time()
    assert Run("a", "study", "", "running", {}, now, now - SILENT_S - 1).is_silent
    assert not Run("a", "study", "", "running", {}, now, now).is_silent
    assert not Run("a", "study", "", "finished", {}, now, now - SILENT_S - 1).is_silent


def test_the_schedulers_process_loads_nothing_heavy() -> None:
    code = "import dnnflow.show.live.plugin, dnnflow.show.live.page, sys; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(run.stdout.split())
    assert not loaded & {"tensorflow", "keras", "sqlalchemy", "sklearn", "numba", "zarr", "pydantic"}
    assert not {name for name in loaded if name.startswith(("dnnflow.training", "dnnflow.parallel"))}


# A browser on a real cluster


def page_of(client: Client) -> str:
    return f"{client.dashboard_link.rsplit('/', 1)[0]}/dnnflow"


def learnable() -> tuple[keras.Model, tuple[np.ndarray, np.ndarray]]:
    generator = np.random.default_rng(1)
    features = generator.normal(size=(ROWS, 6)).astype("float32")
    labels = (features @ generator.normal(size=(6, 3))).argmax(1)
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(3, "softmax")], name="watched")
    model.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model, (features, labels)


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_sees_a_training_run_and_end(client: Client) -> None:
    model, data = learnable()
    texts: list[str] = []
    notices: list[str] = []
    with browser() as tab:

        def look(event: Event) -> None:
            if isinstance(event, Notice):
                notices.append(event.message)
            if isinstance(event, TrainingProgress) and event.measures:
                if not texts:
                    tab.open(page_of(client))
                    tab.wait(f"({TEXTS}).includes('val accuracy')")
                texts.append(tab.value(TEXTS))  # not waited for: the driver would stand still meanwhile

        trained = train(model, data, validation=data, replicas=2, epochs=150, batch_size=20, client=client,
                        validate_every=ROWS, listener=look)  # fmt: skip
        history = trained["history"]
        assert f"live page {page_of(client)}" in notices
        assert texts, "the training ended before it was looked at"
        for word in ("watched, 2 layers: downpour, asynchronous, 2 replicas", "running", "samples a second",
                     "mean staleness", "replica 0", "replica 1", "tcp://127.0.0.1"):  # fmt: skip
            assert any(word in text for text in texts), word
        tab.wait(f"(text => text.includes('finished') && text.includes('{history.samples:,}'))({TEXTS})")
        tab.wait(counted(sum(history.staleness.values())))


@pytest.mark.slow
@pytest.mark.browser
def test_a_browser_sees_a_study(client: Client, settings) -> None:
    tiny = ("space.epochs=1", "space.seed=0", "designs=8", "strategy=random", "training.engine=keras")
    study = run_study(load_pipeline(PIPELINES / "iris.yaml", list(tiny)), client, settings=settings)
    trials = study.trials()
    best = trials["score"].max()
    with browser() as tab:
        tab.open(page_of(client))
        text = tab.wait(f"(text => text.includes('designs trained') && text)({TEXTS})")
        tab.wait(counted(8))
        layers = tab.value(f"({SOURCES})('layers')")
    for word in (study.record.name, "finished", "100 % of 8", f"{best:.4f}"):
        assert word in text
    assert {int(depth) for column in layers for depth in column} == set(trials["depth"].astype(int))


# Without a page


@contextmanager
def scheduler(**options: Any) -> Iterator[Client]:
    """Yield a client of a scheduler in this process, without workers."""
    with (
        LocalCluster(n_workers=0, host="127.0.0.1", dashboard_address="127.0.0.1:0", **options) as cluster,
        Client(cluster, set_as_default=False) as opened,
    ):
        yield opened


@pytest.fixture
def bare() -> Iterator[Client]:
    """A client of a scheduler without a dashboard."""
    with scheduler(scheduler_kwargs={"dashboard": False}) as opened:
        yield opened


@pytest.fixture
def served() -> Iterator[Client]:
    """A client of a scheduler with a dashboard."""
    with scheduler() as opened:
        yield opened


def begun(client: Client | None) -> StudyBegun:
    return StudyBegun("a run", (), 2, (TrialResult(1, 0.5, "", str),), client)


def ran(client: Client) -> list[str]:
    """Return the notices of a run that tells of itself and ends well; nothing else is heard of it."""
    told: list[Event] = []
    with listening(told.append) as listener, announced(begun(client), listener):
        listener(TrialsEnded([TrialResult(1, 0.75, "", str)]))
    assert all(isinstance(event, Notice) for event in told)
    return [event.message for event in told if isinstance(event, Notice)]


def test_the_page_is_added_once(served: Client) -> None:
    applications = served.cluster.scheduler.http_application.applications
    before = len(applications)
    assert ran(served) == ran(served) == [f"live page {page_of(served)}"]
    assert len(applications) == before + 1
    board = served.cluster.scheduler.plugins["dnnflow-live"]._board
    assert [(run.name, run.state) for run in board.runs] == [("a run", "finished")] * 2
    assert {run.numbers["completed"] for run in board.runs} == {2}
    assert {run.numbers["best"] for run in board.runs} == {((1, 0.5), (2, 0.75))}


def test_a_run_that_fails_is_shown_as_failed(served: Client) -> None:
    with pytest.raises(ZeroDivisionError), listening() as listener, announced(begun(served), listener):
        raise ZeroDivisionError
    with listening() as listener:
        listener(begun(served))  # and says no more
    board = served.cluster.scheduler.plugins["dnnflow-live"]._board
    assert [run.state for run in board.runs] == ["failed"] * 2


def test_a_cluster_without_a_dashboard_only_gets_a_notice(bare: Client) -> None:
    (notice,) = ran(bare)
    assert notice.startswith("no live page")
    assert ran(bare) == [notice]


def test_a_dashboard_with_another_inside_only_gets_a_notice(
    served: Client, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("distributed.dashboard.core.BokehApplication", None)
    with caplog.at_level(logging.WARNING, logger=LOG.name):
        notices = [ran(served), ran(served)]
    assert notices[0] == notices[1]
    assert "no live page, the run goes on without: TypeError" in notices[0][0]
    assert [record.levelname for record in caplog.records if record.name == LOG.name] == ["WARNING"]


class Foreign(plugin.LivePage):
    """What a scheduler cannot import."""

    def __reduce__(self) -> Any:
        return import_module, ("dnnflow_is_not_installed",)


@pytest.mark.filterwarnings("ignore")
def test_a_scheduler_without_dnnflow_only_gets_a_notice(
    served: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(plugin, "LivePage", Foreign)
    (notice,) = ran(served)
    assert notice.startswith("no live page")
    assert "dnnflow_is_not_installed" in notice


def test_numbers_that_cannot_be_made_are_logged_once_and_stop_no_run(
    served: Client, caplog: pytest.LogCaptureFixture
) -> None:
    def broken() -> Any:
        raise ValueError("no numbers")

    run = TrainingBegun("a run", served, broken)
    with caplog.at_level(logging.WARNING, logger=LOG.name), listening() as listener, announced(run, listener):
        time.sleep(0.2)
    assert [record.getMessage() for record in caplog.records if record.name == LOG.name] == [
        "the live page hears no more of this run: no numbers"
    ]


def test_without_a_client_there_is_nothing_to_say() -> None:
    told: list[Event] = []
    with listening(told.append) as listener, announced(begun(None), listener):
        listener(TrialsEnded([TrialResult(1, 0.75, "", str)]))
    assert told == []


def test_the_address_is_beside_the_dashboards(served: Client) -> None:
    assert open_page(served) == page_of(served)
