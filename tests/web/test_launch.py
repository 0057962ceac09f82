"""The embedded launcher on real processes: what is started runs, whatever dies meanwhile."""

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path
from threading import Thread
from typing import TypeVar

import psutil
import pytest

from dnnflow.errors import ConflictError, LaunchError, NotFoundError
from dnnflow.events import Command
from dnnflow.paths import content_id, write_file
from dnnflow.pipeline.pipeline_file import load_any
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.store.run_record import Driver, RunKind, RunRecord, RunState, new_study_id
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.web.jobs import embedded_launcher, supervisor
from dnnflow.web.jobs.embedded_launcher import EmbeddedLauncher, environment
from dnnflow.web.jobs.launching import LOG_BYTES
from tests.web.recording import insert_study

ROOT = Path(__file__).parents[2]
PIPELINES = ROOT / "pipelines"
TINY = ("executor.kind=in-process", "outputs.models=0", "space.seed=0")
SHORT = (*TINY, "training.engine=compiled", "designs=2", "space.epochs=1")
DESIGNS = 12
LONG = (
    *TINY, "training.engine=executor_engines:Gated", "designs=1", "strategy=grid", "space.depth=1",
    "space.units=4", "space.activation=relu", f"space.seed={{int: [0, {DESIGNS - 1}]}}",
    "evaluation.finalists=0",
)  # fmt: skip
"""Some designs are trained, then it waits until `open_gate` is called."""


@pytest.fixture
def home(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Directory of the runs; at the end, their supervisor is stopped."""
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "tests"))  # children find the engine there
    directory = (settings.workspace.home / "launches").absolute()
    yield directory
    for process in processes(directory):
        process.kill()
    psutil.wait_procs(processes(directory), timeout=5)


@pytest.fixture
def store(settings: Settings) -> Iterator[Store]:
    with Store(settings.store_url) as opened:
        yield opened


@pytest.fixture
def launcher(home: Path, settings: Settings) -> Iterator[EmbeddedLauncher]:
    with closing(EmbeddedLauncher(home, settings)) as opened:
        yield opened


def pipeline(*overrides: str, file: str = "iris.yaml") -> Pipeline:
    return load_any(PIPELINES / file, overrides)  # type: ignore[return-value]


def processes(directory: Path, module: str = "") -> list[psutil.Process]:
    """Return the processes whose command line names the directory of jobs, of a module if one is given."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(directory) in word for word in words) and f"dnnflow.web.jobs.{module}" in " ".join(words):
            found.append(process)
    return found


T = TypeVar("T")


def wait(look: Callable[[], T], what: str, timeout_s: float = 90.0) -> T:
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} must happen within {timeout_s} s"
        time.sleep(0.1)
    return found


def end_of(launcher: EmbeddedLauncher, store: Store, run_id: str) -> RunRecord:
    """Return a run when it has ended."""

    def ended() -> RunRecord | None:
        launcher.refresh(run_id)
        record = store.run(run_id)
        return record if record.ended_at is not None else None

    found = wait(ended, f"end of {run_id}")
    assert isinstance(found, RunRecord)
    return found


def trained(store: Store, study_id: str) -> int:
    """Return how many trials of a study are stored."""
    return len(store.finished(study_id))


def open_gate(settings: Settings) -> None:
    """Let long studies go on to their end."""
    write_file(settings.workspace.datasets / "go", str(DESIGNS))


def start_long(launcher: EmbeddedLauncher, store: Store) -> str:
    """Start a study and return its id as soon as it has trials."""
    study_id = new_study_id()
    launcher.launch(pipeline(*LONG), study_id)
    wait(lambda: trained(store, study_id) > 1, "first trials")
    return study_id


@pytest.mark.slow
def test_jobs_run_one_after_the_other_in_their_order(launcher, store, settings, home) -> None:
    first, second = new_study_id(), new_study_id()
    launcher.launch(pipeline(*SHORT), first)
    queued = launcher.launch(pipeline(*SHORT), second)
    assert store.waiting(queued.queue)[-1] == second
    assert {one.run_id for one in store.runs()} == {second, first}
    wait(lambda: processes(home, "supervisor"), "start of the supervisor")
    assert len(processes(home, "supervisor")) == 1
    done = end_of(launcher, store, first), end_of(launcher, store, second)
    assert [one.state for one in done] == [RunState.FINISHED] * 2, [one.error for one in done]
    assert done[0].ended_at is not None
    assert done[1].started_at is not None
    assert done[0].ended_at <= done[1].started_at
    # Both are new studies, although they are of the same key
    assert len({store.study(one).key for one in (first, second)}) == 1
    assert settings.workspace.report(first).is_file()
    assert "2 of 2 designs" in launcher.log(first)
    wait(lambda: not processes(home), "end of the idle supervisor", supervisor.IDLE_S + 10)


