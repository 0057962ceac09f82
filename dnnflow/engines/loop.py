"""Train a design epoch by epoch: learning rate, patience, limits of time and memory, and the trial of it."""

import math
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import psutil

from dnnflow.design.layers import SCHEDULE_DEFAULTS, Design, EarlyStopping, count_flops, count_parameters
from dnnflow.engines.epoch_rows import RowBlock, TrainingRows, in_memory
from dnnflow.engines.metrics import ACCURACY
from dnnflow.engines.records import Trial, TrialState
from dnnflow.engines.scoring import EPOCH_MEASURES, MeasuredRows, followed, kept_of
from dnnflow.engines.seam import Fitted, Spent, TrainingContext, check_training, failed_trial, make_trial
from dnnflow.errors import DamagedError, DivergedError, OutOfMemoryError, TimeLimitError
from dnnflow.events import utc_now
from dnnflow.table.columns.kinds import Task

Weights = tuple[np.ndarray, ...]
_FLOAT_BYTES = 4
_COPIES = 4
"""Weights, gradients and two moments of an optimizer."""
_KEPT = 3
"""A layer's product, its output and the gradient of it."""


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
class Metrics:
    """Loss and what else is followed over some rows."""

    loss: float
    """Mean over the rows plus the design's penalties, as Keras has it."""
    score: float
    """The task's of `EPOCH_MEASURES`."""


class Network(ABC):
    """A network in training on the rows of a dataset."""

    def __init__(self, rows: TrainingRows, batch_size: int, call_rows: int) -> None:
        self.rows = rows
        self.batch_size = batch_size
        self.call_rows = call_rows
        """What `train_rows` gets at most, a multiple of the batch size: limits are checked between calls."""

    def train_epoch(self, epoch: int, learning_rate: float, deadline: Deadline) -> Metrics:
        """Train on every row once and return running means over the epoch."""
        loss_sum, total, count = 0.0, 0.0, 0
        for block in self.rows.epoch(epoch, self.batch_size):
            given, length = self.prepare(block), len(block.order)
            for first in range(0, length, self.call_rows):
                last = min(first + self.call_rows, length)
                loss, found = self.train_rows(given, first, last, learning_rate)
                loss_sum, total, count = loss_sum + loss, total + found, count + last - first
                check_finite(loss, f"epoch {epoch + 1}")
                deadline.check(f"in epoch {epoch + 1}")
        return Metrics(loss_sum / count, followed(self.rows.dataset.task, total / count))

    def prepare(self, block: RowBlock) -> Any:
        """Return a block's features, labels and order as `train_rows` takes them."""
        return block

    @property
    def is_compiled(self) -> bool:
        """Whether this process has the machine code or the graph that the network needs."""
        return True

    def compile(self, first: RowBlock, measured: RowBlock | None) -> None:  # noqa: B027
        """Make what is else made at first use, without learning anything, of a block of each kind."""

    @abstractmethod
    def train_rows(self, block: Any, first: int, last: int, learning_rate: float) -> tuple[float, float]:
        """Learn from the rows `order[first:last]` of a block; return their summed loss, and the sum of what
        is followed: see `followed`."""

    def validate(self) -> Metrics | None:
        """Measure the validation rows, or None where there are none."""
        if not self.rows.has_validation:
            return None
        found = self.measure(self.rows.validation())
        return Metrics(found.loss, found.followed)

    def measure(self, blocks: Iterator[RowBlock]) -> MeasuredRows:
        """Return what the network gives for some rows."""
        loss_sum, truth, found = 0.0, [], []
        for block in blocks:
            loss, outputs = self.evaluate(block)
            loss_sum += loss
            truth.append(block.labels[block.order])
            found.append(outputs)
        true = np.concatenate(truth)
        return MeasuredRows(loss_sum / len(true), true, np.concatenate(found), self.rows.dataset.targets)

    @abstractmethod
    def evaluate(self, block: RowBlock) -> tuple[float, np.ndarray]:
        """Return the summed loss and the outputs (rows, outputs) of a block's rows, in its order.

        Outputs are probabilities, or standardised numbers.
        """

    @abstractmethod
    def weights(self) -> Weights:
        """Copy the weights, in the order of the Keras model."""

    @abstractmethod
    def set_weights(self, weights: Weights) -> None:
        """Go back to weights that `weights` gave."""


