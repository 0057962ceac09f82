"""What golden tests share: one Dask cluster, one Prefect server, one web server, a home for every door."""

import os
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
import pytest

from dnnflow.serve.processes import free_port
from tests.golden.doors import ROOT, CommandLine, Door, Flow, Python, Rest, wait_for
from tests.golden.outcomes import Gate

GATE = ROOT / "tests" / "golden" / "gate"
WORKER_PRELOAD = "dnnflow.execute.worker"
"""As README has it for `dask worker`."""


@contextmanager
def process(log: Path, *command: str, **environment: str) -> Iterator[subprocess.Popen[bytes]]:
    """Keep a process alive for the block."""
    with log.with_suffix(".err").open("wb") as errors, log.open("wb") as printed:
        started = subprocess.Popen(command, stdout=printed, stderr=errors, env={**os.environ, **environment})
    try:
        yield started
    finally:
        started.terminate()
        try:
            started.wait(15)
        except subprocess.TimeoutExpired:
            started.kill()
            started.wait()


def answers(url: str) -> bool:
    try:
        return httpx.get(url, timeout=5).is_success
    except httpx.HTTPError:
        return False


@pytest.fixture(scope="session")
def golden(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of everything that golden tests write."""
    return tmp_path_factory.mktemp("golden")


@pytest.fixture(scope="session")
def surroundings(golden: Path) -> Iterator[dict[str, str]]:
    """What every door has in its environment: the engine `gated`, and the servers, which are started."""
    path = os.pathsep.join(filter(None, (str(GATE), os.environ.get("PYTHONPATH"))))
    dask, prefect = free_port(), free_port()
    engine = {"PYTHONPATH": path, "GOLDEN_GATE": str(golden / "gates"), "TF_CPP_MIN_LOG_LEVEL": "3"}
    flows = {
        "PREFECT_HOME": str(golden / "prefect"),
        "PREFECT_API_URL": f"http://127.0.0.1:{prefect}/api",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_SERVER_UI_ENABLED": "false",
        "DO_NOT_TRACK": "1",
    }
    cluster = f"tcp://127.0.0.1:{dask}"
    scheduler = ("scheduler", "--no-show", "--host", cluster, "--dashboard-address", "127.0.0.1:0")
    workers = (
        "worker",
        cluster,
        "--nworkers",
        "2",
        "--nthreads",
        "1",
        "--host",
        "127.0.0.1",
        "--no-dashboard",
    )
    fit = ("--memory-limit", "0", "--preload", WORKER_PRELOAD, "--local-directory", str(golden))
    server = ("uvicorn", "--factory", "prefect.server.api.server:create_app", "--host", "127.0.0.1")
    with ExitStack() as stack:
        for name, *command in (
            ("prefect", *server, "--port", str(prefect)),
            ("dask-scheduler", "dask", *scheduler),
            ("dask-workers", "dask", *workers, *fit),
        ):
            log = golden / f"{name}.log"
            stack.enter_context(process(log, sys.executable, "-m", *command, **engine, **flows))
        yield {**engine, **flows, "DNNFLOW_CLUSTER": cluster}


@pytest.fixture(scope="session")
def prefect(surroundings: dict[str, str]) -> None:
    """A Prefect server that answers."""
    wait_for(lambda: answers(f"{surroundings['PREFECT_API_URL']}/health"), "the Prefect server answers")


@pytest.fixture(scope="session")
def doors(golden: Path, surroundings: dict[str, str], prefect: None) -> Iterator[dict[str, Door]]:
    """Every door by its name."""
    made: dict[str, Door] = {
        kind.name: kind(golden / kind.name, surroundings) for kind in (CommandLine, Python, Flow, Rest)
    }
    rest = made["rest"]
    assert isinstance(rest, Rest)
    log = golden / "web.log"
    web = (sys.executable, "-m", "dnnflow", "web", "--port", "0")
    with process(log, *web, **{**surroundings, "DNNFLOW_HOME": str(rest.home), "PYTHONUNBUFFERED": "1"}):
        rest.connect(wait_for(lambda: re.search(r"dnnflow is at (\S+)", log.read_text()), "it tells")[1])
        yield made
        for door in made.values():
            door.close()


@pytest.fixture(params=["cli", "python", "flow", "rest"])
def door(request: pytest.FixtureRequest, doors: dict[str, Door]) -> Door:
    """Each door in turn."""
    return doors[request.param]


@pytest.fixture(scope="session")
def new_gate(surroundings: dict[str, str]) -> Iterator[Callable[[], Gate]]:
    """A function that returns another gate: all are open at the end, so that nobody waits for ever."""
    made: list[Gate] = []

    def make() -> Gate:
        made.append(Gate(Path(surroundings["GOLDEN_GATE"]), 1000 + len(made)))
        return made[-1]

    yield make
    for gate in made:
        gate.open()
