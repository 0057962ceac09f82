"""The compose file: each service as a process on loopback, with exactly its command and environment."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml

from dnnflow.results.store.store import Store
from dnnflow.serve.processes import RunningService, ServerProcesses, Service, free_port
from dnnflow.settings import Settings
from tests.flow_server import ROOT, PrefectServer
from tests.waiting import wait_for

pytestmark = pytest.mark.prefect

DOCKER = ROOT / "docker"
COMPOSE = yaml.safe_load((DOCKER / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
DOCKERFILE = re.sub(r"\\\n", " ", (DOCKER / "Dockerfile").read_text())
AUTH = "admin:a-password"
TOKEN = "a-token-that-nobody-guesses"
VARIABLES = {"PREFECT_AUTH": AUTH, "DNNFLOW_WEB_TOKEN": TOKEN}
PORTS = ("4200", "8050", "8080", "8786", "8787")


def image_environment() -> dict[str, str]:
    """Return what the image's last stage sets."""
    last = DOCKERFILE.rsplit("\nFROM ", 1)[1]
    found = [line.removeprefix("ENV ") for line in last.splitlines() if line.startswith("ENV ")]
    return dict(pair.split("=", 1) for line in found for pair in shlex.split(line))


def given(text: str, variables: dict[str, str]) -> str:
    """Replace ${NAME:-default} and ${NAME:?message} as compose does."""

    def value(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if variables.get(name):
            return variables[name]
        if kind == ":?":
            raise KeyError(rest)
        return rest or ""

    return re.sub(r"\$\{(\w+)(:-|:\?)?([^}]*)\}", value, text)


@dataclass
class Loopback:
    """Where the compose file's hosts, ports and directories are in this test."""

    folder: Path
    ports: dict[str, int] = field(default_factory=lambda: {port: free_port() for port in PORTS})

    def here(self, text: str) -> str:
        """Return a text of the compose file with hosts, ports and directories replaced, all in one pass."""
        places = {"/app": ROOT, **{f"/{name}": self.folder / name for name in ("data", "certs", "tmp")}}
        hosts = dict.fromkeys(("prefect-server", "dask-scheduler", "0.0.0.0"), "127.0.0.1")
        ports = {port: str(number) for port, number in self.ports.items()}
        known = {**{path: str(place) for path, place in places.items()}, **hosts, **ports}
        names = r"prefect-server|dask-scheduler|0\.0\.0\.0"
        pattern = rf"(?<![\w.])/(?:app|data|certs|tmp)\b|{names}|\b(?:{'|'.join(PORTS)})\b"
        return re.sub(pattern, lambda match: known[match.group()], given(text, VARIABLES))

    def environment(self, name: str) -> dict[str, str]:
        """Return a container's environment: the image's, then the service's."""
        service = SERVICES[name].get("environment", {})
        told = {key: self.here(str(value)) for key, value in {**image_environment(), **service}.items()}
        return told | {"PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin"}

    def service(self, name: str) -> Service:
        """Return a service of the compose file as a process."""
        command = tuple(self.here(part) for part in SERVICES[name]["command"])
        # As nothing of a host's environment reaches a container, nothing of this process's does.
        pairs = [f"{key}={value}" for key, value in self.environment(name).items()]
        clean = ("env", "-i", f"HOME={self.folder / 'tmp'}", *pairs)
        folder = Path(self.here(SERVICES[name].get("working_dir", "/app")))
        return Service(name, (*clean, *command), directory=folder)

    def is_healthy(self, name: str) -> bool:
        """Run a service's health check once."""
        test = [self.here(part) for part in SERVICES[name]["healthcheck"]["test"]]
        assert test[0] == "CMD"
        environment = {**os.environ, **self.environment(name)}
        return subprocess.run(test[1:], env=environment, cwd=ROOT, timeout=30, check=False).returncode == 0


# What can be seen without starting anything


def test_published_ports_bind_to_this_machine_unless_a_variable_says_otherwise() -> None:
    published = [port for service in SERVICES.values() for port in service.get("ports", [])]
    assert len(published) == 4
    assert all(given(port, {}).startswith("127.0.0.1:") for port in published)
    assert all(given(port, {"DNNFLOW_BIND": "10.0.0.5"}).startswith("10.0.0.5:") for port in published)


def test_there_is_no_server_without_a_password() -> None:
    for name, variable in (
        ("prefect-server", "PREFECT_SERVER_API_AUTH_STRING"),
        ("flows", "PREFECT_API_AUTH_STRING"),
        ("web", "PREFECT_API_AUTH_STRING"),
    ):
        text = SERVICES[name]["environment"][variable]
        assert given(text, VARIABLES) == AUTH
        with pytest.raises(KeyError, match=r"write PREFECT_AUTH=user:password into docker/\.env"):
            given(text, {})
    text = SERVICES["web"]["environment"]["DNNFLOW_WEB_TOKEN"]
    assert given(text, VARIABLES) == TOKEN
    with pytest.raises(KeyError, match=r"write DNNFLOW_WEB_TOKEN=a-long-secret into docker/\.env"):
        given(text, {})


def test_scheduler_workers_and_clients_speak_tls() -> None:
    for name in ("dask-scheduler", "dask-worker"):
        environment = SERVICES[name]["environment"]
        assert environment["DASK_DISTRIBUTED__COMM__REQUIRE_ENCRYPTION"] == "true"
        assert "tls://" in " ".join(SERVICES[name]["command"])
    assert SERVICES["flows"]["environment"]["DNNFLOW_CLUSTER"].startswith("tls://")
    elsewhere = dict(
        line.split("=", 1) for line in (DOCKER / "worker.env").read_text().splitlines() if "=" in line
    )
    assert elsewhere.items() <= SERVICES["dask-worker"]["environment"].items()


def test_the_image_is_locked_and_runs_as_nobody_special() -> None:
    assert re.search(r"pip install --requirement \S*requirements\.lock", DOCKERFILE)
    assert DOCKERFILE.count("\nFROM ") == 2
    assert re.findall(r"^USER (\S+)", DOCKERFILE, re.MULTILINE)[-1] == "dnnflow"
    assert "\nHEALTHCHECK " in DOCKERFILE
    assert image_environment()["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
    for line in DOCKERFILE.splitlines():
        if line.startswith("COPY ") and "--from" not in line:
            sources = [source for source in line.split()[1:-1] if not source.startswith("--")]
            # README.md and the locks are there in a clone; what is copied must also pass .dockerignore.
            assert all(
                f"!{source}" in (ROOT / ".dockerignore").read_text().splitlines() for source in sources
            )


# The services, running


@pytest.fixture
def loopback(tmp_path: Path) -> Loopback:
    """Free ports, empty directories, and certificates made by the shipped command."""
    for name in ("data", "tmp"):
        (tmp_path / name).mkdir()
    command = (sys.executable, "-m", "dnnflow", "cluster", "certs", str(tmp_path / "certs"))
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return Loopback(tmp_path)


@pytest.fixture
def composed(loopback: Loopback) -> Iterator[ServerProcesses]:
    """Every service of the compose file but the workers, started when those it depends on are healthy."""
    with ServerProcesses(loopback.folder / "logs") as services:
        started: list[str] = []
        waiting = [name for name in SERVICES if name != "dask-worker"]
        while waiting:
            name = next(one for one in waiting if set(SERVICES[one].get("depends_on", {})) <= set(started))
            needed = [one for one, how in SERVICES[name].get("depends_on", {}).items() if how["condition"]]
            for one in needed:
                wait_for(partial(loopback.is_healthy, one), 120, f"{one} is healthy")
            services.start(loopback.service(name))
            waiting.remove(name)
            started.append(name)
        yield services


def worker(loopback: Loopback, services: ServerProcesses, number: int) -> RunningService:
    """Start one more worker, as `--scale dask-worker=n` does."""
    service = loopback.service("dask-worker")
    return services.start(Service(f"dask-worker-{number}", service.command, directory=service.directory))


def ask_web(loopback: Loopback, path: str, body: bytes | None = None, *, token: str = TOKEN) -> Any:
    """Return what the web service's API answers: POST with a body, GET without."""
    kind = "text/csv" if path.startswith("/datasets") else "application/json"
    headers = {"Authorization": f"Bearer {token}", "Content-Type": kind}
    url = f"http://127.0.0.1:{loopback.ports['8050']}/api/v1{path}"
    with urllib.request.urlopen(urllib.request.Request(url, body, headers), timeout=60) as response:
        return json.loads(response.read())


def trials(home: Path) -> pd.DataFrame:
    """Return what has been stored of the newest study, one row a trial."""
    if not (home / "results.db").exists():
        return pd.DataFrame({"design_id": [], "worker": [], "state": []})
    with Store(Settings.from_environment({"DNNFLOW_HOME": str(home)}).store_url) as store:
        studies = store.studies()
        return store.frame(studies[0].study_id) if studies else trials(home / "none")


@pytest.mark.slow
def test_a_study_survives_a_killed_worker_and_uses_an_added_one(
    loopback: Loopback, composed: ServerProcesses
) -> None:
    first, _ = worker(loopback, composed, 1), worker(loopback, composed, 2)
    wait_for(lambda: loopback.is_healthy("flows"), 180, "flows is healthy")
    composed.check()
    environment = {"PREFECT_API_URL": f"http://127.0.0.1:{loopback.ports['4200']}/api"}
    home = loopback.folder / "data"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        PrefectServer(environment, home).call("/admin/version")
    server = PrefectServer({**environment, "PREFECT_API_AUTH_STRING": AUTH}, home, auth=AUTH)

    # One by one and about a second each: time enough to lose one worker and to start another
    small = {
        "designs": 12,
        "space": {"epochs": 250, "seed": {"int": [0, 4]}},
        "training": {"engine": "keras"},
        "outputs": {"models": 1},
    }
    asked = server.prefect("deployment", "run", "study/iris", "--param", f"pipeline={json.dumps(small)}")
    assert asked.returncode == 0, asked.stdout + asked.stderr
    wait_for(lambda: trials(home)["worker"].nunique() == 2, 180, "a trial by each worker")
    first.signal(signal.SIGKILL)
    first.process.wait()
    composed.running.remove(first)
    worker(loopback, composed, 3)

    ended = ("COMPLETED", "FAILED", "CRASHED")
    wait_for(lambda: server.runs("iris")[0]["state_type"] in ended, 240, "the end of the run")
    flow_run = server.runs("iris")[0]
    assert flow_run["state_type"] == "COMPLETED", flow_run["state"]["message"]
    stored = trials(home)
    assert (len(stored), stored["design_id"].nunique()) == (60, 60)
    assert set(stored["state"]) == {"completed"}
    assert stored["worker"].str.startswith("tls://").all()
    assert stored["worker"].nunique() == 3, "the killed worker, the one beside it and the added one"
    assert server.artifacts(flow_run["id"])["progress-iris"]["data"] == 100.0
    start_from_the_web(loopback)


def start_from_the_web(loopback: Loopback) -> None:
    """A table that is sent to the web service is trained on by the workers, as a run of Prefect's."""
    wait_for(lambda: loopback.is_healthy("web"), 60, "web is healthy")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        ask_web(loopback, "/studies", token="another")
    table = ask_web(loopback, "/datasets?name=iris", (ROOT / "pipelines" / "data" / "iris.csv").read_bytes())
    pipeline = {
        "name": "from the web",
        "dataset": {"source": f"upload:{table['upload_id']}", "label": "species"},
        "space": {"depth": 1, "units": {"choice": [4, 8]}, "activation": "relu", "epochs": 1},
        "strategy": "grid",
    }
    made = ask_web(loopback, "/studies", json.dumps({"pipeline": pipeline}).encode())["study_id"]

    def look() -> Any:
        study = ask_web(loopback, f"/studies/{made}")
        return study if study["state"] in ("finished", "failed", "stopped") else None

    study = wait_for(look, 180, "the end of the study")
    assert (study["state"], study["completed"]) == ("finished", 2), study["error"]
    assert "/runs/flow-run/" in study["run_url"]
