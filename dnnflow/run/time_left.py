"""Estimate how long a study's missing designs will take, each by its own arithmetic."""

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from dnnflow.design.layers import Design, count_flops

if TYPE_CHECKING:
    from dnnflow.table.store.dataset import Dataset

FIRST_TRIALS = 5
"""Trials after the first batch of them from which on the time left is estimated."""
EACH_FLOPS = 2e7
"""What a training takes besides its arithmetic, as arithmetic of about the same time: some milliseconds."""


def expected_times(designs: Sequence[Design], dataset: "Dataset") -> dict[str, float]:
    """Return {design id: relative time}: products of matrices over all epochs, and a constant.

    Designs that are given as code, whose arithmetic is not known, count as much as the mean of the others.
    """
    rows, shape = max(1, dataset.rows["train"]), (dataset.n_features, dataset.n_outputs)
    known = {
        one.design_id: EACH_FLOPS + 3.0 * one.epochs * rows * count_flops(one, *shape)
        for one in designs
        if one.reference is None
    }
    mean = sum(known.values()) / len(known) if known else 1.0
    return {one.design_id: known.get(one.design_id, mean) for one in designs}


class TimeLeft:
    """The time that is left, by how fast expected times were worked off of late.

    The start counts for nothing: neither workers nor machine code are there yet. What is looked at is the
    later half of the time since the first trials came, so that the pace forgets how it began.
    """

    def __init__(self, expected: Mapping[str, float], done: Iterable[str] = ()) -> None:
        self._left = dict(expected)
        for design_id in done:
            self._left.pop(design_id, None)
        self._left_sum = sum(self._left.values())
        self._points: deque[tuple[float, float]] = deque()
        """Elapsed seconds, and the expected times worked off by then."""
        self._began_s, self._worked, self._trials = 0.0, 0.0, 0

    def observe(self, design_ids: Iterable[str], elapsed_s: float) -> None:
        """Take note of trials that have ended, and how long after the start."""
        worked = [self._left.pop(one) for one in design_ids if one in self._left]
        self._left_sum -= sum(worked)
        if not self._points:
            self._began_s = elapsed_s
            self._points.append((elapsed_s, 0.0))  # the first trials paid for the start
            return
        self._worked, self._trials = self._worked + sum(worked), self._trials + len(worked)
        self._points.append((elapsed_s, self._worked))
        middle_s = (self._began_s + elapsed_s) / 2
        while len(self._points) > 2 and self._points[1][0] <= middle_s:
            self._points.popleft()

    def estimate(self, elapsed_s: float) -> float | None:
        """Return seconds, None before anything is known."""
        if not self._left:
            return 0.0
        if self._trials < FIRST_TRIALS:
            return None
        since_s, before = self._points[0]
        worked = self._worked - before
        return self._left_sum * (elapsed_s - since_s) / worked if worked > 0 else None
