"""The training loop: epochs, schedule, early stopping, limits; for all engines that go epoch by epoch."""

import math
import time
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from dnnflow.design.layers import Design
from dnnflow.engines.schedule import LearningRate, Patience
from dnnflow.errors import DivergedError, TimeLimitError

Weights = tuple[np.ndarray, ...]


@dataclass(frozen=True)
class Deadline:
    """When a training must have ended."""

    limit_s: float | None
    started_s: float = field(default_factory=time.monotonic)

    def check(self, progress: str) -> None:
        """Raise `TimeLimitError` when the limit is passed."""
        spent_s = time.monotonic() - self.started_s
        if self.limit_s is not None and spent_s > self.limit_s:
            raise TimeLimitError(
                f"training must end within time_limit_s={self.limit_s:g}, got {spent_s:.3g} s "
                f"{progress}; raise the limit or leave it out"
            )


@dataclass(frozen=True)
class Measure:
    """Loss and accuracy over some rows."""

    loss: float
    """Mean cross-entropy plus the design's penalties, as Keras has it."""
    accuracy: float
    """0 to 1."""


class Network(Protocol):
    """A network in training."""

    def train_epoch(self, epoch: int, learning_rate: float, deadline: Deadline) -> Measure:
        """Train on every row once and return running means over the epoch."""
        ...

    def validate(self) -> Measure | None:
        """Measure the validation part, or None where there is none."""
        ...

    def weights(self) -> Weights:
        """Copy the weights, in the order of the Keras model."""
        ...

    def set_weights(self, weights: Weights) -> None:
        """Go back to weights that `weights` gave."""
        ...


@dataclass
class Course:
    """What was measured, epoch by epoch."""

    fitted: list[Measure] = field(default_factory=list)
    watched: list[Measure] = field(default_factory=list)
    training_s: float = 0.0
    kept: int = -1
    """Index of the epoch whose weights the network ends with: the last, or the best with early stopping."""

    def history(self) -> dict[str, tuple[float, ...]]:
        """Return the measures as a trial keeps them."""
        history = {
            "loss": tuple(x.loss for x in self.fitted),
            "accuracy": tuple(x.accuracy for x in self.fitted),
        }
        if self.watched:
            history["val_loss"] = tuple(x.loss for x in self.watched)
            history["val_accuracy"] = tuple(x.accuracy for x in self.watched)
        return history


def fit(network: Network, design: Design, time_limit_s: float | None) -> Course:
    """Train a network as its design says; with early stopping it ends with the weights of the best epoch.

    Raises
    ------
    DivergedError
        When a loss is NaN or infinite.
    TimeLimitError
        When training takes longer than `time_limit_s`.
    """
    deadline, course = Deadline(time_limit_s), Course()
    rate = LearningRate(design)
    patience = Patience(design.early_stopping) if design.early_stopping else None
    best: Weights | None = None
    for epoch in range(design.epochs):
        fit_epoch(network, epoch, rate.at(epoch), deadline, course)
        if course.watched:
            loss = course.watched[-1].loss
            rate.observe(loss)
            if patience is not None and patience.improves(loss):
                best, course.kept = network.weights(), epoch
            if patience is not None and patience.is_exhausted:
                break
    if best is not None:
        network.set_weights(best)
    course.training_s = time.monotonic() - deadline.started_s
    return course


def fit_epoch(network: Network, epoch: int, learning_rate: float, deadline: Deadline, course: Course) -> None:
    """Train one epoch, measure the validation part, and add both to the course."""
    measure = network.train_epoch(epoch, learning_rate, deadline)
    check_finite(measure.loss, f"epoch {epoch + 1}")
    course.fitted.append(measure)
    deadline.check(f"after epoch {epoch + 1}")
    watched = network.validate()
    if watched is not None:
        check_finite(watched.loss, f"the validation part after epoch {epoch + 1}")
        course.watched.append(watched)


def check_finite(loss: float, where: str) -> None:
    """Raise `DivergedError` for a loss that is no number."""
    if not math.isfinite(loss):
        raise DivergedError(f"the loss must stay finite, got {loss} in {where}; lower the learning rate")