def test_a_key_gives_the_job_that_was_made_first(launcher, store) -> None:
    made = launcher.launch(pipeline(*SHORT), new_study_id(), key="a key/../../x")
    again = launcher.launch(pipeline(*SHORT), new_study_id(), key="a key/../../x")
    assert again.run_id == made.run_id
    assert len(store.runs()) == 1
    with pytest.raises(ConflictError, match=f"got the key of job {made.run_id} with another; take a new key"):
        launcher.launch(pipeline(*SHORT, "designs=3"), new_study_id(), key="a key/../../x")
    with pytest.raises(ConflictError, match="take a new one"):
        launcher.launch(pipeline(*SHORT), made.run_id)
    assert launcher.launch(pipeline(*SHORT), new_study_id(), key="b").run_id != made.run_id


@pytest.mark.parametrize("run_id", ["nothing", "../launches", "keys", "", "a/b"])
def test_there_is_no_job_that_was_not_launched(launcher, run_id: str) -> None:
    for ask in (launcher.cancel, launcher.resume, launcher.log):
        with pytest.raises(NotFoundError, match="a job is found by its id"):
            ask(run_id)


@pytest.mark.slow
def test_a_study_goes_on_when_the_web_server_is_killed(store, settings, home) -> None:
    """And who starts the next server finds it."""
    study_id = new_study_id()
    code = (
        "import sys, time; from pathlib import Path; from dnnflow.pipeline.study_pipeline import Pipeline\n"
        "from dnnflow.settings import Settings\n"
        "from dnnflow.web.jobs.embedded_launcher import EmbeddedLauncher\n"
        "import json; launcher = EmbeddedLauncher(Path(sys.argv[1]), Settings.from_environment())\n"
        "launcher.launch(Pipeline.model_validate(json.loads(sys.argv[2])), sys.argv[3]); time.sleep(600)"
    )
    given = (str(home), json.dumps(pipeline(*LONG).plain()), study_id)
    server = subprocess.Popen([sys.executable, "-c", code, *given], env=environment(settings))
    wait(lambda: trained(store, study_id) > 0, "first trials")
    server.send_signal(signal.SIGKILL)
    server.wait()
    [child] = processes(home, "runner")
    with closing(EmbeddedLauncher(home, settings)) as launcher:
        assert store.run(study_id).state is RunState.RUNNING
        open_gate(settings)
        assert end_of(launcher, store, study_id).state is RunState.FINISHED
    wait(lambda: not child.is_running(), "end of the child")
    assert trained(store, study_id) == DESIGNS


@pytest.mark.slow
def test_a_killed_child_is_started_once_more_and_trains_only_what_is_missing(
    launcher, store, settings, home
) -> None:
    study_id = start_long(launcher, store)
    [child] = processes(home, "runner")
    child.kill()
    child.wait(5)
    before = trained(store, study_id)
    wait(lambda: store.run(study_id).deaths == 1, "the death of the child")
    open_gate(settings)
    done = end_of(launcher, store, study_id)
    assert done.state is RunState.FINISHED, done.error
    assert trained(store, study_id) == DESIGNS
    log = launcher.log(study_id)
    assert f"{DESIGNS - before} of {DESIGNS} designs" in log, log


@pytest.mark.slow
def test_a_child_that_is_killed_again_and_again_is_given_up(launcher, store, settings, home) -> None:
    study_id = start_long(launcher, store)
    for _ in range(supervisor.MOST_DEATHS):
        [child] = wait(lambda: processes(home, "runner"), "start of the child")
        child.kill()
        child.wait(5)
    done = end_of(launcher, store, study_id)
    assert done.state is RunState.FAILED
    assert "a job's process must live until it has an answer" in (done.error or "")
    # Whoever has read this may go on all the same
    open_gate(settings)
    assert launcher.resume(study_id).state in (RunState.QUEUED, RunState.RUNNING)
    assert end_of(launcher, store, study_id).state is RunState.FINISHED


