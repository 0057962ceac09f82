"""A replica's step beside Keras' `fit`: samples a second of one thread, without servers and messages.

    python benchmarks/parallel_step.py [--epochs 5] [--models lstm gru dense conv]

Every way trains the same model for an epoch, one after the other, `--epochs` times round; shown are medians
after the first round, and the processor's time, which other work on the machine disturbs less. `gradient`
takes and returns numpy vectors and applies nothing: that is the server's part. `local` applies the replica's
own SGD, as `fit` does. `loop` is `gradient` with Keras' own LSTM, `xla` compiled.
"""

import argparse
import contextlib
import os
import statistics
import time
from collections.abc import Callable
from unittest.mock import patch

from dnnflow.engines.process_setup import limit_threads

limit_threads(1)
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "1")

import keras  # noqa: E402
import numpy as np  # noqa: E402
import tensorflow as tf  # noqa: E402

from dnnflow.parallel.model.gradient import GradientStep  # noqa: E402
from dnnflow.parallel.model.model_spec import ModelSpec  # noqa: E402
from dnnflow.parallel.model.weights import aligned_vector  # noqa: E402
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec  # noqa: E402

L = keras.layers
BATCH = 100
MODELS: dict[str, tuple[int, tuple[int, ...], Callable[[], list[L.Layer]]]] = {
    "lstm": (19_000, (30, 19), lambda: [L.LSTM(20)]),
    "gru": (9_500, (30, 19), lambda: [L.GRU(20)]),
    "dense": (19_000, (64,), lambda: [L.Dense(128, activation="relu") for _ in range(3)]),
    "conv": (1_900, (28, 28, 1), lambda: [L.Conv2D(16, 3, activation="relu"), L.Flatten()]),
}
"""Samples, shape of one, hidden layers. The first is the paper's: sequences of 30 x 19, three classes."""


def main() -> None:
    """Print a table a model."""
    arguments = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    arguments.add_argument("--epochs", type=int, default=5)
    arguments.add_argument("--models", nargs="+", default=["lstm"], choices=MODELS)
    given = arguments.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for name in given.models:
        compare(name, given.epochs)


def compare(name: str, epochs: int) -> None:
    """Time each way on one model, in turns."""
    samples, shape, hidden = MODELS[name]
    rng = np.random.default_rng(0)
    x = rng.normal(size=(samples, *shape)).astype(np.float32)
    y = np.eye(3, dtype=np.float32)[rng.integers(0, 3, samples)]
    model = keras.Sequential([keras.Input(shape), *hidden(), L.Dense(3, activation="softmax")])
    model.compile("sgd", loss="categorical_crossentropy", metrics=["accuracy"])
    ways = ways_of(model, x, y)
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    busy: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(epochs):
        for way, epoch in ways.items():
            start, used = time.perf_counter(), time.process_time()
            epoch()
            seconds[way].append(time.perf_counter() - start)
            busy[way].append(time.process_time() - used)
    fit = statistics.median(seconds["fit"][1:])
    print(f"\n{name}: {samples:,} samples of {shape}, batch {BATCH}, one thread, {epochs - 1} epochs each")
    head = f"{'way':10} {'first epoch':>12} {'epoch':>9} {'a step':>9} {'of the CPU':>11} {'samples/s':>10}"
    print(f"{head} {'of fit':>7}")
    for way, times in seconds.items():
        middle = statistics.median(times[1:])
        step, work = (
            value / -(-samples // BATCH) * 1e3 for value in (middle, statistics.median(busy[way][1:]))
        )
        print(
            f"{way:10} {times[0]:10.2f} s {middle:7.2f} s {step:6.2f} ms {work:8.2f} ms "
            f"{samples / middle:10,.0f} {middle / fit:7.2f}"
        )


def ways_of(model: keras.Model, x: np.ndarray, y: np.ndarray) -> dict[str, Callable[[], None]]:
    """Return what takes an epoch in each way."""
    spec = ModelSpec.of(model)
    weights = aligned_vector(spec.layout.size)
    weights[:] = spec.vector
    parts = [slice(first, first + BATCH) for first in range(0, len(x), BATCH)]
    plain, loop, compiled = (GradientStep(spec.build(), jit_compile=jit) for jit in (False, False, True))
    local = GradientStep(spec.build(), optimizer=OptimizerSpec("sgd", 0.01))

    def gradients(step: GradientStep, fused: bool = True) -> None:
        loop_only = patch("dnnflow.parallel.model.gradient.fused_lstm", lambda *_: contextlib.nullcontext())
        with contextlib.nullcontext() if fused else loop_only:
            for part in parts:
                step.gradient(weights, (x[part], y[part]))

    fitted = spec.build()
    fitted.compile("sgd", loss="categorical_crossentropy", metrics=["accuracy"])
    return {
        "fit": lambda: fitted.fit(x, y, batch_size=BATCH, verbose=0) and None,
        "gradient": lambda: gradients(plain),
        "loop": lambda: gradients(loop, fused=False),
        "xla": lambda: gradients(compiled),
        "local": lambda: local.local_steps(weights, ((x[part], y[part]) for part in parts)) and None,
    }


if __name__ == "__main__":
    main()
