"""How much less a late push counts: the factors of its learning rate."""

from collections.abc import Mapping
from typing import Any

import numpy as np

LIMIT = 5.0
"""By how much a push that is less late than most is lengthened at most."""
MEMORY = 1000
"""Pushes that the mean looks back on, so that it follows replicas that come and go."""


def inverse_factor(staleness: int) -> float:
    """Return 1 / (1 + τ): staleness-aware (after Zhang, Gupta, Lian and Liu 2016, who divide by τ)."""
    return 1 / (1 + staleness)


def running_mean(mean: float, value: float, count: int) -> float:
    """Return the mean after a value, the `count`-th: of all, later an exponential one over `MEMORY`."""
    return mean + (value - mean) / min(count, MEMORY)


class Damping:
    """Turns the staleness of pushes into factors of the learning rate. Not thread-safe.

    `inverse`: f = 1 / (1 + τ). Where n replicas push in turn, τ is n - 1 always, and training is n times
    slower for it. `relative`: min(f / f̄, 5), with f̄ the mean of f over the pushes so far: the mean rate is
    the one that was set, and what is later than usual counts less. Steps
    adapted to how staleness is distributed are those of Bäckström, Papatriantafilou and Tsigas (2019,
    MindTheStep-AsyncPSGD); this mean and this limit are our own.

    Attributes
    ----------
    pushes, mean
        How many there were, and f̄.

    Examples
    --------
    >>> damping = Damping("relative")
    >>> [round(damping.factor(late), 2) for late in (3, 3, 3, 7)]
    [1.0, 1.0, 1.0, 0.57]
    """

    def __init__(self, rule: str) -> None:
        """Begin; a rule is one of `settings.DAMPING_RULES`."""
        self._is_relative = rule == "relative"
        self.pushes, self.mean = 0, 0.0

    def factor(self, staleness: int) -> float:
        """Return by what to multiply the learning rate of a push, which is counted."""
        factor = inverse_factor(staleness)
        self.pushes += 1
        self.mean = running_mean(self.mean, factor, self.pushes)
        return min(factor / self.mean, LIMIT) if self._is_relative else factor

    def state(self) -> dict[str, Any]:
        """Return the mean and its count."""
        return {"damping": np.array([self.pushes, self.mean])}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `state` returned; a snapshot from before there was a mean begins a new one."""
        pushes, self.mean = (float(value) for value in state.get("damping", (0, 0.0)))
        self.pushes = int(pushes)
