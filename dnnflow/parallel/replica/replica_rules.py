"""Compute what a replica pushes, for each algorithm: batches in, a vector out."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from dnnflow.parallel.model.batch_totals import BatchTotals
from dnnflow.parallel.model.gradient import Batch, GradientStep
from dnnflow.parallel.model.weights import Vector, aligned_vector
from dnnflow.parallel.replica.shards import MergedReply, Shards
from dnnflow.parallel.server.updates import (
    GradientEnergyMatching,
    difference,
    elastic_replica,
    scheduled_rate,
)
from dnnflow.parallel.spec.algorithm import Algorithm, Kind, PushKind


class ReplicaRule:
    """One algorithm's replica: the weights that it computes on, and the vector that it pushes."""

    def __init__(self, step: GradientStep) -> None:
        self.step = step
        self.weights: Vector = aligned_vector(step.layout.size, step.layout.dtype)
        self.vector: Vector = aligned_vector(step.layout.size, step.layout.dtype)
        """What `compute` has made of the batches."""

    def compute(self, batches: Sequence[Batch]) -> BatchTotals:
        """Learn from K batches, up to what will be pushed."""
        raise NotImplementedError

    def exchange(self, shards: Shards, count: int) -> None:
        """Push what `count` samples have taught, and go on from what comes back."""
        raise NotImplementedError

    def wait(self) -> None:
        """Wait for a push that is still on its way, and raise what went wrong with it."""

    def close(self) -> None:
        """Wait for a push that is on its way, and end what was begun."""


class ServerWeightsRule(ReplicaRule):
    """Goes on from the server's weights; base of the rules that only differ in what they push."""

    kind: PushKind

    def exchange(self, shards: Shards, count: int) -> None:
        """Push the vector, and take the weights that come back."""
        shards.exchange(self.vector, count, self.kind, self.weights)


class GradientRule(ServerWeightsRule):
    """Pushes the gradient of one batch."""

    kind = PushKind.GRADIENT

    def compute(self, batches: Sequence[Batch]) -> BatchTotals:
        """Compute the gradient of the one batch."""
        (batch,) = batches
        self.vector, totals = self.step.gradient(self.weights, batch)
        return totals


class LocalStepsRule(ServerWeightsRule):
    """Takes K local steps and pushes what they have changed."""

    kind = PushKind.DIFFERENCE

    def compute(self, batches: Sequence[Batch]) -> BatchTotals:
        """Take local steps."""
        return local_difference(self.step, self.weights, batches, self.vector)


class ElasticReplicaRule(ReplicaRule):
    """Elastic averaging: its weights and the server's pull at each other."""

    def __init__(self, step: GradientStep, algorithm: Algorithm, replicas: int) -> None:
        super().__init__(step)
        self._algorithm = algorithm
        self._alpha = algorithm.elastic_share(replicas)
        self._center = np.zeros(step.layout.size, step.layout.dtype)
        self._samples = 0

    def compute(self, batches: Sequence[Batch]) -> BatchTotals:
        """Take local steps."""
        optimizer, schedule = self._algorithm.used_replica_optimizer, self._algorithm.schedule
        rate = scheduled_rate(optimizer.learning_rate, schedule, self._samples) if optimizer else None
        vector, totals = self.step.local_steps(self.weights, batches, rate)
        np.copyto(self.weights, vector)
        return totals

    def exchange(self, shards: Shards, count: int) -> None:
        """Push the weights; be pulled towards those that the server had."""
        answer = shards.exchange(self.weights, count, PushKind.WEIGHTS, self._center)
        learned = self.step.layout.learned
        elastic_replica(self.weights[:learned], self._center[:learned], self._alpha)
        self._samples = answer.samples


