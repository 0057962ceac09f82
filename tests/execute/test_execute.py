"""The contract of executors, in this process and on a Dask cluster, and what only a cluster can do."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from dask.system import CPU_COUNT
from distributed import Client, LocalCluster, Nanny, Scheduler, SpecCluster

from dnnflow.design.layers import Design
from dnnflow.engines.records import Outcome, Portion, TrainingSettings, TrialState
from dnnflow.engines.seam import StudyContext
from dnnflow.errors import ClusterError, DamagedError, DnnflowError
from dnnflow.events import Event, Notice, WorkerLost, WorkerRecycled
from dnnflow.execute import dask as dask_executor
from dnnflow.execute import slots
from dnnflow.execute.cluster import ClusterSpec, open_cluster, respawn
from dnnflow.execute.dask import DaskExecutor, DaskOptions
from dnnflow.execute.executor import Executor
from dnnflow.execute.local import LocalExecutor
from dnnflow.execute.packs import PackLimits
from dnnflow.execute.task import resident_bytes
from dnnflow.table.columns.recipe import Recipe, Source
from dnnflow.table.store.ingest import ingest
from tests import readme

MakeJob = Callable[..., StudyContext]
WORKER = readme.command(readme.blocks("Add machines")[0], "dask worker")
"""The documented command: a worker a core."""
QUIET: dict[str, Any] = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}


@pytest.fixture
def job(tmp_path: Path) -> MakeJob:
    """Make jobs of one of the engines in executor_engines.py, on a table of two rows a class."""
    table = tmp_path / "table.csv"
    table.write_text("x,y\n1,a\n2,b\n3,a\n4,b\n5,a\n6,b\n")
    dataset = ingest(Source(url=str(table)), Recipe(label="y"), tmp_path / "datasets")

    def make(engine: str, device: str = "auto", time_limit_s: float | None = None) -> StudyContext:
        training = TrainingSettings(engine=f"executor_engines:{engine}", time_limit_s=time_limit_s)
        return StudyContext(str(dataset.path), training, device)  # type: ignore[arg-type]

    return make


@pytest.fixture
def cluster(client: Client) -> Client:
    """The session's cluster with all its workers."""
    deadline = time.monotonic() + 60
    while len(client.scheduler_info()["workers"]) < 2 and time.monotonic() < deadline:
        respawn(client)
        time.sleep(0.2)
    client.wait_for_workers(2, timeout=1)
    return client


@pytest.fixture(params=["in-process", "dask"])
def executor(request: pytest.FixtureRequest) -> Executor:
    if request.param == "in-process":
        return LocalExecutor()
    return DaskExecutor(request.getfixturevalue("cluster"))


def designs(count: int) -> list[Design]:
    return [Design(seed=seed) for seed in range(count)]


def portions(count: int, size: int = 1) -> list[Portion]:
    """Return so many designs in portions of a size."""
    cut = designs(count)
    return [Portion(tuple(cut[start : start + size])) for start in range(0, count, size)]


def trained(job: StudyContext) -> Counter[str]:
    """Return how often each seed was trained, as workers wrote it down."""
    log = Path(job.dataset).parent / "trained.log"
    return Counter(line.split()[0] for line in log.read_text().splitlines())


def calls(job: StudyContext) -> list[list[int]]:
    """Return the seeds of each call of the engine that ended, in order."""
    log = Path(job.dataset).parent / "calls.log"
    return [json.loads(line) for line in log.read_text().splitlines()]


def stop(process: subprocess.Popen[bytes]) -> None:
    """End a worker process; Dask alone gives its threads 30 s."""
    process.terminate()
    try:
        process.wait(timeout=60)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)


def flat(batches: Iterator[list[Outcome]]) -> list[Outcome]:
    return [outcome for batch in batches for outcome in batch]


def ids(outcomes: list[Outcome]) -> list[str]:
    return sorted(outcome.trial.design_id for outcome in outcomes)


def expected(count: int) -> list[str]:
    return sorted(design.design_id for design in designs(count))


# The contract


def test_every_design_has_exactly_one_outcome(executor: Executor, job: MakeJob) -> None:
    outcomes = flat(executor.train(portions(300), job("Instant")))
    assert ids(outcomes) == expected(300)
    assert all(outcome.trial.state is TrialState.COMPLETED for outcome in outcomes)
    assert set(trained(job("Instant")).values()) == {1}


