"""Plan which designs of a study are trained together, and deal the work out among shards.

A plan depends on the study alone, never on the machines or on what has been trained: a study that goes on
meets the same stacks again, and the same numbers.
"""

import heapq
from collections.abc import Callable, Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dnnflow.design.layers import Design, activations_of
from dnnflow.engines.compiled.compiled_engine import CompiledEngine
from dnnflow.engines.records import Portion, TrainingSettings
from dnnflow.engines.stacked.stack_plan import Stack, StackLimits, TableShape, describe_plan, plan_stacks
from dnnflow.engines.stacked.stacked_engine import StackedEngine

if TYPE_CHECKING:
    from dnnflow.table.store.dataset import Dataset

STACKING = ("auto", "stacked")
"""Engines that train the designs of a portion as one stack."""
PLANNED_SLOTS = 8
"""Workers that stacks are cut for. Constant: a study that goes on has the same stacks on other workers."""


@dataclass(frozen=True)
class StudyPlan:
    """What a study's engine gets together."""

    single: tuple[Portion, ...] = ()
    """Designs that are trained one by one, those of one network next to each other."""
    stacks: tuple[Portion, ...] = ()
    """Stacks, long ones first; their cost is in seconds of one core."""
    summary: str | None = None
    """The stacks in words, where there are several."""

    @property
    def portions(self) -> tuple[Portion, ...]:
        """All portions, in the order they are trained in."""
        # Nobody knows how long a single one takes: begun last, it could keep all other workers waiting.
        return self.single + self.stacks

    def shard(self, index: int, count: int) -> tuple[Portion, ...]:
        """Return the portions of one of several shards, each with about the same work.

        Single designs are cut in slices, which keeps those of one network together; stacks are dealt out, so
        that every shard begins with long ones and ends with short ones.
        """
        size = len(self.single)
        return self.single[index * size // count : (index + 1) * size // count] + self._dealt(index, count)

    def containing(self, designs: Iterable[Design], shard: tuple[int, int] | None) -> list[Portion]:
        """Return the portions, of a shard or of all, that hold at least one of the designs."""
        wanted = {design.design_id for design in designs}
        portions = self.portions if shard is None else self.shard(*shard)
        return [x for x in portions if any(design.design_id in wanted for design in x.designs)]

    def _dealt(self, index: int, count: int) -> tuple[Portion, ...]:
        """Give each stack to the shard with the least work so far; return what the asked one got."""
        work = [(0.0, shard) for shard in range(count)]
        dealt: list[Portion] = []
        for portion in self.stacks:
            cost, shard = work[0]
            heapq.heapreplace(work, (cost + portion.cost, shard))
            if shard == index:
                dealt.append(portion)
        return tuple(dealt)


def plan_study(
    designs: Sequence[Design], settings: TrainingSettings, dataset: Callable[[], "Dataset"]
) -> StudyPlan:
    """Divide all designs of a study, those that are trained already among them, into portions.

    `dataset` opens the study's table; it is called where the table's size matters.
    """
    if settings.engine not in STACKING:
        return StudyPlan(_singles(designs))
    refuse = StackedEngine().refuse
    stackable = [design for design in designs if refuse(design) is None]
    if not stackable:
        return StudyPlan(_singles(designs))
    limits = StackLimits.of(settings, slots=PLANNED_SLOTS, activations=activations_of(designs))
    shape = TableShape.of(dataset(), settings.held_share)
    stacks = plan_stacks(stackable, shape, limits)
    stacked = {design.design_id for design in stackable}
    return StudyPlan(
        single=_singles(design for design in designs if design.design_id not in stacked),
        stacks=tuple(Portion(stack.designs, stack.cost_s, stack) for stack in stacks),
        summary=_describe(stackable, stacks, settings) if len(stacks) > 1 else None,
    )


def _describe(designs: Sequence[Design], stacks: Sequence[Stack], settings: TrainingSettings) -> str:
    refuse = CompiledEngine().refuse
    compiled = sum(refuse(design) is None for design in designs)
    if settings.engine != "auto" or not compiled:
        return describe_plan(stacks)
    return f"{describe_plan(stacks)}; processors train {compiled:,} of them as machine code, one by one"


def designs_of(portions: Iterable[Portion]) -> Iterator[Design]:
    """Yield the designs of portions, in order."""
    return (design for portion in portions for design in portion.designs)


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


def _singles(designs: Iterable[Design]) -> tuple[Portion, ...]:
    return tuple(Portion((design,)) for design in alike_together(designs))
