"""Compare accuracy and training time with the number of hidden layers, the 2015 paper's experiment."""

import math
from dataclasses import asdict, dataclass
from enum import StrEnum

import numpy as np
import pandas as pd

from dnnflow.results.view.intervals import MeanOfTrials, mean_interval, student_t

QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)
FEWEST_DEPTHS = 4
"""A spectrum of fewer evenly spaced depths says nothing."""
FEWEST_TIMED = 3
"""Times are fitted to trials measured alone where those have so many depths."""
BEYOND = 500
"""Hidden layers at which the 2015 paper places the "critical mass" (500 to 700)."""
MARGIN = 0.01
"""Accuracies that differ by less than one point are the same for practical ends."""


@dataclass(frozen=True, kw_only=True)
class Band(MeanOfTrials):
    """How a measure spreads over the trials of one depth."""

    depth: int
    """Hidden layers."""
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
class TimeFit(LinearFit):
    """Training seconds over hidden layers, of trials that are timed alike."""

    amortised: bool
    """Whether the times are shares of stacks' times; else each trial was measured alone."""

    def __str__(self) -> str:
        return (
            f"{self.intercept:.3g} s + {self.slope:.3g} s a hidden layer, R² = {self.r2:.3f}, "
            f"{self.n:,} trials, {timing(self.amortised)}"
        )


class Verdict(StrEnum):
    """Whether accuracy stays the same as networks grow deeper."""

    FLAT = "yes"
    """The change is less than `MARGIN` either way, with 95 % confidence."""
    NOT_FLAT = "no"
    """There is a change, and it may reach `MARGIN`."""
    UNKNOWN = "too few"
    """Trials to tell: neither the one nor the other is shown."""


def points(change: float) -> str:
    """Write a change of accuracy in points, one hundredth each; what is nothing has a plus."""
    return f"{round(100 * change, 2) + 0.0:+.2f}"


@dataclass(frozen=True)
class Flatness:
    """How accuracy goes with depth from a depth on."""

    beyond: int
    """Hidden layers from which on trials count."""
    n: int
    """Trials."""
    depths: int
    """Different depths among them."""
    deepest: int
    slope: float
    """Accuracy gained with each doubling of the depth."""
    interval: tuple[float, float] | None
    """95 % interval of `slope`; None for fewer than 3 trials or depths."""
    verdict: Verdict
    """Whether accuracy is flat from `beyond` to `deepest`, or over one doubling where that is more."""
    mean: float
    """Accuracy of the trials."""
    mean_interval: tuple[float, float] | None
    """95 % interval of `mean`."""
    majority: float | None
    """Accuracy of always guessing the largest class; None where it is not known."""

    @property
    def at_majority(self) -> bool:
        """Whether the mean is within `MARGIN` of guessing the largest class, with 95 % confidence."""
        if self.majority is None or self.mean_interval is None:
            return False
        low, high = self.mean_interval
        return self.majority - MARGIN < low and high < self.majority + MARGIN

    def __str__(self) -> str:
        trials = f"{self.n:,} trials of {self.depths} depths"
        text = f"Flat beyond {self.beyond:,} hidden layers: {self.verdict} ({trials}"
        if self.interval:
            text += f"; {points(self.slope)} points a doubling, 95 %: "
            text += " to ".join(map(points, self.interval))
        text += ")."
        if self.at_majority:
            text += f" Their mean accuracy, {self.mean:.4f}, is that of always guessing the largest class."
        return text


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
    return Band(
        depth=depth, n=len(values), mean=mean, interval=mean_interval(values), quantiles=quantiles,
        largest=largest,
    )  # fmt: skip


def linear_fit(x: np.ndarray, y: np.ndarray) -> LinearFit | None:
    """Return the least-squares line through points (points,), None for fewer than 3 points or a single x."""
    if len(x) < 3 or np.ptp(x) == 0:
        return None
    dx, dy = x - x.mean(), y - y.mean()
    slope = float(dx @ dy / (dx @ dx))
    total = float(dy @ dy)
    left = dy - slope * dx
    r2 = 1 - float(left @ left) / total if total > 0 else 1.0
    return LinearFit(slope, float(y.mean() - slope * x.mean()), r2, len(x))


def timing(amortised: bool) -> str:
    """Say in words how a training time was found."""
    return "share of a stack's time" if amortised else "measured alone"


