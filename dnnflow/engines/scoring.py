"""Score what a network gives for rows against what is true: the study's metric, and counts of classes."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.engines.metric import Metric, decided
from dnnflow.engines.metrics import ACCURACY
from dnnflow.table.columns.kinds import Task

if TYPE_CHECKING:
    from dnnflow.table.store.dataset import Dataset


@dataclass(frozen=True)
class MeasuredRows:
    """What a network gives for some rows, beside what is true."""

    loss: float
    """Mean over the rows, penalties included as Keras does."""
    truth: NDArray[np.integer]
    """Shape (rows,): class codes."""
    outputs: NDArray[np.floating]
    """Shape (rows, classes): probabilities."""

    @property
    def share_right(self) -> float:
        """Share of rows whose class was predicted, 0 to 1."""
        return float(np.mean(self.outputs.argmax(axis=-1) == self.truth))

    def score(self, metric: Metric) -> float | None:
        """Return the score of a study's metric; None where these rows leave it undefined."""
        return self.share_right if metric is ACCURACY else metric.score(self.truth, self.outputs)

    def confusion(self) -> NDArray[np.int64]:
        """Return counts (classes, classes), [true class][predicted class]."""
        return confusion(self.truth, self.outputs.argmax(axis=-1), self.outputs.shape[-1])


def confusion(truth: NDArray[np.integer], classes: NDArray[np.integer], n_classes: int) -> NDArray[np.int64]:
    """Return counts (classes, classes) of rows, [true class][predicted class]."""
    cells = truth.astype(np.int64) * n_classes + classes
    return np.bincount(cells, minlength=n_classes**2).reshape(n_classes, n_classes)


def as_codes(classes: NDArray[np.integer], n_classes: int) -> NDArray[np.integer]:
    """Return class codes in as few bytes as hold them."""
    return classes.astype(np.min_scalar_type(n_classes - 1))


def kept_of(measured: MeasuredRows, dataset: "Dataset", metric: Metric, *, whole: bool) -> NDArray[Any]:
    """Return what is kept of outputs: all of them, where `whole` or the metric needs it, else classes.

    Probabilities (rows, outputs) are float16, numbers float32; class codes (rows,) take as few bytes as hold
    them.
    """
    if metric.needs == "values":
        return measured.outputs.astype(np.float32)
    if whole or metric.needs == "probabilities":
        return measured.outputs.astype(np.float16)
    classes = decided(dataset.task, measured.outputs)
    return as_codes(classes, dataset.n_classes) if dataset.task is Task.CLASSIFICATION else classes
