"""How many designs a task gets, and which task to blame when a worker dies.

Pure bookkeeping: nothing here knows of Dask. A design is in exactly one place at a time: waiting, in a pack
in flight, under suspicion, or finished.
"""

import math
from collections import deque
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from statistics import median

from dnnflow.design.layers import Design


@dataclass(frozen=True)
class PackLimits:
    """How large a pack may be."""

    target_s: float = 5.0
    """Seconds a pack should take: long against the milliseconds a task costs, short against a lost worker."""
    shortest_s: float = 0.25
    """Seconds below which a pack is not cut for the sake of an even end."""
    largest: int = 1000
    """Designs a pack holds at most."""
    growth: int = 8
    """A pack is at most this many times the last finished one: its designs may be slower."""
    attempts: int = 3
    """How often a design may lose its worker while it runs alone."""


class PackSize:
    """Learns from finished packs how many designs make a pack of the wanted length."""

    def __init__(self, limits: PackLimits) -> None:
        self._limits = limits
        self._largest_seen = 0
        # The median forgets the first pack on each worker, which pays for imports and compilation.
        self._seconds_a_design: deque[float] = deque(maxlen=7)

    def observe(self, designs: int, seconds: float) -> None:
        """Take note of a finished pack."""
        self._seconds_a_design.append(max(seconds, 1e-6) / designs)
        self._largest_seen = max(self._largest_seen, designs)

    def choose(self, waiting: int, slots: int) -> int:
        """Return how many of the waiting designs the next pack should hold, at least 1.

        Until a pack has finished this is 1. Towards the end packs shrink, so that all slots finish together.
        """
        if not self._seconds_a_design:
            return 1
        cost = median(self._seconds_a_design)
        even = max(math.ceil(waiting / (2 * max(slots, 1))), int(self._limits.shortest_s / cost))
        wanted = min(int(self._limits.target_s / cost), even)
        return max(1, min(wanted, self._largest_seen * self._limits.growth, self._limits.largest))


@dataclass(frozen=True)
class Load:
    """The designs of one task in flight."""

    designs: tuple[Design, ...]
    suspect: bool = False
    """Whether a worker died with these designs: they run with nothing else on their worker."""


class Backlog:
    """The designs of a run that are not finished, and where each of them is.

    Designs with equal ids count once. Not thread-safe: the driver's loop owns it.
    """

    def __init__(self, designs: Iterable[Design], limits: PackLimits) -> None:
        self._unfinished = {design.design_id: design for design in designs}
        self._waiting = deque(alike_together(self._unfinished.values()))
        self._suspects: deque[tuple[Design, ...]] = deque()
        self._losses: dict[str, int] = {}
        self._limits = limits
        self._size = PackSize(limits)

    @property
    def unfinished(self) -> int:
        """Designs without an outcome."""
        return len(self._unfinished)

    @property
    def waiting(self) -> int:
        """Designs that no worker has lost and no task holds."""
        return len(self._waiting)

    @property
    def suspected(self) -> bool:
        """Whether designs wait to be run alone."""
        return bool(self._suspects)

    def take(self, slots: int) -> Load | None:
        """Return the next load for a worker that others may share, None if no such design waits."""
        size = min(self._size.choose(len(self._waiting), slots), len(self._waiting))
        designs = self._open(self._waiting.popleft() for _ in range(size))
        return Load(designs) if designs else None

    def take_suspect(self) -> Load | None:
        """Return the next load for a worker with nothing else in hand, None if there is no suspect."""
        while self._suspects:
            if designs := self._open(self._suspects.popleft()):
                return Load(designs, suspect=True)
        return None

    def finish(self, design_id: str) -> bool:
        """Record an outcome; return False for a design that has one or is not of this run."""
        return self._unfinished.pop(design_id, None) is not None

    def holds(self, design: Design) -> bool:
        """Whether a design has no outcome."""
        return design.design_id in self._unfinished

    def observe(self, designs: int, seconds: float) -> None:
        """Take note of how long a finished pack took."""
        self._size.observe(designs, seconds)

    def give_back(self, load: Load) -> None:
        """Put a load back that was never started, or whose task ended without blame."""
        if load.suspect:
            self._suspects.appendleft(load.designs)
        else:
            self._waiting.extendleft(reversed(load.designs))

    def lose(self, load: Load) -> Design | None:
        """Take back a load whose worker died; return the design to give up, if there is one.

        A load of several designs is halved, so that the culprit ends up alone in a number of steps that grows
        with the logarithm of the load; a design that was alone has lost one of its attempts.
        """
        designs = self._open(load.designs)
        if load.suspect and len(designs) == 1 and self._used_up(designs[0]):
            return designs[0]
        self._suspects.extend(part for part in halves(designs) if part)
        return None

    def _used_up(self, design: Design) -> bool:
        losses = self._losses.get(design.design_id, 0) + 1
        self._losses[design.design_id] = losses
        return losses >= self._limits.attempts

    def _open(self, designs: Iterable[Design]) -> tuple[Design, ...]:
        return tuple(design for design in designs if self.holds(design))


def alike_together(designs: Iterable[Design]) -> list[Design]:
    """Return designs with those of one network and optimizer next to each other, else in their order.

    The `keras` engine traces a program once for all of them: a design of 0.09 s takes 0.4 s where it is the
    first (digits, 10 epochs), and a worker that meets thousands of networks by turns cannot keep them all.
    """
    groups: dict[Hashable, list[Design]] = {}
    for design in designs:
        groups.setdefault(_program(design), []).append(design)
    return [design for group in groups.values() for design in group]


def _program(design: Design) -> Hashable:
    optimizer, reference = design.optimizer, design.reference
    given = reference and (reference.function, frozenset(reference.parameters.items()))
    return design.layers, design.residual, optimizer.name, frozenset(optimizer.parameters.items()), given


def halves(designs: Sequence[Design]) -> list[tuple[Design, ...]]:
    """Cut designs into two parts of nearly equal length; a single design stays whole."""
    middle = (len(designs) + 1) // 2
    return [tuple(designs[:middle]), tuple(designs[middle:])]
