"""A run has one row, from when it is asked for: what it is at, how it ended, and no more rows than runs."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from dnnflow.api import execute, open_study, run_study
from dnnflow.errors import ConflictError, DataError, StoreError, StudyError, StudyStopped
from dnnflow.events import Command, Event, Stage, StageStarted, TrainingProgress, ignore
from dnnflow.pipeline.pipeline_file import load_pipeline
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.results.store.run_record import Driver, RunKind, RunRecord, RunState
from dnnflow.results.store.store import Store
from dnnflow.run.run import StudyRun, TrainingRun
from dnnflow.run.run_row import recorded
from dnnflow.settings import Settings
from tests.conftest import PIPELINES, begin_study

IRIS = PIPELINES / "iris.yaml"
TINY = ("executor.kind=in-process", "space.epochs=1", "space.seed=0", "designs=2", "strategy=random",
        "training.engine=keras", "outputs.models=0")  # fmt: skip


def iris(*overrides: str) -> Pipeline:
    return load_pipeline(IRIS, [*TINY, *overrides])


@pytest.fixture
def rows(settings: Settings) -> Callable[[], list[RunRecord]]:
    """Read all rows."""
    return lambda: Store(settings.store_url).runs()


def test_a_study_has_its_row_before_its_table_is_read(
    settings: Settings, rows: Callable[[], list[RunRecord]]
) -> None:
    seen = list[RunRecord]()

    def look(event: Event) -> None:
        if isinstance(event, StageStarted):
            [row] = rows()
            seen.append(row)

    study = run_study(iris(), settings=settings, listener=look)
    assert {row.run_id for row in seen} == {study.id}
    assert all(row.is_driven for row in seen)
    stages = ["upload", "preprocess", "train", "aggregate", "finalists", "test", "final", "report"]
    assert [str(row.stage).partition(":")[0] for row in seen] == stages
    assert [row.has_designs for row in seen] == [False, False, *[True] * 6]
    assert [row.state.value for row in seen] == ["running"] * 8
    [row] = rows()
    assert (row.state, row.error, row.is_driven) == (RunState.FINISHED, None, False)
    assert row.created_at <= str(row.started_at) <= str(row.ended_at)
    assert row.progress
    assert row.progress["completed"] == 2


def test_a_run_that_goes_on_with_a_study_leaves_no_row_of_its_own(
    settings: Settings, rows: Callable[[], list[RunRecord]]
) -> None:
    begun = begin_study(iris(), settings)
    assert run_study(iris(), settings=settings).id == begun.id
    before = rows()
    assert run_study(iris(), settings=settings).id == begun.id  # finished before
    assert rows() == before
    assert [row.run_id for row in before] == [begun.id]


def test_a_run_that_fails_says_why_in_its_row(
    settings: Settings, rows: Callable[[], list[RunRecord]]
) -> None:
    with pytest.raises(DataError):
        run_study(iris("dataset.label=specis"), settings=settings)
    [row] = rows()
    assert (row.state, row.is_driven, row.has_designs) == (RunState.FAILED, False, False)
    assert "specis" in str(row.error)
    assert not Store(settings.store_url).studies(), "it is no study yet"
    useless = run_study(iris("training.time_limit_s=0.000001"), settings=settings)
    assert "got 2 failures of TimeLimitError" in str(useless.record.error)
    assert (useless.record.state, useless.is_trained) == (RunState.FAILED, True)


def test_a_run_that_is_interrupted_is_stopped_and_goes_on(settings: Settings) -> None:
    def interrupt(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage.value == "train":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_study(iris(), settings=settings, listener=interrupt)
    [row] = Store(settings.store_url).studies()
    assert (row.state, row.error) == (RunState.STOPPED, None)
    assert row.ended_at is not None
    study = open_study(row.run_id, settings=settings).resume()
    assert study.record.state is RunState.FINISHED


def test_credentials_of_a_run_in_this_process_are_not_stored(
    settings: Settings, rows: Callable[[], list[RunRecord]]
) -> None:
    """Of one that waits they are: another process runs it."""
    secret = iris("dataset.storage_options={token: abc-secret}", "dataset.source=memory://none.csv")
    with pytest.raises(DataError):
        run_study(secret, settings=settings)
    [row] = rows()
    asked_for = Store(settings.store_url).request(row.run_id)
    assert asked_for["dataset"]["storage_options"] == {"token": "…"}


def test_a_study_that_is_cancelled_while_its_table_is_read_stops_as_it_begins(settings: Settings) -> None:
    store = Store(settings.store_url)

    def cancel(event: Event) -> None:
        if isinstance(event, StageStarted) and event.stage is Stage.PREPROCESS:
            [row] = [row for row in store.runs() if row.is_driven]
            store.send_command(row.run_id, Command.CANCEL)

    for _ in range(2):  # a new study, and one that goes on
        with pytest.raises(StudyStopped, match="with 0 of 2 designs trained"):
            run_study(iris(), settings=settings, listener=cancel)
        [row] = store.runs()
        assert row.state is RunState.STOPPED


def _hear_and_cancel(run: TrainingRun, progress: TrainingProgress) -> None:
    with recorded(run) as row:
        row(progress)
        Store(run.settings.store_url).send_command("t1", Command.CANCEL)
        row._told_s = 0.0  # a second later
        row(progress)


def test_a_training_that_is_cancelled_stops(settings: Settings) -> None:
    pipeline = TrainPipeline.model_validate({"name": "t", "model": {"source": "m"}, "data": {"source": "d"}})
    progress = TrainingProgress(1, 10, 0.1, 10.0, None, {}, 1)
    with pytest.raises(StudyStopped, match="request to stop training t1"):
        _hear_and_cancel(TrainingRun(pipeline, settings, "t1"), progress)
    assert Store(settings.store_url).run("t1").state is RunState.STOPPED


@pytest.mark.parametrize("moment", ["start", "driving", "drop", "set_state"])
def test_a_run_that_is_interrupted_at_any_moment_has_stopped(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Also between the making of its row and this process' claim to it."""
    doing = getattr(Store, moment)

    def interrupted(self: Store, *given: Any) -> Any:
        if moment == "start":
            doing(self, *given)
        raise KeyboardInterrupt

    monkeypatch.setattr(Store, moment, interrupted)
    known = begin_study(iris(), settings) if moment == "drop" else None
    with pytest.raises(KeyboardInterrupt):
        run_study(iris(), settings=settings, listener=ignore)
    monkeypatch.undo()
    states = {row.run_id: row.standing for row in Store(settings.store_url).runs()}
    assert set(states.values()) == {RunState.STOPPED}
    assert not any(row.is_driven for row in Store(settings.store_url).runs())
    assert known is None or known.id in states


