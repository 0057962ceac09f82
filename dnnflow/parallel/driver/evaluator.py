"""Measure snapshots of the weights beside the training, and call Keras' callbacks."""

import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnflow.parallel.model.batch_totals import BatchTotals
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.rows.batches import Batching, batches
from dnnflow.parallel.rows.leases import Lease
from dnnflow.table.rows.source import RowSource

if TYPE_CHECKING:
    from dnnflow.parallel.model.model_spec import ModelSpec

VALIDATION_BATCH = 1000
"""Rows that are evaluated together."""


@dataclass(frozen=True)
class ValidationRequest:
    """A point of the training that is measured."""

    number: int
    """From 0; the epoch that callbacks hear of."""
    totals: BatchTotals | None
    """Of the training since the mark before."""


@dataclass(frozen=True)
class ValidationResult:
    """What came of one validation."""

    logs: Mapping[str, float]
    stop: bool
    """Whether a callback asked for the end."""
    learning_rate: float | None
    """What a callback has set it to; None for no change."""


class Evaluator:
    """Keeps a model of its own, in the driver's process and in one thread: no server waits for it.

    Parameters
    ----------
    pull : callable
        Gives the weights as they are now.
    callbacks : sequence of keras.callbacks.Callback
        Hear of the training's begin and end, and of an epoch's end at each validation.
    learning_rate : float, optional
        Of the servers, which callbacks see and set as that of the model's optimizer.
    """

    def __init__(
        self, spec: "ModelSpec", validation: RowSource | None, example: RowSource, pull: Callable[[], Vector],
        callbacks: Sequence[Any] = (), learning_rate: float | None = None,
    ) -> None:  # fmt: skip
        self._spec, self._validation, self._example, self._pull = spec, validation, example, pull
        self._given, self._rate = tuple(callbacks), learning_rate
        self._thread = ThreadPoolExecutor(1, "dnnflow-evaluator")
        self._thread.submit(self._begin).result()

    def _begin(self) -> None:
        import keras

        from dnnflow.parallel.model.gradient import GradientStep

        self.model = self._spec.build()
        self._step = GradientStep(self.model)
        self._callbacks = keras.callbacks.CallbackList(list(self._given), model=self.model)
        if self._rate is not None and self.model.optimizer is not None:
            self.model.optimizer.learning_rate = self._rate
        self._named = False
        self._callbacks.on_train_begin()

    def submit(self, requests: Sequence[ValidationRequest]) -> "Future[list[ValidationResult]]":
        """Measure the weights once, when the thread comes to it, and tell callbacks of each mark."""
        return self._thread.submit(self._measure, tuple(requests))

    def end(self, weights: Vector) -> None:
        """Set the model's last weights and end the thread."""
        self._thread.submit(self._finish, weights).result()
        self._thread.shutdown()

    def _finish(self, weights: Vector) -> None:
        self._step.set(weights)
        self._callbacks.on_train_end()

    def _measure(self, requests: Sequence[ValidationRequest]) -> list[ValidationResult]:
        weights, start = self._pull(), time.perf_counter()
        found: dict[str, float] = {}
        if self._validation is not None:
            measures = self._step.results(self._step.evaluate(weights, self._batches(self._validation)))
            found = {f"val_{name}": value for name, value in measures.items()}
        elif not self._named:  # metrics have names once a batch was seen
            self._step.evaluate(weights, [next(self._batches(self._example, 1))])
        self._named = True
        self._step.set(weights)
        found["evaluation_s"] = time.perf_counter() - start
        return [self._run_callbacks(request, found) for request in requests]

    def _run_callbacks(self, request: ValidationRequest, found: Mapping[str, float]) -> ValidationResult:
        self._callbacks.on_epoch_begin(request.number)
        totals = request.totals
        logs = (self._step.results(totals) if totals is not None and totals.count else {}) | dict(found)
        self._callbacks.on_epoch_end(request.number, logs)
        return ValidationResult(logs, bool(self.model.stop_training), self._changed_rate())

    def _changed_rate(self) -> float | None:
        if self._rate is None or self.model.optimizer is None:
            return None
        rate = float(np.asarray(self.model.optimizer.learning_rate))
        if abs(rate - self._rate) <= 1e-6 * self._rate:
            return None
        self._rate = rate
        return rate

    def _batches(self, source: RowSource, size: int = VALIDATION_BATCH) -> Any:
        batching = Batching(size, shuffle=False, dtype=self._spec.layout.dtype)
        leases = (
            Lease(number, 0, chunk) for number, chunk in enumerate(source.chunks(VALIDATION_BATCH * 16))
        )
        for batch in batches(source, leases, batching):
            yield batch.for_keras()
