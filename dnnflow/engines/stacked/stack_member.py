"""A design on its way through the epochs of its stack: when it stops, and which weights it ends with."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from dnnflow.design.layers import Design
from dnnflow.engines.loop import Course, Measure, Weights, check_finite
from dnnflow.engines.schedule import LearningRate, Patience
from dnnflow.errors import DivergedError


@dataclass
class Member:
    """One design of a stack that trains."""

    design: Design
    place: int
    """In the stack as it began."""
    course: Course = field(default_factory=Course)
    weights: Weights = ()
    """The best so far with early stopping, else those at the end."""
    error: DivergedError | None = None
    is_running: bool = True

    def __post_init__(self) -> None:
        self._rate = LearningRate(self.design)
        stopping = self.design.early_stopping
        self._patience = Patience(stopping) if stopping else None

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self._rate.at(epoch)

    def observe(self, epoch: int, fitted: Measure, watched: Measure | None) -> bool:
        """Take note of an epoch; return whether the weights it ended with are to be kept."""
        try:
            check_finite(fitted.loss, f"epoch {epoch + 1}")
            self.course.fitted.append(fitted)
            if watched is not None:
                check_finite(watched.loss, f"the validation part after epoch {epoch + 1}")
                self.course.watched.append(watched)
        except DivergedError as error:
            self.error, self.is_running = error, False
            return False
        ended = len(self.course.fitted) == self.design.epochs
        keeps = ended
        if watched is not None:
            self._rate.observe(watched.loss)
            if self._patience is not None:
                keeps = self._patience.improves(watched.loss)
                ended = ended or self._patience.is_exhausted
        if keeps and self._patience is not None:
            self.course.kept = epoch
        self.is_running = not ended
        return keeps


def measures(losses: np.ndarray, accuracies: np.ndarray) -> list[Measure]:
    """Return each design's measure from mean losses and accuracies, both (designs,)."""
    return [Measure(*both) for both in zip(losses.tolist(), accuracies.tolist(), strict=True)]


def staying(running: Sequence[bool], edge: int, lanes: int = 8) -> list[int]:
    """Return which designs of a stack go on, so that they keep their bits.

    TensorFlow's elementwise operations take numbers by lanes, and what is left over at the end of an array is
    rounded otherwise. As many are left over, and of the same designs, where the number of designs changes by
    a multiple of the lanes and the last ones stay. One design alone is multiplied in another order.

    Parameters
    ----------
    running
        Of each design: has it not ended?
    edge
        How many designs at the end may have numbers that are left over.
    lanes
        How many numbers are taken at once.
    """
    count = len(running)
    wanted = [position for position in range(count) if running[position] or position >= count - edge]
    size = max(len(wanted), 2)
    size += (count - size) % lanes
    others = [position for position in range(count) if position not in set(wanted)]
    return sorted([*wanted, *others[: size - len(wanted)]])
