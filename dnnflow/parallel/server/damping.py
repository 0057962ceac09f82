"""What is done about staleness: the factors of a late push's learning rate, and less momentum."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec

LIMIT = 5.0
"""By how much a push that is less late than most is lengthened at most."""
MEMORY = 1000
"""Pushes that the mean looks back on, so that it follows replicas that come and go."""
_MOMENTA: Mapping[str, tuple[str, float]] = {
    "sgd": ("momentum", 0.0),
    **dict.fromkeys(("adam", "adamw", "nadam", "adamax"), ("beta_1", 0.9)),
}
"""The parameter that is an optimizer's momentum, and Keras' default of it."""
_LEAST_MOMENTUM = 1e-3
"""None at all would leave the optimizer without its slots, which a restored server has."""


def less_momentum(spec: OptimizerSpec, replicas: int) -> tuple[OptimizerSpec, float]:
    """Return an optimizer whose momentum and that of asynchrony make the one that was asked for.

    Pushes of n asynchronous replicas act like steps with a momentum of 1 - 1/n (Mitliagkas, Zhang, Hadjis and
    Ré 2016, Asynchrony begets Momentum). Momenta m and k one after the other spread a gradient's effect over
    1 / ((1 - m)(1 - k)) steps, so that m' = 1 - n (1 - m), or none where that is below 0.

    Parameters
    ----------
    replicas
        n, of those that push to one server.

    Returns
    -------
    OptimizerSpec, float
        And the factor of its rate, which keeps a gradient's effect in all: (1 - m') / (1 - m) for `sgd`, 1
        for Adam, whose moments are means.
    """
    name, usual = _MOMENTA.get(spec.name, ("", 0.0))
    given = spec.parameters.get(name)
    momentum = float(given) if isinstance(given, int | float) else usual
    if not momentum or replicas < 2:
        return spec, 1.0
    less = min(momentum, max(_LEAST_MOMENTUM, 1 - replicas * (1 - momentum)))
    changed = replace(spec, parameters={**spec.parameters, name: less})
    return changed, (1 - less) / (1 - momentum) if spec.name == "sgd" else 1.0


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
