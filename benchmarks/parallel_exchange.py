"""How fast two replicas push to and pull from one server: dnnflow's channel beside MPI, Ray and plain Dask.

    python benchmarks/parallel_exchange.py                                  # 3,000, 1 M and 25 M parameters
    python benchmarks/parallel_exchange.py --peer-python PYTHON   # that has mpi4py and Ray, if not this one

Server and replicas have a process each on this machine. All update by SGD in place (dnnflow by Adam too) and
take turns, round by round; the ratio to MPI is the median of those of the rounds. Start-up and the first push
of each are not counted. MPI and Ray take part where they are installed:

    apt-get install openmpi-bin libopenmpi-dev && pip install mpi4py
    pip install ray
"""

import argparse
import contextlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from distributed import Client
from peers.mpi_exchange import descend

from dnnflow.execute.cluster import ClusterSpec, open_cluster
from dnnflow.parallel.channel.actor_channel import ActorChannel, open_channel
from dnnflow.parallel.channel.server_actor import ServerActor
from dnnflow.parallel.server.messages import Push
from dnnflow.parallel.spec.algorithm import Algorithm, OptimizerSpec

PEERS = Path(__file__).parent / "peers"
REPLICAS = 2
SIZES = (3_000, 1_000_000, 25_000_000)
GOALS = {3_000: 0.8, 1_000_000: 1.0, 25_000_000: 1.0}
"""Updates a second of the channel, as a share of MPI's."""
MPI, CHANNEL = "mpi4py, blocking buffers", "dnnflow channel"
START_S = 60.0

Measure = Callable[[int, float], float]
"""Takes parameters and seconds, returns updates a second of all replicas."""


class NaiveServer:
    """A parameter server as one would write it with Dask alone."""

    def __init__(self, size: int) -> None:
        self.weights = np.zeros(size, np.float32)

    def push_pull(self, gradient: np.ndarray) -> np.ndarray:
        """Update, and return the weights."""
        descend(self.weights, gradient)
        return self.weights


@dataclass(frozen=True)
class Way:
    """How dnnflow's replicas reach their server."""

    optimizer: str = "sgd"
    calls: bool = False
    """By plain calls of the actor."""
    in_place: bool = False
    """Whether the gradient is written where the channel sends it from."""
    copied: bool = False
    """Whether the weights are copied out of where the channel has received them."""


WAYS = {
    CHANNEL: Way(),
    "  gradient written in place": Way(in_place=True),
    "  weights copied out": Way(copied=True),
    "  with Adam": Way("adam"),
    "dnnflow, calls of the actor": Way(calls=True),
}


def replica(actor: Any, way: Way | None, number: int, size: int, seconds: float, meeting: str) -> float:
    """Push as fast as possible, and return updates a second."""
    gradient = np.full(size, 1e-6, np.float32)
    if way is None:
        actor.push_pull(gradient).result()
        meet(meeting, number)
        return rate(seconds, lambda _: actor.push_pull(gradient).result())
    channel = ActorChannel(actor) if way.calls else open_channel(actor)
    step = channel.join(number)
    out = np.zeros(size, np.float32) if way.copied else None
    if way.in_place:
        channel.vector[:] = gradient
        gradient = channel.vector
    channel.exchange(Push(number, step, 0, 1, gradient), out)  # the first, for which memory is made
    meet(meeting, number)
    found = rate(
        seconds, lambda count: channel.exchange(Push(number, step + 1 + count, count, 1, gradient), out)
    )
    channel.leave(number)
    channel.close()
    return found


def meet(meeting: str, number: int) -> None:
    """Wait until all replicas are there."""
    directory = Path(meeting)
    (directory / str(number)).touch()
    deadline_s = time.monotonic() + START_S
    while len(list(directory.iterdir())) < REPLICAS and time.monotonic() < deadline_s:
        time.sleep(0.001)


def rate(seconds: float, work: Callable[[int], object]) -> float:
    """Return how often a second something can be done."""
    start, count = time.perf_counter(), 0
    while time.perf_counter() - start < seconds:
        work(count)
        count += 1
    return count / (time.perf_counter() - start)


