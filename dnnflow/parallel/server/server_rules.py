"""Apply pushed vectors to a server's weights: one rule an algorithm, on the part that is learned.

A rule reads its vectors once, block by block, and fills the reply while the block is in the cache.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.server.optimizers import FlatOptimizer, blocks, scratch_of
from dnnflow.parallel.server.updates import elastic_server, merge_statistics, weighted_mean
from dnnflow.parallel.spec.algorithm import OptimizerSpec


class ServerRule:
    """Changes the weights by what replicas have pushed; called under the server's lock."""

    def apply(
        self, pushed: Sequence[Vector], shares: Sequence[float], strength: float, out: Vector | None
    ) -> None:
        """Change the weights in place.

        Parameters
        ----------
        pushed
            One vector, or those of a synchronous round; longer than the weights where statistics follow.
        shares
            Of each vector, by its samples; they sum up to 1.
        strength
            A learning rate, or α of elastic averaging.
        out
            Where to write what the replica goes on from; None for nowhere.
        """
        raise NotImplementedError

    def finish(self) -> None:
        """Set the weights that the training ends with, where they are others than the last, as means."""

    def state(self) -> dict[str, Any]:
        """Return what the rule keeps beside the weights, as copies."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Set what `state` returned."""


class OptimizerRule(ServerRule):
    """Downpour and DiLoCo: an optimizer's step with the mean of the pushed vectors for a gradient."""

    def __init__(self, spec: OptimizerSpec, weights: Vector) -> None:
        self._optimizer = FlatOptimizer(spec, weights)
        self._scratch = scratch_of(self._optimizer.views)

    def apply(
        self, pushed: Sequence[Vector], shares: Sequence[float], strength: float, out: Vector | None
    ) -> None:
        """Step with the mean; `out` gets the weights after it."""
        optimizer, scratch = self._optimizer, self._scratch
        optimizer.begin(strength)
        for index, part in enumerate(optimizer.parts):
            if len(pushed) == 1:
                mean = pushed[0][part]
            else:
                mean = weighted_mean([vector[part] for vector in pushed], shares, *scratch[index])
            optimizer.change(index, mean)
            if out is not None:
                out[part] = optimizer.views[index]

    def state(self) -> dict[str, Any]:
        slots = {f"slot/{name}": slot.copy() for name, slot in self._optimizer.slots.items()}
        return slots | {"steps": self._optimizer.steps}

    def restore(self, state: Mapping[str, Any]) -> None:
        self._optimizer.steps = int(state["steps"])
        for name, slot in self._optimizer.slots.items():
            slot[...] = state[f"slot/{name}"]


class ElasticRule(ServerRule):
    """EASGD: the server is pulled towards the replicas."""

    def __init__(self, weights: Vector) -> None:
        self._parts = blocks(weights.size)
        self._views = [weights[part] for part in self._parts]
        self._scratch = scratch_of(self._views)

    def apply(
        self, pushed: Sequence[Vector], shares: Sequence[float], strength: float, out: Vector | None
    ) -> None:
        """Pull; `out` gets the weights before, so that the replica is pulled as much as the server."""
        for part, weights, scratch in zip(self._parts, self._views, self._scratch, strict=True):
            if out is not None:
                out[part] = weights
            elastic_server(weights, [vector[part] for vector in pushed], strength, scratch)


class AddRule(ServerRule):
    """GEM: the replica has computed the step; the server adds it."""

    def __init__(self, weights: Vector) -> None:
        self._weights = weights
        self._parts = blocks(weights.size)

    def apply(
        self, pushed: Sequence[Vector], shares: Sequence[float], strength: float, out: Vector | None
    ) -> None:
        """Add; `out` gets the weights after it."""
        for part in self._parts:
            weights = self._weights[part]
            for vector in pushed:
                np.add(weights, vector[part], out=weights)
            if out is not None:
                out[part] = weights


class StatisticsRule:
    """Moving statistics: averaged, whatever the algorithm."""

    def __init__(self, weights: Vector, start: int) -> None:
        """Average the entries of `weights` from `start` on."""
        self._statistics = weights[start:]
        self._start = start
        self._scratch = np.empty((2, self._statistics.size), weights.dtype)

    def apply(
        self, pushed: Sequence[Vector], shares: Sequence[float], share: float | None, out: Vector | None
    ) -> None:
        """Move towards one replica's by a share, or with None to the mean of all; `out` gets the result."""
        parts = [vector[self._start :] for vector in pushed]
        if share is None:
            self._statistics[...] = weighted_mean(parts, shares, *self._scratch)
        else:
            merge_statistics(self._statistics, parts[0], share)
        if out is not None:
            out[self._start :] = self._statistics
