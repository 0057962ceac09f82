"""The update rules of parallel training, as functions on flat vectors.

x is the server's vector of weights, w a replica's, n the number of replicas, τ the staleness of a push. The
optimizers that Downpour and DiLoCo apply on the server are in `parallel/server/optimizers`.

Asynchrony acts like momentum: n replicas that push without waiting give the mean step a momentum of about
1 - 1/n (Mitliagkas et al. 2016). A server's own momentum therefore is best lowered as replicas are
added.
"""

import math
from collections.abc import Sequence

import numpy as np

from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.server.optimizers import BLOCK, blocks
from dnnflow.parallel.spec.algorithm import RateSchedule

GEM_EPSILON = 1e-12
"""Keeps gem from dividing by zero; a step of exactly zero stays zero."""
GEM_LIMIT = 5.0
"""By how much gem lengthens a step at most."""


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