@pytest.mark.slow
def test_a_killed_supervisor_takes_its_child_along_and_the_next_server_goes_on(
    launcher, store, settings, home
) -> None:
    study_id = start_long(launcher, store)
    [watching], [child] = processes(home, "supervisor"), processes(home, "runner")
    watching.kill()
    child.wait(5)
    before = trained(store, study_id)
    open_gate(settings)
    with closing(EmbeddedLauncher(home, settings)) as later:
        assert end_of(later, store, study_id).state is RunState.FINISHED
        assert f"{DESIGNS - before} of {DESIGNS} designs" in later.log(study_id)


@pytest.mark.slow
def test_a_stopped_supervisor_interrupts_its_child_and_the_job_waits(launcher, store, settings, home) -> None:
    study_id = start_long(launcher, store)
    [watching] = processes(home, "supervisor")
    watching.send_signal(signal.SIGTERM)
    watching.wait(supervisor.STOP_S + 5)
    assert not processes(home)
    assert store.run(study_id).state is RunState.QUEUED
    open_gate(settings)
    with closing(EmbeddedLauncher(home, settings)) as later:
        assert end_of(later, store, study_id).state is RunState.FINISHED


@pytest.mark.slow
def test_cancelled_jobs_end_and_can_be_resumed(launcher, store, settings) -> None:
    study_id, waiting = start_long(launcher, store), new_study_id()
    launcher.launch(pipeline(*SHORT), waiting)
    assert launcher.cancel(waiting).state is RunState.STOPPED
    launcher.cancel(study_id)
    done = end_of(launcher, store, study_id)
    assert (done.state, done.error) == (RunState.STOPPED, None)
    stopped = trained(store, study_id)
    assert stopped < DESIGNS
    assert not store.run(waiting).has_designs
    assert launcher.cancel(study_id).state is RunState.STOPPED
    open_gate(settings)
    launcher.resume(study_id)
    launcher.resume(waiting)
    assert end_of(launcher, store, study_id).state is RunState.FINISHED
    assert end_of(launcher, store, waiting).state is RunState.FINISHED
    assert f"{DESIGNS - stopped} of {DESIGNS} designs" in launcher.log(study_id)


def test_a_cancelled_child_that_does_not_listen_is_interrupted(launcher, store, home) -> None:
    """As while it prepares: the store does not know the study yet."""
    study_id = new_study_id()
    launcher.launch(pipeline(*LONG), study_id)
    [child] = wait(lambda: processes(home, "runner"), "start of the child")
    launcher.cancel(study_id)
    assert end_of(launcher, store, study_id).state is RunState.STOPPED
    assert not child.is_running()


@pytest.mark.slow
def test_a_study_that_a_process_of_its_own_goes_on_with_is_no_supervisors(launcher, store, settings) -> None:
    """`dnnflow resume` of a study that was started from the web: Ctrl-C there stops it for good."""
    study_id = start_long(launcher, store)
    launcher.cancel(study_id)
    record = end_of(launcher, store, study_id)
    wait(lambda: store.driver(study_id) is None, "the driver's leaving, which closes its cluster first")
    store.start(study_id)
    with store.driving(study_id):
        assert not store.has_work(record.queue)
        launcher.resume(study_id)
        assert store.run(study_id).state is RunState.RUNNING
    assert store.left_behind(record.queue) == []
    open_gate(settings)
    launcher.resume(study_id)
    assert end_of(launcher, store, study_id).state is RunState.FINISHED


@pytest.mark.slow
def test_what_a_job_is_refused_for_is_kept(launcher, store) -> None:
    study_id = new_study_id()
    launcher.launch(pipeline(*SHORT, "dataset.label=colour"), study_id)
    done = end_of(launcher, store, study_id)
    assert done.state is RunState.FAILED
    assert "colour" in (done.error or "")


@pytest.mark.slow
def test_secrets_are_not_shown(launcher, store, home) -> None:
    study_id = new_study_id()
    given = launcher.launch(pipeline(*SHORT, "dataset.storage_options={token: abc-secret}"), study_id)
    assert given.pipeline["dataset"]["storage_options"] == {"token": "…"}
    assert store.run(study_id).pipeline == given.pipeline
    assert store.request(study_id)["dataset"]["storage_options"] == {"token": "abc-secret"}
    end_of(launcher, store, study_id)
    assert (home.stat().st_mode | (home / study_id).stat().st_mode) & 0o077 == 0


