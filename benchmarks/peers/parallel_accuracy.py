"""Accuracy after 10 epochs against replicas, with real gradients, damped and not."""

import statistics
from collections.abc import Sequence

from peers.parallel_tasks import EPOCHS, TASKS, Trainer, interval, optimizer_of, words_of

REPLICAS = (1, 2, 4, 8, 16, 32)
DAMPING = ("off", "relative", "inverse")
GOAL_REPLICAS, GOAL_POINTS = 4, 1.0


def measure(task: Sequence[str], seeds: int) -> None:
    """Print a table for each task: an optimizer and a damping a row."""
    for name in task:
        trainer = Trainer(TASKS[name])
        print(f"\n{trainer.task.words}, {EPOCHS} epochs: test accuracy in %, mean of {seeds} seeds ± half of "
              "its 95 % interval")  # fmt: skip
        print(f"{'server':24}{'damping':>9}{'Keras':>13}" + "".join(f"{n:>13}" for n in REPLICAS)
              + "  4 replicas - Keras, by seed")  # fmt: skip
        for setting in trainer.task.settings:
            plain = [trainer.keras(seed, optimizer_of(setting)) for seed in range(seeds)]
            for damping in DAMPING:
                print_row(trainer, setting, damping, plain)


def print_row(
    trainer: Trainer, setting: tuple[str, float, float], damping: str, plain: Sequence[float]
) -> None:
    """Print the accuracies of one optimizer and damping, and what 4 replicas lose."""
    from dnnflow.parallel.settings import Algorithm

    given = {} if damping == "off" else {"damping": True, "damping_rule": damping}
    algorithm = Algorithm(server_optimizer=optimizer_of(setting), **given)
    found = {
        replicas: [trainer.replicas(seed, replicas, algorithm) for seed in range(len(plain))]
        for replicas in REPLICAS
    }
    lost = [ours - keras for ours, keras in zip(found[GOAL_REPLICAS], plain, strict=True)]
    verdict = "meets" if 100 * statistics.fmean(lost) >= -GOAL_POINTS else "does not meet"
    cells = "".join(f"{interval(values):>13}" for values in found.values())
    print(f"{words_of(setting):24}{damping:>9}{interval(plain):>13}{cells}  {interval(lost)}"
          + ("" if damping == "off" else f" {verdict} the goal"), flush=True)  # fmt: skip
