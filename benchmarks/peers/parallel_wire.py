"""What the formats of pushed vectors cost in accuracy: 4 replicas, asynchronous, real gradients."""

from collections.abc import Sequence

from peers.parallel_tasks import EPOCHS, TASKS, Trainer, Traveller, interval, optimizer_of, words_of

REPLICAS = 4


def measure(task: Sequence[str], seeds: int, server: Sequence[str] | None) -> None:
    """Print a row for each optimizer and format."""
    from dnnflow.parallel.model.variables import read_vector
    from dnnflow.parallel.spec.algorithm import WIRES, Algorithm

    for name in task:
        trainer = Trainer(TASKS[name])
        size = read_vector(trainer.task.make_model(0)).size
        print(f"\n{trainer.task.words}, {EPOCHS} epochs, {REPLICAS} replicas, damped; of {seeds} seeds; "
              f"{size:,} weights")  # fmt: skip
        print(f"{'server':24}{'wire':>10}{'bytes a push':>14}{'accuracy in %':>16}{'- float32, by seed':>20}")
        for setting in trainer.task.chosen(server):
            exact: list[float] = []
            for wire in WIRES:
                algorithm = Algorithm(server_optimizer=optimizer_of(setting), damping=True, wire=wire)
                found = [trainer.replicas(seed, REPLICAS, algorithm) for seed in range(seeds)]
                exact = exact or found
                lost = interval([ours - plain for ours, plain in zip(found, exact, strict=True)])
                print(f"{words_of(setting):24}{wire:>10}{Traveller(wire, size).nbytes:14,}"
                      f"{interval(found):>16}{lost:>20}", flush=True)  # fmt: skip
