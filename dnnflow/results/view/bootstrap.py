"""Draw rows again to say how sure a metric is that is no mean over rows, and which models differ in it."""

import numpy as np
from scipy.special import stdtr

from dnnflow.engines.metric import Metric, Outputs, Truth
from dnnflow.results.view.paired import draws, step_down

BOOTSTRAPS = 1000
MANY_ROWS = 100_000
"""Of more rows fewer bootstraps are drawn."""
FEWER_BOOTSTRAPS = 400
_LEAST_DEFINED = 0.5
"""Share of the bootstraps in which a metric has to be defined."""


def bootstrap_interval(
    metric: Metric, truth: Truth, outputs: Outputs, *, seed: int = 0
) -> tuple[float, float] | None:
    """Return the 95 % percentile interval of a model's score over rows drawn again; None without one.

    Efron, Tibshirani, An introduction to the bootstrap (1993), chapter 13; 1,000 bootstraps, 400 of many
    rows.

    Parameters
    ----------
    outputs
        Of one model.
    """
    if len(truth) < 2:
        return None
    scores = _resampled(metric, truth, outputs, seed)
    if np.isfinite(scores).mean() < _LEAST_DEFINED:
        return None
    low, high = np.nanpercentile(scores, (2.5, 97.5))
    return float(low), float(high)


def told_apart_resampled(
    metric: Metric, truth: Truth, outputs: Outputs, *, alpha: float = 0.05, seed: int = 0
) -> tuple[bool, ...]:
    """Return for each model but the first whether it is truly worse than the first, on the same rows.

    The same rows are drawn again for all models; the standard deviation of the difference over the bootstraps
    is its standard error, and a one-sided t-test takes it so, with as many degrees of freedom as the metric
    rests on rows. The share of bootstraps in which another
    is ahead could not take its place: it is never below 1 / 1,000, where `step_down` asks for less.

    Parameters
    ----------
    outputs
        Shape (models, rows, outputs); the first is who the others are compared with.
    alpha
        See `told_apart`.
    """
    scores = [metric.score(truth, one) for one in outputs]
    if len(truth) < 2 or any(score is None for score in scores):
        return (False,) * (len(outputs) - 1)
    first = _resampled(metric, truth, outputs[0], seed)
    rows = metric.effective_rows(truth)
    p = []
    for score, one in zip(scores[1:], outputs[1:], strict=True):
        ahead = float(scores[0] or 0.0) - float(score or 0.0)
        p.append(_worse(ahead, first - _resampled(metric, truth, one, seed), rows))
    return step_down(np.array(p), alpha=alpha)


def _worse(ahead: float, drawn: np.ndarray, rows: float) -> float:
    """Return the one-sided p-value of the first being ahead, given how far it is in each bootstrap."""
    known = drawn[np.isfinite(drawn)]
    error = float(known.std(ddof=1)) if len(known) > 1 else 0.0
    return float(stdtr(rows - 1, -ahead / error)) if error > 0 and rows > 1 else 1.0


def _resampled(metric: Metric, truth: Truth, outputs: Outputs, seed: int) -> np.ndarray:
    bootstraps = BOOTSTRAPS if len(truth) <= MANY_ROWS else FEWER_BOOTSTRAPS
    return np.concatenate(
        [metric.resampled(truth, outputs, drawn) for drawn in draws(len(truth), bootstraps, seed)]
    )
