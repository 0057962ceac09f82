"""Accuracy and training time against the number of hidden layers, the 2015 paper's experiment."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from dnnflow.results.intervals import mean_interval

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FEWEST_DEPTHS = 4
"""A spectrum of fewer evenly spaced depths says nothing."""


@dataclass(frozen=True)
class Band:
    """How a measure spreads over the trials of one depth."""

    depth: int
    """Hidden layers."""
    n: int
    mean: float
    interval: tuple[float, float] | None
    """95 % interval of the mean, None for one trial."""
    quantiles: tuple[float, ...]
    """At `QUANTILES`."""
    largest: float


@dataclass(frozen=True)
class LinearFit:
    """A least-squares line y = intercept + slope · x."""

    slope: float
    intercept: float
    r2: float
    """Share of the variance of y that the line explains."""
    n: int


@dataclass(frozen=True)
class Spectrum:
    """Discrete Fourier transform of the mean accuracy along the depth axis, its mean taken away first."""

    first: int
    last: int
    step: int
    """The depths it spans, `first` to `last` every `step`."""
    frequency: tuple[float, ...]
    """Cycles a layer, from 0 to 1/(2·step)."""
    magnitude: tuple[float, ...]
    """Amplitude of the wave of that frequency, in units of accuracy."""


def bands(completed: pd.DataFrame, measure: str) -> tuple[Band, ...]:
    """Return how a column spreads at each depth, shallow to deep; designs by reference are left out."""
    known = completed[completed["depth"].notna()]
    groups = known.groupby("depth")[measure]
    return tuple(_band(int(str(depth)), values.to_numpy(dtype=float)) for depth, values in groups)


def _band(depth: int, values: np.ndarray) -> Band:
    quantiles = tuple(float(value) for value in np.quantile(values, QUANTILES))
    mean, largest = float(values.mean()), float(values.max())
    return Band(depth, len(values), mean, mean_interval(values), quantiles, largest)


def linear_fit(x: np.ndarray, y: np.ndarray) -> LinearFit | None:
    """Return the least-squares line through points, None for fewer than 3 points or a single x.

    Parameters
    ----------
    x, y : ndarray, shape (points,)
    """
    if len(x) < 3 or np.ptp(x) == 0:
        return None
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    total = float(dy @ dy)
    left = dy - slope * dx
    r2 = 1 - float(left @ left) / total if total > 0 else 1.0
    return LinearFit(slope, float(y.mean() - slope * x.mean()), r2, len(x))


def time_fit(completed: pd.DataFrame) -> LinearFit | None:
    """Return the line of training seconds over hidden layers."""
    known = completed[completed["depth"].notna()]
    return linear_fit(known["depth"].to_numpy(dtype=float), known["training_s"].to_numpy(dtype=float))


def spectrum(accuracy: tuple[Band, ...]) -> Spectrum | None:
    """Return the spectrum of mean accuracy over depth.

    None where depths are fewer than `FEWEST_DEPTHS` or not evenly spaced.
    """
    depths = [band.depth for band in accuracy]
    steps = set(np.diff(depths).tolist())
    if len(depths) < FEWEST_DEPTHS or len(steps) != 1:
        return None
    step = int(steps.pop())
    means = np.array([band.mean for band in accuracy])
    magnitude = np.abs(np.fft.rfft(means - means.mean())) * 2 / len(means)
    if len(means) % 2 == 0:
        magnitude[-1] /= 2  # the highest frequency has no mirror image
    frequency = np.fft.rfftfreq(len(means), d=step)
    return Spectrum(depths[0], depths[-1], step, tuple(frequency.tolist()), tuple(magnitude.tolist()))
