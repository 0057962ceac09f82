"""Measure a training now and then, beside it, and call Keras' callbacks: one row of the history an epoch."""

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from dnnflow.parallel.driver.callbacks import HeldModel
from dnnflow.parallel.driver.history import History
from dnnflow.parallel.model.batch_totals import BatchTotals, total
from dnnflow.parallel.model.weights import Vector
from dnnflow.parallel.rows.batches import Batching, batches
from dnnflow.parallel.rows.coordinator import Report
from dnnflow.parallel.rows.leases import Lease
from dnnflow.table.rows.source import RowSource

if TYPE_CHECKING:
    from dnnflow.parallel.model.model_spec import ModelSpec

VALIDATION_BATCH = 1000
"""Rows that are evaluated together."""
Row = dict[str, float]


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


class Validations:
    """Notes what was trained on, asks for measures, and adds rows to the history when they are there.

    Epochs that end between two reports, or while the evaluator is busy, each have a row with their own
    training loss; the validation's measures are then of one snapshot.

    Parameters
    ----------
    rows
        Of an epoch.
    every
        Samples between two validations; None for once an epoch.
    """

    def __init__(self, evaluator: "Evaluator", history: History, *, rows: int, every: int | None) -> None:
        self._evaluator, self._history = evaluator, history
        self._rows, self._by_epoch, self._every = max(1, rows), every is None, every or max(1, rows)
        self._number = self._first = history.restored // self._every  # of the next row, from 0
        self._tallies: dict[int, list[BatchTotals]] = {}
        self._due: list[tuple[Row, ValidationRequest]] = []
        self._submitted: tuple[list[Row], Future[list[ValidationResult]]] | None = None
        self.began_s = time.monotonic()
        """When training began, of the monotonic clock."""

    @property
    def samples(self) -> int:
        """Trained on so far, by former drivers too."""
        return self._history.restored + self._history.samples

    def note(self, report: Report) -> None:
        """Take note of what a replica did."""
        for epoch, totals in report.tallies:
            self._tallies.setdefault(epoch, []).append(totals)

    def update(self, epochs: int) -> None:
        """Make a row due for each epoch that is complete, or each mark of samples that was passed.

        Parameters
        ----------
        epochs
            Of the training; the end of the last one is left to `end`.
        """
        if self._by_epoch:
            while self._number < epochs - 1 and self._is_complete(self._number):
                self._add((self._number + 1) * self._rows, through=self._number)
        else:
            samples = self.samples
            if (self._number + 1) * self._every <= samples < epochs * self._rows:
                self._add(samples)
                self._number = samples // self._every
        self._submit()

    def _is_complete(self, epoch: int) -> bool:
        """Say whether all rows of an epoch are trained on; of one begun before, whether those of the next.

        What was learned of some rows is never told where a process or a server died before it could.
        """
        begun_before = epoch == self._first and self._history.restored % self._rows
        known = self._tallies.get(epoch + bool(begun_before), [])
        if sum(totals.count for totals in known) >= self._rows:
            return True
        return self._is_lossy and max(self._tallies, default=0) > epoch + 1

    @property
    def _is_lossy(self) -> bool:
        return bool(self._history.lost or self._history.lost_servers)

    def end(self, epochs: int) -> None:
        """Make a row due for what is left, and for the last weights of all.

        At the end of the epochs all their rows are trained on, though some were not reported, or again, where
        something died.
        """
        if self._tallies or not (self._due or self._submitted or self._history.rows):
            is_whole = self._is_lossy and self._history.ended_by == "epochs"
            self._add(epochs * self._rows if is_whole else self.samples)
        self._submit()

    def finished(self, *, wait: bool = False) -> Iterator[ValidationResult]:
        """Add rows whose measures are there to the history, and yield what came of them."""
        while self._submitted is not None and (wait or self._submitted[1].done()):
            (rows, future), self._submitted = self._submitted, None
            results = future.result()
            for row, result in zip(rows, results, strict=True):
                self._history.rows.append(row | dict(result.logs))
            self._submit()
            yield from results

    def _add(self, samples: int, through: int | None = None) -> None:
        """Make a row due, of what was learned in all epochs up to one, or in all."""
        found = [epoch for epoch in self._tallies if through is None or epoch <= through]
        tallies = [totals for epoch in found for totals in self._tallies.pop(epoch)]
        row = {
            "epoch": samples / self._rows,
            "samples": float(samples),
            "elapsed_s": time.monotonic() - self.began_s,
        }
        self._due.append((row, ValidationRequest(self._number, total(tallies) if tallies else None)))
        self._number += 1

    def _submit(self) -> None:
        """Have all that is due measured at once, unless the evaluator is busy."""
        if self._due and self._submitted is None:
            rows, requests = [row for row, _ in self._due], [request for _, request in self._due]
            self._due, self._submitted = [], (rows, self._evaluator.submit(requests))


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
        held = HeldModel(self.model, self._step)
        self._callbacks.on_train_begin()
        held.require_same()

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
        held = HeldModel(self.model, self._step) if self._given else None
        self._callbacks.on_epoch_begin(request.number)
        totals = request.totals
        logs = (self._step.results(totals) if totals is not None and totals.count else {}) | dict(found)
        self._callbacks.on_epoch_end(request.number, logs)
        if held is not None:
            held.require_same()
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
