"""Fill tasks with portions, and find the design to blame when a worker dies.

Pure bookkeeping: nothing here knows of Dask. A portion is in exactly one place at a time: waiting, in a pack
in flight, or under suspicion; it leaves when all its designs are finished.
"""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from statistics import median
from typing import TypeVar

from dnnflow.design.layers import Design
from dnnflow.engines.records import Pack, Portion

T = TypeVar("T")


@dataclass(frozen=True)
class PackLimits:
    """How large a pack may be. A single portion is taken whatever its size."""

    target_s: float = 5.0
    """Seconds a pack should take: long against the milliseconds a task costs, short against a lost worker."""
    shortest_s: float = 0.25
    """Seconds below which a pack is not cut for the sake of an even end."""
    largest: int = 1000
    """Designs a pack holds at most."""
    growth: int = 8
    """A pack costs at most this many times the most costly finished one: estimates may be wrong."""
    attempts: int = 3
    """How often a design may lose its worker while it runs alone."""


class PackSize:
    """Learns from finished packs what a unit of cost takes, and with it how much makes a pack."""

    def __init__(self, limits: PackLimits) -> None:
        self._limits = limits
        self._largest_seen = 0.0
        # The median forgets the first pack on each worker, which pays for imports and compilation.
        self._seconds_a_unit: deque[float] = deque(maxlen=7)

    def observe(self, cost: float, seconds: float) -> None:
        """Take note of a finished pack."""
        self._seconds_a_unit.append(max(seconds, 1e-6) / cost)
        self._largest_seen = max(self._largest_seen, cost)

    def budget(self, waiting: float, slots: int) -> float:
        """Return what the next pack may cost, of the cost that waits.

        Until a pack has finished this is 0. Towards the end packs shrink, so that all slots finish together.
        """
        if not self._seconds_a_unit:
            return 0.0
        unit_s = median(self._seconds_a_unit)
        even = max(waiting / (2 * max(slots, 1)), self._limits.shortest_s / unit_s)
        return min(self._limits.target_s / unit_s, even, self._largest_seen * self._limits.growth)


@dataclass(frozen=True)
class Load:
    """The portions of one task in flight."""

    portions: tuple[Portion, ...]
    suspect: bool = False
    """Whether a worker died with these designs: they run with nothing else on their worker."""

    @property
    def designs(self) -> tuple[Design, ...]:
        """The designs of all portions, in order."""
        return tuple(design for portion in self.portions for design in portion.designs)

    @property
    def cost(self) -> float:
        """Expected time of the whole load, in the unit of its portions."""
        return sum(portion.cost for portion in self.portions)

    def pack(self, keep_above: float) -> Pack:
        """Return what a task is told of the load."""
        return Pack(self.portions, keep_above)


class Backlog:
    """The designs of a run that are not finished, and where each of them is.

    A portion is trained whole, in the order the portions are given in; only after a worker has died with it
    and nothing else is it cut. A design in several portions is trained with the first. Not thread-safe: the
    driver's loop owns it.
    """

    def __init__(self, portions: Iterable[Portion], limits: PackLimits) -> None:
        self._unfinished: set[str] = set()
        self._waiting = deque(self._each_once(portions))
        self._waiting_cost = sum(portion.cost for portion in self._waiting)
        self._suspects: deque[tuple[Portion, ...]] = deque()
        self._losses: dict[str, int] = {}
        self._limits = limits
        self._size = PackSize(limits)

    @property
    def unfinished(self) -> int:
        """Designs without an outcome."""
        return len(self._unfinished)

    @property
    def suspected(self) -> bool:
        """Whether designs wait to be run alone."""
        return bool(self._suspects)

    def take(self, slots: int) -> Load | None:
        """Return the next load for a worker that others may share, None if no such portion waits."""
        budget = self._size.budget(self._waiting_cost, slots)
        taken: list[Portion] = []
        cost, designs = 0.0, 0
        while self._waiting:
            portion = self._waiting[0]
            if self._is_open(portion):
                cost, designs = cost + portion.cost, designs + len(portion.designs)
                if taken and (cost > budget or designs > self._limits.largest):
                    break
                taken.append(portion)
            self._waiting.popleft()
            self._waiting_cost -= portion.cost
        return Load(tuple(taken)) if taken else None

    def take_suspect(self) -> Load | None:
        """Return the next load for a worker with nothing else in hand, None if there is no suspect."""
        while self._suspects:
            if portions := self._open(self._suspects.popleft()):
                return Load(portions, suspect=True)
        return None

    def finish(self, design_id: str) -> bool:
        """Record an outcome; return False for a design that has one or is not of this run."""
        if design_id not in self._unfinished:
            return False
        self._unfinished.remove(design_id)
        return True

    def holds(self, design: Design) -> bool:
        """Whether a design has no outcome."""
        return design.design_id in self._unfinished

    def observe(self, load: Load, seconds: float) -> None:
        """Take note of how long a finished load took."""
        self._size.observe(load.cost, seconds)

    def give_back(self, load: Load) -> None:
        """Put a load back that was never started, or whose task ended without blame."""
        if load.suspect:
            self._suspects.appendleft(load.portions)
        else:
            self._waiting.extendleft(reversed(load.portions))
            self._waiting_cost += load.cost

    def lose(self, load: Load) -> Design | None:
        """Take back a load whose worker died; return the design to give up, if there is one.

        A load of several portions is halved, then a portion of several designs, so that the culprit ends up
        alone in a number of steps that grows with the logarithm of the load; a design that was alone has lost
        one of its attempts. A portion is first run once more, whole and alone: a worker that dies for another
        reason then changes nothing of what a stack computes.
        """
        portions = self._open(load.portions)
        if len(portions) != 1 or not load.suspect:
            self._suspects.extend(part for part in halves(portions) if part)
            return None
        (portion,) = portions
        designs = tuple(design for design in portion.designs if self.holds(design))
        if len(portion.designs) == 1 and self._used_up(designs[0]):
            return designs[0]
        self._suspects.extend((share(portion, part),) for part in halves(designs) if part)
        return None

    def _used_up(self, design: Design) -> bool:
        losses = self._losses.get(design.design_id, 0) + 1
        self._losses[design.design_id] = losses
        return losses >= self._limits.attempts

    def _is_open(self, portion: Portion) -> bool:
        return any(self.holds(design) for design in portion.designs)

    def _open(self, portions: Iterable[Portion]) -> tuple[Portion, ...]:
        return tuple(portion for portion in portions if self._is_open(portion))

    def _each_once(self, portions: Iterable[Portion]) -> Iterator[Portion]:
        """Leave out designs that an earlier portion has."""
        for portion in portions:
            new = {x.design_id: x for x in portion.designs if x.design_id not in self._unfinished}
            self._unfinished.update(new)
            if len(new) == len(portion.designs):
                yield portion
            elif new:
                yield share(portion, tuple(new.values()))


def share(portion: Portion, designs: tuple[Design, ...]) -> Portion:
    """Return a portion of some designs of another one, at their share of its cost."""
    cost = portion.cost * len(designs) / len(portion.designs)
    return replace(portion, designs=designs, cost=cost, plan=None)


def halves(items: Sequence[T]) -> list[tuple[T, ...]]:
    """Cut a sequence into two parts of nearly equal length; a single item stays whole."""
    middle = (len(items) + 1) // 2
    return [tuple(items[:middle]), tuple(items[middle:])]
