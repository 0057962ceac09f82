"""How soon the web server answers: idle, while a study trains on all cores, while an upload streams too."""

import itertools
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import httpx
import numpy as np

ROOT = Path(__file__).parents[2]
GOAL_MS = 200.0
UPLOAD_GB = 1.0
PAUSE_S = 0.05
"""Between two requests of the client that measures."""
PIPELINE = {
    "name": "load",
    "dataset": {"source": str(ROOT / "pipelines" / "data" / "digits.csv"), "label": "digit"},
    "space": {
        "depth": {"int": [1, 4]},
        "units": {"choice": [64, 128, 256]},
        "activation": {"choice": ["relu", "tanh"]},
        "learning_rate": {"loguniform": [0.0001, 0.01]},
        "epochs": 50,
    },
    "designs": 5000,
    "strategy": "random",
}


@contextmanager
def web_server(home: Path) -> Iterator[tuple[httpx.Client, int]]:
    """Run `dnnflow web` on a free port; yield a client of it and its process id."""
    command = (sys.executable, "-m", "dnnflow", "web", "--port", "0")
    environment = {**os.environ, "DNNFLOW_HOME": str(home), "PYTHONPATH": str(ROOT)}
    log = (home / "web.log").open("w")
    start = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=log, stderr=log, cwd=home)
    try:
        while not (found := re.search(r"http://[\d.:]+", (home / "web.log").read_text())):
            time.sleep(0.01)
            if process.poll() is not None:
                raise SystemExit((home / "web.log").read_text())
        with httpx.Client(base_url=found.group(), timeout=60) as client:
            client.get("/api/v1/health").raise_for_status()
            print(f"first answer after {time.perf_counter() - start:.2f} s")
            yield client, process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(20)
        log.close()


def latencies(client: httpx.Client, paths: dict[str, str], seconds: float) -> dict[str, np.ndarray]:
    """Return the time of each request in ms, by what was asked."""
    taken: dict[str, list[float]] = {name: [] for name in paths}
    end = time.monotonic() + seconds
    for name in itertools.cycle(paths):
        if time.monotonic() > end:
            break
        start = time.perf_counter()
        client.get(paths[name])
        taken[name].append((time.perf_counter() - start) * 1000)
        time.sleep(PAUSE_S)
    return {name: np.array(values) for name, values in taken.items()}


def tell(when: str, found: dict[str, np.ndarray]) -> None:
    """Print medians and tails."""
    for name, values in found.items():
        p50, p99 = np.percentile(values, [50, 99])
        verdict = "" if p99 < GOAL_MS else f"  above the goal of {GOAL_MS:g} ms"
        print(
            f"{when:44} {name:8} n {len(values):5}  p50 {p50:7.1f} ms  p99 {p99:7.1f} ms"
            f"  most {values.max():7.1f} ms{verdict}"
        )


@contextmanager
def uploading(client: httpx.Client, gigabytes: float) -> Iterator[list[float]]:
    """Upload tables of that size one after the other, as fast as they are taken; yield MB/s of each."""
    row = ",".join(f"{number * 0.37:.6f}" for number in range(20))
    block = "".join(f"{row},{'ab'[number % 2]}\n" for number in range(5000)).encode()
    rates: list[float] = []
    stop = Event()

    def parts() -> Iterator[bytes]:
        yield (",".join(f"c{number}" for number in range(20)) + ",label\n").encode()
        for _ in range(int(gigabytes * 1e9 / len(block))):
            if stop.is_set():
                return
            yield block

    def send() -> None:
        with httpx.Client(base_url=client.base_url, timeout=600) as own:
            while not stop.is_set():
                start = time.perf_counter()
                answer = own.post("/api/v1/datasets?name=load", content=parts(),
                                  headers={"Content-Type": "text/csv"})  # fmt: skip
                if stop.is_set():
                    return
                answer.raise_for_status()
                rates.append(gigabytes * 1e3 / (time.perf_counter() - start))
                own.delete(f"/api/v1/datasets/{answer.json()['upload_id']}")

    thread = Thread(target=send)
    thread.start()
    try:
        yield rates
    finally:
        stop.set()
        thread.join()


@contextmanager
def plain_study(home: Path) -> Iterator[None]:
    """Train the same study by `dnnflow run`, whose processes have the priority of the web server."""
    file = home / "load.json"
    file.write_text(json.dumps(PIPELINE | {"seed": 1}))  # JSON is YAML
    environment = {**os.environ, "DNNFLOW_HOME": str(home), "PYTHONPATH": str(ROOT)}
    command = (sys.executable, "-m", "dnnflow", "run", str(file), "--new")
    quiet = subprocess.DEVNULL
    process = subprocess.Popen(command, env=environment, stderr=quiet, stdout=quiet)
    try:
        yield
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(60)


def wait_for_trials(client: httpx.Client, study_id: str) -> None:
    """Wait until a study has trials."""
    while not client.get(f"/api/v1/studies/{study_id}").json()["completed"]:
        time.sleep(0.5)


def newest(client: httpx.Client, other: str) -> str:
    """Return the id of the newest study, as soon as it is another one."""
    while True:
        studies = client.get("/api/v1/studies").json()["studies"]
        if studies and studies[0]["study_id"] != other:
            return str(studies[0]["study_id"])
        time.sleep(0.5)


def measure(seconds: float) -> None:
    """Print latencies of page, status and health."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        with web_server(home) as (client, _):
            made = client.post("/api/v1/studies", json={"pipeline": PIPELINE})
            if made.status_code == httpx.codes.UNPROCESSABLE_ENTITY:
                made = launch_own(client)
            study_id = made.raise_for_status().json()["study_id"]
            wait_for_trials(client, study_id)
            paths = paths_of(study_id)
            tell("a study trains on all cores (nice 10)", latencies(client, paths, seconds))
            with uploading(client, UPLOAD_GB) as rates:
                tell(f"the same, and {UPLOAD_GB:g} GB uploads stream", latencies(client, paths, seconds))
            print(f"{'':44} uploads {', '.join(f'{rate:.0f}' for rate in rates) or 'none ended'} MB/s")
            client.post(f"/api/v1/studies/{study_id}/cancel").raise_for_status()
            while client.get(f"/api/v1/studies/{study_id}").json()["state"] == "running":
                time.sleep(0.5)
            time.sleep(5)
            tell("idle", latencies(client, paths, seconds))
            with plain_study(home):
                other = newest(client, study_id)
                wait_for_trials(client, other)
                paths = paths_of(other)
                tell("a study trains on all cores (dnnflow run)", latencies(client, paths, seconds))
                with uploading(client, UPLOAD_GB):
                    tell(f"the same, and {UPLOAD_GB:g} GB uploads stream", latencies(client, paths, seconds))


def paths_of(study_id: str) -> dict[str, str]:
    """Return what is asked for."""
    return {
        "page": f"/studies/{study_id}",
        "status": f"/api/v1/studies/{study_id}",
        "health": "/api/v1/health",
    }


def launch_own(client: httpx.Client) -> httpx.Response:
    """Send the study's table first, where the server takes no paths."""
    source = Path(str(PIPELINE["dataset"]["source"]))  # type: ignore[index]
    table = client.post("/api/v1/datasets?name=digits", content=source.read_bytes(),
                        headers={"Content-Type": "text/csv"})  # fmt: skip
    dataset = {"source": f"upload:{table.raise_for_status().json()['upload_id']}", "label": "digit"}
    return client.post("/api/v1/studies", json={"pipeline": PIPELINE | {"dataset": dataset}})
