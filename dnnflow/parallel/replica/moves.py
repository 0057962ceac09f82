"""What a replica computes between two pushes, for each algorithm: batches in, the vector to push out."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from dnnflow.parallel.model.batch_totals import Tally
from dnnflow.parallel.model.gradient import Batch, GradientStep
from dnnflow.parallel.model.shared_memory import aligned_vector
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.replica.delayed import Answered, DelayedMove, Pushed
from dnnflow.parallel.replica.shards import Shards
from dnnflow.parallel.server.updates import (
    GradientEnergyMatching,
    difference,
    elastic_replica,
    scheduled_rate,
)
from dnnflow.parallel.spec.algorithm import Algorithm, Kind, PushKind
from dnnflow.parallel.spec.optimizer_spec import OptimizerSpec


class Move(Protocol):
    """One algorithm's replica."""

    @property
    def weights(self) -> Vector:
        """The model it computes on."""
        ...

    def compute(self, batches: Sequence[Batch]) -> Tally:
        """Learn from K batches, up to what will be pushed."""
        ...

    def exchange(self, shards: Shards, count: int) -> None:
        """Push, and go on from what comes back."""
        ...

    def land(self) -> None:
        """Wait for a push that is still on its way, and raise what went wrong with it."""
        ...

    def close(self) -> None:
        """Wait for a push that is on its way, and end what was begun."""
        ...


def make_move(step: GradientStep, algorithm: Algorithm, replicas: int) -> Move:
    """Return the replica's part of an algorithm."""
    if algorithm.kind is Kind.EASGD:
        return ElasticMove(step, algorithm, replicas)
    if algorithm.kind is Kind.GEM:
        return EnergyMove(step, algorithm)
    kind = GradientMove if algorithm.push_kind is PushKind.GRADIENT else DifferenceMove
    return DelayedMove(kind(step)) if algorithm.overlap else kind(step)


class GradientMove(Pushed):
    """Pushes the gradient of one batch."""

    kind = PushKind.GRADIENT

    def compute(self, batches: Sequence[Batch]) -> Tally:
        """Compute the gradient of the one batch."""
        (batch,) = batches
        self.vector, tally = self.step.gradient(self.weights, batch)
        return tally


class DifferenceMove(Pushed):
    """Takes K local steps and pushes what they have changed."""

    kind = PushKind.DIFFERENCE

    def compute(self, batches: Sequence[Batch]) -> Tally:
        """Take local steps."""
        return local_difference(self.step, self.weights, batches, self.vector)


class ElasticMove(Answered):
    """Keeps weights of its own, which the server's pull at as they pull at the server's."""

    def __init__(self, step: GradientStep, algorithm: Algorithm, replicas: int) -> None:
        self._step, self._algorithm = step, algorithm
        self._alpha = algorithm.elastic_share(replicas)
        self._center = np.zeros(step.layout.size, step.layout.dtype)
        self._samples = 0
        self.weights = aligned_vector(step.layout.size, step.layout.dtype)

    def compute(self, batches: Sequence[Batch]) -> Tally:
        """Take local steps."""
        rate = rate_at(self._algorithm.used_replica_optimizer, self._algorithm, self._samples)
        vector, tally = self._step.local_steps(self.weights, batches, rate)
        np.copyto(self.weights, vector)
        return tally

    def exchange(self, shards: Shards, count: int) -> None:
        """Push the weights; be pulled towards those that the server had."""
        answer = shards.exchange(self.weights, count, PushKind.WEIGHTS, self._center)
        learned = self._step.layout.learned
        elastic_replica(self.weights[:learned], self._center[:learned], self._alpha)
        self._samples = answer.samples


class EnergyMove(Answered):
    """Gradient energy matching: scales its step by what the server's weights have done meanwhile."""

    def __init__(self, step: GradientStep, algorithm: Algorithm) -> None:
        self._step, self._algorithm = step, algorithm
        self._gem: GradientEnergyMatching | None = None
        self._vector = np.zeros(step.layout.size, step.layout.dtype)
        self._center = np.zeros(step.layout.size, step.layout.dtype)
        self._samples = 0
        self.weights = aligned_vector(step.layout.size, step.layout.dtype)

    def compute(self, batches: Sequence[Batch]) -> Tally:
        """Compute a gradient, or take local steps."""
        if self._gem is None:
            self._gem = GradientEnergyMatching(
                self.weights[: self._step.layout.learned],
                momentum=self._algorithm.used_momentum,
                kappa=self._algorithm.gem_kappa,
            )
        if self._algorithm.used_replica_optimizer is not None:
            return local_difference(self._step, self.weights, batches, self._vector)
        (batch,) = batches
        vector, tally = self._step.gradient(self.weights, batch)
        np.copyto(self._vector, vector)
        return tally

    def exchange(self, shards: Shards, count: int) -> None:
        """Look where the server is, and push the step that matches it."""
        if self._gem is None:
            raise RuntimeError("gem must compute before it pushes; report it")
        shards.pull(self._center)
        learned = self._step.layout.learned
        rate = scheduled_rate(self._algorithm.used_gem_rate, self._algorithm.schedule, self._samples)
        pushed = self._vector[:learned]
        self._gem.update(pushed, self._center[:learned], rate, pushed)
        answer = shards.exchange(self._vector, count, PushKind.UPDATE, self.weights)
        self._samples = answer.samples


def local_difference(step: GradientStep, weights: Vector, batches: Sequence[Batch], out: Vector) -> Tally:
    """Take local steps from `weights`; write what they changed to `out`, and the statistics behind it."""
    after, tally = step.local_steps(weights, batches)
    learned = step.layout.learned
    difference(weights[:learned], after[:learned], out[:learned])
    np.copyto(out[learned:], after[learned:])
    return tally


def rate_at(optimizer: OptimizerSpec | None, algorithm: Algorithm, samples: int) -> float | None:
    """Return a replica's learning rate after so many samples of all; None where it has no optimizer."""
    if optimizer is None:
        return None
    return scheduled_rate(optimizer.learning_rate, algorithm.schedule, samples)


def as_batch(inputs: Sequence[Any], targets: Sequence[Any]) -> Batch:
    """Return arrays as Keras takes them: one alone, several as a list."""
    parts = [list(side) if len(side) > 1 else side[0] for side in (inputs, targets)]
    return tuple(parts)
