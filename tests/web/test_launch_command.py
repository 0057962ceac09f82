"""`dnnflow web` as a process: what a person at a terminal sees."""

import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from dnnflow.pipeline.pipeline_file import load_any
from dnnflow.results.store.run_record import RunState, new_study_id
from dnnflow.results.store.store import Store
from dnnflow.serve.processes import free_port
from dnnflow.settings import Settings
from dnnflow.web.jobs.embedded_launcher import EmbeddedLauncher

ROOT = Path(__file__).parents[2]
Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `dnnflow web` with some arguments and return the process, whose output is read by line."""
    begun: list[subprocess.Popen[str]] = []

    def run(*arguments: str, **variables: str) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            (sys.executable, "-m", "dnnflow", "web", "--port", "0", *arguments),
            env={**os.environ, "DNNFLOW_HOME": str(tmp_path / "home"), **variables},
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
        )
        begun.append(process)
        return process

    yield run
    for process in begun:
        process.kill()
        process.communicate()


def address(process: subprocess.Popen[str]) -> str:
    """Return the address that the first line tells."""
    assert process.stdout is not None
    found = re.search(r"dnnflow is at (\S+)", process.stdout.readline())
    assert found
    return found.group(1)


def get(url: str, token: str = "") -> bytes:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    with urllib.request.urlopen(urllib.request.Request(url, headers=headers), timeout=30) as response:
        return response.read()


@pytest.mark.slow
def test_it_answers_without_tensorflow_and_ends_with_ctrl_c(start: Start) -> None:
    process = start()
    url = address(process)
    assert "?" not in url, "on this machine nobody logs in"
    assert json.loads(get(f"{url}api/v1/health"))["launcher"] == "this machine"
    assert json.loads(get(f"{url}api/v1/studies"))["studies"] == []
    mapped = {item.path for item in psutil.Process(process.pid).memory_maps()}
    assert not [path for path in mapped if "tensorflow" in path]
    process.send_signal(signal.SIGINT)
    rest, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    assert "stopped; studies that were started go on" in rest


@pytest.mark.slow
def test_others_log_in_with_a_token_that_is_shown_once(start: Start) -> None:
    url = address(start("--host", "0.0.0.0"))
    found = re.fullmatch(r"(http://127.0.0.1:\d+/)login\?token=([\w-]{32,})", url)
    assert found is not None
    base, token = found.groups()
    assert json.loads(get(f"{base}api/v1/health"))
    with pytest.raises(urllib.error.HTTPError, match="401"):
        get(f"{base}api/v1/studies")
    assert json.loads(get(f"{base}api/v1/studies", token))["studies"] == []


@pytest.mark.slow
def test_a_token_that_was_given_is_not_shown(start: Start) -> None:
    token = "given-by-somebody-and-long"
    url = address(start("--host", "0.0.0.0", DNNFLOW_WEB_TOKEN=token))
    assert token not in url
    assert json.loads(get(f"{url.removesuffix('login')}api/v1/studies", token))["studies"] == []


@pytest.mark.slow
def test_a_taken_port_is_said(start: Start, tmp_path: Path) -> None:
    url = address(start())
    port = url.rsplit(":", 1)[1].strip("/")
    command = (sys.executable, "-m", "dnnflow", "web", "--port", port)
    environment = {**os.environ, "DNNFLOW_HOME": str(tmp_path / "other")}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert f"needs a free port of this machine, got 127.0.0.1:{port}: Address already in use" in done.stderr
    assert "choose another with --port" in done.stderr


@pytest.mark.slow
def test_a_study_goes_on_after_ctrl_c(start: Start, tmp_path: Path) -> None:
    """Which a terminal sends to every process of its foreground."""
    process = start()
    address(process)
    settings = Settings.from_environment({"DNNFLOW_HOME": str(tmp_path / "home")})
    launcher = EmbeddedLauncher(settings.workspace.home / "launches", settings)
    given = ("designs=2", "executor.kind=in-process", "training.engine=compiled", "outputs.models=0")
    study_id = new_study_id()
    launcher.launch(load_any(ROOT / "pipelines" / "iris.yaml", given), study_id)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=20)
    with Store(settings.store_url) as store:
        while (found := store.run(study_id)).ended_at is None:
            launcher.refresh(study_id)
            time.sleep(0.2)
    launcher.close()
    assert found.state is RunState.FINISHED, found.error


@pytest.mark.slow
def test_a_prefect_server_that_is_away_costs_jobs_only(start: Start) -> None:
    url = address(start("--prefect", f"http://127.0.0.1:{free_port()}"))
    assert json.loads(get(f"{url}api/v1/health"))["launcher"] == "a Prefect server"