class EnergyMatchingRule(ReplicaRule):
    """Gradient energy matching: scales its step by what the server's weights have done meanwhile."""

    def __init__(self, step: GradientStep, algorithm: Algorithm) -> None:
        super().__init__(step)
        self._algorithm = algorithm
        self._gem: GradientEnergyMatching | None = None
        self._center = np.zeros(step.layout.size, step.layout.dtype)
        self._samples = 0

    def compute(self, batches: Sequence[Batch]) -> BatchTotals:
        """Compute a gradient, or take local steps."""
        if self._gem is None:
            self._gem = GradientEnergyMatching(
                self.weights[: self.step.layout.learned],
                momentum=self._algorithm.used_momentum,
                kappa=self._algorithm.gem_kappa,
            )
        if self._algorithm.used_replica_optimizer is not None:
            return local_difference(self.step, self.weights, batches, self.vector)
        (batch,) = batches
        vector, totals = self.step.gradient(self.weights, batch)
        np.copyto(self.vector, vector)
        return totals

    def exchange(self, shards: Shards, count: int) -> None:
        """Look where the server is, and push the step that matches it."""
        if self._gem is None:
            raise RuntimeError("gem must compute before it pushes; report it")
        shards.pull(self._center)
        learned = self.step.layout.learned
        rate = scheduled_rate(self._algorithm.used_gem_rate, self._algorithm.schedule, self._samples)
        pushed = self.vector[:learned]
        self._gem.update(pushed, self._center[:learned], rate, pushed)
        answer = shards.exchange(self.vector, count, PushKind.UPDATE, self.weights)
        self._samples = answer.samples


class OverlapRule(ReplicaRule):
    """Pushes in a thread, and computes once more on the weights it has before it takes those of the answer.

    A push is so computed from weights that lack the replica's own push before it: its staleness is larger by
    one. Everything else is as without delay.

    Parameters
    ----------
    rule
        What is computed. It belongs to this one from now on.
    """

    def __init__(self, rule: ServerWeightsRule) -> None:
        super().__init__(rule.step)
        self._rule = rule
        self._incoming, self.weights = self.weights, rule.weights  # incoming: the answer, on its way
        self._thread = ThreadPoolExecutor(1, "dnnflow-push")
        self._thread.submit(int)  # begins it before its maker has a core of its own
        self._push: Future[MergedReply] | None = None
        self._versions: tuple[int, ...] = ()  # of the weights that are computed on

    def compute(self, batches: Sequence[Batch]) -> BatchTotals:
        """Learn from batches while the last push may be on its way."""
        return self._rule.compute(batches)

    def exchange(self, shards: Shards, count: int) -> None:
        """Take the answer to the last push, and send this one.

        Raises
        ------
        Exception
            What went wrong with the last push.
        """
        rule, versions = self._rule, self._versions
        self.wait()
        if self._push is not None:
            rule.weights, self._incoming = self._incoming, rule.weights
            self.weights = rule.weights
        self._versions = shards.versions
        vector, rule.vector, self.vector = rule.vector, self.vector, rule.vector
        self._push = self._thread.submit(
            shards.exchange, vector, count, rule.kind, self._incoming, versions or self._versions
        )

    def wait(self) -> None:
        """Wait for the answer to the last push; the weights stay until the next one is sent.

        No longer than a channel waits for its server, which has a deadline.
        """
        if self._push is not None:
            self._push.result()

    def close(self) -> None:
        """Wait for a push that is on its way, and end the thread."""
        self._thread.shutdown()


def local_difference(
    step: GradientStep, weights: Vector, batches: Sequence[Batch], out: Vector
) -> BatchTotals:
    """Take local steps from `weights`; write what they changed to `out`, and the statistics behind it."""
    after, totals = step.local_steps(weights, batches)
    learned = step.layout.learned
    difference(weights[:learned], after[:learned], out[:learned])
    np.copyto(out[learned:], after[learned:])
    return totals


def make_replica_rule(step: GradientStep, algorithm: Algorithm, replicas: int) -> ReplicaRule:
    """Return the replica's part of an algorithm."""
    if algorithm.kind is Kind.EASGD:
        return ElasticReplicaRule(step, algorithm, replicas)
    if algorithm.kind is Kind.GEM:
        return EnergyMatchingRule(step, algorithm)
    kind = GradientRule if algorithm.push_kind is PushKind.GRADIENT else LocalStepsRule
    return OverlapRule(kind(step)) if algorithm.overlap else kind(step)
