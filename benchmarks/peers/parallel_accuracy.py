"""Accuracy after 10 epochs against replicas, with real gradients, damped and not."""

import statistics
from collections.abc import Sequence

from peers.parallel_tasks import EPOCHS, TASKS, Setting, Trainer, interval, optimizer_of, words_of

DAMPING = ("off", "relative", "inverse")
GOAL_REPLICAS, GOAL_POINTS = 4, 1.0


def measure(task: Sequence[str], seeds: int, server: Sequence[str] | None, replicas: Sequence[int]) -> None:
    """Print a table for each task: an optimizer and a damping a row."""
    for name in task:
        trainer = Trainer(TASKS[name])
        print(f"\n{trainer.task.words}, {EPOCHS} epochs: test accuracy in %, mean of {seeds} seeds ± half of "
              "its 95 % interval")  # fmt: skip
        print(f"{'server':24}{'damping':>9}{'Keras':>13}" + "".join(f"{n:>13}" for n in replicas)
              + f"  {replicas_of_goal(replicas)} replicas - Keras, by seed")  # fmt: skip
        for setting in trainer.task.chosen(server):
            plain = [trainer.keras(seed, optimizer_of(setting)) for seed in range(seeds)]
            for damping in DAMPING:
                print_row(trainer, setting, damping, plain, replicas)


def replicas_of_goal(replicas: Sequence[int]) -> int:
    """Return how many replicas are compared with Keras."""
    return GOAL_REPLICAS if GOAL_REPLICAS in replicas else replicas[0]


def print_row(
    trainer: Trainer, setting: Setting, damping: str, plain: Sequence[float], replicas: Sequence[int]
) -> None:
    """Print the accuracies of one optimizer and damping, and what 4 replicas lose."""
    from dnnflow.parallel.spec.algorithm import Algorithm

    given = {} if damping == "off" else {"damping": True, "damping_rule": damping}
    algorithm = Algorithm(server_optimizer=optimizer_of(setting), **given)
    found = {
        count: [trainer.replicas(seed, count, algorithm) for seed in range(len(plain))] for count in replicas
    }
    lost = [ours - keras for ours, keras in zip(found[replicas_of_goal(replicas)], plain, strict=True)]
    verdict = "meets" if 100 * statistics.fmean(lost) >= -GOAL_POINTS else "does not meet"
    cells = "".join(f"{interval(values):>13}" for values in found.values())
    print(f"{words_of(setting):24}{damping:>9}{interval(plain):>13}{cells}  {interval(lost)}"
          + ("" if damping == "off" else f" {verdict} the goal"), flush=True)  # fmt: skip
