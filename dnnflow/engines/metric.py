"""Define what a metric is: a number that says how good outputs are, beside what is true."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from dnnflow.table.columns.kinds import Task

Truth = NDArray[Any]
"""Shape (rows,): class codes of classification; else (rows, outputs): 0 or 1 of each label, or numbers."""
Outputs = NDArray[Any]
"""Shape (..., rows, outputs): probabilities, or numbers in the table's units, of one model or of several.
Where only classes count also whole numbers: class codes (..., rows), or 0 and 1 (..., rows, labels)."""


@dataclass(frozen=True)
class Metric(ABC):
    """A metric of scikit-learn's. Its score is greater for better outputs: an error is negative."""

    name: str
    label: str
    """For people."""
    tasks: tuple[Task, ...]
    """What it is for."""
    needs: Literal["classes", "probabilities", "values"]
    """What it looks at: the class that is predicted, or the label's value; probabilities; numbers."""
    greater_is_better: bool = True
    """Of its value; of its score greater always is."""
    is_share: bool = False
    """Whether people are told it in percent."""
    is_additive: bool = False
    """Whether it is the mean of a number a row that depends on that row alone."""

    @property
    def ceiling(self) -> float:
        """The best score."""
        return 1.0 if self.greater_is_better else 0.0

    def score(self, truth: Truth, outputs: Outputs) -> float | None:
        """Return how good outputs are, greater is better; None where the rows leave it undefined.

        That is so of a ranking of one class alone, of R² on fewer than two rows, and of outputs that are not
        finite.
        """
        if len(truth) == 0 or not np.isfinite(outputs).all():
            return None
        value = self._value(truth, outputs)
        return value if value is None or math.isfinite(value) else None

    def value(self, score: float) -> float:
        """Return a score as the metric is usually written: of an error, the error."""
        return score if self.greater_is_better else 0.0 - score

    def text(self, score: float) -> str:
        """Return a score for people, as it is usually written: `93.1 %`, `3.21`."""
        value = self.value(score)
        if self.is_share:
            return f"{100 * value:.1f} %"
        if self.greater_is_better:  # 1 at best
            return f"{value:.3f}"
        size = math.floor(math.log10(abs(value))) if value and math.isfinite(value) else 0
        return f"{value:,.{min(max(2 - size, 0), 12)}f}"

    @abstractmethod
    def _value(self, truth: Truth, outputs: Outputs) -> float | None:
        """Return the score of one model's outputs for at least one row."""

    @abstractmethod
    def row_scores(self, truth: Truth, outputs: Outputs) -> NDArray[Any] | None:
        """Return how good each row's output is, shape (..., rows), so that the mean over rows is the score.

        Of a metric that is no mean over rows it is the linearisation: the score and n times its derivative
        with respect to the row's weight (infinitesimal jackknife; Efron, The jackknife, the bootstrap and
        other resampling plans, 1982, chapter 6). Right or wrong is bool, all else float32. None of a metric
        that has neither.
        """

    def effective_rows(self, truth: Truth) -> float:
        """Return on how many rows it rests."""
        return float(len(truth))

    @abstractmethod
    def resampled(self, truth: Truth, outputs: Outputs, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the scores, shape (k,), of one model's rows drawn again: NaN where one is undefined.

        Parameters
        ----------
        weights
            Shape (k, rows): how often each row is drawn.
        """


def decided(task: Task, outputs: Outputs, thresholds: "float | tuple[float, ...] | None" = None) -> Outputs:
    """Return what probabilities say as classes: codes (..., rows), or 0 and 1 (..., rows, labels).

    Parameters
    ----------
    thresholds
        Probability of the second class of two, or of each label, above which it is predicted; without, the
        likeliest class is, and a label's above 0.5.
    """
    if outputs.dtype.kind in "iub":
        return outputs
    if task is Task.MULTILABEL:
        return (outputs > np.asarray(0.5 if thresholds is None else thresholds)).astype(np.int8)
    if thresholds is None:
        return np.asarray(outputs.argmax(axis=-1))
    return (outputs[..., 1] > np.asarray(thresholds)).astype(np.int8)


def task_of(truth: Truth) -> Task:
    """Return whether truth is of one label's classes, or of several labels."""
    return Task.CLASSIFICATION if truth.ndim == 1 else Task.MULTILABEL
