"""Report to the coordinator what a replica does, beside its training, and hear whether to go on."""

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from dnnflow.errors import ClusterError, TimeLimitError
from dnnflow.parallel.channel.link import ChannelError
from dnnflow.parallel.model.batch_totals import BatchTotals, total
from dnnflow.parallel.replica.lookout import CoordinatorClient
from dnnflow.parallel.rows.batches import Batch
from dnnflow.parallel.rows.coordinator import Report, Span
from dnnflow.parallel.rows.leases import Lease

REPORT_S = 0.5
"""How often a replica reports what it did, and learns whether it is to go on."""


@dataclass
class _Unreported:
    tallies: dict[int, list[BatchTotals]] = field(default_factory=dict)
    """By epoch."""
    done: dict[Lease, int] = field(default_factory=dict)
    spans: list[Span] = field(default_factory=list)
    seconds: dict[str, float] = field(
        default_factory=lambda: dict.fromkeys(("compute", "exchange", "data"), 0.0)
    )
    pushes: int = 0

    def add(self, later: "_Unreported") -> None:
        """Add what was done since."""
        for epoch, tallies in later.tallies.items():
            self.tallies.setdefault(epoch, []).extend(tallies)
        self.done |= later.done
        self.spans += later.spans
        self.seconds = {name: spent_s + later.seconds[name] for name, spent_s in self.seconds.items()}
        self.pushes += later.pushes


class Reporter:
    """Notes what a replica does under one coordinator, and reports it.

    Parameters
    ----------
    beside
        Called after each report, in its thread.
    timeline
        Whether to keep when things were done.
    """

    def __init__(
        self, replica: int, coordinator: CoordinatorClient, beside: Callable[[], None], *, timeline: bool
    ) -> None:
        self._replica, self._coordinator, self._beside = replica, coordinator, beside
        self._timeline = timeline
        self._unreported, self._lock = _Unreported(), threading.Lock()
        self.stopped = threading.Event()
        """Set when the coordinator says that all are to stop."""

    def note(self, totals: BatchTotals, group: list[Batch]) -> None:
        """Note that batches are trained on."""
        with self._lock:
            unreported = self._unreported
            unreported.tallies.setdefault(group[-1].epoch, []).append(totals)
            unreported.pushes += 1
            for batch in group:
                unreported.done.update(batch.done)

    def timed(self, name: str, work: Callable[[], Any]) -> Any:
        """Return what some work gives, and note how long it took."""
        start_at, start = time.time(), time.perf_counter()
        found = work()
        seconds_s = time.perf_counter() - start
        with self._lock:
            self._unreported.seconds[name] += seconds_s
            if self._timeline:
                self._unreported.spans.append(Span(name, start_at, seconds_s))
        return found

    @contextmanager
    def reporting(self) -> Iterator[None]:
        """Report now and then meanwhile: also while rows are waited for, which others may have been lent."""
        ended = threading.Event()

        def report() -> None:
            while not ended.wait(REPORT_S):
                try:
                    self._report()
                except (ChannelError, TimeLimitError):
                    continue  # told again the next time; who has lost its server hears of it by its pushes
                self._beside()

        thread = threading.Thread(target=report, name="dnnflow-report", daemon=True)
        thread.start()
        try:
            yield
        except (ClusterError, TimeLimitError, OSError):
            ended.set()  # who takes reports may be gone, and an answer would be waited for
            raise
        except BaseException:
            self._end(ended, thread)
            raise
        self._end(ended, thread)

    def _end(self, ended: threading.Event, thread: threading.Thread) -> None:
        ended.set()
        thread.join()
        self._report()

    def _report(self) -> None:
        import psutil

        from dnnflow.parallel.model.devices import gpu_bytes

        with self._lock:
            unreported, self._unreported = self._unreported, _Unreported()
        process = psutil.Process()
        times = process.cpu_times()
        report = Report(
            replica=self._replica,
            tallies=tuple((epoch, total(found)) for epoch, found in unreported.tallies.items()),
            pushes=unreported.pushes, compute_s=unreported.seconds["compute"],
            exchange_s=unreported.seconds["exchange"], data_s=unreported.seconds["data"],
            resident_bytes=int(process.memory_info().rss), processor_s=times.user + times.system,
            gpu_bytes=gpu_bytes(), done=tuple(unreported.done.items()), spans=tuple(unreported.spans),
        )  # fmt: skip
        try:
            going_on = self._coordinator.report(report)
        except BaseException:
            with self._lock:
                unreported.add(self._unreported)
                self._unreported = unreported
            raise
        if not going_on:
            self.stopped.set()
