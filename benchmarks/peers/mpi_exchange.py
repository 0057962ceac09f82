"""A parameter server over MPI, as mpi_learn has it: a master that receives, updates and sends in turn.

    mpirun -n 3 python mpi_exchange.py 3000 1.0     # parameters, seconds; prints updates a second

Needs mpi4py and numpy, nothing of dnnflow. Buffers are blocking and used again; the update is SGD in place.
"""

import sys
import time
from typing import Any

import numpy as np

RATE = np.float32(0.01)
BLOCK = 65_536
"""Entries updated at a time where the vector is larger than the cache."""
WHOLE = 2_000_000
"""Vectors up to this length are updated in one piece, which is faster then."""
PUSH, END = 1, 2


def descend(weights: np.ndarray, gradient: np.ndarray) -> None:
    """Do what is fastest in numpy without new arrays; the gradient is used up."""
    step = weights.size if weights.size <= WHOLE else BLOCK
    for start in range(0, weights.size, step):
        part = slice(start, start + step)
        np.multiply(gradient[part], RATE, out=gradient[part])
        np.subtract(weights[part], gradient[part], out=weights[part])


def main() -> None:
    """Run as master or worker, by rank."""
    from mpi4py import MPI

    size, seconds = int(sys.argv[1]), float(sys.argv[2])
    world = MPI.COMM_WORLD
    weights, gradient = np.zeros(size, np.float32), np.full(size, 1e-6, np.float32)
    for measured_s in (0.0, seconds):  # first a push each, for which memory is made
        world.Barrier()
        start = time.perf_counter()
        if world.Get_rank():
            work(world, weights, gradient, start + measured_s)
        else:
            updates = serve(world, weights, gradient)
    if not world.Get_rank():
        print(updates / (time.perf_counter() - start))


def work(world: Any, weights: np.ndarray, gradient: np.ndarray, until_s: float) -> None:
    """Push and pull, at least once."""
    while True:
        world.Send(gradient, 0, PUSH)
        world.Recv(weights, 0)
        if time.perf_counter() >= until_s:
            break
    world.Send(gradient[:1], 0, END)


def serve(world: Any, weights: np.ndarray, gradient: np.ndarray) -> int:
    """Update until all workers have ended, and return how often."""
    from mpi4py import MPI

    status, updates, live = MPI.Status(), 0, world.Get_size() - 1
    while live:
        world.Recv(gradient, MPI.ANY_SOURCE, MPI.ANY_TAG, status)
        if status.Get_tag() == END:
            live -= 1
            continue
        descend(weights, gradient)
        world.Send(weights, status.Get_source())
        updates += 1
    return updates


if __name__ == "__main__":
    main()
