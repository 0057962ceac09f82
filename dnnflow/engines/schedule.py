"""Learning rate from epoch to epoch, and when to stop; for all engines that go epoch by epoch."""

import math

from dnnflow.design.layers import SCHEDULE_DEFAULTS, Design, EarlyStopping


class LearningRate:
    """The learning rate of each epoch, by the design's schedule (formulas: `Schedule`)."""

    def __init__(self, design: Design) -> None:
        self._kind = design.schedule.kind
        self._first = design.optimizer.learning_rate
        self._epochs = design.epochs
        self._given = {**SCHEDULE_DEFAULTS[self._kind], **design.schedule.parameters}
        self._plateau = self._first
        self._best = math.inf
        self._waited = 0

    def at(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        given = self._given
        if self._kind == "exponential":
            return float(self._first * given["rate"] ** epoch)
        if self._kind == "step":
            return float(self._first * given["rate"] ** (epoch // int(given["every"])))
        if self._kind == "cosine":
            share = (1 + math.cos(math.pi * epoch / self._epochs)) / 2
            return float(self._first * (given["floor"] + (1 - given["floor"]) * share))
        return self._plateau

    def observe(self, validation_loss: float) -> None:
        """Take note of an epoch's validation loss, which a plateau schedule follows (`ReduceLROnPlateau`)."""
        if self._kind != "plateau":
            return
        if validation_loss < self._best - self._given["min_delta"]:
            self._best, self._waited = validation_loss, 0
            return
        self._waited += 1
        if self._waited >= self._given["patience"]:
            floor = self._first * self._given["floor"]
            self._plateau, self._waited = max(self._plateau * self._given["rate"], floor), 0


class Patience:
    """Early stopping: which epoch was the best, and is it long ago? (Keras' `EarlyStopping`)"""

    def __init__(self, rule: EarlyStopping) -> None:
        self._rule = rule
        self._best = math.inf
        self._waited = 0

    def improves(self, validation_loss: float) -> bool:
        """Take note of an epoch's validation loss and say whether it is the best so far."""
        if validation_loss + self._rule.min_delta < self._best:
            self._best, self._waited = validation_loss, 0
            return True
        self._waited += 1
        return False

    @property
    def is_exhausted(self) -> bool:
        """Whether training should stop."""
        return self._waited >= self._rule.patience
