"""Adjust what a model says of rows: scale its probabilities by a temperature, and choose its threshold.

Both are found on rows that the model's networks were not fitted to. A temperature leaves the order of a row's
classes as it is; only a threshold changes which is predicted.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dnnflow.engines.count_metrics import CountMetric, count_classes
from dnnflow.engines.metric import Metric, decided
from dnnflow.engines.metrics import ACCURACY, METRICS
from dnnflow.results.view.paired import told_apart
from dnnflow.table.columns.kinds import Task

PARTS = 5
"""Of the rows, for what is said of an adjustment: each part with what was found on the others."""
LEAST_ROWS = 20
"""On fewer rows nothing is adjusted."""
MOST_CANDIDATES = 256
_MOST_DECISIONS = 1 << 26
_LEAST_SHARE = 1e-7
_RANGE = (-2.5, 2.5)
"""Of the temperature's logarithm: 0.08 to 12."""


@dataclass(frozen=True, kw_only=True)
class Adjustment:
    """How what a model says is adjusted."""

    temperature: float = 1.0
    """By which logarithms of probabilities are divided."""
    ece_before: float | None = None
    """Calibration error of the probabilities as they were; None where nothing was looked at."""
    ece_after: float | None = None
    """Of the scaled ones: each part of the rows with the temperature of the others."""
    thresholds: tuple[float, ...] | None = None
    """Probability of the second of two classes, or of each label, above which it is predicted; None where the
    likeliest is."""

    @property
    def calibration(self) -> dict[str, float]:
        """Return temperature and calibration errors, for a record."""
        if self.ece_before is None or self.ece_after is None:
            return {}
        return {"temperature": self.temperature, "ece_before": self.ece_before, "ece_after": self.ece_after}


def adjustment(metric: Metric, task: Task, truth: NDArray[Any], outputs: NDArray[Any]) -> Adjustment:
    """Find the adjustment of a model by its outputs (rows, outputs) for rows it was not fitted to.

    The temperature is that of least log loss (Guo, Pleiss, Sun, Weinberger, On calibration of modern neural
    networks, ICML 2017); it is kept where the log loss of parts that it was not found on falls, too.
    Thresholds are chosen for a metric of classes other than accuracy, whose best threshold is 0.5: see
    `chosen_thresholds`.
    """
    if task is Task.REGRESSION or len(truth) < LEAST_ROWS:
        return Adjustment()
    outputs = outputs.astype(np.float32)
    scaled = np.empty_like(outputs)
    for rest, part in _parts(len(truth)):
        scaled[part] = tempered(task, outputs[part], _temperature(task, truth[rest], outputs[rest]))
    loss, error = METRICS["log_loss"], METRICS["ece"]
    is_better = (loss.score(truth, scaled) or 0.0) > (loss.score(truth, outputs) or 0.0)
    temperature = _temperature(task, truth, outputs) if is_better else 1.0
    scaled = scaled if is_better else outputs
    return Adjustment(
        temperature=temperature,
        ece_before=error.value(error.score(truth, outputs) or 0.0),
        ece_after=error.value(error.score(truth, scaled) or 0.0),
        thresholds=chosen_thresholds(metric, task, truth, tempered(task, outputs, temperature)),
    )


def tempered(task: Task, outputs: NDArray[Any], temperature: float) -> NDArray[Any]:
    """Return probabilities (rows, outputs) with their logarithms divided by a temperature."""
    if temperature == 1.0:
        return outputs
    logs = np.log(np.clip(outputs, _LEAST_SHARE, 1.0)) / temperature
    others = 0.0 if task is Task.CLASSIFICATION else np.log(np.clip(1 - outputs, _LEAST_SHARE, 1.0))
    if task is Task.MULTILABEL:
        return np.asarray(1 / (1 + np.exp(others / temperature - logs)))
    shares = np.exp(logs - logs.max(axis=-1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=-1, keepdims=True))


def _temperature(task: Task, truth: NDArray[Any], outputs: NDArray[Any]) -> float:
    from scipy.optimize import minimize_scalar

    loss = METRICS["log_loss"]

    def lost(logarithm: float) -> float:
        rows = loss.row_scores(truth, tempered(task, outputs, float(np.exp(logarithm))))
        return 0.0 if rows is None else -float(rows.mean(dtype=np.float64))

    return float(np.exp(minimize_scalar(lost, bounds=_RANGE, method="bounded", options={"xatol": 1e-3}).x))


def _parts(rows: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield the rows of all parts but one, and of this one, drawn with a seed."""
    part_of = np.random.default_rng(0).permutation(rows) % PARTS
    for number in range(PARTS):
        yield np.flatnonzero(part_of != number), np.flatnonzero(part_of == number)


def chosen_thresholds(
    metric: Metric, task: Task, truth: NDArray[Any], outputs: NDArray[Any]
) -> tuple[float, ...] | None:
    """Return the thresholds with which a metric is best; None where they are no better than 0.5 beyond noise.

    They are better if classes that are decided in each part of the rows with the thresholds of the others are
    so, by a paired one-sided test at 5 % on the same rows (`told_apart`).
    """
    is_two = task is Task.MULTILABEL or outputs.shape[-1] == 2
    if not isinstance(metric, CountMetric) or metric is ACCURACY or not is_two:
        return None
    classes = np.empty(truth.shape, np.int8)
    for rest, part in _parts(len(truth)):
        thresholds = _best_thresholds(metric, task, truth[rest], outputs[rest])
        classes[part] = decided(task, outputs[part], thresholds)
    both = np.stack([classes, decided(task, outputs).astype(np.int8)])
    good = metric.row_scores(truth, both)
    if good is None or not told_apart(good, alpha=0.1)[0]:  # halved for the two that are compared
        return None
    return _best_thresholds(metric, task, truth, outputs)


def _best_thresholds(
    metric: CountMetric, task: Task, truth: NDArray[Any], outputs: NDArray[Any]
) -> tuple[float, ...]:
    if task is Task.CLASSIFICATION:
        return (_best_threshold(metric, truth, outputs[:, 1]),)
    return tuple(_best_threshold(metric, truth[:, [i]], outputs[:, i]) for i in range(outputs.shape[1]))


def _best_threshold(metric: CountMetric, truth: NDArray[Any], shares: NDArray[Any]) -> float:
    """Return the threshold of probabilities (rows,) with the best score, of equals the nearest to 0.5."""
    most = max(16, min(MOST_CANDIDATES, _MOST_DECISIONS // len(shares)))
    values = np.unique(np.quantile(shares, np.linspace(0, 1, most)))
    candidates = np.append((values[:-1] + values[1:]) / 2, 0.5)
    classes = (shares > candidates[:, None]).astype(np.int8)  # (candidates, rows)
    if truth.ndim == 1:
        scores = metric.of(count_classes(truth, classes), Task.CLASSIFICATION)
    else:
        scores = metric.of(count_classes(truth, classes[..., None]), Task.MULTILABEL)
    best = candidates[scores >= scores.max() - 1e-12]
    return float(best[np.abs(best - 0.5).argmin()])
