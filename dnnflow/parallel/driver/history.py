"""Keep what a parallel training measured: one row a validation, and totals of each replica and server."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from dnnflow.events import ReplicaCounts
from dnnflow.parallel.rows.coordinator import Report, Span
from dnnflow.parallel.server.messages import ServerStatistics

if TYPE_CHECKING:
    import pandas as pd


@dataclass(kw_only=True)
class ReplicaTotals(ReplicaCounts):
    """What one replica did in all, and when."""

    losses: list[float] = field(default_factory=list)
    """Mean training loss between two reports, about twice a second."""
    seen: list[int] = field(default_factory=list)
    """Samples of all replicas in this run when each loss came."""
    heard_s: list[float] = field(default_factory=list)
    """When each loss came, in seconds since the training began."""
    spans: list[Span] = field(default_factory=list)

    def add(self, report: Report) -> None:
        """Add what a report says."""
        self.samples += report.count
        self.pushes += report.pushes
        self.compute_s += report.compute_s
        self.exchange_s += report.exchange_s
        self.data_s += report.data_s
        self.resident_bytes = max(self.resident_bytes, report.resident_bytes)
        self.gpu_bytes = max(self.gpu_bytes, report.gpu_bytes)
        self.processor_s = report.processor_s
        if report.count:
            self.losses.append(report.loss_sum / report.count)
        self.spans += report.spans


@dataclass(frozen=True)
class WorkerLoss:
    """A worker that went away with a replica on it."""

    elapsed_s: float
    """Since the training began."""
    replica: int
    worker: str


@dataclass(frozen=True)
class ServerLoss:
    """A server, or the coordinator, that went away with its worker, and what it cost."""

    elapsed_s: float
    """Since the training began."""
    workers: tuple[str, ...]
    """That were lost; none where one of them did not answer."""
    seconds_s: float
    """From when it was noticed until replicas could go on."""
    work_s: float
    """Age of the state that was gone on from: work of so long is done again."""


@dataclass
class History:
    """A training, as measured."""

    rows: list[dict[str, float]] = field(default_factory=list)
    """epoch, samples, elapsed_s, then measures under the names that `fit` gives them (val_ of validation)."""
    replicas: dict[int, ReplicaTotals] = field(default_factory=dict)
    servers: tuple[ServerStatistics, ...] = ()
    """While it runs: as of the last second."""
    versions: list[tuple[float, int]] = field(default_factory=list)
    """(seconds since the training began, updates that the first server had applied), once a second."""
    lost: list[WorkerLoss] = field(default_factory=list)
    lost_servers: list[ServerLoss] = field(default_factory=list)
    about: Mapping[str, str] = field(default_factory=dict)
    """Model, algorithm and settings in words."""
    total: int = 0
    """Samples of all epochs; 0 where it is not known."""
    restored: int = 0
    """Samples of the checkpoint that it went on from."""
    seconds_s: float = 0.0
    """From the first batch that was asked for to the last answer; start-up apart."""
    startup_s: float = 0.0
    ended_by: str = "epochs"
    """epochs, target, callback or time limit."""

    def add(self, report: Report, elapsed_s: float) -> None:
        """Add what a replica says, heard so long after the training began."""
        totals = self.replicas[report.replica]
        totals.add(report)
        if report.count:
            totals.seen.append(self.samples)
            totals.heard_s.append(elapsed_s)

    def note(self, servers: tuple[ServerStatistics, ...], elapsed_s: float) -> None:
        """Take note of how far the servers are."""
        self.servers = servers
        if self.samples:  # before the first report the training has not begun
            self.versions.append((elapsed_s, servers[0].version))

    @property
    def samples(self) -> int:
        """Samples trained on, by all replicas."""
        return sum(totals.samples for totals in self.replicas.values())

    @property
    def staleness(self) -> dict[int, int]:
        """How many pushes were how many updates late, over all servers."""
        found: dict[int, int] = {}
        for server in self.servers:
            for late, count in server.staleness.items():
                found[late] = found.get(late, 0) + count
        return dict(sorted(found.items()))

    def frame(self) -> "pd.DataFrame":
        """Return the rows as a table."""
        import pandas as pd

        return pd.DataFrame(self.rows)

    def to_mpi_learn(self, arguments: Mapping[str, Any]) -> str:
        """Return JSON in the shape of mpi_learn's history files.

        Its keys are processes: replicas have loss by report, `0:0:-` is the master with its validation.
        """
        columns = sorted({name for row in self.rows for name in row} - {"epoch", "samples", "elapsed_s"})
        master = {name: [row[name] for row in self.rows if name in row] for name in columns}
        replicas = {
            f"{number + 1}:0:-": {
                "loss": totals.losses,
                "monitor": [
                    [totals.processor_s / max(self.seconds_s, 1e-9) * 100, totals.resident_bytes / 1e6]
                ],
            }
            for number, totals in sorted(self.replicas.items())
        }
        told = {"train_time": self.seconds_s, "history": {"0:0:-": master, **replicas}, "args": arguments}
        return json.dumps(told, default=str)

    def to_chrome_trace(self) -> str:
        """Return the timeline as JSON that chrome://tracing and Perfetto open: a line a replica."""
        events = [
            {
                "name": span.name, "ph": "X", "pid": 0, "tid": number,
                "ts": span.start_at * 1e6, "dur": span.seconds_s * 1e6,
            }
            for number, totals in sorted(self.replicas.items())
            for span in totals.spans
        ]  # fmt: skip
        names = [
            {"name": "thread_name", "ph": "M", "pid": 0, "tid": number, "args": {"name": f"replica {number}"}}
            for number in sorted(self.replicas)
        ]
        return json.dumps({"traceEvents": [*names, *events], "displayTimeUnit": "ms"})
