"""Keep which workers a run has and what each has in hand, without Dask.

A slot is one worker process. It trains one pack at a time and has the next one waiting, so that it is never
idle while the driver stores results; a suspect runs with nothing else on its worker.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from dnnflow.engines.records import Portion
from dnnflow.errors import ClusterError
from dnnflow.execute.packs import Load

Device = Literal["cpu", "gpu"]
DEPTH = 2
"""Packs assigned to a worker at most: one runs, one waits."""
GROWN_BYTES = 2 * 2**30
"""How much a worker without a memory limit may grow over what it held after its first pack."""
ROOM_BYTES = 256 * 2**20
"""A worker is never recycled for having grown by less than this."""
GRACE_S = 60.0
"""What a load may take beyond the time limits of its designs: imports, compilation, evaluation."""
STALLED_S = 10.0
"""How long a paused worker may hold its loads back: longer than its reports are old."""


@dataclass(frozen=True)
class WorkerFacts:
    """What the scheduler says of a worker."""

    address: str
    incarnation: str
    """Differs between processes, also where a restarted worker has its old address."""
    gpu: bool
    nanny: bool
    threads: int
    memory_limit: int
    """Bytes; 0 for none."""
    stalled: bool
    """Whether Dask has paused it for its memory while it runs nothing."""

    def is_same(self, other: "WorkerFacts | None") -> bool:
        """Whether the other is the same process."""
        return other is not None and (self.address, self.incarnation) == (other.address, other.incarnation)

    @classmethod
    def from_identity(cls, address: str, identity: Mapping[str, Any]) -> "WorkerFacts":
        """Read one entry of the scheduler's `identity()["workers"]`."""
        executing = identity.get("metrics", {}).get("task_counts", {}).get("executing", 0)
        return cls(
            address=address,
            incarnation=str(identity.get("local_directory", "")),
            gpu=identity.get("resources", {}).get("GPU", 0) >= 1,
            nanny=bool(identity.get("nanny")),
            threads=int(identity.get("nthreads", 1)),
            memory_limit=int(identity.get("memory_limit") or 0),
            stalled=identity.get("status") == "paused" and not executing,
        )


@dataclass
class Slot:
    """One worker process and what it has in hand."""

    worker: WorkerFacts
    loads: dict[int, Load] = field(default_factory=dict)
    """Task number → load, in the order they were assigned, which is the order they run in."""
    head_since_s: float = 0.0
    """When the first load began to run, at the earliest (monotonic)."""
    first_resident_bytes: int | None = None
    resident_bytes: int = 0
    draining: bool = False
    """Gets nothing more until it has been restarted."""
    restarting: bool = False
    has_begun: bool = False
    """Whether its first load is known to run; another's task may hold the worker."""
    is_compiling: bool = False
    """Whether its running load makes machine code or a graph now, which no time limit counts."""
    stalled_since_s: float | None = None
    """Since when Dask has held its loads back (monotonic)."""
    unusable: str = ""
    """Why this worker gets no more work, in words; empty while it does."""

    def can_take(self, *, suspects_wait: bool) -> bool:
        """Whether a load may be assigned now. While suspects wait, workers run empty to take them."""
        if self.draining or self.unusable:
            return False
        if suspects_wait or any(load.suspect for load in self.loads.values()):
            return not self.loads
        return len(self.loads) < DEPTH

    def assign(self, number: int, load: Load, now_s: float) -> None:
        """Hand a load over."""
        if not self.loads:
            self.head_since_s = now_s
        self.loads[number] = load

    def release(self, number: int, now_s: float) -> Load | None:
        """Take back a load that has ended; None if it is not here any more."""
        self.head_since_s, self.has_begun = now_s, False
        return self.loads.pop(number, None)

    def weigh(self, resident_bytes: int, limit_bytes: int | None) -> bool:
        """Note the worker's memory after a pack; return whether it has grown past the limit."""
        if self.first_resident_bytes is None:
            self.first_resident_bytes = resident_bytes
        self.resident_bytes = resident_bytes
        return resident_bytes > self._limit(limit_bytes, self.first_resident_bytes)

    def _limit(self, limit_bytes: int | None, first: int) -> int:
        if limit_bytes is not None:
            return limit_bytes
        share = 0.6 * self.worker.memory_limit if self.worker.memory_limit else first + GROWN_BYTES
        return int(max(share, first + ROOM_BYTES))

    def hangs(self, now_s: float, limit_s: float | None) -> bool:
        """Whether the running load is past what its designs may take together, or was never let run."""
        if not self.loads or not self.worker.stalled:
            self.stalled_since_s = None
        elif self.stalled_since_s is None:
            self.stalled_since_s = now_s
        if self.stalled_since_s is not None and now_s - self.stalled_since_s > STALLED_S:
            return True
        head = next(iter(self.loads.values()), None)
        if head is None or limit_s is None or self.is_compiling:
            return False
        return now_s - self.head_since_s > sum(map(_trainings, head.portions)) * limit_s + GRACE_S


def _trainings(portion: Portion) -> int:
    """Count what a portion may take, in time limits of a design.

    A stack has those of its designs; its engine halves one that passes them, and gives each part its own.
    """
    size = len(portion.designs)
    return size * (1 + math.ceil(math.log2(size)))


@dataclass
class Slots:
    """The slots of a run: workers of the wanted device."""

    device: Literal["auto", "cpu", "gpu"]
    by_address: dict[str, Slot] = field(default_factory=dict)
    """By worker address."""

    def update(self, workers: Mapping[str, WorkerFacts]) -> list[Slot]:
        """Take in new workers; return the slots of those that have gone."""
        gone = [
            slot for address, slot in self.by_address.items() if not slot.worker.is_same(workers.get(address))
        ]
        for slot in gone:
            del self.by_address[slot.worker.address]
        for address, worker in workers.items():
            if self.device == "gpu" and not worker.gpu:
                continue
            self.by_address.setdefault(address, Slot(worker)).worker = worker
        return gone

    def open_slots(self, *, suspects_wait: bool) -> list[Slot]:
        """Return the slots that can take a load, those with the least in hand first."""
        slots = [slot for slot in self.by_address.values() if slot.can_take(suspects_wait=suspects_wait)]
        return sorted(slots, key=lambda slot: len(slot.loads))

    def usable(self) -> list[Slot]:
        """Return the slots that work, or will again after a restart."""
        return [slot for slot in self.by_address.values() if not slot.unusable]

    def device_of(self, slot: Slot) -> Device:
        """Return where a slot's trials run."""
        return "gpu" if slot.worker.gpu and self.device != "cpu" else "cpu"

    def holder(self, number: int) -> Slot | None:
        """Return the slot that has a task in hand."""
        return next((slot for slot in self.by_address.values() if number in slot.loads), None)


def require_device(device: str, workers: Mapping[str, WorkerFacts]) -> None:
    """Refuse at once to wait for a GPU on a cluster whose workers have none.

    Raises
    ------
    ClusterError
        For `gpu` where there are workers and none declares a GPU.
    """
    if device == "gpu" and workers and not any(worker.gpu for worker in workers.values()):
        raise ClusterError(
            f"device gpu needs a worker with the GPU resource, got {len(workers)} without; start one where "
            "there is a GPU (dask worker ADDRESS --nthreads 1 --preload dnnflow.execute.worker) "
            "or set device: auto"
        )
