"""How much of one core's sgemm the engine turns into useful arithmetic, by width.

Useful is what one design needs by itself: 2 flops a weight and row forwards, 2 for its gradient, and 2 for
the gradient of the layer's input except in the first layer. Padding, biases, activations, updates and the
test are not counted. Time is that of fitting.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

from dnnflow.design.layers import Design, Layer, Optimizer
from dnnflow.engines.process_setup import limit_threads
from dnnflow.engines.seam import Engine, TrainingContext
from peers.common import Task

WIDTHS = (16, 32, 64, 128, 256, 512)
DEPTH = 3
EPOCHS = 10
ROUNDS = 3
GOAL = 0.5
"""Share of the peak that stacks of `GOAL_WIDTH` and more are to reach."""
GOAL_WIDTH = 64


@dataclass(frozen=True)
class Fit:
    """One stack, trained once."""

    training_s: float
    wall_s: float
    """Of the engine's call: with packing, testing and, the first time, tracing."""
    processor_s: float
    """Of the engine's call."""


@dataclass(frozen=True)
class Speed:
    """Flops a second of the fastest large product of this thread."""

    clock: float
    processor: float
    """By processor time: what it would be if nothing else used the core."""


def measure(task: Task) -> None:
    """Print a line a width."""
    limit_threads(1)
    from dnnflow.engines.process_setup import import_tensorflow
    from dnnflow.engines.records import TrainingSettings
    from dnnflow.engines.registry import find_engine

    import_tensorflow()
    engine = find_engine(task.engine)
    context = TrainingContext(
        task.dataset(), TrainingSettings(engine=task.engine, select_on="test"), worker="peak"
    )
    print(f"engine {engine.name}, one thread, depth {DEPTH}, {EPOCHS} epochs, medians of {ROUNDS}")
    print("GFLOP/s of one thread; shares are of the fastest large sgemm of numpy and of TensorFlow, by the\n"
          "clock and, for the whole call, by processor time, which other work here changes less")  # fmt: skip
    print(f"{'units':>6}{'designs':>9}{'ms a design':>13}{'useful':>8}{'numpy':>8}{'TensorFlow':>12}"
          f"{'of numpy':>10}{'of TensorFlow':>15}{'by processor':>14}{'first call, more':>18}")  # fmt: skip
    for units in WIDTHS:
        measure_width(units, task.n_designs, engine, context)


def measure_width(units: int, most: int, engine: Engine, context: TrainingContext) -> None:
    """Train one full stack several times, with the peak measured beside each, and print its line."""
    designs = stack_of(units, most, context)
    flops = sum(useful_flops(design, context) for design in designs)
    first = fit(engine, designs, context)
    rounds = [(fit(engine, designs, context), *sgemm()) for _ in range(ROUNDS)]
    fits, by_numpy, by_tensorflow = zip(*rounds, strict=True)
    training_s = statistics.median(one.training_s for one in fits)
    first_s = first.wall_s - statistics.median(one.wall_s for one in fits)
    numpy_share = statistics.median(flops / one.training_s / peak.clock for one, peak, _ in rounds)
    share = statistics.median(flops / one.training_s / peak.clock for one, _, peak in rounds)
    processor = statistics.median(flops / one.processor_s / peak.processor for one, _, peak in rounds)
    peaks = [statistics.median(speed.clock for speed in found) / 1e9 for found in (by_numpy, by_tensorflow)]
    print(f"{units:6}{len(designs):9}{1e3 * training_s / len(designs):13.2f}{flops / training_s / 1e9:8.1f}"
          f"{peaks[0]:8.1f}{peaks[1]:12.1f}{numpy_share:10.0%}{share:15.0%}{processor:14.0%}{first_s:16.2f} s"
          f"{verdict(units, min(numpy_share, share))}", flush=True)  # fmt: skip


def verdict(units: int, share: float) -> str:
    """Say whether a width that has a goal meets it, against the faster of both libraries."""
    if units < GOAL_WIDTH:
        return ""
    return f"  {'meets' if share >= GOAL else 'does not meet'} the goal of {GOAL:.0%}"


def stack_of(units: int, most: int, context: TrainingContext) -> Sequence[Design]:
    """Return designs of one width: as many as the planner puts into one stack."""
    from dnnflow.engines.stacked.stack_plan import StackLimits, TableShape, plan_stacks

    design = Design(layers=(Layer(units),) * DEPTH, epochs=EPOCHS)
    designs = [
        replace(design, optimizer=Optimizer("adam", 0.001 * (1 + number / most)), seed=number)
        for number in range(most)
    ]
    stacks = plan_stacks(designs, TableShape.of(context.dataset, 0.0), StackLimits())
    return max(stacks, key=lambda stack: len(stack.designs)).designs


def useful_flops(design: Design, context: TrainingContext) -> int:
    """Return what a design's whole training needs, see above."""
    dataset = context.dataset
    widths = [dataset.n_features, *(layer.units for layer in design.layers), dataset.n_classes]
    weights = [fan_in * fan_out for fan_in, fan_out in pairwise(widths)]
    return design.epochs * dataset.rows["train"] * (6 * sum(weights) - 2 * weights[0])


def fit(engine: Engine, designs: Sequence[Design], context: TrainingContext) -> Fit:
    """Train the stack once."""
    start, begun = time.perf_counter(), time.process_time()
    trials = [fitted.trial for fitted in engine.train(designs, context)]
    wall_s, processor_s = time.perf_counter() - start, time.process_time() - begun
    failed = [trial.error.message for trial in trials if trial.error is not None]
    if failed:
        raise SystemExit(f"{len(failed)} of {len(trials)} designs failed: {failed[0]}")
    return Fit(sum(trial.training_s for trial in trials), wall_s, processor_s)


def sgemm() -> tuple[Speed, Speed]:
    """Return the speed of numpy and of TensorFlow on this thread, whichever size is faster."""
    import numpy as np
    import tensorflow as tf

    by_numpy, by_tensorflow = [], []
    for n in (1024, 2048):
        one, other = np.random.default_rng(0).standard_normal((2, n, n)).astype(np.float32)
        by_numpy.append(speed(partial(np.matmul, one, other), n))
        by_tensorflow.append(speed(partial(tf.matmul, tf.constant(one), tf.constant(other)), n))
    return fastest(by_numpy), fastest(by_tensorflow)


def fastest(speeds: Sequence[Speed]) -> Speed:
    """Return the highest of several speeds."""
    return Speed(max(one.clock for one in speeds), max(one.processor for one in speeds))


def speed(product: Callable[[], object], n: int, repeats: int = 5) -> Speed:
    """Return the speed of the fastest of several products of two (n, n) matrices."""
    found = []
    for _ in range(repeats):
        start, begun = time.perf_counter(), time.process_time()
        product()
        clock_s, processor_s = time.perf_counter() - start, time.process_time() - begun
        found.append(Speed(2 * n**3 / clock_s, 2 * n**3 / processor_s))
    return fastest(found)
