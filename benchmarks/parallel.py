"""Parallel training against plain Keras, and beside the figures of the mpi_learn paper.

    python benchmarks/parallel.py                      # everything
    python benchmarks/parallel.py --part lstm          # 1 and 2 replicas beside Keras fit
    python benchmarks/parallel.py --part scaling       # to 64 replicas, whose computing is a wait
    python benchmarks/parallel.py --part batches       # the paper's table of batch sizes, simulated too
    python benchmarks/parallel.py --part accuracy      # accuracy against replicas, real gradients
    python benchmarks/parallel.py --part wire          # accuracy against the format of pushed vectors
    python benchmarks/parallel.py --part validation    # validation on the server and beside it, simulated
    python benchmarks/parallel.py --part memory        # a worker's memory against the size of the files

`--task digits sequence`, `--seeds 5` and `--server adam:0.003` are for accuracy and wire, `--replicas 1 4`
for accuracy, `--gigabytes 0.5 5` for memory.

What an exchange with a server costs is in `benchmarks/parallel_exchange.py`, what a replica's step costs in
`benchmarks/parallel_step.py`. Figures of the paper: Anderson, Vlimant and Spiropulu, "An MPI-Based Python
Framework for Distributed Training with Keras".
"""

import parts

PARTS = {
    "lstm": ("peers.parallel_lstm", ("rounds",)),
    "scaling": ("peers.parallel_scaling", ("rounds",)),
    "batches": ("peers.parallel_batches", ("rounds",)),
    "accuracy": ("peers.parallel_accuracy", ("task", "seeds", "server", "replicas")),
    "wire": ("peers.parallel_wire", ("task", "seeds", "server")),
    "validation": ("peers.parallel_validation", ("rounds",)),
    "memory": ("peers.parallel_memory", ("gigabytes",)),
}
TASKS = ("digits", "sequence")


def main() -> None:
    """Run the parts that are asked for."""
    parser = parts.parser_of(__doc__, PARTS)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--task", choices=TASKS, nargs="+", default=list(TASKS))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--server", nargs="+", metavar="NAME:RATE[:MOMENTUM]", help="default: the task's")
    parser.add_argument("--replicas", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--gigabytes", type=float, nargs="+", default=[0.5, 5.0])
    parts.run(PARTS, parser.parse_args())


if __name__ == "__main__":
    main()
