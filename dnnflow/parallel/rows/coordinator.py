"""Coordinate a training: who trains on which rows, how far each replica has come, whether all are to stop."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from dnnflow.errors import InputError
from dnnflow.parallel.model.batch_totals import BatchTotals
from dnnflow.parallel.rows.leases import Lease, Leases
from dnnflow.table.rows.source import Chunk


@dataclass(frozen=True, slots=True)
class Span:
    """Something that took a replica's time, for the timeline."""

    name: str
    """compute, exchange or data."""
    start_at: float
    """Unix time in seconds."""
    seconds_s: float


@dataclass(frozen=True, slots=True)
class Report:
    """What a replica did since its last report."""

    replica: int
    tallies: tuple[tuple[int, BatchTotals], ...]
    """What was learned in each epoch."""
    pushes: int
    compute_s: float
    exchange_s: float
    """Waiting for servers, and in synchronous training for the others."""
    data_s: float
    """Waiting for rows."""
    resident_bytes: int
    processor_s: float
    """Processor time of its process."""
    gpu_bytes: int = 0
    """The most that it has held on GPUs."""
    done: tuple[tuple[Lease, int], ...] = ()
    spans: tuple[Span, ...] = field(default=())

    @property
    def count(self) -> int:
        """Samples."""
        return sum(tally.count for _, tally in self.tallies)

    @property
    def loss_sum(self) -> float:
        """Of batches' mean losses times their samples."""
        return sum(tally.loss_sum for _, tally in self.tallies)


class Coordinator:
    """Hands out rows and collects reports; all methods may be called by any thread.

    Asynchronous replicas are given leases; synchronous ones have lanes, which depend on seed and epoch alone:
    how far they are, servers know (`ParameterServer.rows_of`).

    Parameters
    ----------
    chunks : sequence of Chunk
        All rows of an epoch, each once.
    lanes : int
        Replicas of a synchronous training, 0 for an asynchronous one.
    readers : int
        Replicas that share the leases of an asynchronous one.
    chunk_rows : int
        What the rows were divided by; kept in snapshots, for a driver that goes on with other replicas.
    parcel
        What every replica is given when it begins.
    """

    def __init__(
        self, chunks: Sequence[Chunk], *, seed: int, epochs: int, lanes: int = 0, readers: int = 1,
        chunk_rows: int = 0, parcel: Any = None,
    ) -> None:  # fmt: skip
        self._n_lanes, self._readers, self._chunk_rows, self._parcel = lanes, readers, chunk_rows, parcel
        self._leases = Leases(chunks, seed, epochs)
        self._lock = threading.Lock()
        self._reports: list[Report] = []
        self._stopped = False

    def parcel(self) -> Any:
        """Return what replicas are given."""
        return self._parcel

    def take(self, replica: int, rows: int = 1) -> tuple[Lease, ...]:
        """Lease rows to a replica; nothing where there are none now, see `Leases.take`."""
        return () if self._stopped else self._leases.take(replica, rows, self._readers)

    def is_done(self) -> bool:
        """Whether no row is left to train on, or all are to stop."""
        return self._stopped or self._leases.is_done

    def report(self, report: Report) -> bool:
        """Take note of what a replica did, and say whether it is to go on."""
        for lease, done in report.done if not self._n_lanes else ():
            self._leases.advance(report.replica, lease, done)
        with self._lock:
            self._reports.append(report)
        return not self._stopped

    def collect(self) -> list[Report]:
        """Return the reports since the last call."""
        with self._lock:
            found, self._reports = self._reports, []
        return found

    def give_back(self, replica: int) -> None:
        """Let others have what a replica that is gone held."""
        self._leases.give_back(replica)

    def stop(self) -> None:
        """Let all replicas end after the batch they are at."""
        self._stopped = True

    def snapshot(self) -> dict[str, Any]:
        """Return the state as JSON types."""
        return {
            "leases": self._leases.snapshot(), "lanes": self._n_lanes, "chunk_rows": self._chunk_rows
        }  # fmt: skip

    def restore(self, snapshot: Mapping[str, Any]) -> None:
        """Go on where a snapshot was taken.

        Raises
        ------
        InputError
            If it is of other rows, another seed, more epochs, or another number of synchronous replicas.
        """
        before, now = int(snapshot["lanes"]), self._n_lanes
        if bool(before) != bool(now):
            kinds = {True: "synchronous", False: "asynchronous"}
            raise InputError(
                f"a training goes on synchronous or asynchronous as it began, got {kinds[bool(now)]} after "
                f"{kinds[bool(before)]}; set synchronous={bool(before)}"
            )
        if before != now:
            raise InputError(
                "a training goes on with as many synchronous replicas as it began with, because which rows "
                f"form a step depends on their number, got {now} after {before}; set replicas={before}"
            )
        self._leases.restore(snapshot["leases"])
