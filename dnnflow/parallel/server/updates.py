"""Compute the updates of parallel training and what damps them, on flat vectors.

x is the server's vector of weights, w a replica's, n the number of replicas, τ the staleness of a push. The
optimizers that Downpour and DiLoCo apply on the server are in `parallel/server/optimizers`.

Asynchrony acts like momentum: n replicas that push without waiting give the mean step a momentum of about
1 - 1/n (Mitliagkas et al. 2016). A server's own momentum therefore is best lowered as replicas are
added.
"""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.server.optimizers import BLOCK, blocks
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec, RateSchedule

GEM_EPSILON = 1e-12
"""Keeps gem from dividing by zero; a step of exactly zero stays zero."""
GEM_LIMIT = 5.0
"""By how much gem lengthens a step at most."""
MAX_FACTOR = 5.0
"""Upper bound of the rate factor for fresher-than-average pushes."""
MEAN_OVER = 1000
"""Pushes that the mean looks back on, so that it follows replicas that come and go."""
_MOMENTA: Mapping[str, tuple[str, float]] = {
    "sgd": ("momentum", 0.0),
    **dict.fromkeys(("adam", "adamw", "nadam", "adamax"), ("beta_1", 0.9)),
}
"""The parameter that is an optimizer's momentum, and Keras' default of it."""
_MIN_MOMENTUM = 1e-3
"""None at all would leave the optimizer without its slots, which a restored server has."""


