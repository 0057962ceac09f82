"""Parallel training against plain Keras, and beside the figures of the mpi_learn paper.

    python benchmarks/parallel.py                      # everything
    python benchmarks/parallel.py --part lstm          # 1 and 2 replicas beside Keras fit
    python benchmarks/parallel.py --part scaling       # to 64 replicas, whose computing is a wait
    python benchmarks/parallel.py --part batches       # the paper's table of batch sizes, simulated too
    python benchmarks/parallel.py --part accuracy      # accuracy against replicas, real gradients

What an exchange with a server costs is in `benchmarks/parallel_exchange.py`, what a replica's step costs in
`benchmarks/parallel_step.py`. Figures of the paper: Anderson, Vlimant and Spiropulu, "An MPI-Based Python
Framework for Distributed Training with Keras".
"""

import argparse
import importlib


def main() -> None:
    """Run the parts that are asked for."""
    parts = {
        "lstm": "peers.parallel_lstm",
        "scaling": "peers.parallel_scaling",
        "batches": "peers.parallel_batches",
        "accuracy": "peers.parallel_accuracy",
    }
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=parts, nargs="+", default=list(parts))
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    for part in options.part:
        importlib.import_module(parts[part]).measure(options.rounds)


if __name__ == "__main__":
    main()
