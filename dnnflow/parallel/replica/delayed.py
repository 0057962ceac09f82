"""A replica's pushes beside its computing: the next gradient while the last one is still on its way."""

from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor

from dnnflow.parallel.model.batch_totals import Tally
from dnnflow.parallel.model.gradient import Batch, GradientStep
from dnnflow.parallel.model.shared_memory import aligned_vector
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.replica.shards import Answer, Shards
from dnnflow.parallel.spec.algorithm import PushKind


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
