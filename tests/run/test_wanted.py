"""A study is paused, goes on and is stopped by request, wherever it is trained; no stored trial is lost."""

import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from dnnflow.errors import StudyError, StudyStopped
from dnnflow.events import Command, Event, Notice
from dnnflow.execute.dask import DaskExecutor
from dnnflow.execute.executor import Executor
from dnnflow.execute.local import LocalExecutor
from dnnflow.paths import write_file
from dnnflow.pipeline.pipeline_file import load_pipeline
from dnnflow.results.store.commands import request
from dnnflow.results.store.run_record import RunKind, RunState
from dnnflow.results.store.store import Store
from dnnflow.run.study import Study
from dnnflow.settings import Settings
from tests.conftest import PIPELINES, ROOT, begin_study

IRIS = PIPELINES / "iris.yaml"
SPACE = ("strategy=grid", "space.depth=1", "space.units=4", "space.activation=relu", "space.epochs=2")


@pytest.fixture(params=["in-process", "dask"])
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param == "in-process":
        return LocalExecutor()
    return DaskExecutor(request.getfixturevalue("cluster"))


@pytest.fixture
def begin(settings: Settings) -> Callable[..., Study]:
    """Begin a study of designs with seeds from 0 on, which an engine of executor_engines.py trains."""

    def make(engine: str, count: int) -> Study:
        last = f"space.seed={{int: [0, {count - 1}]}}"
        pipeline = load_pipeline(
            IRIS, [*SPACE, last, "designs=1", f"training.engine=executor_engines:{engine}"]
        )
        return begin_study(pipeline, settings)

    return make