@dataclass
class EpochHistory:
    """What was measured, epoch by epoch."""

    fitted: list[Metrics] = field(default_factory=list)
    watched: list[Metrics] = field(default_factory=list)
    training_s: float = 0.0
    kept: int = -1
    """Index of the epoch whose weights the network ends with: the last, or the best with early stopping."""

    def to_dict(self, task: Task = Task.CLASSIFICATION) -> dict[str, tuple[float, ...]]:
        """Return the measures as a trial keeps them."""
        parts = [("", self.fitted), *([("val_", self.watched)] if self.watched else [])]
        return {
            f"{prefix}{name}": tuple(getattr(x, key) for x in measures)
            for prefix, measures in parts for name, key in (("loss", "loss"), (EPOCH_MEASURES[task], "score"))
        }  # fmt: skip


class EpochTracker:
    """Follows a design through its epochs: its learning rate, its end, and which epoch's weights it keeps."""

    def __init__(self, design: Design) -> None:
        self.design = design
        self.history = EpochHistory()
        self.is_running = True
        self._rate = LearningRate(design)
        self._patience = Patience(design.early_stopping) if design.early_stopping else None

    def rate(self, epoch: int) -> float:
        """Return the learning rate of an epoch, counted from 0."""
        return self._rate.at(epoch)

    def observe(self, fitted: Metrics, watched: Metrics | None) -> bool:
        """Take note of an epoch; return whether the weights it ended with are to be kept.

        Raises
        ------
        DivergedError
            When a loss is NaN or infinite.
        """
        number = len(self.history.fitted) + 1
        check_finite(fitted.loss, f"epoch {number}")
        self.history.fitted.append(fitted)
        keeps = ended = number == self.design.epochs
        if watched is not None:
            check_finite(watched.loss, f"the validation part after epoch {number}")
            self.history.watched.append(watched)
            self._rate.observe(watched.loss)
            if self._patience is not None:
                keeps = self._patience.improves(watched.loss)
                ended = ended or self._patience.is_exhausted
                if keeps:
                    self.history.kept = number - 1
        self.is_running = not ended
        return keeps


def fit(network: Network, design: Design, time_limit_s: float | None) -> EpochHistory:
    """Train a network as its design says; with early stopping it ends with the weights of the best epoch.

    Raises
    ------
    DivergedError
        When a loss is NaN or infinite.
    TimeLimitError
        When training takes longer than `time_limit_s`.
    """
    deadline, tracker = Deadline(time_limit_s), EpochTracker(design)
    best: Weights | None = None
    for epoch in range(design.epochs):
        fitted = network.train_epoch(epoch, tracker.rate(epoch), deadline)
        deadline.check(f"after epoch {epoch + 1}")
        if tracker.observe(fitted, network.validate()) and design.early_stopping:
            best = network.weights()
        if not tracker.is_running:
            break
    if best is not None:
        network.set_weights(best)
    tracker.history.training_s = time.monotonic() - deadline.started_s
    return tracker.history


def check_finite(loss: float, where: str) -> None:
    """Raise `DivergedError` for a loss that is no number."""
    if not math.isfinite(loss):
        raise DivergedError(f"the loss must stay finite, got {loss} in {where}; lower the learning rate")


@dataclass(frozen=True)
class Result:
    """A design that was trained and measured."""

    history: EpochHistory
    measured: MeasuredRows | None
    """On the rows that designs are compared on, in the table's order; None where nothing was held back."""
    parameters: int
    flops: int | None
    weights: Callable[[], Weights]
    """Valid until the engine goes on to the next design."""

    def predicted(self, context: TrainingContext) -> np.ndarray | None:
        """Return what is kept of the predictions: see `Fitted.predicted`."""
        if self.measured is None or not in_memory(context):
            return None
        return kept_of(self.measured, context.dataset, context.metric, whole=context.part is not None)