def timed_alike(completed: pd.DataFrame) -> pd.DataFrame:
    """Return the trials whose training times may be compared: they are all measured alone, or all shares.

    Those measured alone where they have `FEWEST_TIMED` depths or there are no others, else the shares.
    """
    known = completed[completed["depth"].notna()]
    shared = known["amortised"].to_numpy(dtype=bool)
    alone = known[~shared]
    return alone if alone["depth"].nunique() >= FEWEST_TIMED or not shared.any() else known[shared]


def time_fit(completed: pd.DataFrame) -> TimeFit | None:
    """Return the line of training seconds over hidden layers, of trials that are `timed_alike`."""
    alike = timed_alike(completed)
    line = linear_fit(alike["depth"].to_numpy(dtype=float), alike["training_s"].to_numpy(dtype=float))
    return TimeFit(**asdict(line), amortised=bool(alike["amortised"].iloc[0])) if line else None


def flatness(
    completed: pd.DataFrame, *, majority: float | None = None, beyond: int = BEYOND
) -> Flatness | None:
    """Test whether accuracy stays the same beyond a depth; None without a trial that is so deep.

    Fits accuracy = a + b · log2(depth) by least squares to all trials of at least `beyond` hidden layers.
    With residuals eᵢ of n trials and xᵢ = log2(depthᵢ), the 95 % interval of the slope is
    b ± t(n-2) · √(Σeᵢ² / (n-2) / Σ(xᵢ - x̄)²) (Draper and Smith, Applied Regression Analysis, 1998, 1.4).

    "Not significant" would not show that nothing changes, so flatness is a test of equivalence: it is shown
    when the whole interval of the change over the depths tested (b times their doublings, at least one) lies
    within ± `MARGIN`. That is the two one-sided tests of Schuirmann (1987) at 2.5 % each. It is refuted when
    the interval leaves that margin and does not hold zero; else there are too few trials to tell. The
    interval takes trials as independent with errors of one size, so designs that differ in more than depth
    and seed make it wide.

    Parameters
    ----------
    completed : DataFrame
        Completed trials; what failed, e.g. by overflow, is not in it and has to be told beside.
    majority : float, optional
        Accuracy of always guessing the largest class.
    beyond : int
        Hidden layers.
    """
    deep = completed[completed["depth"].notna() & (completed["depth"] >= max(beyond, 1))]
    if deep.empty:
        return None
    depth, score = deep["depth"].to_numpy(dtype=float), deep["score"].to_numpy(dtype=float)
    slope, interval = _slope(np.log2(depth), score)
    return Flatness(
        beyond=beyond,
        n=len(deep),
        depths=len(np.unique(depth)),
        deepest=int(depth.max()),
        slope=slope,
        interval=interval,
        verdict=_verdict(interval, max(1.0, math.log2(depth.max() / max(beyond, 1)))),
        mean=float(score.mean()),
        mean_interval=mean_interval(score),
        majority=majority,
    )


def _slope(x: np.ndarray, y: np.ndarray) -> tuple[float, tuple[float, float] | None]:
    """Return the slope of the least-squares line and its 95 % interval, None for too few points."""
    line = linear_fit(x, y)
    if line is None or len(np.unique(x)) < 3:
        return (line.slope if line else 0.0), None
    left = y - line.intercept - line.slope * x
    error = math.sqrt(float(left @ left) / (len(x) - 2) / float(((x - x.mean()) ** 2).sum()))
    half = student_t(len(x) - 2) * error
    return line.slope, (line.slope - half, line.slope + half)


def _verdict(interval: tuple[float, float] | None, doublings: float) -> Verdict:
    if interval is None:
        return Verdict.UNKNOWN
    low, high = (doublings * end for end in interval)
    if low > -MARGIN and high < MARGIN:
        return Verdict.FLAT
    return Verdict.UNKNOWN if low <= 0 <= high else Verdict.NOT_FLAT


def spectrum(score: tuple[Band, ...]) -> Spectrum | None:
    """Return the spectrum of mean accuracy over depth.

    None where depths are fewer than `FEWEST_DEPTHS` or not evenly spaced.
    """
    depths = [band.depth for band in score]
    steps = set(np.diff(depths).tolist())
    if len(depths) < FEWEST_DEPTHS or len(steps) != 1:
        return None
    step = int(steps.pop())
    means = np.array([band.mean for band in score])
    magnitude = np.abs(np.fft.rfft(means - means.mean())) * 2 / len(means)
    if len(means) % 2 == 0:
        magnitude[-1] /= 2  # the highest frequency has no mirror image
    frequency = np.fft.rfftfreq(len(means), d=step)
    return Spectrum(depths[0], depths[-1], step, tuple(frequency.tolist()), tuple(magnitude.tolist()))
