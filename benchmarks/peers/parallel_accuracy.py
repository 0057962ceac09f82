"""Accuracy after 10 epochs against replicas: real gradients, replicas interleaved by a seeded schedule.

Where there are fewer cores than replicas, running them as they come would measure the machine's scheduler.
Here each step belongs to a replica that is drawn at random; it computes its gradient on the weights of its
last pull and pushes it to a real server, in one process.
"""

import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

REPLICAS = (1, 2, 4, 8, 16, 32)
SEEDS = 5
EPOCHS, BATCH, UNITS = 10, 32, 32
SETTINGS = (("sgd", 0.0), ("sgd", 0.9), ("adam", None))
DATA = Path(__file__).parents[2] / "pipelines" / "data" / "digits.csv"


def table() -> tuple[Any, Any, Any, Any]:
    """Return digits, scaled: features and labels to train on, and to test on."""
    rows = np.loadtxt(DATA, delimiter=",", skiprows=1, dtype=np.float32)
    order = np.random.default_rng(0).permutation(len(rows))
    features, labels = rows[order, :-1] / 16, rows[order, -1].astype(int)
    return features[:1437], labels[:1437], features[1437:], labels[1437:]


def make_model(seed: int) -> Any:
    """Return the compiled model with weights of a seed."""
    import keras

    keras.utils.set_random_seed(seed)
    model = keras.Sequential(
        [
            keras.Input((64,)),
            keras.layers.Dense(UNITS, activation="relu"),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def batches(count: int, seed: int) -> Iterator[np.ndarray]:
    """Yield the rows of each step."""
    for epoch in range(EPOCHS):
        order = np.random.default_rng((seed, epoch)).permutation(count)
        for first in range(0, count, BATCH):
            yield order[first : first + BATCH]


def accuracy(step: Any, rows: Any, seed: int, replicas: int, optimizer: Any, damping: bool) -> float:
    """Train with interleaved replicas and return the test accuracy."""
    from dnnflow.parallel.messages import Push
    from dnnflow.parallel.server import ParameterServer
    from dnnflow.parallel.settings import Algorithm
    from dnnflow.parallel.variables import read_vector

    features, labels, test_features, test_labels = rows
    start = read_vector(make_model(seed))
    algorithm = Algorithm(server_optimizer=optimizer, damping=damping)
    server = ParameterServer(start, algorithm, replicas=replicas, layout=step.layout)
    steps = [server.join(replica) for replica in range(replicas)]
    pulled = [server.pull(replica) for replica in range(replicas)]
    schedule = np.random.default_rng((seed, replicas))
    for chosen in batches(len(labels), seed):
        replica = int(schedule.integers(replicas))
        version, weights = pulled[replica]
        vector, tally = step.gradient(weights, (features[chosen], labels[chosen]))
        reply = server.exchange(Push(replica, steps[replica], version, tally.count, vector))
        pulled[replica], steps[replica] = (reply.version, reply.vector), steps[replica] + 1
    found = step.results(step.evaluate(server.pull()[1], [(test_features, test_labels)]))
    return float(found["accuracy"])


def by_keras(seed: int, rows: Any, optimizer: Any) -> float:
    """Return the test accuracy of Keras on the same batches."""
    from dnnflow.parallel.keras_rule import build_keras_optimizer

    features, labels, test_features, test_labels = rows
    model = make_model(seed)
    model.compile(build_keras_optimizer(optimizer), "sparse_categorical_crossentropy", metrics=["accuracy"])
    for chosen in batches(len(labels), seed):
        model.train_on_batch(features[chosen], labels[chosen])
    return float(model.evaluate(test_features, test_labels, verbose=0)[1])


def measure(rounds: int) -> None:
    """Print a table for each optimizer, damped and not."""
    from dnnflow.parallel.gradient import GradientStep
    from dnnflow.parallel.optimizer_spec import OptimizerSpec

    rows, step = table(), GradientStep(make_model(0))
    print(f"\ndigits, {UNITS} units, batch {BATCH}, {EPOCHS} epochs: test accuracy in %, of {SEEDS} seeds "
          "± half of its 95 % interval")  # fmt: skip
    print(f"{'server':24}{'damping':>9}{'Keras':>9}" + "".join(f"{n:>13}" for n in REPLICAS))
    for name, momentum in SETTINGS:
        parameters = {} if momentum is None else {"momentum": momentum}
        rate = 0.003 if name == "adam" else 0.1 * (1 - (momentum or 0.0))
        optimizer = OptimizerSpec(name, rate, parameters)
        plain = statistics.fmean(by_keras(seed, rows, optimizer) for seed in range(SEEDS))
        for damping in (False, True):
            told = f"{name} {rate:g}" + (f", momentum {momentum}" if momentum else "")
            cells = []
            for replicas in REPLICAS:
                found = [accuracy(step, rows, seed, replicas, optimizer, damping) for seed in range(SEEDS)]
                half = 2.776 * statistics.stdev(found) / SEEDS**0.5  # Student's t, 4 degrees of freedom
                cells.append(f"{100 * statistics.fmean(found):.1f} ± {100 * half:.1f}")
            print(f"{told:24}{'on' if damping else 'off':>9}{100 * plain:9.1f}"
                  + "".join(f"{cell:>13}" for cell in cells), flush=True)  # fmt: skip
