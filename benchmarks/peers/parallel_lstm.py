"""One and two replicas with a server beside Keras `fit`: an LSTM of 20 units on sequences of 30 × 19."""

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

UNITS, STEPS, FEATURES, CLASSES = 20, 30, 19, 3
SAMPLES, BATCH, EPOCHS = 19_000, 100, 40
GOAL_ONE, GOAL_TWO = 1.05, 1.6


def rows(seed: int = 0, count: int = SAMPLES) -> tuple[np.ndarray, np.ndarray]:
    """Return sequences (count, 30, 19) float32 and classes (count,) that depend on them."""
    rng = np.random.default_rng(seed)
    features = rng.standard_normal((count, STEPS, FEATURES), np.float32)
    weights = np.random.default_rng(1).standard_normal((FEATURES, CLASSES))
    return features, (features.mean(axis=1) @ weights).argmax(axis=1)


def make_model() -> Any:
    """Return the compiled model."""
    import keras

    keras.utils.set_random_seed(1)
    model = keras.Sequential(
        [
            keras.Input((STEPS, FEATURES)),
            keras.layers.LSTM(UNITS),
            keras.layers.Dense(CLASSES, activation="softmax"),
        ]
    )
    model.compile(keras.optimizers.Adam(0.001), "sparse_categorical_crossentropy", metrics=["accuracy"])
    return model


def keras_fit() -> tuple[float, float]:
    """Return samples a second from the second epoch on, and the last accuracy, of one thread."""
    import keras

    times: list[float] = []
    clock = keras.callbacks.LambdaCallback(
        on_epoch_begin=lambda *_: times.append(time.perf_counter()),
        on_epoch_end=lambda *_: times.append(time.perf_counter()),
    )
    told = make_model().fit(*rows(), batch_size=BATCH, epochs=EPOCHS, verbose=0, callbacks=[clock])
    seconds = [end - begin for begin, end in zip(times[2::2], times[3::2], strict=True)]
    return SAMPLES / statistics.median(seconds), told.history["accuracy"][-1]


def ours(client: Any, replicas: int) -> tuple[float, float]:
    """Return samples a second of the second half of a training, and the last training accuracy."""
    from dnnflow.api import train
    from dnnflow.events import TrainingProgress

    marks: list[tuple[float, int]] = []

    def listen(event: object) -> None:
        if isinstance(event, TrainingProgress):
            marks.append((time.perf_counter(), event.samples))

    found = train(
        make_model(), rows(), client=client, replicas=replicas, epochs=EPOCHS, batch_size=BATCH,
        listener=listen,
    )  # fmt: skip
    # Not while a replica is still tracing its step, nor when one has run out of rows
    later = [mark for mark in marks if EPOCHS * SAMPLES // 2 <= mark[1] < EPOCHS * SAMPLES - SAMPLES]
    (begin, first), (end, last) = later[0], later[-1]
    return (last - first) / (end - begin), found["history"].rows[-1]["accuracy"]


def measure(rounds: int) -> None:
    """Print the rates side by side."""
    from dnnflow.execute.cluster import ClusterSpec, open_cluster

    found: dict[str, list[tuple[float, float]]] = {"keras fit": [], "1 replica": [], "2 replicas": []}
    with open_cluster(ClusterSpec(workers=3, memory_limit="0", dashboard_port=0)) as client:
        ours(client, 2)  # both workers import TensorFlow
        for number in range(rounds):
            found["keras fit"].append(fit_apart())
            for replicas in (1, 2):
                name = f"{replicas} replica{'s' * (replicas > 1)}"
                found[name].append(ours(client, replicas))
            print(f"round {number + 1}: " + ", ".join(f"{k} {v[-1][0]:,.0f}/s" for k, v in found.items()),
                  flush=True)  # fmt: skip
    fits, ones, twos = ([rate for rate, _ in found[name]] for name in found)
    print(f"\nLSTM {UNITS}, sequences {STEPS} × {FEATURES}, batch {BATCH}, without the beginning; "
          f"medians of {rounds}")  # fmt: skip
    for name, pairs in found.items():
        print(f"{name:12}{statistics.median(rate for rate, _ in pairs):10,.0f} samples/s, training accuracy "
              f"{statistics.median(accuracy for _, accuracy in pairs):.4f}")  # fmt: skip
    time_ratio = statistics.median(fit / one for fit, one in zip(fits, ones, strict=True))
    gain = statistics.median(two / one for two, one in zip(twos, ones, strict=True))
    print(f"1 replica takes {time_ratio:.2f} times Keras' time: "
          f"{'meets' if time_ratio <= GOAL_ONE else 'does not meet'} the goal of {GOAL_ONE}")  # fmt: skip
    print(f"2 replicas are {gain:.2f} times 1: {'meets' if gain >= GOAL_TWO else 'does not meet'} the goal "
          f"of {GOAL_TWO}")  # fmt: skip


def fit_apart() -> tuple[float, float]:
    """Run Keras in a process of its own, with one thread."""
    with tempfile.TemporaryDirectory() as home:
        out = Path(home) / "out"
        code = f"from peers import parallel_lstm as p; open({str(out)!r}, 'w').write(repr(p.keras_fit()))"
        threads = dict.fromkeys(("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS"), "1")
        environment = os.environ | threads | {"PYTHONPATH": os.pathsep.join(sys.path)}
        subprocess.run([sys.executable, "-c", code], env=environment, check=True, stderr=subprocess.DEVNULL)
        rate, accuracy = out.read_text().strip("()").split(",")
    return float(rate), float(accuracy)