def scheduled_rate(first: float, schedule: RateSchedule, samples: int) -> float:
    """Return the learning rate after a number of samples.

    Parameters
    ----------
    first
        Rate of the first sample.
    samples
        Seen by all replicas together: pushes would make the rate depend on their number and batch size.
    """
    every = schedule.every
    if every is None or schedule.kind == "constant":
        return first
    if schedule.kind == "exponential":
        return float(first * schedule.rate ** (samples / every))
    if schedule.kind == "step":
        return float(first * schedule.rate ** (samples // every))
    share = (1 + math.cos(math.pi * min(samples / every, 1.0))) / 2
    return first * (schedule.floor + (1 - schedule.floor) * share)


def within_bound(pushes: int, slowest: int, bound: int) -> bool:
    """Say whether a replica may go on: at most `bound` pushes ahead of the slowest.

    The stale-synchronous condition (Ho et al. 2013).
    """
    return pushes - slowest <= bound


def difference(before: Vector, after: Vector, out: Vector) -> Vector:
    """Return before - after, which stands for a gradient: what K local steps have changed.

    Of Downpour (Dean et al. 2012, algorithm 7.1, accrued gradients) and DiLoCo (Douillard et al. 2023,
    algorithm 1, line 12, the outer gradient of one replica).
    """
    return np.subtract(before, after, out=out)


def shares_of(counts: Sequence[int]) -> list[float]:
    """Return each contribution's share of the samples; equal shares where there are none."""
    total = sum(counts)
    return [count / total if total else 1 / len(counts) for count in counts]


def weighted_mean(vectors: Sequence[Vector], shares: Sequence[float], out: Vector, scratch: Vector) -> Vector:
    """Return Σ share · vector, summed in the order given.

    The synchronous step (Chen et al. 2016, algorithm 4, with shares of samples in place of 1/n): the gradient
    of the mean loss over all the replicas' samples. Of one vector it is that vector itself, not a copy.
    """
    if len(vectors) == 1:
        return vectors[0]
    np.multiply(vectors[0], shares[0], out=out)
    for vector, share in zip(vectors[1:], shares[1:], strict=True):
        np.multiply(vector, share, out=scratch)
        np.add(out, scratch, out=out)
    return out


def elastic_replica(weights: Vector, center: Vector, alpha: float) -> None:
    """Pull a replica towards the server in place: w ← w - α(w - x).

    Elastic averaging (Zhang, Choromanska and LeCun 2015, equation 5, without its gradient, which the
    replica's optimizer has applied; algorithm 1, step a).

    Parameters
    ----------
    center
        x before the server was pulled in turn, which is what a server replies.
    alpha
        α = β / n, the same on the server.
    """
    scratch = np.empty(min(BLOCK, weights.size), weights.dtype)
    for part in blocks(weights.size):
        view = weights[part]
        pull = np.subtract(view, center[part], out=scratch[: view.size])
        np.multiply(pull, alpha, out=pull)
        np.subtract(view, pull, out=view)


def elastic_server(
    center: Vector, replicas: Sequence[Vector], alpha: float, scratch: tuple[Vector, Vector]
) -> None:
    """Pull the server towards replicas in place: x ← x + α Σ (wᵢ - x).

    Elastic averaging (Zhang, Choromanska and LeCun 2015, equation 6; with one replica algorithm 1, step b).
    The momentum variant, EAMSGD (section 3.2), has Nesterov's steps in the replicas; this is the same.
    """
    total, pull = scratch
    np.subtract(replicas[0], center, out=total)
    for weights in replicas[1:]:
        np.subtract(weights, center, out=pull)
        np.add(total, pull, out=total)
    np.multiply(total, alpha, out=total)
    np.add(center, total, out=center)


def merge_statistics(center: Vector, statistics: Vector, share: float) -> None:
    """Move the server's moving statistics towards a replica's in place: x ← x + share · (s - x).

    Batch normalisation's means and variances are not learned: they are estimates, and estimates are averaged.
    """
    if share == 1.0:
        np.copyto(center, statistics)  # exactly, as one replica's own would be
        return
    pull = np.subtract(statistics, center)
    np.multiply(pull, share, out=pull)
    np.add(center, pull, out=center)


class GradientEnergyMatching:
    """Gem's state in a replica (Hermans and Louppe 2018, arXiv 1805.08469, as NNLO has it).

    u = -rate · g; m ← μ · m + u; c = x - (x of the last push); π = clip((κ|m| - |c|) / |u + ε|, 0, 5). The
    replica then pushes Δ = π ∘ u, the server does x ← x + Δ, and the replica goes on from x + Δ. Replicas
    together so move the server as far as κ times one with momentum μ would.

    Attributes
    ----------
    momentum, center
        m, and x of the last push.
    """

    def __init__(self, center: Vector, *, momentum: float = 0.9, kappa: float = 2.0) -> None:
        """Begin at the weights that the replica begins from."""
        self.center = center.copy()
        self.momentum = np.zeros_like(center)
        self._mu, self._kappa = momentum, kappa
        self._scratch = np.empty((3, min(BLOCK, center.size)), center.dtype)

    def update(self, gradient: Vector, center: Vector, rate: float, out: Vector) -> Vector:
        """Return Δ, what to push and to add to x.

        Parameters
        ----------
        gradient
            g, or what K local steps have changed (`difference`).
        center
            x as it is now, pulled after the gradient was computed.
        out
            Vector to write Δ to; it may be the gradient's.
        """
        for part in blocks(center.size):
            self._update(part, gradient[part], center[part], rate, out[part])
        return out

    def _update(self, part: slice, gradient: Vector, center: Vector, rate: float, out: Vector) -> None:
        momentum, previous = self.momentum[part], self.center[part]
        size = momentum.size
        step, energy, scale = (row[:size] for row in self._scratch)
        np.multiply(gradient, -rate, out=step)
        np.multiply(momentum, self._mu, out=momentum)
        np.add(momentum, step, out=momentum)
        np.abs(momentum, out=energy)
        np.multiply(energy, self._kappa, out=energy)
        np.subtract(center, previous, out=scale)
        np.abs(scale, out=scale)
        np.subtract(energy, scale, out=energy)
        np.copyto(previous, center)
        np.add(step, GEM_EPSILON, out=scale)
        np.abs(scale, out=scale)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):  # clipped, and 0 · 5 = 0
            np.divide(energy, scale, out=energy)
        np.clip(energy, 0.0, GEM_LIMIT, out=energy)
        np.multiply(step, energy, out=out)


def reduce_momentum(spec: OptimizerSpec, replicas: int) -> tuple[OptimizerSpec, float]:
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
    less = min(momentum, max(_MIN_MOMENTUM, 1 - replicas * (1 - momentum)))
    changed = spec.replace(parameters={**spec.parameters, name: less})
    return changed, (1 - less) / (1 - momentum) if spec.name == "sgd" else 1.0


def inverse_factor(staleness: int) -> float:
    """Return 1 / (1 + τ): staleness-aware (after Zhang, Gupta, Lian and Liu 2016, who divide by τ)."""
    return 1 / (1 + staleness)


def running_mean(mean: float, value: float, count: int) -> float:
    """Return the mean after a value, the `count`-th: of all, later an exponential one over `MEAN_OVER`."""
    return mean + (value - mean) / min(count, MEAN_OVER)


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
        """Begin; a rule is one of `Exchange.damping_rule`."""
        self._is_relative = rule == "relative"
        self.pushes, self.mean = 0, 0.0

    def factor(self, staleness: int) -> float:
        """Return by what to multiply the learning rate of a push, which is counted."""
        factor = inverse_factor(staleness)
        self.pushes += 1
        self.mean = running_mean(self.mean, factor, self.pushes)
        return min(factor / self.mean, MAX_FACTOR) if self._is_relative else factor

    def state(self) -> dict[str, Any]:
        """Return the mean and its count."""
        return {"damping": np.array([self.pushes, self.mean])}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `state` returned; a snapshot from before there was a mean begins a new one."""
        pushes, self.mean = (float(value) for value in state.get("damping", (0, 0.0)))
        self.pushes = int(pushes)