@contextmanager
def in_background(study: Study, executor: Executor, told: list[Event] | None = None) -> Iterator[Any]:
    """Train a study in a thread; yields it, with what it raised as `error`."""

    class Training(threading.Thread):
        error: BaseException | None = None

        def run(self) -> None:
            try:
                study.train(executor, listener=(told if told is not None else []).append)
            except BaseException as error:
                self.error = error

    thread = Training(daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        study.store.send_command(study.id, Command.CANCEL)
        thread.join(30)
        assert not thread.is_alive()


def count(study: Study) -> int:
    return len(study.store.finished(study.id))


def wait_for(look: Callable[[], bool], timeout_s: float = 40.0) -> float:
    """Wait until something is so, and return the seconds that took."""
    start = time.monotonic()
    while not look():
        assert time.monotonic() - start < timeout_s, "it did not happen in time"
        time.sleep(0.02)
    return time.monotonic() - start


def is_endless(study: Study, executor: Executor) -> bool:
    """Whether design 4 is trained, and those before it are stored; in this process they are later."""
    return ticks(study) > 8 and (executor.client is None or count(study) == 4)


def allow(settings: Settings, designs: int) -> None:
    """Let the engine `Gated` train the first designs, and wait with the others."""
    write_file(settings.workspace.datasets / "go", str(designs))


def ticks(study: Study) -> int:
    log = study.settings.workspace.datasets / "trained.log"
    return log.read_text().count("\n") if log.is_file() else 0


@pytest.mark.slow
def test_a_paused_study_waits_and_goes_on_where_it_was(
    executor: Executor, begin: Callable[..., Study]
) -> None:
    study, told = begin("Gated", 40), list[Event]()
    allow(study.settings, 20)
    with in_background(study, executor, told) as training:
        wait_for(lambda: count(study) > 6)
        said = request(study.store, study.id, Command.PAUSE)
        assert said.startswith(f"study {study.id} is paused, ")
        before = count(study)
        assert before <= 20
        time.sleep(1.5)
        assert count(study) == before
        assert training.is_alive()
        assert study.store.driver(study.id) is not None
        assert study.store.study(study.id).state is RunState.RUNNING
        assert request(study.store, study.id, Command.RUN).startswith(f"study {study.id} goes on")
        allow(study.settings, 40)
        wait_for(lambda: not training.is_alive())
        assert training.error is None
    assert study.is_trained
    assert count(study) == 40
    notices = [event.message for event in told if isinstance(event, Notice)]
    assert f"paused by request, with {before:,} of 40 designs trained; " \
           f"dnnflow resume {study.id} goes on" in notices  # fmt: skip
    assert notices[-1] == "goes on by request"


@pytest.mark.slow
def test_a_design_that_takes_for_ever_is_given_back_when_its_study_is_paused(
    executor: Executor, begin: Callable[..., Study]
) -> None:
    study = begin("Endless", 12)
    with in_background(study, executor):
        wait_for(lambda: is_endless(study, executor))
        assert "is paused, 4 of 12 designs trained" in request(study.store, study.id, Command.PAUSE)
        time.sleep(0.5)
        before = ticks(study)
        time.sleep(1.0)
        assert ticks(study) == before


@pytest.mark.slow
def test_a_cancelled_study_stops_within_seconds_keeps_its_trials_and_can_go_on(
    executor: Executor, begin: Callable[..., Study]
) -> None:
    study = begin("Endless", 12)
    with in_background(study, executor) as training:
        wait_for(lambda: is_endless(study, executor))
        study.store.send_command(study.id, Command.CANCEL)
        assert wait_for(lambda: not training.is_alive()) < 5.0
        assert isinstance(training.error, StudyStopped)
        message = f"got a request to stop study {study.id}, with 4 of 12 designs trained; dnnflow resume"
        assert message in str(training.error)
    assert study.record.state is RunState.STOPPED
    assert study.store.driver(study.id) is None
    time.sleep(0.5)
    before = ticks(study)
    time.sleep(0.5)
    assert ticks(study) == before, "a worker goes on"
    with in_background(study, executor) as training:  # a stopped study that is started is wanted
        wait_for(lambda: ticks(study) > before)
        assert training.is_alive()
        assert study.record.command is Command.RUN


@pytest.mark.slow
def test_a_paused_study_can_be_cancelled(executor: Executor, begin: Callable[..., Study]) -> None:
    study = begin("Gated", 40)
    allow(study.settings, 20)
    with in_background(study, executor) as training:
        wait_for(lambda: count(study) > 6)
        request(study.store, study.id, Command.PAUSE)
        before = count(study)
        said = request(study.store, study.id, Command.CANCEL)
        assert said == (f"study {study.id} is stopped, {before} of 40 designs trained; "
                        f"dnnflow resume {study.id} goes on")  # fmt: skip
        wait_for(lambda: not training.is_alive())
        assert isinstance(training.error, StudyStopped)


def test_a_cancel_between_two_shards_keeps_the_next_from_beginning(begin: Callable[..., Study]) -> None:
    """A flow trains a study in several tasks."""
    study = begin("Instant", 20)
    study.train(LocalExecutor(), shard=(0, 2))
    study.store.send_command(study.id, Command.CANCEL)
    with pytest.raises(StudyStopped, match="with 10 of 20 designs trained"):
        study.train(LocalExecutor(), shard=(1, 2))
    assert count(study) == 10


def test_a_finished_study_has_nothing_to_pause(begin: Callable[..., Study]) -> None:
    study = begin("Instant", 2)
    study.train(LocalExecutor())
    study.store.end(study.id, RunState.FINISHED)
    with pytest.raises(StudyError, match=f"got study {study.id}, which has finished; dnnflow show"):
        request(study.store, study.id, Command.PAUSE)


def test_a_run_that_waits_is_cancelled_before_it_has_begun(settings: Settings) -> None:
    with Store(settings.store_url) as store:
        store.ask("waiting", RunKind.STUDY, "iris", {"name": "iris"}, queue="q")
        said = request(store, "waiting", Command.CANCEL)
        assert said == "study waiting is stopped, nothing trained yet"
        assert store.take_next("q") is None


def test_cancel_reaches_a_run_whose_process_has_gone(settings: Settings) -> None:
    """One that was killed in its first seconds, when its row was there and its study not yet."""
    with Store(settings.store_url) as store:
        store.ask("killed", RunKind.STUDY, "iris", {"name": "iris"})
        store.start("killed")
        assert store.run("killed").standing is RunState.STOPPED
        said = request(store, "killed", Command.CANCEL)
        assert said == "study killed is stopped: the process that trained it had gone"
        assert store.run("killed").state is RunState.STOPPED
        assert "no process trains it" in request(store, "killed", Command.CANCEL)


def test_a_training_is_stopped_and_never_paused(settings: Settings) -> None:
    with Store(settings.store_url) as store:
        store.ask("t", RunKind.TRAINING, "t", {"name": "t"}, queue="q")
        with pytest.raises(StudyError, match="got training t; dnnflow cancel stops it"):
            request(store, "t", Command.PAUSE)


# ---- the command line


def dnnflow(settings: Settings, *arguments: str) -> "subprocess.Popen[str]":
    env = os.environ | {"DNNFLOW_HOME": str(settings.workspace.home), "PYTHONPATH": f"{ROOT}:{ROOT}/tests"}
    return subprocess.Popen([sys.executable, "-m", "dnnflow", *arguments], env=env, text=True, cwd=ROOT,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE)  # fmt: skip


def answer(settings: Settings, *arguments: str) -> str:
    process = dnnflow(settings, *arguments)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    return out


@pytest.mark.slow
def test_a_run_in_another_terminal_is_paused_resumed_and_cancelled(settings: Settings) -> None:
    overrides = [*SPACE, "space.seed={int: [0, 39]}", "designs=1", "executor.workers=2",
                 "training.engine=executor_engines:Gated"]  # fmt: skip
    sets = [part for item in overrides for part in ("--set", item)]
    allow(settings, 20)
    process = dnnflow(settings, "run", str(IRIS), *sets)
    try:
        store = Store(settings.store_url)
        wait_for(lambda: bool(store.studies()), 60)
        study_id = store.studies()[0].study_id
        wait_for(lambda: len(store.finished(study_id)) > 6, 60)
        paused = answer(settings, "pause", study_id[:8])
        assert paused.startswith(f"study {study_id} is paused, ")
        before = len(store.finished(study_id))
        time.sleep(1.0)
        assert len(store.finished(study_id)) == before
        assert answer(settings, "resume", study_id).startswith(f"study {study_id} goes on, ")
        allow(settings, 30)
        wait_for(lambda: len(store.finished(study_id)) > before)
        assert answer(settings, "cancel", study_id).startswith(f"study {study_id} is stopped, ")
        out, err = process.communicate(timeout=30)
    finally:
        process.kill()
        process.communicate()
    assert process.returncode == 130, err
    assert "paused by request" in err
    assert err.strip().splitlines()[-1].endswith(f"dnnflow resume {study_id} goes on")
    assert "report" not in out + err
    assert store.study(study_id).state is RunState.STOPPED
    assert "no process trains it" in answer(settings, "pause", study_id)
