"""The embedded launcher on real processes: what is started runs, whatever dies meanwhile."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from threading import Thread

import psutil
import pytest

from dnnflow.errors import ConflictError, NotFoundError
from dnnflow.pipeline.pipeline_file import load_any
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.results.store.run_record import RunState, new_study_id
from dnnflow.results.store.store import Store
from dnnflow.settings import Settings
from dnnflow.web.jobs import supervisor
from dnnflow.web.jobs.embedded_launcher import EmbeddedLauncher, environment
from dnnflow.web.jobs.job_files import LOG_BYTES, Jobs
from dnnflow.web.jobs.launching import Launch, LaunchState

ROOT = Path(__file__).parents[2]
PIPELINES = ROOT / "pipelines"
TINY = ("executor.kind=in-process", "training.engine=compiled", "outputs.models=0", "space.seed=0")
SHORT = (*TINY, "designs=2", "space.epochs=1")
LONG = (
    *TINY,
    "designs=40",
    "strategy=random",
    "space.epochs=400",
    "space.seed={int: [0, 1000]}",
    "training.stack_mb=0.001",
)
"""Some tenths of a second a design: long enough to be killed in the middle."""


@pytest.fixture
def home(settings: Settings) -> Iterator[Path]:
    """Directory of the jobs; at the end, their supervisor is stopped."""
    directory = (settings.workspace.home / "launches").absolute()
    yield directory
    for process in processes(directory):
        process.kill()
    psutil.wait_procs(processes(directory), timeout=5)


@pytest.fixture
def launcher(home: Path, settings: Settings) -> EmbeddedLauncher:
    return EmbeddedLauncher(home, settings)


def pipeline(*overrides: str, file: str = "iris.yaml") -> Pipeline:
    return load_any(PIPELINES / file, overrides)  # type: ignore[return-value]


def processes(directory: Path, module: str = "") -> list[psutil.Process]:
    """Return the processes whose command line names the directory of jobs, of a module if one is given."""
    found = []
    for process in psutil.process_iter(["cmdline"]):
        words = process.info["cmdline"] or []
        if any(str(directory) in word for word in words) and f"dnnflow.web.{module}" in " ".join(words):
            found.append(process)
    return found


def wait(look: Callable[[], object], what: str, timeout_s: float = 90.0) -> object:
    deadline = time.monotonic() + timeout_s
    while not (found := look()):
        assert time.monotonic() < deadline, f"{what} must happen within {timeout_s} s"
        time.sleep(0.1)
    return found


def end_of(launcher: EmbeddedLauncher, launch_id: str) -> Launch:
    """Return a job when it has ended."""
    wait(lambda: launcher.get(launch_id).state.has_ended, f"end of {launch_id}")
    return launcher.get(launch_id)


def trained(settings: Settings, study_id: str) -> int:
    """Return how many trials of a study are stored."""
    with Store(settings.store_url) as store:
        record = store.find(study_id)
        return 0 if record is None else len(store.finished(study_id))


def start_long(launcher: EmbeddedLauncher, settings: Settings) -> str:
    """Start a study and return its id as soon as it has trials."""
    study_id = new_study_id()
    launcher.launch(pipeline(*LONG), study_id)
    wait(lambda: trained(settings, study_id) > 1, "first trials")
    assert trained(settings, study_id) < 30, "the study must still have much to do"
    return study_id


def test_jobs_run_one_after_the_other_in_their_order(launcher, settings, home) -> None:
    first, second = new_study_id(), new_study_id()
    launcher.launch(pipeline(*SHORT), first)
    assert launcher.launch(pipeline(*SHORT), second).queue_place in (0, 1)
    assert [one.launch_id for one in launcher.all()] == [second, first]
    done = end_of(launcher, first), end_of(launcher, second)
    assert [one.state for one in done] == [LaunchState.FINISHED] * 2, [one.error for one in done]
    assert done[0].ended_at <= done[1].started_at
    with Store(settings.store_url) as store:
        # Both are new studies, although they are of the same key
        assert [store.study(one).state for one in (first, second)] == [RunState.FINISHED] * 2
    assert settings.workspace.report(first).is_file()
    assert "2 of 2 designs" in launcher.log(first)
    assert len(processes(home, "supervisor")) == 1
    wait(lambda: not processes(home), "end of the idle supervisor", supervisor.IDLE_S + 10)


def test_a_key_gives_the_job_that_was_made_first(launcher, home) -> None:
    made = launcher.launch(pipeline(*SHORT), new_study_id(), key="a key/../../x")
    again = launcher.launch(pipeline(*SHORT), new_study_id(), key="a key/../../x")
    assert again.launch_id == made.launch_id
    assert len(launcher.all()) == 1
    with pytest.raises(
        ConflictError, match=f"got the key of job {made.launch_id} with another; take a new key"
    ):
        launcher.launch(pipeline(*SHORT, "designs=3"), new_study_id(), key="a key/../../x")
    with pytest.raises(ConflictError, match="take a new one"):
        launcher.launch(pipeline(*SHORT), made.launch_id)
    assert launcher.launch(pipeline(*SHORT), new_study_id(), key="b").launch_id != made.launch_id


@pytest.mark.parametrize("launch_id", ["nothing", "../launches", "keys", "", "a/b"])
def test_there_is_no_job_that_was_not_launched(launcher, launch_id: str) -> None:
    for ask in (launcher.get, launcher.cancel, launcher.resume, launcher.log):
        with pytest.raises(NotFoundError, match="a job is found by its id"):
            ask(launch_id)


def test_a_study_goes_on_when_the_web_server_is_killed(settings, home) -> None:
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
    wait(lambda: trained(settings, study_id) > 0, "first trials")
    server.send_signal(signal.SIGKILL)
    server.wait()
    [child] = processes(home, "runner")
    launcher = EmbeddedLauncher(home, settings)
    assert launcher.get(study_id).state is LaunchState.RUNNING
    assert end_of(launcher, study_id).state is LaunchState.FINISHED
    assert not child.is_running()
    assert trained(settings, study_id) == 40


def test_a_killed_child_is_started_once_more_and_trains_only_what_is_missing(
    launcher, settings, home
) -> None:
    study_id = start_long(launcher, settings)
    [child] = processes(home, "runner")
    child.kill()
    child.wait(5)
    before = trained(settings, study_id)
    done = end_of(launcher, study_id)
    assert done.state is LaunchState.FINISHED, done.error
    assert trained(settings, study_id) == 40
    log = launcher.log(study_id)
    assert f"{40 - before} of 40 designs" in log, log


def test_a_child_that_is_killed_again_and_again_is_given_up(launcher, settings, home) -> None:
    study_id = start_long(launcher, settings)
    for _ in range(supervisor.MOST_DEATHS):
        [child] = wait(lambda: processes(home, "runner"), "start of the child")
        child.kill()
        child.wait(5)
    done = end_of(launcher, study_id)
    assert done.state is LaunchState.FAILED
    assert "a job's process must live until it has an answer" in done.error
    # Whoever has read this may go on all the same
    assert launcher.resume(study_id).state in (LaunchState.QUEUED, LaunchState.RUNNING)
    assert end_of(launcher, study_id).state is LaunchState.FINISHED


def test_a_killed_supervisor_takes_its_child_along_and_the_next_server_goes_on(
    launcher, settings, home
) -> None:
    study_id = start_long(launcher, settings)
    [watching], [child] = processes(home, "supervisor"), processes(home, "runner")
    watching.kill()
    child.wait(5)
    before = trained(settings, study_id)
    later = EmbeddedLauncher(home, settings)
    assert end_of(later, study_id).state is LaunchState.FINISHED
    assert f"{40 - before} of 40 designs" in later.log(study_id)


def test_a_stopped_supervisor_interrupts_its_child_and_the_job_waits(launcher, settings, home) -> None:
    study_id = start_long(launcher, settings)
    [watching] = processes(home, "supervisor")
    watching.send_signal(signal.SIGTERM)
    launcher._looked = time.monotonic() + 3600  # this launcher does not look after it
    watching.wait(supervisor.STOP_S + 5)
    assert not processes(home)
    assert launcher.get(study_id).state is LaunchState.QUEUED
    with Store(settings.store_url) as store:
        assert store.study(study_id).state is RunState.STOPPED
    assert end_of(EmbeddedLauncher(home, settings), study_id).state is LaunchState.FINISHED


def test_cancelled_jobs_end_and_can_be_resumed(launcher, settings, home) -> None:
    study_id, waiting = start_long(launcher, settings), new_study_id()
    launcher.launch(pipeline(*SHORT), waiting)
    assert launcher.cancel(waiting).state is LaunchState.CANCELLED
    launcher.cancel(study_id)
    done = end_of(launcher, study_id)
    assert (done.state, done.error) == (LaunchState.CANCELLED, None)
    stopped = trained(settings, study_id)
    assert stopped < 40
    with Store(settings.store_url) as store:
        assert store.study(study_id).state is RunState.STOPPED
        assert store.find(waiting) is None
    assert launcher.cancel(study_id).state is LaunchState.CANCELLED
    launcher.resume(study_id)
    launcher.resume(waiting)
    assert end_of(launcher, study_id).state is LaunchState.FINISHED
    assert end_of(launcher, waiting).state is LaunchState.FINISHED
    assert f"{40 - stopped} of 40 designs" in launcher.log(study_id)


def test_a_cancelled_child_that_does_not_listen_is_interrupted(launcher, settings, home) -> None:
    """As while it prepares: the store does not know the study yet."""
    study_id = new_study_id()
    launcher.launch(pipeline(*LONG), study_id)
    [child] = wait(lambda: processes(home, "runner"), "start of the child")
    launcher.cancel(study_id)
    assert end_of(launcher, study_id).state is LaunchState.CANCELLED
    assert not child.is_running()


def test_what_a_job_is_refused_for_is_kept(launcher) -> None:
    study_id = new_study_id()
    launcher.launch(pipeline(*SHORT, "dataset.label=colour"), study_id)
    done = end_of(launcher, study_id)
    assert done.state is LaunchState.FAILED
    assert "colour" in done.error
    assert done.ended_at


def test_secrets_are_not_shown(launcher, home) -> None:
    study_id = new_study_id()
    given = launcher.launch(pipeline(*SHORT, "dataset.storage_options={token: abc-secret}"), study_id)
    assert given.pipeline["dataset"]["storage_options"] == {"token": "…"}
    assert (home.stat().st_mode | (home / study_id).stat().st_mode) & 0o077 == 0


def test_a_training_leaves_its_files_and_outcome(launcher, home) -> None:
    launch_id = new_study_id()
    given = pipeline("parallel.replicas=1", "parallel.epochs=2", file="train.yaml")
    assert launcher.launch(given, launch_id).kind == "train"
    wait(lambda: launcher.get(launch_id).dashboard or launcher.get(launch_id).state.has_ended, "a cluster")
    assert "/status" in (launcher.get(launch_id).dashboard or "")
    done = end_of(launcher, launch_id)
    assert done.state is LaunchState.FINISHED, done.error
    assert done.outcome["last"]["epoch"] == 2
    assert 0 < done.outcome["last"]["val_accuracy"] <= 1
    assert Path(done.outcome["model"]).parent == home / launch_id
    assert Path(done.outcome["model"]).stat().st_size > 1000
    assert "<html" in Path(done.outcome["report"]).read_text()
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


def test_one_supervisor_at_a_time(launcher, home, settings) -> None:
    launcher.launch(pipeline(*SHORT), new_study_id())
    wait(lambda: processes(home, "runner"), "start of the child")
    command = [sys.executable, "-m", "dnnflow.web.jobs.supervisor", str(home)]
    assert subprocess.run(command, env=environment(settings), timeout=60, check=False).returncode == 0
    assert len(processes(home, "runner")) <= 1  # a quick job may have ended meanwhile
    assert Jobs(home).queue() == []
