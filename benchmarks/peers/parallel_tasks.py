"""What accuracy is measured on, and how: real gradients, replicas interleaved by a seeded schedule.

Where there are fewer cores than replicas, running them as they come would measure the machine's scheduler.
Here each step belongs to a replica that is drawn at random; it computes its gradient on the weights of its
last pull and pushes it to a real server, in one process.
"""

import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from peers.parallel_lstm import CLASSES, FEATURES, STEPS
from peers.parallel_lstm import UNITS as LSTM_UNITS

EPOCHS = 10
DATA = Path(__file__).parents[2] / "pipelines" / "data" / "digits.csv"
STUDENT = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""97.5 % points of Student's t with 1 to 9 degrees of freedom; beyond them 2.26 is a little too wide."""

Setting = tuple[str, float, float]
"""Optimizer of the server, its rate, its momentum."""
Rows = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""Features and labels to train on, and to test on."""


def digits() -> Rows:
    """Return the table of digits, scaled."""
    rows = np.loadtxt(DATA, delimiter=",", skiprows=1, dtype=np.float32)
    order = np.random.default_rng(0).permutation(len(rows))
    features, labels = rows[order, :-1] / 16, rows[order, -1].astype(int)
    return features[:1437], labels[:1437], features[1437:], labels[1437:]


def sequences(train: int = 8000, test: int = 2000) -> Rows:
    """Return sequences of 30 × 19, whose class is that of their mean: noise around a level of their own."""
    rng = np.random.default_rng(0)
    levels = 0.5 * rng.standard_normal((train + test, 1, FEATURES), np.float32)
    features = levels + rng.standard_normal((train + test, STEPS, FEATURES), np.float32)
    weights = np.random.default_rng(1).standard_normal((FEATURES, CLASSES))
    labels = (features.mean(axis=1) @ weights).argmax(axis=1)
    return features[:train], labels[:train], features[train:], labels[train:]


@dataclass(frozen=True)
class Task:
    """A table, a model, and how it is trained."""

    name: str
    words: str
    batch: int
    settings: Sequence[Setting]

    def rows(self) -> Rows:
        """Return its rows."""
        return digits() if self.name == "digits" else sequences()

    def chosen(self, server: Sequence[str] | None) -> Sequence[Setting]:
        """Return its settings, or those in words: NAME:RATE or NAME:RATE:MOMENTUM."""
        if server is None:
            return self.settings
        parts = [words.split(":") for words in server]
        return [(part[0], float(part[1]), float(part[2]) if len(part) > 2 else 0.0) for part in parts]

    def make_model(self, seed: int) -> Any:
        """Return the compiled model with weights of a seed."""
        import keras

        keras.utils.set_random_seed(seed)
        if self.name == "digits":
            layers = [keras.Input((64,)), keras.layers.Dense(32, activation="relu"), keras.layers.Dense(10)]
        else:
            layers = [keras.Input((STEPS, FEATURES)), keras.layers.LSTM(LSTM_UNITS)]
            layers.append(keras.layers.Dense(CLASSES))
        model = keras.Sequential([*layers, keras.layers.Softmax()])
        model.compile("sgd", "sparse_categorical_crossentropy", metrics=["accuracy"])
        return model

    def batches(self, count: int, seed: int) -> Iterator[np.ndarray]:
        """Yield the rows of each step."""
        for epoch in range(EPOCHS):
            order = np.random.default_rng((seed, epoch)).permutation(count)
            for first in range(0, count, self.batch):
                yield order[first : first + self.batch]


TASKS = {
    "digits": Task("digits", "digits, 32 units, batch 32", 32,
                   (("sgd", 0.1, 0.0), ("sgd", 0.01, 0.9), ("adam", 0.003, 0.0))),
    "sequence": Task("sequence", "sequences, LSTM of 20 units, batch 100", 100,
                     (("sgd", 0.3, 0.0), ("sgd", 0.03, 0.9), ("adam", 0.005, 0.0))),
}  # fmt: skip


class Trainer:
    """Trains a task's model with interleaved replicas, and with Keras."""

    def __init__(self, task: Task) -> None:
        from dnnflow.parallel.model.gradient import GradientStep

        self.task, self._rows = task, task.rows()
        self._step = GradientStep(task.make_model(0))

    def replicas(self, seed: int, replicas: int, algorithm: Any) -> float:
        """Return the test accuracy after training with so many replicas, asynchronous."""
        from dnnflow.parallel.model.variables import read_vector
        from dnnflow.parallel.server.messages import Push
        from dnnflow.parallel.server.parameter_server import ParameterServer

        step, (features, labels, test_features, test_labels) = self._step, self._rows
        start = read_vector(self.task.make_model(seed))
        server = ParameterServer(start, algorithm, replicas=replicas, layout=step.layout)
        travels = [Traveller(algorithm.wire, start.size) for _ in range(replicas)]
        steps = [server.join(replica) for replica in range(replicas)]
        pulled = [server.pull(replica) for replica in range(replicas)]
        schedule = np.random.default_rng((seed, replicas))
        for chosen in self.task.batches(len(labels), seed):
            replica = int(schedule.integers(replicas))
            version, weights = pulled[replica]
            vector, totals = step.gradient(weights, (features[chosen], labels[chosen]))
            vector = travels[replica].arrived(vector)
            reply = server.exchange(Push(replica, steps[replica], version, totals.count, vector))
            pulled[replica], steps[replica] = (reply.version, reply.vector), steps[replica] + 1
        found = step.results(step.evaluate(server.pull()[1], [(test_features, test_labels)]))
        return float(found["accuracy"])

    def keras(self, seed: int, optimizer: Any) -> float:
        """Return the test accuracy of Keras on the same batches."""
        from dnnflow.parallel.model.keras_optimizers import build_keras_optimizer

        features, labels, test_features, test_labels = self._rows
        model = self.task.make_model(seed)
        made = build_keras_optimizer(optimizer)
        model.compile(made, "sparse_categorical_crossentropy", metrics=["accuracy"])
        for chosen in self.task.batches(len(labels), seed):
            model.train_on_batch(features[chosen], labels[chosen])
        return float(model.evaluate(test_features, test_labels, verbose=0)[1])


