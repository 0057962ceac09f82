"""A parameter server as a Ray actor, as Ray's own example has it: a call takes a gradient and gives weights.

    echo 3000 1.0 | python ray_exchange.py     # parameters, seconds; prints updates a second for each line

Needs ray and numpy, nothing of dnnflow. The update is SGD in place.
"""

import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
from mpi_exchange import descend

REPLICAS = 2


class Server:
    """Holds the weights."""

    def __init__(self, size: int) -> None:
        self.weights = np.zeros(size, np.float32)

    def push_pull(self, gradient: np.ndarray) -> np.ndarray:
        """Update, and return the weights."""
        descend(self.weights, gradient.copy() if not gradient.flags.writeable else gradient)
        return self.weights


class Replica:
    """Pushes as fast as it can."""

    def __init__(self, size: int) -> None:
        self.gradient = np.full(size, 1e-6, np.float32)

    def prepare(self, server: Any) -> None:
        """Push once, for which memory is made."""
        import ray

        ray.get(server.push_pull.remote(self.gradient))

    def train(self, server: Any, seconds: float) -> float:
        """Return updates a second."""
        import ray

        start, updates = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            ray.get(server.push_pull.remote(self.gradient))
            updates += 1
        return updates / (time.perf_counter() - start)


def measure(size: int, seconds: float) -> float:
    """Return the updates a second of all replicas."""
    import ray

    server = ray.remote(num_cpus=0)(Server).remote(size)
    replicas = [ray.remote(num_cpus=0)(Replica).remote(size) for _ in range(REPLICAS)]
    ray.get([replica.prepare.remote(server) for replica in replicas])
    rates = ray.get([replica.train.remote(server, seconds) for replica in replicas])
    for actor in [server, *replicas]:
        ray.kill(actor)
    return sum(rates)


def main() -> None:
    """Measure what each line of the input asks for."""
    import ray

    # Where Ray's processes find this module
    environment = {
        "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
    }
    ray.init(
        include_dashboard=False,
        log_to_driver=False,
        configure_logging=False,
        runtime_env={"env_vars": environment},
    )
    for line in sys.stdin:
        size, seconds = line.split()
        print(measure(int(size), float(seconds)), flush=True)


if __name__ == "__main__":
    main()
