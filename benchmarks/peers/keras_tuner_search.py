"""KerasTuner, a search in one process a core, each over its share of the designs."""

import multiprocessing
import time
from functools import partial
from pathlib import Path
from typing import Any

from dnnflow.design.layers import Design
from dnnflow.engines.process_setup import limit_threads
from peers.common import START_S, Arrays, Run, Task
from peers.keras_fit import compiled, prepare


def run(task: Task) -> Run:
    """Search on all cores.

    A grid over the number of a design makes KerasTuner visit the list that the other systems visit. It tests
    after each epoch and records a design's best one, so that its accuracies are a little high.
    """
    limit_threads(1)
    designs, arrays = task.designs(), task.arrays()
    shares = [designs[core :: task.cores] for core in range(task.cores)]
    context = multiprocessing.get_context("spawn")
    barrier = context.Barrier(task.cores + 1)
    start = time.perf_counter()
    with context.Pool(task.cores, begin, (barrier,)) as pool:
        barrier.wait(START_S)
        begun = time.perf_counter()
        homes = [task.home / f"tuner-{core}" for core in range(task.cores)]
        results = pool.starmap(partial(search, arrays=arrays), zip(shares, homes, strict=True), chunksize=1)
        ended = time.perf_counter()
    return Run(ended - begun, begun - start, {name: value for found in results for name, value in found})


def begin(barrier: Any) -> None:
    """Import what a search needs, and wait for the other processes."""
    limit_threads(1)
    prepare()
    import keras_tuner  # noqa: F401

    barrier.wait(START_S)


def search(designs: list[Design], home: Path, arrays: Arrays) -> list[tuple[str, float]]:
    """Train and test each design; return ids and accuracies."""
    import keras_tuner

    features, labels, test_features, test_labels = arrays

    def build(choice: Any) -> Any:
        design = designs[choice.Int("design", 0, len(designs) - 1)]
        return compiled(design, features.shape[1], int(labels.max()) + 1, {})

    tuner = keras_tuner.GridSearch(
        build, objective="val_accuracy", max_trials=len(designs), directory=str(home), project_name="search"
    )
    first = designs[0]  # all designs of the space have its batches and epochs
    tuner.search(features, labels, batch_size=first.batch_size, epochs=first.epochs, verbose=0,
                 validation_data=(test_features, test_labels))  # fmt: skip
    trials = tuner.oracle.get_best_trials(len(designs))
    return [(designs[trial.hyperparameters.get("design")].design_id, trial.score) for trial in trials]
