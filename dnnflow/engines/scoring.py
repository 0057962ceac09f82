"""Score what a network gives for rows against what is true: the study's metric, and counts of classes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.engines.metric import Metric, decided
from dnnflow.engines.metrics import ACCURACY
from dnnflow.table.columns.kinds import Task
from dnnflow.table.columns.targets import Targets

if TYPE_CHECKING:
    from dnnflow.table.store.dataset import Dataset


EPOCH_MEASURES = {Task.CLASSIFICATION: "accuracy", Task.MULTILABEL: "accuracy", Task.REGRESSION: "r2"}
"""What is followed through the epochs beside the loss: the share of rows, or of labels, that are right; of
numbers 1 minus the mean squared error of standardised targets, whose variance over the training rows is 1."""


def followed(task: Task, mean: float) -> float:
    """Return what is followed, from its mean over rows: shares that are right, or squared errors."""
    return 1.0 - mean if task is Task.REGRESSION else mean


@dataclass(frozen=True)
class MeasuredRows:
    """What a network gives for some rows, beside what is true."""

    loss: float
    """Mean over the rows, penalties included as Keras does."""
    truth: NDArray[Any]
    """As the network is trained on it: codes of classes (rows,), else (rows, outputs)."""
    outputs: NDArray[np.floating]
    """Shape (rows, outputs): probabilities, or standardised numbers."""
    targets: Targets

    @property
    def followed(self) -> float:
        """What is followed through the epochs (`EPOCH_MEASURES`)."""
        if self.targets.task is Task.CLASSIFICATION:
            return self.share_right
        if self.targets.task is Task.MULTILABEL:
            return float(np.mean((self.outputs > 0.5) == (self.truth > 0.5)))
        return followed(Task.REGRESSION, float(np.mean(np.square(self.outputs - self.truth))))

    @property
    def share_right(self) -> float:
        """Share of rows whose class was predicted, 0 to 1."""
        return float(np.mean(self.outputs.argmax(axis=-1) == self.truth))

    def score(self, metric: Metric) -> float | None:
        """Return the score of a study's metric; None where these rows leave it undefined."""
        if metric is ACCURACY:
            return self.followed
        return metric.score(in_units(self.targets, self.truth), in_units(self.targets, self.outputs))

    def confusion(self) -> tuple[tuple[int, ...], ...]:
        """Return counts of rows, [true class][predicted class]; none but for classification."""
        if self.targets.task is not Task.CLASSIFICATION:
            return ()
        counts = confusion(self.truth, self.outputs.argmax(axis=-1), self.outputs.shape[-1])
        return tuple(map(tuple, counts.tolist()))


def in_units(targets: Targets, encoded: NDArray[Any]) -> NDArray[Any]:
    """Return labels, or a network's outputs, as metrics take them: numbers in the table's units.

    Codes, labels and probabilities are as they were.
    """
    return targets.decode(encoded) if targets.task is Task.REGRESSION else encoded


def confusion(truth: NDArray[np.integer], classes: NDArray[np.integer], n_classes: int) -> NDArray[np.int64]:
    """Return counts (classes, classes) of rows, [true class][predicted class]."""
    cells = truth.astype(np.int64) * n_classes + classes
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def as_codes(classes: NDArray[np.integer], n_classes: int) -> NDArray[np.integer]:
    """Return class codes in as few bytes as hold them."""
    return classes.astype(np.min_scalar_type(n_classes - 1))


def halved(outputs: NDArray[np.floating], task: Task) -> NDArray[np.float16]:
    """Return probabilities (rows, outputs) as float16, rounded so that the classes they say stay."""
    kept = outputs.astype(np.float16)
    if task is Task.MULTILABEL:
        kept[(outputs > 0.5) & (kept == 0.5)] = np.nextafter(np.float16(0.5), np.float16(1))
        return kept
    best = outputs.argmax(axis=-1)
    tied = np.flatnonzero(kept.argmax(axis=-1) != best)
    kept[tied, best[tied]] = np.nextafter(kept[tied, best[tied]], np.float16(2))
    return kept


def kept_of(measured: MeasuredRows, dataset: "Dataset", metric: Metric, *, whole: bool) -> NDArray[Any]:
    """Return what is kept of outputs: all of them, where `whole` or the metric needs it, else classes.

    Probabilities (rows, outputs) are float16, numbers float32; class codes (rows,) take as few bytes as hold
    them.
    """
    if metric.needs == "values":
        return in_units(measured.targets, measured.outputs).astype(np.float32)
    if whole or metric.needs == "probabilities":
        return halved(measured.outputs, dataset.task)
    classes = decided(dataset.task, measured.outputs)
    return as_codes(classes, dataset.n_classes) if dataset.task is Task.CLASSIFICATION else classes
