"""Compute how sure a measured accuracy or mean is. 95 % and 5 % everywhere."""

import math
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

NORMAL = NormalDist()
Z_95 = NORMAL.inv_cdf(0.975)
"""Half-width of the normal distribution's central 95 %, in standard deviations."""

T_95 = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)
"""Student's t for 95 % at 1 to 10 degrees of freedom."""


def wilson_interval(accuracy: float, rows: int) -> tuple[float, float]:
    """Return the Wilson 95 % interval of a share measured on `rows` independent rows.

    E. B. Wilson, Probable inference, the law of succession, and statistical inference (1927).
    """
    if rows < 1:
        return 0.0, 1.0
    z2 = Z_95**2
    centre = (accuracy + z2 / (2 * rows)) / (1 + z2 / rows)
    half = Z_95 / (1 + z2 / rows) * math.sqrt(accuracy * (1 - accuracy) / rows + z2 / (4 * rows**2))
    return max(0.0, centre - half), min(1.0, centre + half)


def equal_within_noise(first: float, other: float, rows: int) -> bool:
    """Whether a two-proportion z-test at 5 % (two-sided, pooled) cannot tell two accuracies apart.

    The test takes both as measured on `rows` rows of their own. Designs of one study share these rows, so
    their errors go together and a smaller difference may already be real: the test errs towards "equal".
    """
    pooled = (first + other) / 2
    deviation = math.sqrt(pooled * (1 - pooled) * 2 / rows) if rows else math.inf
    return abs(first - other) <= Z_95 * deviation


def luck_of_the_first(accuracy: float, rows: int, designs: int) -> float:
    """Return by how much the best of equally good designs is expected to exceed their true accuracy.

    Expected maximum of normal errors after Blom (1958), of designs that err independently. Shared rows
    make it smaller.
    """
    if designs < 2 or rows < 1:
        return 0.0
    low, high = wilson_interval(accuracy, rows)
    deviation = (high - low) / (2 * Z_95)
    return NORMAL.inv_cdf((designs - 0.375) / (designs + 0.25)) * deviation


def standard_error(rows: np.ndarray) -> float:
    """Return the standard error of the mean of values (rows,)."""
    return float(rows.std(ddof=1, dtype=np.float64)) / math.sqrt(len(rows))


def student_t(degrees: int) -> float:
    """Return Student's t for a two-sided 95 % interval.

    Above 10 degrees of freedom by the expansion of Abramowitz and Stegun, 26.7.5, to about 0.001.
    """
    if degrees <= len(T_95):
        return T_95[degrees - 1]
    z, d = Z_95, degrees
    first = (z**3 + z) / (4 * d)
    second = (5 * z**5 + 16 * z**3 + 3 * z) / (96 * d**2)
    third = (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * d**3)
    return z + first + second + third


@dataclass(frozen=True, kw_only=True)
class MeanOfTrials:
    """The mean of a measure over some trials."""

    n: int
    """Trials."""
    mean: float
    interval: tuple[float, float] | None
    """95 % interval of the mean (Student's t), None for one trial."""


def mean_interval(values: np.ndarray) -> tuple[float, float] | None:
    """Return the 95 % interval of the mean of `values`, None for fewer than two."""
    if len(values) < 2:
        return None
    half = student_t(len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    mean = float(values.mean())
    return mean - half, mean + half