class Traveller:
    """Sends one replica's vectors through a wire and back."""

    def __init__(self, wire: str, size: int) -> None:
        from dnnflow.parallel.channel.wire import Wire

        self._wire = Wire(wire, size)
        self.nbytes = self._wire.nbytes
        self._data, self._out = np.zeros(self.nbytes + 8, np.uint8), np.empty(size, np.float32)
        self._residual = np.zeros(size, np.float32) if wire == "int8" else None

    def arrived(self, vector: np.ndarray) -> np.ndarray:
        """Return what of a vector the server gets."""
        if self._wire.plain:
            return vector
        self._wire.encode(vector, self._data, self._residual)
        self._wire.decode(self._data, self._out)
        return self._out


def optimizer_of(setting: Setting) -> Any:
    """Return the server's optimizer."""
    from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec

    name, rate, momentum = setting
    return OptimizerSpec(name, rate, {"momentum": momentum} if momentum else {})


def words_of(setting: Setting) -> str:
    """Return the server's optimizer in words."""
    name, rate, momentum = setting
    return f"{name} {rate:g}" + (f", momentum {momentum}" if momentum else "")


def interval(values: Sequence[float]) -> str:
    """Return a mean in % and half of its 95 % interval."""
    if len(values) < 2:
        return f"{100 * values[0]:.1f}"
    student = STUDENT[min(len(values) - 2, len(STUDENT) - 1)]
    half = student * statistics.stdev(values) / len(values) ** 0.5
    return f"{100 * statistics.fmean(values):.1f} ± {100 * half:.1f}"