def fit_and_measure(network: Network, design: Design, context: TrainingContext) -> Result:
    """Train a network as its design says, and measure it on the rows that designs are compared on.

    What this process makes once for many designs is made before the clock of the training starts.
    """
    if not network.is_compiled:
        _compile(network, context)
    history = fit(network, design, context.settings.time_limit_s)
    measured = network.measure(network.rows.measured()) if network.rows.is_measured else None
    shape, known = (context.dataset.n_features, context.dataset.n_outputs), design.reference is None
    return Result(
        history=history,
        measured=measured,
        parameters=count_parameters(design, *shape) if known else sum(x.size for x in network.weights()),
        flops=count_flops(design, *shape) if known else None,
        weights=network.weights,
    )


def _compile(network: Network, context: TrainingContext) -> None:
    context.compiling(True)
    try:
        rows = network.rows
        first = next(rows.epoch(0, network.batch_size))
        network.compile(first, next(rows.validation(), None) or next(rows.test(), None))
    finally:
        context.compiling(False)


def train_designs(
    fit: Callable[[Design, TrainingContext], Result], designs: Sequence[Design], context: TrainingContext, *,
    engine: str,
) -> Iterator[Fitted]:  # fmt: skip
    """Train designs one after the other; an exception of `fit` fails its design alone."""
    for design in designs:
        started_at, start = utc_now(), time.monotonic()
        try:
            check_training(design, holds_rows=context.holds_rows)
            result = fit(design, context)
            if result.measured is not None:
                check_finite(result.measured.loss, "the rows it is measured on")
            spent = Spent(started_at, time.monotonic() - start, result.history.training_s)
            trial = completed_trial(design, result, context, spent, engine=engine)
            fitted = Fitted(trial, result.weights, result.predicted(context))
        except DamagedError:
            raise
        except Exception as error:  # user code and libraries may raise anything: the study goes on
            spent = Spent(started_at, time.monotonic() - start)
            fitted = Fitted(failed_trial(design, error, context, spent, engine=engine))
        yield fitted


def completed_trial(
    design: Design, result: Result, context: TrainingContext, spent: Spent, *, engine: str
) -> Trial:
    """Return the record of a design that was trained and measured."""
    history, measured = result.history, result.measured
    fitted = history.fitted[history.kept]
    watched = history.watched[history.kept] if history.watched else None
    is_followed = context.metric is ACCURACY  # of every epoch no other metric is known
    return make_trial(
        design, TrialState.COMPLETED, context, spent,
        engine=engine,
        training_s=spent.training_s,
        amortised=spent.amortised,
        parameters=result.parameters,
        flops=result.flops,
        epochs_run=len(history.fitted),
        score=measured.score(context.metric) if measured else None,
        loss=measured.loss if measured else None,
        train_score=fitted.score if is_followed else None,
        train_loss=fitted.loss,
        validation_score=watched.score if watched and is_followed else None,
        validation_loss=watched.loss if watched else None,
        history=history.to_dict(context.dataset.task),
        confusion=measured.confusion() if measured else (),
    )  # fmt: skip


def training_bytes(design: Design, n_features: int, n_outputs: int) -> int:
    """Estimate what training a design takes besides the rows: weights, optimizer state, activations."""
    weights = count_parameters(design, n_features, n_outputs) * _COPIES
    activations = design.batch_size * (sum(layer.units for layer in design.layers) + n_outputs) * _KEPT
    return (weights + activations) * _FLOAT_BYTES


def memory_limit(context: TrainingContext) -> int:
    """Return the bytes that a training may take: those of this process, or else what the machine has left."""
    return context.memory_bytes or psutil.virtual_memory().available


def check_memory(design: Design, context: TrainingContext, need_bytes: int | None = None) -> None:
    """Refuse a design that does not fit, before anything is allocated.

    Raises
    ------
    OutOfMemoryError
        When its weights and activations need more than `context.memory_bytes`, or, without one, than what
        the machine has left.
    """
    dataset = context.dataset
    need = need_bytes or training_bytes(design, dataset.n_features, dataset.n_outputs)
    limit = memory_limit(context)
    if need > limit:
        parameters = count_parameters(design, dataset.n_features, dataset.n_outputs)
        raise OutOfMemoryError(
            f"a design must fit the worker's memory of {limit / 1e9:.3g} GB, got {need / 1e9:.3g} "
            f"GB for {parameters:,} parameters; take fewer units or layers"
        )