def test_an_engine_gets_each_portion_whole_and_by_itself(executor: Executor, job: MakeJob) -> None:
    """What a stack computes depends on who is in it."""
    uneven = [*portions(24, size=8), *(Portion((Design(seed=seed),)) for seed in range(24, 60))]
    outcomes = flat(executor.train(uneven, job("Instant")))
    assert ids(outcomes) == expected(60)
    asked = [[design.seed for design in portion.designs] for portion in uneven]
    assert sorted(calls(job("Instant"))) == asked


def test_what_an_engine_raises_fails_its_portion_only(executor: Executor, job: MakeJob) -> None:
    trials = [outcome.trial for outcome in flat(executor.train(portions(24, size=8), job("Raising")))]
    failed = {trial.design_id for trial in trials if trial.state is TrialState.FAILED}
    assert len(trials) == 24
    # Design 13 raises; those before it in its portion had been trained.
    assert failed == {Design(seed=seed).design_id for seed in (13, 14, 15)}


def test_a_design_in_two_portions_is_trained_once(executor: Executor, job: MakeJob) -> None:
    outcomes = flat(executor.train([*portions(4, size=2), *portions(6, size=3)], job("Instant")))
    assert ids(outcomes) == expected(6)
    assert sorted(calls(job("Instant"))) == [[0, 1], [2, 3], [4, 5]]


def test_no_design_is_no_outcome(executor: Executor, job: MakeJob) -> None:
    assert flat(executor.train([], job("Instant"))) == []


def test_outcomes_say_where_and_when_they_were_made(executor: Executor, job: MakeJob) -> None:
    for outcome in flat(executor.train(portions(4), job("Instant"))):
        assert outcome.trial.worker
        assert outcome.trial.device == "cpu"
        assert 0 <= outcome.trial.queue_s < 60


def test_weights_come_along_from_the_asked_accuracy_on(executor: Executor, job: MakeJob) -> None:
    kept = flat(executor.train(portions(3), job("Instant"), keep_above=lambda: 0.5))
    dropped = flat(executor.train(portions(3), job("Instant"), keep_above=lambda: 0.51))
    assert [outcome.weights for outcome in kept] == [()] * 3
    assert [outcome.weights for outcome in dropped] == [None] * 3


def test_an_impossible_job_raises_what_is_wrong_with_it(
    executor: Executor, job: MakeJob, tmp_path: Path
) -> None:
    with pytest.raises(DnnflowError, match="nowhere"):
        flat(executor.train(portions(5), StudyContext(str(tmp_path / "nowhere"), job("Instant").settings)))


def test_gpu_without_gpu_is_refused_at_once(executor: Executor, job: MakeJob) -> None:
    """Not after minutes of waiting for such a worker (that is another error), and not after a training."""
    wanted = job("Instant", device="gpu")
    with pytest.raises(ClusterError, match="set device: auto"):
        flat(executor.train(portions(5), wanted))
    assert not (Path(wanted.dataset).parent / "trained.log").exists()