def test_a_run_that_is_refused_leaves_others_alone(settings: Settings) -> None:
    """Neither the study that has its id, nor the one that another process trains."""
    begun = begin_study(iris(), settings)
    before = begun.record
    with pytest.raises(ConflictError, match="which another study has"):
        execute(StudyRun(iris("designs=3"), settings, study_id=begun.id))
    assert begun.record == before
    mine, parent = Driver.this_process(), psutil.Process(os.getppid())
    begun.store.claim(begun.id, Driver(mine.host, parent.pid, parent.create_time()))
    driven = begun.record
    for run in (StudyRun(iris(), settings), StudyRun.resumed(begun)):
        with pytest.raises(StudyError, match="driven by one process at a time"):
            execute(run)
    assert begun.record == driven
    assert len(begun.store.runs()) == 1


def test_a_store_that_is_away_for_a_moment_stops_no_run(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[Event] = []
    with recorded(StudyRun(iris(), settings), heard.append) as row:
        with monkeypatch.context() as away:

            def refuse(*_: Any, **__: Any) -> None:
                raise StoreError("away")

            away.setattr(Store, "tell", refuse)
            row(begins := StageStarted(Stage.UPLOAD, "a table"))
        assert heard == [begins]


MODEL = """
import keras

def build():
    model = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model
"""


def test_a_training_has_a_row_with_what_came_of_it(
    client: Any, settings: Settings, rows: Callable[[], list[RunRecord]], tmp_path: Path
) -> None:
    (tmp_path / "row_model.py").write_text(MODEL)
    plain = {
        "name": "small",
        "model": {"source": "row_model:build", "code_folder": str(tmp_path)},
        "dataset": {"source": str(PIPELINES / "data" / "iris.csv"), "label": "species"},
        "parallel": {"replicas": 1, "epochs": 2},
        "outputs": {"model": str(tmp_path / "trained.keras")},
    }
    execute(TrainingRun(TrainPipeline.model_validate(plain), settings), client=client)
    [row] = rows()
    assert (row.kind, row.name, row.state) == (RunKind.TRAINING, "small", RunState.FINISHED)
    assert row.outcome
    assert (row.outcome["last"]["epoch"], row.outcome["model"]) == (2.0, str(tmp_path / "trained.keras"))
    assert row.progress
    broken = {**plain, "model": {"source": str(tmp_path / "none.json")}}
    with pytest.raises(Exception, match="no such file"):
        execute(TrainingRun(TrainPipeline.model_validate(broken), settings), client=client)
    failed = next(row for row in rows() if row.state is RunState.FAILED)
    assert "no such file" in str(failed.error)
