"""Ask for measures of a training, and keep what came of them: one row of the history an epoch."""

import time
from collections.abc import Iterator
from concurrent.futures import Future

from dnnflow.parallel.driver.evaluator import Evaluator, ValidationRequest, ValidationResult
from dnnflow.parallel.driver.history import History
from dnnflow.parallel.model.batch_totals import BatchTotals, total
from dnnflow.parallel.rows.coordinator import Report

Row = dict[str, float]


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

    def __init__(self, evaluator: Evaluator, history: History, *, rows: int, every: int | None) -> None:
        self._evaluator, self._history = evaluator, history
        self._rows, self._by_epoch, self._every = max(1, rows), every is None, every or max(1, rows)
        self._number = self._first = history.restored // self._every  # of the next row, from 0
        self._tallies: dict[int, list[BatchTotals]] = {}
        self._due: list[tuple[Row, ValidationRequest]] = []
        self._asked: tuple[list[Row], Future[list[ValidationResult]]] | None = None
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

    def pass_marks(self, epochs: int) -> None:
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
        self._ask()

    def _is_complete(self, epoch: int) -> bool:
        """Say whether all rows of an epoch are trained on; of one begun before, whether those of the next."""
        begun_before = epoch == self._first and self._history.restored % self._rows
        known = self._tallies.get(epoch + bool(begun_before), [])
        return sum(totals.count for totals in known) >= self._rows

    def end(self) -> None:
        """Make a row due for what is left, and for the last weights of all."""
        if self._tallies or not (self._due or self._asked or self._history.rows):
            self._add(self.samples)
        self._ask()

    def hear(self, *, wait: bool = False) -> Iterator[ValidationResult]:
        """Add rows whose measures are there to the history, and yield what came of them."""
        while self._asked is not None and (wait or self._asked[1].done()):
            (rows, asked), self._asked = self._asked, None
            results = asked.result()
            for row, result in zip(rows, results, strict=True):
                self._history.rows.append(row | dict(result.logs))
            self._ask()
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

    def _ask(self) -> None:
        """Have all that is due measured at once, unless the evaluator is busy."""
        if self._due and self._asked is None:
            rows, requests = [row for row, _ in self._due], [request for _, request in self._due]
            self._due, self._asked = [], (rows, self._evaluator.submit(requests))
