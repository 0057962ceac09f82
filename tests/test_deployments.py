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
from flow_server import FINAL, ROOT, PrefectServer, wait_for

from dnnflow.pipeline import Pipeline
from dnnflow.pipeline_file import load_any, load_pipeline
from dnnflow.results.store import Store
from dnnflow.serving.processes import free_port
from dnnflow.serving.services import prefect_environment
from dnnflow.settings import Settings
from dnnflow.train_pipeline import TrainPipeline

pytestmark = pytest.mark.slow

DEPLOYMENTS = yaml.safe_load((ROOT / "prefect.yaml").read_text())["deployments"]
STUDIES = [item["name"] for item in DEPLOYMENTS if item["entrypoint"].endswith(":study") and "build" in item]
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
    path = declared["build"][0]["dnnflow.serving.defaults.read_pipeline"]["path"]
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
    expected = [f"upload {source}", "preprocess digit", "train 1 of 1", "aggregate", "report"]
    assert server.task_runs(flow_run["id"]) == dict.fromkeys(expected, "COMPLETED")

    artifacts = server.artifacts(flow_run["id"])
    assert artifacts["progress-quickstart"]["data"] == 100.0
    rows = json.loads(artifacts["leaderboard-quickstart"]["data"])
    assert [row["rank"] for row in rows] == [1, 2, 3]
    assert "/status" in artifacts["dashboard-quickstart"]["data"]
    with store(server) as results:
        record = results.studies()[0]
        assert (record.n_designs, len(results.finished(record.study_id))) == (3, 3)
    account = artifacts["report-quickstart"]["data"]
    assert record.study_id in account
    assert str(server.home / "studies" / record.study_id / "report.html") in account


def test_a_triggered_training_ends_with_a_model(server: PrefectServer, tmp_path: Path) -> None:
    """With a part of the file's pipeline laid over, on the workers that `make serve` has started."""
    from dnnflow.models import load_model

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
