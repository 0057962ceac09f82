"""Compute metrics of which only counts matter: rows of each class, predicted so, and right."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from dnnflow.engines.metric import Metric, Outputs, Truth, decided, task_of
from dnnflow.table.columns.kinds import Task

_BLOCK = 1 << 22
"""Most predictions that are counted at once."""


class ClassCounts(NamedTuple):
    """Counts of rows, shape (..., classes) float64 each; of several labels (..., labels, 2)."""

    truth: NDArray[np.float64]
    """Rows of each class."""
    predicted: NDArray[np.float64]
    """Rows that are taken for it."""
    hits: NDArray[np.float64]
    """Rows that are both."""


class Slopes(NamedTuple):
    """How a metric grows with each of the counts, in their shapes."""

    truth: NDArray[np.float64]
    predicted: NDArray[np.float64]
    hits: NDArray[np.float64]


OfCounts = Callable[[ClassCounts], tuple[NDArray[np.float64], Slopes]]
"""Counts → the metric, shape (...), and its slopes."""


@dataclass(frozen=True)
class CountMetric(Metric):
    """A metric of the classes that are predicted. Of several labels it is the mean over the labels.

    It is computed of counts and not by scikit-learn, since engines need it of every design, and a study of
    all at once; tests hold it to scikit-learn.
    """

    of_counts: OfCounts | None = None
    of_label_counts: OfCounts | None = None
    """Of one label of several, where that is another one."""

    def of(self, counts: ClassCounts, task: Task) -> NDArray[np.float64]:
        """Return the scores, shape (...), of counts."""
        value, _ = self._formula(task)(counts)
        return value.mean(axis=-1) if task is Task.MULTILABEL else value

    def _formula(self, task: Task) -> OfCounts:
        chosen = self.of_label_counts if task is Task.MULTILABEL else None
        if (chosen := chosen or self.of_counts) is None:
            raise NotImplementedError(self.name)
        return chosen

    def _value(self, truth: Truth, outputs: Outputs) -> float | None:
        return float(self.of(count_classes(truth, outputs), task_of(truth)))

    def row_scores(self, truth: Truth, outputs: Outputs) -> NDArray[Any] | None:
        """Return for each row the score and n times its derivative with respect to the row's cell."""
        task = task_of(truth)
        classes = decided(task, outputs)
        if self.is_additive and task is Task.CLASSIFICATION:
            return np.asarray(classes == truth)
        value, slopes = self._formula(task)(count_classes(truth, classes))
        if task is Task.CLASSIFICATION:
            return _linearised(value, slopes, truth, classes)
        labels = [_linearised(value[..., i], Slopes(*(one[..., i, :] for one in slopes)), truth[:, i],
                              classes[..., i]) for i in range(truth.shape[1])]  # fmt: skip
        return np.asarray(np.mean(labels, axis=0, dtype=np.float32))

    def resampled(self, truth: Truth, outputs: Outputs, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the scores of rows drawn again."""
        return self.of(count_classes(truth, outputs, weights), task_of(truth))


def count_classes(truth: Truth, outputs: Outputs, weights: NDArray[Any] | None = None) -> ClassCounts:
    """Return the counts of each model; with weights, shape (k, rows), one model's of rows drawn again.

    There are as many classes as occur: others have no part in any of these metrics.
    """
    task = task_of(truth)
    classes = decided(task, outputs)
    if task is Task.MULTILABEL:
        labels = [_count(truth[:, i].astype(np.int64), classes[..., i], 2, weights)
                  for i in range(truth.shape[1])]  # fmt: skip
        return ClassCounts(*(np.stack(one, axis=-2) for one in zip(*labels, strict=True)))
    n_classes = 1 + int(max(truth.max(), classes.max()))
    return _count(truth.astype(np.int64), classes, n_classes, weights)


def _count(
    truth: NDArray[np.int64], classes: NDArray[Any], n_classes: int, weights: NDArray[Any] | None
) -> ClassCounts:
    if weights is not None:
        right = classes == truth
        return ClassCounts(*(np.asarray(weights @ _indicator(codes, n_classes, of_rows)) for codes, of_rows in
                             ((truth, None), (classes, None), (truth, right))))  # fmt: skip
    flat = classes.reshape(-1, len(truth))
    predicted, hits = np.zeros((2, len(flat), n_classes))
    size = max(1, _BLOCK // len(truth))
    for first in range(0, len(flat), size):
        block = flat[first : first + size]
        cells = block + n_classes * np.arange(len(block))[:, None]
        for counts, found in ((predicted, cells.ravel()), (hits, cells[block == truth])):
            many = np.bincount(found, minlength=len(block) * n_classes)
            counts[first : first + size] = many.reshape(len(block), n_classes)
    shape = (*classes.shape[:-1], n_classes)
    true = np.bincount(truth, minlength=n_classes).astype(np.float64)
    return ClassCounts(np.broadcast_to(true, shape), predicted.reshape(shape), hits.reshape(shape))


def _indicator(codes: NDArray[Any], n_classes: int, rows: "NDArray[np.bool_] | None") -> Any:
    """Return a sparse matrix (rows, classes): 1 where a row, if it is one of `rows`, is of a class."""
    from scipy.sparse import csr_array

    values = np.ones(len(codes)) if rows is None else rows.astype(np.float64)
    return csr_array((values, codes.astype(np.int64), np.arange(len(codes) + 1)), (len(codes), n_classes))


def _linearised(
    value: NDArray[np.float64], slopes: Slopes, truth: Truth, classes: NDArray[Any]
) -> NDArray[np.float32]:
    truth, classes = truth.astype(np.int64), classes.astype(np.int64)
    shape = classes.shape
    along = partial(np.take_along_axis, axis=-1)
    true = np.broadcast_to(truth, shape)
    grown = along(slopes.truth, true) + along(slopes.predicted, classes)
    grown += np.where(classes == true, along(slopes.hits, true), 0.0)
    return np.asarray(value[..., None] + shape[-1] * grown, np.float32)


def _over(top: NDArray[np.float64], bottom: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return a quotient, 0 where the divisor is 0."""
    shape = np.broadcast_shapes(top.shape, bottom.shape)
    return np.divide(top, bottom, out=np.zeros(shape), where=bottom != 0)


def accuracy(counts: ClassCounts) -> tuple[NDArray[np.float64], Slopes]:
    """Return the share of rows whose class is right."""
    rows = counts.truth.sum(axis=-1, keepdims=True)
    value = counts.hits.sum(axis=-1, keepdims=True) / rows
    each = np.ones_like(counts.truth) / rows
    return value[..., 0], Slopes(-value * each, np.zeros_like(each), each)


def balanced_accuracy(counts: ClassCounts) -> tuple[NDArray[np.float64], Slopes]:
    """Return the mean over classes of the share of their rows that are right (their recall)."""
    n_classes = (counts.truth > 0).sum(axis=-1, keepdims=True)
    recall = _over(counts.hits, counts.truth)
    each = _over(np.ones_like(recall), counts.truth * n_classes)
    return recall.sum(axis=-1) / n_classes[..., 0], Slopes(-recall * each, np.zeros_like(each), each)


def f1(counts: ClassCounts, *, of_second: bool = False) -> tuple[NDArray[np.float64], Slopes]:
    """Return the mean over classes, or that of the second alone, of F1 = 2·hits / (true + predicted)."""
    both = counts.truth + counts.predicted
    counted = both > 0
    if of_second:
        counted = counted & (np.arange(both.shape[-1]) == 1)
    n_classes = np.maximum(counted.sum(axis=-1, keepdims=True), 1)
    each = _over(np.where(counted, 2.0 / n_classes, 0.0), both)
    falls = -_over(each * counts.hits, both)
    return (each * counts.hits).sum(axis=-1), Slopes(falls, falls, each)


def mcc(counts: ClassCounts) -> tuple[NDArray[np.float64], Slopes]:
    """Return Matthews' correlation of true and predicted classes; 0 where all of either are one class.

    Of n rows, c right ones, tₖ of class k and pₖ taken for it: (c·n - Σ tₖpₖ) / √((n² - Σ pₖ²)(n² - Σ tₖ²))
    (Gorodkin, Comparing two K-category assignments by a K-category correlation coefficient, 2004).
    """
    true, predicted, hits = counts
    n, c = true.sum(axis=-1, keepdims=True), hits.sum(axis=-1, keepdims=True)
    spread_p = n**2 - (predicted**2).sum(axis=-1, keepdims=True)
    spread_t = n**2 - (true**2).sum(axis=-1, keepdims=True)
    root = np.sqrt(spread_p * spread_t)
    value = _over(c * n - (true * predicted).sum(axis=-1, keepdims=True), root)
    half_p, half_t = _over(value, 2 * spread_p), _over(value, 2 * spread_t)
    by_truth = _over(c - predicted, root) - half_p * 2 * n - half_t * 2 * (n - true)
    by_predicted = _over(-true, root) + half_p * 2 * predicted
    return value[..., 0], Slopes(by_truth, by_predicted, _over(n + np.zeros_like(true), root))


BOTH = (Task.CLASSIFICATION, Task.MULTILABEL)

COUNT_METRICS = (
    CountMetric("accuracy", "accuracy", BOTH, "classes", is_share=True, is_additive=True, of_counts=accuracy),
    CountMetric("balanced_accuracy", "balanced accuracy", BOTH, "classes", is_share=True,
                of_counts=balanced_accuracy),
    CountMetric("macro_f1", "macro-F1", BOTH, "classes", of_counts=f1,
                of_label_counts=partial(f1, of_second=True)),
    CountMetric("mcc", "MCC", BOTH, "classes", of_counts=mcc),
)  # fmt: skip