@pytest.mark.slow
def test_a_training_leaves_its_files_and_outcome(launcher, store, home) -> None:
    run_id = new_study_id()
    given = pipeline("parallel.replicas=1", "parallel.epochs=2", file="train.yaml")
    assert launcher.launch(given, run_id).kind is RunKind.TRAINING
    wait(lambda: store.run(run_id).dashboard or store.run(run_id).ended_at, "a cluster")
    assert "/status" in (store.run(run_id).dashboard or "")
    done = end_of(launcher, store, run_id)
    assert done.state is RunState.FINISHED, done.error
    assert done.outcome is not None
    assert done.outcome["last"]["epoch"] == 2
    assert 0 < done.outcome["last"]["val_accuracy"] <= 1
    assert Path(done.outcome["model"]).parent == home / run_id
    assert Path(done.outcome["model"]).stat().st_size > 1000
    assert "<html" in Path(done.outcome["report"]).read_text()
    assert done.progress is not None
    assert done.progress["samples"] > 0


def test_of_a_log_the_end_is_kept(tmp_path: Path) -> None:
    reading, writing = os.pipe()
    path = tmp_path / "job" / "log.txt"
    path.parent.mkdir()
    with os.fdopen(reading, "rb") as kept, os.fdopen(writing, "wb") as pipe:
        keeper = Thread(target=supervisor.keep_log, args=(kept, path))
        keeper.start()
        for number in range(100_000):
            pipe.write(b"line %06d\n" % number)
        pipe.close()
        keeper.join()
    assert path.stat().st_size <= 2 * LOG_BYTES + 65536
    assert path.read_bytes().endswith(b"line 099999\n")
    assert b"line 099998\n" in path.read_bytes()


@pytest.mark.slow
def test_one_supervisor_at_a_time(launcher, store, home, settings) -> None:
    study_id = start_long(launcher, store)
    command = [sys.executable, "-m", "dnnflow.web.jobs.supervisor", str(home)]
    assert subprocess.run(command, env=environment(settings), timeout=60, check=False).returncode == 0
    assert len(processes(home, "runner")) == 1
    assert store.run(study_id).is_driven


# ---- jobs of an older dnnflow, which were files


def old_job(home: Path, run_id: str, state: str, *, kind: str = "study", **more: object) -> None:
    """Write the directory of a job as dnnflow did before it kept them in the store."""
    plain = pipeline(*SHORT).plain() if kind == "study" else {"name": "old", "model": {"source": "m.json"}}
    (home / run_id).mkdir(parents=True)
    request = {"kind": kind, "name": "old", "created_at": "2026-01-01T00:00:00.000+00:00", "pipeline": plain,
               "shown": plain, "digest": "0" * 64}  # fmt: skip
    standing = {"state": state, "queued_s": 1.0, "started_at": None, "ended_at": None, "error": None,
                "deaths": 0, "continued": False, "interrupt_s": None}  # fmt: skip
    outcome = more.pop("outcome", None)
    (home / run_id / "request.json").write_text(json.dumps(request))
    (home / run_id / "state.json").write_text(json.dumps(standing | more))
    if outcome is not None:
        (home / run_id / "answer.json").write_text(json.dumps({"state": state, "outcome": outcome}))
        (home / run_id / "progress.json").write_text(json.dumps({"progress": {"loss": float("nan")}}))