def over_dask(client: Client, way: Way | None) -> Measure:
    """Return how to measure a server that is an actor: dnnflow's, or the naive one without a way."""

    def measure(size: int, seconds: float) -> float:
        where, *others = sorted(client.scheduler_info(n_workers=-1)["workers"])
        options = {"actor": True, "workers": [where], "pure": False}
        if way is None:
            server = client.submit(NaiveServer, size, **options)
        else:
            algorithm = Algorithm(server_optimizer=OptimizerSpec(way.optimizer, 0.01))
            server = client.submit(make_server, size, algorithm, **options)
        with tempfile.TemporaryDirectory() as meeting:
            tasks = [
                client.submit(
                    replica, server, way, number, size, seconds, meeting, workers=[there], pure=False
                )
                for number, there in enumerate(others)
            ]
            found = sum(client.gather(tasks))
        if way is not None:
            server.result().stop().result()
        return found

    return measure


def over_mpi(python: str) -> Measure:
    """Return how to measure MPI's server."""
    version = subprocess.run(["mpirun", "--version"], capture_output=True, text=True, check=True).stdout
    # Open MPI wants to be told that there are more processes than cores, and root
    flags = ["--oversubscribe", "--allow-run-as-root"] if "Open MPI" in version else []

    def measure(size: int, seconds: float) -> float:
        command = ["mpirun", *flags, "-n", str(REPLICAS + 1), python, str(PEERS / "mpi_exchange.py")]
        run = subprocess.run([*command, str(size), str(seconds)], capture_output=True, text=True, check=True)
        return float(run.stdout.split()[-1])

    return measure


@contextlib.contextmanager
def over_ray(python: str) -> Iterator[Measure]:
    """Yield how to measure Ray's server; Ray runs meanwhile."""
    command = [python, str(PEERS / "ray_exchange.py")]
    pipes: dict[str, Any] = {
        "stdin": subprocess.PIPE,
        "stdout": subprocess.PIPE,
        "stderr": subprocess.DEVNULL,
    }
    with subprocess.Popen(command, text=True, bufsize=1, **pipes) as process:

        def measure(size: int, seconds: float) -> float:
            process.stdin.write(f"{size} {seconds}\n")
            return float(process.stdout.readline())

        yield measure
        process.stdin.close()


def has(python: str, package: str) -> bool:
    """Whether an interpreter has a package."""
    return subprocess.run([python, "-c", f"import {package}"], capture_output=True).returncode == 0


def make_server(size: int, algorithm: Algorithm) -> ServerActor:
    """Make the first weights where the server is."""
    return ServerActor(np.zeros(size, np.float32), algorithm, replicas=REPLICAS)


def show(size: int, rates: dict[str, list[float]]) -> None:
    """Print a table of one size."""
    print(f"\n{size:,} parameters, {REPLICAS} replicas        updates/s      GB/s    of MPI")
    for name, found in rates.items():
        middle = statistics.median(found)
        ratio = share(found, rates.get(MPI, []))
        print(f"  {name:34}{middle:12,.1f}{middle * 8 * size / 1e9:10.2f}  {ratio}")
    goal = GOALS.get(size)
    if MPI in rates and goal:
        met = statistics.median(a / b for a, b in zip(rates[CHANNEL], rates[MPI], strict=True)) >= goal
        print(f"  the channel {'meets' if met else 'does not meet'} the goal of {goal:.1f} of MPI")


def share(found: list[float], of: list[float]) -> str:
    """Return the median of the rounds' ratios, and their range."""
    ratios = [a / b for a, b in zip(found, of, strict=False)]
    return f"{statistics.median(ratios):6.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else ""


def main() -> None:
    """Measure all that is installed."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=2.0, help="of one measurement")
    parser.add_argument("--peer-python", default=sys.executable)
    options = parser.parse_args()
    with contextlib.ExitStack() as stack:
        client = stack.enter_context(open_cluster(ClusterSpec(workers=REPLICAS + 1, memory_limit="0")))
        stack.enter_context(client.as_current())
        systems: dict[str, Measure] = {}
        if shutil.which("mpirun") and has(options.peer_python, "mpi4py"):
            systems[MPI] = over_mpi(options.peer_python)
        systems |= {name: over_dask(client, way) for name, way in WAYS.items()}
        systems["Dask actor, naive"] = over_dask(client, None)
        if has(options.peer_python, "ray"):
            systems["Ray actor"] = stack.enter_context(over_ray(options.peer_python))
        print(f"{os.cpu_count()} cores; {options.rounds} rounds of {options.seconds:g} s a system")
        for size in options.sizes:
            rates: dict[str, list[float]] = {name: [] for name in systems}
            for _ in range(options.rounds):
                for name, measure in systems.items():
                    rates[name].append(measure(size, options.seconds))
            show(size, rates)


if __name__ == "__main__":
    main()
