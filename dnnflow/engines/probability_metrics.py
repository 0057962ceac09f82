"""Measure probabilities: their likelihood, how they rank rows, and whether they are shares of right rows."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.engines.count_metrics import BOTH
from dnnflow.engines.metric import Metric, Outputs, Truth, task_of
from dnnflow.table.columns.kinds import Task

ECE_BINS = 15
_LEAST = float(np.finfo(np.float32).eps)


def normalised(outputs: Outputs) -> NDArray[np.float32]:
    """Return probabilities (..., rows, classes) whose sum is 1 to the last digit, as float32."""
    shares = outputs.astype(np.float32)
    shares /= shares.sum(axis=-1, keepdims=True)
    return shares


def _as_classes(truth: Truth, outputs: Outputs) -> Iterator[tuple[Truth, NDArray[np.float32]]]:
    """Yield codes (rows,) and probabilities (..., rows, classes): of several labels, those of each."""
    if task_of(truth) is Task.CLASSIFICATION:
        yield truth, normalised(outputs)
        return
    for label in range(truth.shape[1]):
        second = outputs[..., label].astype(np.float32)
        yield truth[:, label].astype(np.int64), np.stack([1 - second, second], axis=-1)


def _of_truth(truth: Truth, shares: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probability (..., rows) of the true class."""
    return np.asarray(shares[..., np.arange(len(truth)), truth])