@pytest.mark.slow
def test_jobs_that_an_older_dnnflow_kept_as_files_are_taken_over(store, settings, home) -> None:
    ended = {"started_at": "2026-01-01T00:00:01.000+00:00", "ended_at": "2026-01-01T00:00:02.000+00:00"}
    old_job(home, "old-queued", "queued")
    old_job(home, "old-running", "running", started_at=ended["started_at"])
    old_job(home, "old-failed", "failed", error="no worker; start one", **ended)
    old_job(home, "old-cancelled", "cancelled", **ended)
    old_job(home, "old-training", "finished", kind="train", outcome={"last": {"epoch": 2.0}}, **ended)
    (home / "old-failed" / "log.txt").write_text("it printed this")
    (home / "keys").mkdir()
    (home / "keys" / f"{content_id('a key')}.json").write_text(json.dumps({"launch_id": "old-queued"}))
    with closing(EmbeddedLauncher(home, settings)) as launcher:
        assert launcher.launch(pipeline(*SHORT), new_study_id(), key="a key").run_id == "old-queued"
        assert launcher.log("old-failed") == "it printed this"
        failed, cancelled, done = (store.run(f"old-{name}") for name in ("failed", "cancelled", "training"))
        assert (failed.state, failed.error, failed.ended_at) == (
            RunState.FAILED, "no worker; start one", ended["ended_at"],
        )  # fmt: skip
        assert (cancelled.state, cancelled.command) == (RunState.STOPPED, Command.CANCEL)
        assert (done.kind, done.state) == (RunKind.TRAINING, RunState.FINISHED)
        assert (done.outcome, done.progress) == ({"last": {"epoch": 2.0}}, {"loss": None})
        for run_id in ("old-queued", "old-running"):
            assert end_of(launcher, store, run_id).state is RunState.FINISHED
        with closing(EmbeddedLauncher(home, settings)):
            assert len(store.runs()) == 5


def test_jobs_are_left_to_a_supervisor_of_an_older_dnnflow_that_still_runs_them(
    store, settings, home
) -> None:
    """It outlives the server that was updated: nobody trains the same model beside it."""
    old_job(home, "old-training", "running", kind="train", started_at="2026-01-01T00:00:01.000+00:00")
    with (home / "supervisor.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(LaunchError, match="once its supervisor has ended"):
            EmbeddedLauncher(home, settings)
    assert not store.runs()
    assert (home / "old-training" / "request.json").is_file()


def test_a_study_that_an_older_dnnflow_ran_stays_what_it_is(store, settings, home) -> None:
    """Its trials are in the store; only its job was a file."""
    study_id = insert_study(store, 4, state=RunState.FINISHED)
    old_job(home, study_id, "finished", started_at="2026-01-01T00:00:01.000+00:00", ended_at="2026-01-02")
    with closing(EmbeddedLauncher(home, settings)):
        record = store.study(study_id)
    assert (record.state, record.n_designs, record.ended_at) == (RunState.FINISHED, 4, "2026-01-02")
    assert len(store.finished(study_id)) == 4


def test_a_run_that_is_resumed_while_its_process_ends_goes_on(launcher, store, monkeypatch) -> None:
    """Its row says stopped, its process still closes its cluster: who asks then has asked."""
    monkeypatch.setattr(launcher, "_supervise", lambda: None)
    study_id = launcher.launch(pipeline(), new_study_id()).run_id
    assert store.take_next(store.run(study_id).queue) is not None
    with ThreadPoolExecutor(1) as pool, store.driving(study_id):
        store.end(study_id, RunState.STOPPED)
        asked = pool.submit(launcher.resume, study_id)
        time.sleep(0.5)
        assert not asked.done()
        store.release(study_id, Driver.this_process())
        assert asked.result(timeout=10).state is RunState.QUEUED


def test_a_run_whose_process_does_not_end_is_not_resumed_without_a_word(launcher, store, monkeypatch) -> None:
    monkeypatch.setattr(launcher, "_supervise", lambda: None)
    monkeypatch.setattr(embedded_launcher, "ENDING_S", 0.0)
    study_id = launcher.launch(pipeline(), new_study_id()).run_id
    store.take_next(store.run(study_id).queue)
    with store.driving(study_id):
        store.end(study_id, RunState.STOPPED)
        with pytest.raises(ConflictError, match=f"got a living one for {study_id}; try again"):
            launcher.resume(study_id)


@pytest.mark.parametrize("code", [0, 130])
def test_a_run_asked_for_anew_before_its_process_was_reaped_is_not_settled(store, home, code) -> None:
    home.mkdir(parents=True, exist_ok=True)
    settling = supervisor.Supervisor(home, store)
    store.ask("a", RunKind.STUDY, "a", {"name": "a"}, queue="q")
    assert store.take_next("q") is not None
    store.end("a", RunState.STOPPED)
    assert store.enqueue("a", "q")
    settling._settle("a", code, interrupted=False)
    record = store.run("a")
    assert (record.state, record.deaths) == (RunState.QUEUED, 0)
