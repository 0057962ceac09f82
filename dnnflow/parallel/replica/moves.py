"""What a replica computes between two pushes, for each algorithm: batches in, the vector to push out."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, Protocol

import numpy as np

from dnnflow.parallel.model.batch_totals import Tally
from dnnflow.parallel.model.gradient import Batch, GradientStep
from dnnflow.parallel.model.weights import Vector, aligned_vector
from dnnflow.parallel.replica.shards import Answer, Shards
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


class Answered:
    """A move whose push is answered when `exchange` returns."""

    def land(self) -> None:
        """Return at once: no push is on its way."""

    def close(self) -> None:
        """Do nothing: nothing is open."""


class Pushed(Answered):
    """What a replica computes on one set of weights: a vector that is pushed, and answered with others.

    Base of the moves whose replica goes on from the server's weights.
    """

    kind: PushKind

    def __init__(self, step: GradientStep) -> None:
        self.step = step
        self.weights: Vector = aligned_vector(step.layout.size, step.layout.dtype)
        self.vector: Vector = aligned_vector(step.layout.size, step.layout.dtype)
        """What `compute` has made of the batches."""

    def compute(self, batches: Sequence[Batch]) -> Tally:
        """Learn from batches, up to what will be pushed."""
        raise NotImplementedError

    def exchange(self, shards: Shards, count: int) -> None:
        """Push the vector, and go on from what comes back."""
        shards.exchange(self.vector, count, self.kind, self.weights)


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


class DelayedMove:
    """Pushes in a thread, and computes once more on the weights it has before it takes those of the answer.

    A push is so computed from weights that lack the replica's own push before it: its staleness is larger by
    one. Everything else is as without delay.

    Parameters
    ----------
    move
        What is computed. It belongs to this one from now on.
    """

    def __init__(self, move: Pushed) -> None:
        self._move = move
        layout = move.step.layout
        self._coming = aligned_vector(layout.size, layout.dtype)  # the answer, while it is on its way
        self._spare = aligned_vector(layout.size, layout.dtype)
        self._thread = ThreadPoolExecutor(1, "dnnflow-push")
        self._thread.submit(int)  # begins it before its maker has a core of its own
        self._flight: Future[Answer] | None = None
        self._versions: tuple[int, ...] = ()  # of the weights that are computed on

    @property
    def weights(self) -> Vector:
        """The weights that the next batches are computed on."""
        return self._move.weights

    def compute(self, batches: Sequence[Batch]) -> Tally:
        """Learn from batches while the last push may be on its way."""
        return self._move.compute(batches)

    def exchange(self, shards: Shards, count: int) -> None:
        """Take the answer to the last push, and send this one.

        Raises
        ------
        Exception
            What went wrong with the last push.
        """
        move, versions = self._move, self._versions
        self.land()
        if self._flight is not None:
            move.weights, self._coming = self._coming, move.weights
        self._versions = shards.versions
        vector, move.vector, self._spare = move.vector, self._spare, move.vector
        self._flight = self._thread.submit(
            shards.exchange, vector, count, move.kind, self._coming, versions or self._versions
        )

    def land(self) -> None:
        """Wait for the answer to the last push; the weights stay until the next one is sent.

        No longer than a channel waits for its server, which has a deadline.
        """
        if self._flight is not None:
            self._flight.result()

    def close(self) -> None:
        """Wait for a push that is on its way, and end the thread."""
        self._thread.shutdown()


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
