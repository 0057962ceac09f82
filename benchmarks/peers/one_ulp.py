"""Whether stacked trainings differ from those of `keras` by more than `keras` differs from itself.

Training amplifies rounding: the yardstick is the `keras` engine with half of its initial weights moved to the
next number.
"""

import math
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from dnnflow.design.layers import Design
from peers.common import Task, train_here

if TYPE_CHECKING:
    import numpy as np

INTERVAL = 0.3
"""Points within which the 95 % interval of the mean difference is to lie."""
RESAMPLES = 10_000


def measure(task: Task) -> None:
    """Train the designs three times and print how their test accuracies differ."""
    keras = accuracies(task, "keras")
    with moved_weights():
        moved = accuracies(task, "keras")
    tested = accuracies(task, task.engine)
    shared = [name for name in keras if name in moved and name in tested]
    lost = len(task.designs()) - len(shared)
    print(f"{len(shared)} designs, {lost} did not complete everywhere; differences in points of accuracy")
    ours = points(tested, keras, shared)
    itself = points(moved, keras, shared)
    rows = task.dataset().rows["test"]
    print(f"{'':32}{'mean':>8}{'95 %':>8}{'sd':>8}{'size':>8}{'90 %':>8}{'max':>8}{'in rows':>9}{'equal':>7}")
    show(f"{task.engine} - keras", ours, rows)
    show("keras moved by one ulp - keras", itself, rows)
    judge(ours, itself)


def accuracies(task: Task, engine: str) -> dict[str, float]:
    """Return the test accuracy of each design that completes, by design id."""
    trials = (outcome.trial for outcome in train_here(replace(task, engine=engine)))
    return {trial.design_id: trial.score for trial in trials if trial.score is not None}


@contextmanager
def moved_weights() -> Iterator[None]:
    """Let the keras engine begin with half of its weights moved by one unit in the last place."""
    from dnnflow.design.initial import initial_weights
    from dnnflow.engines.keras import keras_engine

    def moved(design: Design, *given: Any, **named: Any) -> "tuple[np.ndarray, ...]":
        return move(initial_weights(design, *given, **named), design)

    with patch.object(keras_engine, "initial_weights", moved):
        yield


def move(weights: "tuple[np.ndarray, ...]", design: Design) -> "tuple[np.ndarray, ...]":
    """Move a random half of the weights up or down, biases of zero left as they are."""
    import numpy as np

    rng = np.random.default_rng(zlib.crc32(design.design_id.encode()))

    def one(weight: np.ndarray) -> np.ndarray:
        towards = np.where(rng.random(weight.shape) < 0.5, np.inf, -np.inf).astype(weight.dtype)
        chosen = (rng.random(weight.shape) < 0.5) & (weight != 0)
        return np.where(chosen, np.nextafter(weight, towards), weight)

    return tuple(one(weight) for weight in weights)


def points(ones: dict[str, float], others: dict[str, float], names: list[str]) -> "np.ndarray":
    """Return differences in percentage points, (designs,)."""
    import numpy as np

    return np.array([100 * (ones[name] - others[name]) for name in names])


def half_width(differences: "np.ndarray") -> float:
    """Return half of the 95 % interval of the mean."""
    return float(1.96 * differences.std(ddof=1) / math.sqrt(len(differences)))


def show(name: str, differences: "np.ndarray", rows: int) -> None:
    """Print how differences are distributed; sizes are without sign."""
    import numpy as np

    size = np.abs(differences)
    print(f"{name:32}{differences.mean():+8.3f} ±{half_width(differences):6.3f}{differences.std(ddof=1):8.3f}"
          f"{size.mean():8.3f}{np.quantile(size, 0.9):8.3f}{size.max():8.3f}"
          f"{round(size.max() * rows / 100):9}{(size == 0).mean():7.0%}")  # fmt: skip


def judge(ours: "np.ndarray", itself: "np.ndarray") -> None:
    """Print whether both goals are met."""
    import numpy as np

    rng = np.random.default_rng(0)
    # The same designs in both: a design that is sensitive to rounding is so for either.
    picks = rng.integers(len(ours), size=(RESAMPLES, len(ours)))
    ratios = ours[picks].std(axis=1) / np.maximum(itself[picks].std(axis=1), 1e-12)
    low, high = np.quantile(ratios, (0.025, 0.975))
    ratio = ours.std() / max(itself.std(), 1e-12)
    wider = "no wider" if ratio <= 1 else "not shown to be wider" if low <= 1 else "wider"
    print(
        f"width: {ratio:.2f} times that of keras with itself (95 % interval {low:.2f} to {high:.2f}): {wider}"
    )
    mean, half = float(ours.mean()), half_width(ours)
    verdict = "meets" if abs(mean) + half <= INTERVAL else "does not meet"
    print(f"mean: {mean:+.3f} points, 95 % interval {mean - half:+.3f} to {mean + half:+.3f}: {verdict} "
          f"the goal of ±{INTERVAL}")  # fmt: skip
