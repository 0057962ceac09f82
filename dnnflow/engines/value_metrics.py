"""Measure numbers against what is true, in the table's units; of several targets the mean over them."""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.engines.metric import Metric, Outputs, Truth
from dnnflow.table.columns.kinds import Task

_LEAST = float(np.finfo(np.float64).eps)


@dataclass(frozen=True)
class MeanError(Metric):
    """The mean over rows of an error."""

    def row_scores(self, truth: Truth, outputs: Outputs) -> NDArray[Any] | None:
        """Return minus the error of each row."""
        true = truth.astype(np.float64)
        return np.asarray(-self._errors(true, outputs - true).mean(axis=-1), np.float32)

    def _errors(self, truth: NDArray[np.float64], ahead: NDArray[np.float64]) -> NDArray[np.float64]:
        """Return errors (..., rows, targets) of outputs that are so far ahead of the truth."""
        raise NotImplementedError

    def resampled(self, truth: Truth, outputs: Outputs, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the scores of rows drawn again."""
        true = truth.astype(np.float64)
        errors = self._errors(true, outputs - true).mean(axis=-1)
        return np.asarray(-(weights @ errors) / weights.sum(axis=1))


@dataclass(frozen=True)
class AbsoluteError(MeanError):
    """Mean absolute error."""

    def _value(self, truth: Truth, outputs: Outputs) -> float | None:
        from sklearn.metrics import mean_absolute_error

        return -float(mean_absolute_error(truth, outputs))

    def _errors(self, truth: NDArray[np.float64], ahead: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.abs(ahead)


@dataclass(frozen=True)
class RelativeError(MeanError):
    """Mean absolute error as a share of the true number."""

    def _value(self, truth: Truth, outputs: Outputs) -> float | None:
        from sklearn.metrics import mean_absolute_percentage_error

        return -float(mean_absolute_percentage_error(truth, outputs))

    def _errors(self, truth: NDArray[np.float64], ahead: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.asarray(np.abs(ahead) / np.maximum(np.abs(truth), _LEAST))


@dataclass(frozen=True)
class PinballLoss(MeanError):
    """Mean loss of a predicted quantile: `quantile` a unit too low, 1 - quantile a unit too high."""

    quantile: float = 0.5

    def _value(self, truth: Truth, outputs: Outputs) -> float | None:
        from sklearn.metrics import mean_pinball_loss

        return -float(mean_pinball_loss(truth, outputs, alpha=self.quantile))

    def _errors(self, truth: NDArray[np.float64], ahead: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.maximum(-self.quantile * ahead, (1 - self.quantile) * ahead)


@dataclass(frozen=True)
class RootMeanSquare(Metric):
    """Root of the mean squared error."""

    def _value(self, truth: Truth, outputs: Outputs) -> float | None:
        from sklearn.metrics import root_mean_squared_error

        return -float(root_mean_squared_error(truth, outputs))

    def row_scores(self, truth: Truth, outputs: Outputs) -> NDArray[Any] | None:
        """Return minus √m and (e² - m) / 2√m of each row's squared error e² with the mean m."""
        squares = (outputs - truth.astype(np.float64)) ** 2
        mean = squares.mean(axis=-2, keepdims=True)
        root = np.sqrt(mean)
        moved = np.divide(squares - mean, 2 * root, out=np.zeros_like(squares), where=root > 0)
        return np.asarray(-(root + moved).mean(axis=-1), np.float32)

    def resampled(self, truth: Truth, outputs: Outputs, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the scores of rows drawn again."""
        squares = (outputs - truth.astype(np.float64)) ** 2
        means = weights @ squares / weights.sum(axis=1, keepdims=True)  # (k, targets)
        return np.asarray(-np.sqrt(means).mean(axis=1))


@dataclass(frozen=True)
class ExplainedShare(Metric):
    """R²: 1 minus the mean squared error over the variance of the truth."""

    def _value(self, truth: Truth, outputs: Outputs) -> float | None:
        from sklearn.metrics import r2_score

        return float(r2_score(truth, outputs)) if len(truth) > 1 else None

    def row_scores(self, truth: Truth, outputs: Outputs) -> NDArray[Any] | None:
        """Return R² and (m·d² / v - e²) / v of each row, with the means m of e² and v of d².

        Of these e is the row's error, d its distance from the mean of the truth.
        """
        true = truth.astype(np.float64)
        squares, apart = (outputs - true) ** 2, (true - true.mean(axis=0)) ** 2
        variance = apart.mean(axis=0)
        mean = squares.mean(axis=-2, keepdims=True)
        known = variance > 0
        safe = np.where(known, variance, 1.0)
        scores = 1 - mean / safe + (mean * apart / safe - squares) / safe
        constant = np.broadcast_to(mean == 0, scores.shape)  # scikit-learn's 1 for all right, else 0
        return np.asarray(np.where(known, scores, constant).mean(axis=-1), np.float32)

    def resampled(self, truth: Truth, outputs: Outputs, weights: NDArray[Any]) -> NDArray[np.float64]:
        """Return the scores of rows drawn again."""
        true = truth.astype(np.float64)
        centred = true - true.mean(axis=0)
        n = weights.sum(axis=1, keepdims=True)
        variance = weights @ centred**2 / n - (weights @ centred / n) ** 2
        mean = weights @ (outputs - true) ** 2 / n
        known = variance > 0
        return np.asarray(np.where(known, 1 - mean / np.where(known, variance, 1.0), mean == 0).mean(axis=1))


ONLY = (Task.REGRESSION,)

VALUE_METRICS = (
    ExplainedShare("r2", "R²", ONLY, "values"),
    RootMeanSquare("rmse", "RMSE", ONLY, "values", greater_is_better=False),
    AbsoluteError("mae", "MAE", ONLY, "values", greater_is_better=False, is_additive=True),
    RelativeError("mape", "MAPE", ONLY, "values", greater_is_better=False, is_share=True, is_additive=True),
    *(PinballLoss(f"pinball_{quantile}", f"pinball loss of the {100 * quantile:g} % quantile", ONLY, "values",
                  greater_is_better=False, is_additive=True, quantile=quantile)
      for quantile in (0.1, 0.5, 0.9)),
)  # fmt: skip