def test_modules_are_also_looked_for_in_a_jobs_folders(
    executor: Executor, job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipeline names code that lies beside its file."""
    monkeypatch.setattr(sys, "path", list(sys.path))
    name = f"beside_pipeline_{executor.slots}"
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / f"{name}.py").write_text("from executor_engines import Instant as Engine\n")
    training = TrainingSettings(engine=f"{name}:Engine")
    beside = StudyContext(job("Instant").dataset, training, import_paths=(str(tmp_path / "code"),))
    for _ in range(2):
        assert ids(flat(executor.train(portions(3), beside))) == expected(3)
    assert sys.path.count(str(tmp_path / "code")) == isinstance(executor, LocalExecutor)


def test_modules_of_the_current_folder_are_found_in_this_process(
    job: MakeJob, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "path", [folder for folder in sys.path if folder])
    monkeypatch.chdir(tmp_path)
    (tmp_path / "in_current_folder.py").write_text("from executor_engines import Instant as Engine\n")
    here = StudyContext(job("Instant").dataset, TrainingSettings(engine="in_current_folder:Engine"))
    assert ids(flat(LocalExecutor().train(portions(3), here))) == expected(3)


def test_closing_leaves_nothing_running(executor: Executor, job: MakeJob) -> None:
    endless = job("Endless")
    batches = executor.train(portions(4 if executor.slots == 1 else 20), endless)
    next(batches)
    batches.close()
    before = wait_until_still(endless)
    time.sleep(0.5)
    assert trained(endless) == before


def wait_until_still(job: StudyContext, timeout_s: float = 20.0) -> Counter[str]:
    """Return what was trained once that has stopped growing."""
    deadline, last = time.monotonic() + timeout_s, trained(job)
    while time.monotonic() < deadline:
        time.sleep(0.3)
        now = trained(job)
        if now == last:
            return now
        last = now
    raise TimeoutError("training went on after the run was closed")


# Lost workers


def test_a_killed_worker_costs_no_design(cluster: Client, job: MakeJob) -> None:
    events: list[Event] = []
    batches = DaskExecutor(cluster).train(portions(400), job("Short"), listener=events.append)
    outcomes: list[Outcome] = []
    victim = next(iter(cluster.run(os.getpid).values()))
    for batch in batches:
        outcomes += batch
        if victim and len(outcomes) > 40:
            os.kill(victim, signal.SIGKILL)
            victim = 0
    assert ids(outcomes) == expected(400)
    assert {outcome.trial.state for outcome in outcomes} == {TrialState.COMPLETED}
    assert [event for event in events if isinstance(event, WorkerLost)]


def test_a_design_that_kills_its_worker_takes_nobody_along(cluster: Client, job: MakeJob) -> None:
    outcomes = flat(DaskExecutor(cluster).train(portions(21), job("Crashing")))
    assert ids(outcomes) == expected(21)
    (lost,) = [outcome.trial for outcome in outcomes if outcome.trial.state is not TrialState.COMPLETED]
    assert lost.state is TrialState.LOST
    assert lost.design_id == Design(seed=13).design_id
    assert lost.error is not None
    assert lost.error.type == "WorkerLost"
    assert "give workers more" in lost.error.message


def test_a_stack_with_a_design_that_kills_its_worker_is_halved_until_that_one_is_alone(
    cluster: Client, job: MakeJob
) -> None:
    outcomes = flat(DaskExecutor(cluster).train(portions(24, size=8), job("CrashingStack")))
    assert ids(outcomes) == expected(24)
    lost = [x.trial.design_id for x in outcomes if x.trial.state is not TrialState.COMPLETED]
    assert lost == [Design(seed=13).design_id]
    whole = [list(range(8)), list(range(16, 24))]
    assert [seeds for seeds in calls(job("CrashingStack")) if len(seeds) == 8 and 13 not in seeds] == whole


def test_outcomes_of_a_long_pack_are_safe_within_a_second(cluster: Client, job: MakeJob) -> None:
    """All designs are one pack: those finished before its worker died must not be trained again."""
    one_pack = PackLimits(growth=1000, shortest_s=5.0)
    batches = DaskExecutor(cluster, DaskOptions(packs=one_pack)).train(portions(200), job("Short"))
    outcomes: list[Outcome] = []
    victims = list(cluster.run(os.getpid).values())
    for batch in batches:
        outcomes += batch
        if len(outcomes) > 100:
            while victims:
                os.kill(victims.pop(), signal.SIGKILL)
    assert ids(outcomes) == expected(200)
    again = sum(times - 1 for times in trained(job("Short")).values())
    assert again < 100, f"{again} designs were trained again"


def test_what_is_finished_does_not_wait_for_a_long_design_of_its_pack(cluster: Client, job: MakeJob) -> None:
    """Its worker may die hours later."""
    one_pack = PackLimits(growth=1000, shortest_s=1000.0, target_s=1000.0)
    batches = DaskExecutor(cluster, DaskOptions(packs=one_pack)).train(portions(20), job("LastEndless"))
    early: set[str] = set()
    for batch in batches:
        early |= set(ids(batch))
        if len(early) == 19:
            break
    batches.close()
    assert Design(seed=19).design_id not in early


@pytest.mark.slow
def test_designs_that_do_not_end_are_given_up_and_the_rest_goes_on(
    cluster: Client, job: MakeJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(slots, "GRACE_S", 1.0)
    outcomes = flat(DaskExecutor(cluster).train(portions(5), job("Endless", time_limit_s=0.2)))
    states = {outcome.trial.design_id: outcome.trial.state for outcome in outcomes}
    assert states.pop(Design(seed=4).design_id) is TrialState.LOST
    assert list(states.values()) == [TrialState.COMPLETED] * 4


@pytest.mark.cluster
def test_a_worker_that_nobody_restarts_any_more_is_replaced(job: MakeJob) -> None:
    """A nanny closes itself when the process it has just started dies: the cluster would stay empty."""
    with open_cluster(ClusterSpec(workers=1, memory_limit="0", dashboard_port=0)) as client:
        (nanny,) = client.cluster.workers.values()
        batches = DaskExecutor(client).train(portions(200), job("Short"))
        outcomes = list(next(batches))
        client.cluster.loop.add_callback(nanny.close)
        outcomes += flat(batches)
        assert nanny not in client.cluster.workers.values()
    assert ids(outcomes) == expected(200)


# Workers that come, grow, or are missing


def test_a_grown_worker_is_restarted_between_packs(cluster: Client, job: MakeJob) -> None:
    events: list[Event] = []
    limit = max(cluster.run(resident_bytes).values()) + 60_000_000
    executor = DaskExecutor(cluster, DaskOptions(resident_limit_bytes=limit))
    outcomes = flat(executor.train(portions(24), job("Growing"), listener=events.append))
    assert ids(outcomes) == expected(24)
    assert set(trained(job("Growing")).values()) == {1}, f"a restart interrupted a training: {events}"
    recycled = [event for event in events if isinstance(event, WorkerRecycled)]
    assert recycled
    assert all(event.resident_bytes > limit for event in recycled)
    assert not [event for event in events if isinstance(event, WorkerLost)]


def at(scheduler: str, *options: str) -> list[str]:
    """Return the documented command for a scheduler; of an option given twice the last counts."""
    assert "tcp://10.0.0.5:8786" in WORKER
    words = [scheduler if word == "tcp://10.0.0.5:8786" else word for word in WORKER]
    return [sys.executable, "-m", *words, *options]


@pytest.fixture
def added_worker(cluster: Client) -> Iterator[Callable[..., subprocess.Popen[bytes]]]:
    """Start workers with the documented command, and options."""
    started: list[subprocess.Popen[bytes]] = []

    def start(*options: str) -> subprocess.Popen[bytes]:
        command = at(cluster.scheduler.address, *options)
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        process = subprocess.Popen(command, env=environment, **QUIET)
        started.append(process)
        return process

    yield start
    for process in started:
        stop(process)
    deadline = time.monotonic() + 30
    while len(cluster.scheduler_info()["workers"]) > 2 and time.monotonic() < deadline:
        time.sleep(0.1)


def test_a_worker_that_joins_late_gets_designs(
    cluster: Client, job: MakeJob, added_worker: Callable[..., subprocess.Popen[bytes]]
) -> None:
    before = set(cluster.scheduler_info()["workers"])
    seen: set[str] = set()
    outcomes: list[Outcome] = []
    batches = DaskExecutor(cluster).train(portions(3000), job("Short"))
    added_worker("--local-directory", str(Path(job("Short").dataset).parent))
    for batch in batches:
        outcomes += batch
        seen |= {outcome.trial.worker for outcome in batch}
        if seen - before:
            break
    batches.close()
    assert seen - before, "the new worker trained nothing"


def test_workers_started_by_hand_have_one_thread_and_their_resources(
    cluster: Client, added_worker: Callable[..., subprocess.Popen[bytes]], tmp_path: Path
) -> None:
    before = set(cluster.scheduler_info()["workers"])
    added_worker("--resources", "GPU=1", "--local-directory", str(tmp_path))
    cluster.wait_for_workers(len(before) + CPU_COUNT, timeout=60)
    workers = cluster.scheduler_info(n_workers=-1)["workers"]
    added = [address for address in workers if address not in before]
    assert len(added) == CPU_COUNT, "the README promises a worker a core"
    assert {workers[address]["nthreads"] for address in added} == {1}
    assert all(workers[address]["resources"] == {"GPU": 1} for address in added)
    for environment in cluster.run(lambda: dict(os.environ), workers=added).values():
        assert environment["TF_NUM_INTRAOP_THREADS"] == environment["OMP_NUM_THREADS"] == "1"


@pytest.mark.cluster
def test_a_worker_that_cannot_read_the_rows_is_set_aside_and_no_design_fails(
    cluster: Client, job: MakeJob
) -> None:
    events: list[Event] = []
    study = job("Unreadable")
    outcomes = flat(DaskExecutor(cluster).train(portions(12), study, listener=events.append))
    assert ids(outcomes) == expected(12)
    assert {outcome.trial.state for outcome in outcomes} == {TrialState.COMPLETED}
    assert len({outcome.trial.worker for outcome in outcomes}) == 1
    (told,) = [event.message for event in events if isinstance(event, Notice)]
    assert "cannot do the job and gets no more: DamagedError: a dataset's chunks" in told


def test_rows_that_no_worker_can_read_end_the_run_with_what_is_wrong(job: MakeJob) -> None:
    with pytest.raises(DamagedError, match="must be as they were written"):
        flat(LocalExecutor().train(portions(3), job("Unreadable")))


def test_what_a_worker_cannot_do_is_told_once(job: MakeJob, tmp_path: Path) -> None:
    """One without a nanny cannot be restarted; of several threads one trains."""
    events: list[Event] = []
    empty = LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0")
    with empty, Client(empty, set_as_default=False) as client:
        options = ("--no-nanny", "--nworkers", "1", "--nthreads", "2", "--memory-limit", "0")
        command = at(empty.scheduler_address, *options, "--local-directory", str(tmp_path))
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        worker = subprocess.Popen(command, env=environment, **QUIET)
        try:
            executor = DaskExecutor(client, DaskOptions(resident_limit_bytes=1))
            outcomes = flat(executor.train(portions(40), job("Instant"), listener=events.append))
        finally:
            stop(worker)
    assert ids(outcomes) == expected(40)
    messages = [event.message for event in events if isinstance(event, Notice)]
    assert len(messages) == len(events) == 2
    assert any("2 threads" in message and "--nworkers 2" in message for message in messages)
    assert any("without --no-nanny" in message for message in messages)


@pytest.fixture(scope="module")
def mixed() -> Iterator[Client]:
    """A cluster with one worker that declares a GPU and one that does not."""
    plain = {"nthreads": 1, "host": "127.0.0.1", "silence_logs": 50, "preload": ["dnnflow.execute.worker"]}
    cluster = SpecCluster(
        scheduler={"cls": Scheduler, "options": {"host": "127.0.0.1", "dashboard_address": None}},
        workers={
            "gpu": {"cls": Nanny, "options": plain | {"resources": {"GPU": 1}}},
            "plain": {"cls": Nanny, "options": plain},
        },
        silence_logs=50,
    )
    with cluster, Client(cluster, set_as_default=False) as client:
        client.wait_for_workers(2, timeout=60)
        yield client


@pytest.mark.parametrize(
    ("device", "used"),
    [("gpu", {("gpu", "gpu")}), ("auto", {("gpu", "gpu"), ("plain", "cpu")}),
     ("cpu", {("gpu", "cpu"), ("plain", "cpu")})],
)  # fmt: skip
def test_devices_on_a_mixed_cluster(
    mixed: Client, job: MakeJob, device: str, used: set[tuple[str, str]]
) -> None:
    names = {address: item["name"] for address, item in mixed.scheduler_info()["workers"].items()}
    outcomes = flat(DaskExecutor(mixed).train(portions(60), job("Short", device=device)))
    assert ids(outcomes) == expected(60)
    assert {(names[outcome.trial.worker], outcome.trial.device) for outcome in outcomes} == used


@pytest.mark.cluster
def test_a_cluster_without_workers_is_an_error_with_a_remedy(job: MakeJob) -> None:
    empty = LocalCluster(n_workers=0, dashboard_address="127.0.0.1:0")
    with empty, Client(empty, set_as_default=False) as client:
        executor = DaskExecutor(client, DaskOptions(wait_for_workers_s=1.0))
        with pytest.raises(ClusterError, match=r"got none for 1 s; start one \(dask worker tcp://"):
            flat(executor.train(portions(5), job("Instant")))


@pytest.mark.slow
def test_a_lost_scheduler_ends_the_run(job: MakeJob, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(dask_executor, "SCHEDULER_SILENCE_S", 2.0)
    file = tmp_path / "scheduler.json"
    options = ("--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file))
    process = subprocess.Popen([sys.executable, "-m", "dask", "scheduler", *options], **QUIET)
    try:
        while not file.exists():
            time.sleep(0.05)
        with Client(scheduler_file=str(file), set_as_default=False, timeout=2) as client:
            threading.Timer(1.0, process.kill).start()
            with pytest.raises(ClusterError, match=r"scheduler.*run the same command"):
                flat(DaskExecutor(client).train(portions(5), job("Instant")))
    finally:
        process.kill()
        process.wait(timeout=10)
