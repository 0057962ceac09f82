"""`make serve` and what its users trigger: a real Prefect server, Dask scheduler, Dask workers and worker."""

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import yaml

from dnnflow.errors import ConflictError, LaunchError, NotFoundError
from dnnflow.pipeline.pipeline_file import load_any, load_pipeline
from dnnflow.pipeline.study_pipeline import Pipeline
from dnnflow.pipeline.training_pipeline import TrainPipeline
from dnnflow.results.store.run_record import RunRecord, RunState, new_study_id
from dnnflow.results.store.store import Store
from dnnflow.serve.processes import free_port
from dnnflow.serve.service_commands import prefect_environment
from dnnflow.settings import Settings
from dnnflow.web.jobs.prefect_launcher import PrefectLauncher
from tests.flow_server import FINAL, ROOT, PrefectServer
from tests.waiting import wait_for

pytestmark = pytest.mark.slow

DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
STUDIES = [
    item["name"] for item in DEPLOYMENTS if item["entrypoint"].endswith(":study") and item["name"] != "web"
]
SMALL = {"designs": 3, "space": {"epochs": 1}, "outputs": {"models": 0}}
ENDS_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrefectServer]:
    """What `make serve` starts, on free ports and with a workspace of its own."""
    home = tmp_path_factory.mktemp("serve")
    prefect_port, ports = (
        free_port(),
        ("--scheduler-port", str(free_port()), "--dashboard-port", str(free_port())),
    )
    command = (sys.executable, str(ROOT / "flows" / "serve.py"), "--prefect-port", str(prefect_port), *ports)
    served = subprocess.Popen(
        (*command, "--workers", "2"),
        # Whoever runs the worker may stand anywhere.
        cwd=home,
        env={**os.environ, "DNNFLOW_HOME": str(home), "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert served.stdout is not None
    lines = []
    for line in served.stdout:
        lines.append(line)
        if "Ctrl-C" in line:
            break
    assert served.poll() is None, "".join(lines)
    started = psutil.Process(served.pid).children(recursive=True)
    try:
        yield PrefectServer(prefect_environment(home / "prefect", prefect_port), home)
    finally:
        served.send_signal(signal.SIGINT)
        code = served.wait(ENDS_WITHIN_S)
        served.stdout.close()
        _, left = psutil.wait_procs(started, timeout=5)
        for process in left:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
    assert code == 0
    assert not left, "Ctrl-C must stop every process that make serve has started"


def run(
    server: PrefectServer, deployment: str, pipeline: dict[str, Any], flow: str = "study"
) -> tuple[subprocess.CompletedProcess[str], dict[str, Any]]:
    """Trigger a deployment as a user does, wait for its end, and return the command and the flow run."""
    parameter = f"pipeline={json.dumps(pipeline)}"
    done = server.prefect("deployment", "run", f"{flow}/{deployment}", "--param", parameter, "--watch")
    runs = server.runs(deployment)
    return done, runs[-1] if runs else {}


def store(server: PrefectServer) -> Store:
    """Open the results of the server's runs."""
    return Store(Settings.from_environment({"DNNFLOW_HOME": str(server.home)}).store_url)


@pytest.mark.parametrize("name", STUDIES)
def test_a_deployment_starts_from_its_file(server: PrefectServer, name: str) -> None:
    declared = next(item for item in DEPLOYMENTS if item["name"] == name)
    path = declared["build"][0]["dnnflow.serve.deployment_defaults.read_pipeline"]["path"]
    deployment = server.deployment(name)
    assert Pipeline.model_validate(deployment["parameters"]["pipeline"]) == load_pipeline(ROOT / path)
    assert Path(deployment["parameters"]["pipeline"]["dataset"]["source"]).is_file()
    assert deployment["work_pool_name"] == "dnnflow"
    # Prefect registers a flow whose file cannot be imported as a placeholder without these descriptions.
    form = deployment["parameter_openapi_schema"]["properties"]["pipeline"]["properties"]
    assert form["designs"]["description"].startswith("How many designs to train")
    assert form["dataset"]["properties"]["label"]["description"].startswith("Name of the column")


def test_only_nightly_has_a_schedule(server: PrefectServer) -> None:
    schedules = {name: server.deployment(name)["schedules"] for name in STUDIES}
    assert not server.deployment("train", "train")["schedules"]
    assert [name for name, found in schedules.items() if found] == ["nightly"]
    assert schedules["nightly"][0]["schedule"]["cron"] == "0 2 * * *"


def test_telemetry_is_off(server: PrefectServer) -> None:
    assert server.call("/admin/settings")["server"]["analytics_enabled"] is False
    assert server.environment["DO_NOT_TRACK"] == "1"


def test_a_triggered_study_ends_completed(server: PrefectServer) -> None:
    done, flow_run = run(server, "quickstart", SMALL)
    assert done.returncode == 0, done.stdout
    assert (flow_run["name"], flow_run["state_type"]) == ("quickstart", "COMPLETED")
    source = server.deployment("quickstart")["parameters"]["pipeline"]["dataset"]["source"]
    expected = [f"upload {source}", "preprocess digit", "train 1 of 1", "aggregate", "finalists", "test",
                "final", "report"]  # fmt: skip
    assert server.task_runs(flow_run["id"]) == dict.fromkeys(expected, "COMPLETED")

    artifacts = server.artifacts(flow_run["id"])
    assert artifacts["progress-quickstart"]["data"] == 100.0
    rows = json.loads(artifacts["leaderboard-quickstart"]["data"])
    designs = [row for row in rows if row["on"] != "What is handed out, and baselines"]
    assert [row["rank"].removeprefix("≈ ") for row in designs] == ["1", "2", "3"]
    assert "/status" in artifacts["dashboard-quickstart"]["data"]
    with store(server) as results:
        record = results.studies()[0]
        assert (record.n_designs, len(results.finished(record.study_id))) == (3, 3)
    account = artifacts["report-quickstart"]["data"]
    assert record.study_id in account
    assert str(server.home / "studies" / record.study_id / "report.html") in account


def test_a_triggered_training_ends_with_a_model(server: PrefectServer, tmp_path: Path) -> None:
    """With a part of the file's pipeline laid over, on the workers that `make serve` has started."""
    from dnnflow.run.models.saved_model import load_model

    out = tmp_path / "trained.keras"
    given = {"parallel": {"epochs": 2, "replicas": 1}, "outputs": {"model": str(out)}}
    done, flow_run = run(server, "train", given, "train")
    assert done.returncode == 0, done.stdout
    assert (flow_run["name"], flow_run["state_type"]) == ("train", "COMPLETED")
    assert server.task_runs(flow_run["id"]) == dict.fromkeys(("prepare", "train", "write"), "COMPLETED")
    artifacts = server.artifacts(flow_run["id"])
    rows = json.loads(artifacts["history-train"]["data"])
    assert [row["epoch"] for row in rows] == [1, 2]
    assert all("val_accuracy" in row for row in rows)
    assert str(out) in artifacts["files-train"]["data"]
    assert len(load_model(out).class_names) == 10
    default = server.deployment("train", "train")["parameters"]["pipeline"]
    assert TrainPipeline.model_validate(default) == load_any(ROOT / "pipelines" / "train.yaml")


def test_an_unknown_field_is_refused_when_the_run_is_asked_for(server: PrefectServer) -> None:
    before = len(server.runs("iris"))
    done, _ = run(server, "iris", {"desings": 3})
    assert done.returncode != 0
    assert "'desings' was unexpected" in done.stdout
    assert len(server.runs("iris")) == before


def test_a_failed_run_says_what_to_do(server: PrefectServer) -> None:
    done, flow_run = run(server, "iris", {"dataset": {"source": "/nowhere/table.csv"}})
    assert done.returncode != 0
    assert flow_run["state_type"] == "FAILED"
    message = flow_run["state"]["message"]
    assert "dataset.source must be a file that can be read, got /nowhere/table.csv" in message
    assert "check the path" in message
    # A path that does not exist stays so: it is not tried again.
    assert server.task_runs(flow_run["id"]) == {"upload /nowhere/table.csv": "FAILED"}


def test_a_schedule_fires_by_itself_and_makes_a_new_study_each_time(
    server: PrefectServer, tmp_path: Path
) -> None:
    listing = yaml.safe_load((ROOT / "prefect.yaml").read_text())
    often = next(item for item in listing["deployments"] if item["name"] == "iris")
    often |= {"name": "often", "schedules": [{"interval": 10.0}]}
    often["parameters"] = {
        "pipeline": load_pipeline(ROOT / "pipelines" / "iris.yaml").plain() | SMALL | {"name": "often"}
    }
    listing["deployments"] = [often]
    (tmp_path / "prefect.yaml").write_text(yaml.safe_dump(listing))
    deployed = server.prefect("deploy", "--all", "--prefect-file", str(tmp_path / "prefect.yaml"))
    assert deployed.returncode == 0, deployed.stdout + deployed.stderr

    def ended() -> list[dict[str, Any]]:
        found = [item for item in server.runs("often") if item["state_type"] in FINAL]
        return found if len(found) >= 2 else []

    runs = wait_for(ended, 180, "two scheduled runs")
    server.call(f"/deployments/{server.deployment('often')['id']}", method="DELETE")
    assert {item["state_type"] for item in runs} == {"COMPLETED"}
    assert all(item["auto_scheduled"] for item in runs)
    with store(server) as results:
        studies = [record for record in results.studies() if record.name == "often"]
    assert len(studies) >= 2
    assert len({record.key for record in studies}) == 1


# What the web page starts


@pytest.fixture
def launcher(server: PrefectServer) -> Iterator[PrefectLauncher]:
    settings = Settings.from_environment({"DNNFLOW_HOME": str(server.home)})
    url = server.environment["PREFECT_API_URL"]
    with contextlib.closing(PrefectLauncher(url, server.home / "launches", settings)) as opened:
        yield opened


def end_of(server: PrefectServer, launcher: PrefectLauncher, run_id: str) -> RunRecord:
    """Return a run when it has ended."""

    def look() -> RunRecord:
        launcher.refresh(run_id)
        with store(server) as results:
            return results.run(run_id)

    wait_for(lambda: look().ended_at is not None, 180, f"the end of {run_id}")
    return look()


def small(*overrides: str) -> Pipeline:
    """Return a study of iris that takes no time."""
    settings = ("designs=2", "space.epochs=1", "outputs.models=0", "training.engine=compiled",
                "space.seed=0")  # fmt: skip
    return load_pipeline(ROOT / "pipelines" / "iris.yaml", (*settings, *overrides))


def test_a_job_is_a_run_with_its_own_study(server: PrefectServer, launcher: PrefectLauncher) -> None:
    study_id = new_study_id()
    made = launcher.launch(small(), study_id, key="one")
    assert (made.run_id, made.kind, made.name, made.error) == (study_id, "study", "iris", None)
    assert launcher.launch(small(), new_study_id(), key="one").run_id == study_id
    with pytest.raises(ConflictError, match=f"the key of job {study_id} with another; take a new key"):
        launcher.launch(small("designs=3"), new_study_id(), key="one")
    done = end_of(server, launcher, study_id)
    assert done.state is RunState.FINISHED, done.error
    assert done.started_at is not None
    assert done.ended_at is not None
    assert done.started_at < done.ended_at
    assert done.run_url is not None
    flow_run = server.call(f"/flow_runs/{done.run_url.rsplit('/', 1)[1]}")
    assert flow_run["parameters"]["study_id"] == study_id
    with store(server) as results:
        assert results.study(study_id).state is RunState.FINISHED
        assert [one.run_id for one in results.runs() if one.queue is not None] == [study_id]


def test_a_job_that_fails_says_why_and_can_be_resumed(
    server: PrefectServer, launcher: PrefectLauncher, tmp_path: Path
) -> None:
    table, study_id = tmp_path / "table.csv", new_study_id()
    launcher.launch(small(f"dataset.source={table}"), study_id)
    done = end_of(server, launcher, study_id)
    assert done.state is RunState.FAILED
    assert (done.error or "").startswith(f"dataset.source must be a file that can be read, got {table}")
    table.write_text((ROOT / "pipelines" / "data" / "iris.csv").read_text())
    assert not launcher.resume(study_id).state.has_ended
    assert end_of(server, launcher, study_id).state is RunState.FINISHED


def test_cancelled_jobs_end_and_go_on(server: PrefectServer, launcher: PrefectLauncher) -> None:
    study_id = new_study_id()
    launcher.launch(small("designs=2", "space.epochs=300", "space.seed={int: [0, 99]}",
                          "training.stack_mb=0.001", "strategy=random"), study_id)  # fmt: skip

    def trials() -> int:
        with store(server) as results:
            return len(results.finished(study_id)) if results.find(study_id) else 0

    wait_for(trials, 120, "first trials")
    launcher.cancel(study_id)
    done = end_of(server, launcher, study_id)
    assert done.state is RunState.STOPPED
    with store(server) as results:
        assert results.study(study_id).state is RunState.STOPPED
    assert trials() < 200
    launcher.resume(study_id)
    done = end_of(server, launcher, study_id)
    assert done.state is RunState.FINISHED, done.error
    assert trials() == 200


def test_a_training_is_a_job_too(server: PrefectServer, launcher: PrefectLauncher) -> None:
    run_id = new_study_id()
    given = load_any(ROOT / "pipelines" / "train.yaml", ["parallel.replicas=1", "parallel.epochs=2"])
    assert launcher.launch(given, run_id).kind == "training"
    done = end_of(server, launcher, run_id)
    assert done.state is RunState.FINISHED, done.error
    assert done.outcome is not None
    assert done.outcome["last"]["epoch"] == 2
    assert Path(done.outcome["model"]).is_file()
    assert run_id in done.outcome["model"]


def test_what_prefect_does_not_know_or_cannot_do_is_said(server: PrefectServer, launcher: PrefectLauncher,
                                                         tmp_path: Path) -> None:  # fmt: skip
    for ask in (launcher.cancel, launcher.resume, launcher.log):
        with pytest.raises(NotFoundError, match="a job is found by its id"):
            ask("nothing")
    settings = Settings.from_environment({"DNNFLOW_HOME": str(tmp_path)})
    away = PrefectLauncher(f"http://127.0.0.1:{free_port()}", tmp_path, settings)
    said = r"got no answer: .*; start it, or give its address with --prefect"
    with contextlib.closing(away), pytest.raises(LaunchError, match=said):
        away.launch(small(), new_study_id())
