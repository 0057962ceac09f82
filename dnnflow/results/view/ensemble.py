"""Choose which models to average, by what each gives for rows that it was not fitted to."""

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

STEPS = 25
"""Models that are added at most, one model several times if it helps."""

Value = Callable[[NDArray[np.floating[Any]]], float]
"""Outputs (rows, outputs) → how good they are, greater is better."""


def greedy(outputs: NDArray[np.floating[Any]], value: Value, most: int) -> dict[int, int]:
    """Return how often each model is taken into an average, by its place in `outputs`.

    Greedy selection with replacement (Caruana, Niculescu-Mizil, Crew, Ksikes, Ensemble selection from
    libraries of models, ICML 2004): begin with the best, add the one with which the average is best, again
    and again, and keep the best average on the way. Of equals the one that stands first is added.

    Parameters
    ----------
    outputs
        Shape (models, rows, outputs), best first.
    value
        Of an average.
    most
        Different models at most, at least 1.
    """
    total = np.zeros(outputs.shape[1:], np.float64)
    taken: list[int] = []
    best, best_length = None, 0
    for step in range(1, STEPS + 1):
        may = range(len(outputs)) if len(set(taken)) < most else sorted(set(taken))
        values = {place: value((total + outputs[place]) / step) for place in may}
        chosen = max(values, key=lambda place: (values[place], -place))
        total += outputs[chosen]
        taken.append(chosen)
        if best is None or values[chosen] > best:
            best, best_length = values[chosen], step
    kept = taken[:best_length]
    return {place: kept.count(place) for place in sorted(set(kept))}
