"""Add up loss and metrics of batches, on one replica or many."""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True, slots=True)
class BatchTotals:
    """Loss and metrics of some batches; the sum of two is that of all their batches.

    Examples
    --------
    >>> first = BatchTotals(2, 1.0, np.array([2.0, 2.0]))
    >>> (first + BatchTotals(6, 1.0, np.array([3.0, 6.0]))).loss
    0.25
    """

    count: int
    """Samples."""
    loss_sum: float
    """Of each batch's mean loss, penalties included, times its samples."""
    states: np.ndarray
    """Of the metrics, float64: their sums and counts, one after the other; empty for no metrics."""

    def __add__(self, other: "BatchTotals") -> "BatchTotals":
        return BatchTotals(
            self.count + other.count, self.loss_sum + other.loss_sum, self.states + other.states
        )

    @property
    def loss(self) -> float:
        """Mean loss over the samples; NaN for none."""
        return self.loss_sum / self.count if self.count else float("nan")


def total(tallies: Iterable[BatchTotals]) -> BatchTotals:
    """Return the sum; without any, that of no sample and no metrics."""
    found = list(tallies)
    return sum(found[1:], start=found[0]) if found else BatchTotals(0, 0.0, np.zeros(0))