@dataclass(frozen=True)
class RowLoss(Metric):
    """The mean over rows of a loss of their probabilities; of several labels the mean over these, too."""

    def row_scores(self, truth: Truth, outputs: Outputs) -> NDArray[Any] | None:
        """Return minus the loss of each row."""
        losses = [self._row_losses(true, shares) for true, shares in _as_classes(truth, outputs)]
        return np.asarray(-np.mean(losses, axis=0, dtype=np.float32))

    def _row_losses(self, truth: Truth, shares: NDArray[np.float32]) -> NDArray[np.float32]:
        raise NotImplementedError

    def _value(self, truth: Truth, outputs: Outputs) -> float | None:
        losses = [self._loss(true, shares) for true, shares in _as_classes(truth, outputs)]
        return -float(np.mean(losses))

    def _loss(self, truth: Truth, shares: NDArray[np.float32]) -> float:
        raise NotImplementedError

    def resampled(self, truth: Truth, outputs: Outputs, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the scores of rows drawn again."""
        return _weighted_mean(self.row_scores(truth, outputs), weights)


def _weighted_mean(rows: Any, weights: NDArray[Any]) -> NDArray[np.float64]:
    return np.asarray(weights @ rows.astype(np.float64) / weights.sum(axis=1))


@dataclass(frozen=True)
class LogLoss(RowLoss):
    """Minus the mean logarithm of the true class' probability, which is held within float32's rounding."""

    def _row_losses(self, truth: Truth, shares: NDArray[np.float32]) -> NDArray[np.float32]:
        return -np.log(np.clip(_of_truth(truth, shares), _LEAST, 1 - _LEAST))

    def _loss(self, truth: Truth, shares: NDArray[np.float32]) -> float:
        from sklearn.metrics import log_loss

        return float(log_loss(truth, shares, labels=np.arange(shares.shape[-1])))


@dataclass(frozen=True)
class Brier(RowLoss):
    """The squared distance of probabilities from what is true, of two classes halved: 0 to 1, else 0 to 2."""

    def _row_losses(self, truth: Truth, shares: NDArray[np.float32]) -> NDArray[np.float32]:
        likely = _of_truth(truth, shares)
        distance = (shares**2).sum(axis=-1) - 2 * likely + 1
        return np.asarray(distance / 2 if shares.shape[-1] == 2 else distance)

    def _loss(self, truth: Truth, shares: NDArray[np.float32]) -> float:
        from sklearn.metrics import brier_score_loss

        if shares.shape[-1] == 2:
            return float(brier_score_loss(truth, shares[:, 1], labels=[0, 1], pos_label=1))
        return float(brier_score_loss(truth, shares, labels=np.arange(shares.shape[-1])))


def _against_rest(truth: Truth, outputs: Outputs) -> Iterator[tuple[NDArray[np.bool_], NDArray[np.float32]]]:
    """Yield which rows are of a class or have a label, and its probabilities (..., rows).

    Only where there are rows of both kinds; of two classes only the second, as scikit-learn has it.
    """
    if task_of(truth) is Task.CLASSIFICATION:
        names = [1] if outputs.shape[-1] == 2 else list(range(outputs.shape[-1]))
        pairs = [(truth == name, outputs[..., name]) for name in names]
    else:
        pairs = [(truth[:, label] > 0, outputs[..., label]) for label in range(truth.shape[1])]
    for positive, shares in pairs:
        if positive.any() and not positive.all():
            yield positive, shares.astype(np.float32)


@dataclass(frozen=True)
class Ranking(Metric):
    """How far the rows of a class stand before all others: of several, the mean over those that occur.

    By scikit-learn a design of ten classes took 13 to 25 ms, as long as its training, and so takes 0.6; tests
    hold it to scikit-learn.
    """

    def _value(self, truth: Truth, outputs: Outputs) -> float | None:
        score = float(self.resampled(truth, outputs, np.ones((1, len(truth))))[0])
        return score if np.isfinite(score) else None

    def effective_rows(self, truth: Truth) -> float:
        """Return how many rows the classes have: nₖ each, (Σ 1/nₖ)² / Σ 1/nₖ³ (Satterthwaite, 1946).

        As if the variance of each class' value were found on its rows alone and went with 1/nₖ.
        """
        if task_of(truth) is Task.CLASSIFICATION:
            counts = np.bincount(truth)
            counts = counts[1:] if len(counts) == 2 else counts
        else:
            counts = truth.sum(axis=0)
        shares = 1 / counts[counts > 0].astype(np.float64)
        return float(shares.sum() ** 2 / (shares**3).sum()) if len(shares) else 0.0

    def row_scores(self, truth: Truth, outputs: Outputs) -> NDArray[Any] | None:
        """Return nothing: a row's part in it is not known."""
        return None

    def resampled(self, truth: Truth, outputs: Outputs, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the scores of rows drawn again: the mean over the classes that were drawn."""
        found = [self._resampled(*_grouped(positive, shares, weights))
                 for positive, shares in _against_rest(truth, outputs)]  # fmt: skip
        if not found:
            return np.full(len(weights), np.nan)
        each = np.stack(found)
        counted = np.isfinite(each)
        with np.errstate(invalid="ignore"):
            return np.asarray(np.where(counted, each, 0.0).sum(axis=0) / counted.sum(axis=0))

    def _resampled(self, positive: NDArray[Any], negative: NDArray[Any]) -> NDArray[np.float64]:
        """Return scores (k,) of weights (k, groups) of rows of equal probability, the highest first."""
        raise NotImplementedError


def _grouped(
    positive: NDArray[np.bool_], shares: NDArray[np.float32], weights: NDArray[Any]
) -> tuple[NDArray[Any], NDArray[Any]]:
    order = np.argsort(-shares, kind="stable")
    starts = np.flatnonzero(np.diff(shares[order], prepend=np.inf))
    drawn = weights[:, order].astype(np.float64)
    mine = positive[order]
    return np.add.reduceat(drawn * mine, starts, axis=1), np.add.reduceat(drawn * ~mine, starts, axis=1)


@dataclass(frozen=True)
class RocAuc(Ranking):
    """The share of pairs, a row of the class and one that is not, in which it has the higher probability."""

    def row_scores(self, truth: Truth, outputs: Outputs) -> NDArray[Any] | None:
        """Return scores of placement values: of each row, before which share of the others it stands.

        DeLong, DeLong, Clarke-Pearson, Comparing the areas under two or more correlated receiver operating
        characteristic curves, Biometrics 44 (1988); of several classes the mean over them.
        """
        found = [_placements(positive, shares) for positive, shares in _against_rest(truth, outputs)]
        return np.asarray(np.mean(found, axis=0, dtype=np.float32)) if found else None

    def _resampled(self, positive: NDArray[Any], negative: NDArray[Any]) -> NDArray[np.float64]:
        behind = negative.sum(axis=1, keepdims=True) - negative.cumsum(axis=1) + negative / 2
        with np.errstate(invalid="ignore"):
            area = (positive * behind).sum(axis=1) / (positive.sum(axis=1) * negative.sum(axis=1))
        return np.asarray(area)


def _placements(positive: NDArray[np.bool_], shares: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return, shape (..., rows), numbers whose mean is the area and whose variance is DeLong's."""
    from scipy.stats import rankdata

    n = len(positive)
    ranks, placed = rankdata(shares, axis=-1), np.empty(shares.shape)
    for mine, is_positive in ((positive, True), (~positive, False)):
        others = n - mine.sum()
        before = (ranks[..., mine] - rankdata(shares[..., mine], axis=-1)) / others
        before = before if is_positive else 1 - before
        area = before.mean(axis=-1, keepdims=True)
        placed[..., mine] = area + n / (n - others) * (before - area)
    return placed


@dataclass(frozen=True)
class AveragePrecision(Ranking):
    """The mean precision over the thresholds at which another row of the class is found."""

    def _resampled(self, positive: NDArray[Any], negative: NDArray[Any]) -> NDArray[np.float64]:
        found, passed = positive.cumsum(axis=1), (positive + negative).cumsum(axis=1)
        precision = np.divide(found, passed, out=np.zeros_like(found), where=passed > 0)
        with np.errstate(invalid="ignore"):
            return np.asarray((positive * precision).sum(axis=1) / positive.sum(axis=1))


@dataclass(frozen=True)
class CalibrationError(Metric):
    """How far the probabilities of what is predicted are from the share of it that is right.

    Rows are put into 15 bins of equal width by that probability; the distance of a bin's mean from its share
    of right rows, weighted by its rows (expected calibration error: Guo, Pleiss, Sun, Weinberger, On
    calibration of modern neural networks, ICML 2017, eq. 3). Each of several labels is a row of its own.
    """

    def _value(self, truth: Truth, outputs: Outputs) -> float | None:
        return float(self.resampled(truth, outputs, np.ones((1, len(truth))))[0])

    def row_scores(self, truth: Truth, outputs: Outputs) -> NDArray[Any] | None:
        """Return nothing: it is no mean over rows, and bends where a bin's distance is 0."""
        return None

    def resampled(self, truth: Truth, outputs: Outputs, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the scores of rows drawn again."""
        gaps, labels = np.zeros((len(truth), ECE_BINS)), 0
        for true, shares in _as_classes(truth, outputs):
            sure = shares.max(axis=-1)
            bins = np.clip(np.ceil(sure * ECE_BINS).astype(np.int64) - 1, 0, ECE_BINS - 1)
            gaps[np.arange(len(true)), bins] += (shares.argmax(axis=-1) == true) - sure.astype(np.float64)
            labels += 1
        return np.asarray(-np.abs(weights @ gaps).sum(axis=1) / (weights.sum(axis=1) * labels))


PROBABILITY_METRICS = (
    LogLoss("log_loss", "log loss", BOTH, "probabilities", greater_is_better=False, is_additive=True),
    Brier("brier", "Brier score", BOTH, "probabilities", greater_is_better=False, is_additive=True),
    RocAuc("roc_auc", "ROC-AUC", BOTH, "probabilities"),
    AveragePrecision("average_precision", "average precision", BOTH, "probabilities"),
    CalibrationError("ece", "calibration error", BOTH, "probabilities", greater_is_better=False,
                     is_share=True),
)  # fmt: skip
