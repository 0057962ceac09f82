"""Train many designs of one kind as a single tensor program."""

import time
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from dnnflow.design.layers import Design, count_flops, count_parameters
from dnnflow.engines.epoch_rows import TrainingRows
from dnnflow.engines.loop import Deadline, Result, check_finite, check_memory, completed_trial, memory_limit
from dnnflow.engines.process_setup import import_tensorflow, keep_freed_memory, limit_threads
from dnnflow.engines.scoring import MeasuredRows
from dnnflow.engines.seam import Fitted, Spent, TrainingContext, check_training, failed_trial
from dnnflow.engines.stacked.stack_plan import (
    Stack,
    StackLimits,
    TableShape,
    plan_stacks,
    useful_flops,
    why_not,
)
from dnnflow.engines.stacked.stack_weights import StackLayout
from dnnflow.engines.tensors import Tensors, graphs_as_written, on_device
from dnnflow.errors import DamagedError, DesignError, DivergedError, OutOfMemoryError
from dnnflow.events import utc_now

if TYPE_CHECKING:
    from dnnflow.engines.stacked.stack_program import StackProgram
    from dnnflow.engines.stacked.stack_run import Member
    from dnnflow.table.store.dataset import Dataset

_KEPT_PROGRAMS = 64


class StackedEngine:
    """Trains stacks: designs that differ in widths, rates and seeds are slices of the same tensors.

    A program is traced once for all stacks of a signature. A stack in which anything goes wrong is halved,
    down to single designs, which then fail alone. Not thread-safe: one training at a time.
    """

    name = "stacked"

    def __init__(self) -> None:
        self._programs: OrderedDict[tuple[object, ...], StackProgram] = OrderedDict()
        self._tensors = Tensors()

    def refuse(self, design: Design) -> str | None:
        """Refuse what cannot be stacked, with the reason."""
        return why_not(design)

    def train(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        """Yield one `Fitted` a design, stack by stack."""
        limit_threads(1)
        keep_freed_memory()
        import_tensorflow()
        sound = []
        for design in designs:
            try:
                check_training(design, holds_rows=context.holds_rows)
                sound.append(design)
            except DesignError as error:
                yield _failed(design, error, context, Spent(utc_now()))
        plan = context.plan
        if isinstance(plan, Stack) and sound == list(plan.designs):
            yield from self._train_each([plan], context)
        else:
            yield from self._train_anew(sound, context)

    def _train_anew(self, designs: Sequence[Design], context: TrainingContext) -> Iterator[Fitted]:
        """Plan stacks and train them."""
        limits = StackLimits.of(context.settings, activations=context.activations)
        yield from self._train_each(plan_stacks(designs, _shape(context), limits), context)

    def _train_each(self, stacks: Iterable[Stack], context: TrainingContext) -> Iterator[Fitted]:
        for stack in stacks:
            middle, started_at, start = len(stack.designs) // 2, utc_now(), time.monotonic()
            halves: tuple[Sequence[Design], ...] = ()
            fitted: list[Fitted] = []
            try:
                fitted = self._train_stack(stack, context)
            except DamagedError:
                raise
            except Exception as error:  # libraries may raise anything: the study goes on
                if middle:
                    halves = stack.designs[:middle], stack.designs[middle:]
                else:
                    spent = Spent(started_at, total_s=time.monotonic() - start)
                    fitted = [_failed(stack.designs[0], error, context, spent)]
            yield from fitted
            for half in halves:  # the error is gone by now, and with it the memory its frames hold
                yield from self._train_anew(half, context)

    def _train_stack(self, stack: Stack, context: TrainingContext) -> list[Fitted]:
        """Train and test a stack's designs, and share its time among them by their arithmetic."""
        from dnnflow.engines.stacked.stack_run import StackRun

        started_at, start = utc_now(), time.monotonic()
        _check_memory(stack, context)
        settings, n_designs = context.settings, len(stack.designs)
        with on_device(context.device), graphs_as_written():
            layout = layout_of(stack, context.dataset)
            program = self._program(stack, layout, context)
            run = StackRun(stack, layout, program, TrainingRows.of(context), self._tensors)
            run.warm_up()
            deadline = Deadline(settings.time_limit_s and settings.time_limit_s * n_designs)
            members = run.fit(deadline)
            training_s = time.monotonic() - deadline.started_s
            tests = run.test(members)
        total_s = time.monotonic() - start
        return [
            _fitted(
                member, test, context, Spent(started_at, total_s * share, training_s * share, n_designs > 1)
            )
            for member, test, share in zip(members, tests, _shares(members, _shape(context)), strict=True)
        ]

    def _program(self, stack: Stack, layout: StackLayout, context: TrainingContext) -> "StackProgram":
        """Return the program of a signature, traced where it is not kept."""
        from dnnflow.engines.stacked.stack_program import StackProgram

        loss, is_weighted = context.loss, context.is_weighted
        key = (stack.signature, layout.n_features, layout.n_outputs, context.device, loss, is_weighted)
        program = self._programs.pop(key, None)
        if program is None:
            context.compiling(True)
            try:
                program = StackProgram(stack.signature, layout, loss=loss, is_weighted=is_weighted)
            finally:
                context.compiling(False)
        self._programs[key] = program
        while len(self._programs) > _KEPT_PROGRAMS:
            self._programs.popitem(last=False)
        return program


def _shape(context: TrainingContext) -> TableShape:
    return TableShape.of(context.dataset, context.settings.held_share)


def layout_of(stack: Stack, dataset: "Dataset") -> StackLayout:
    first = stack.designs[0]
    return StackLayout(
        widths=stack.widths,
        batch_norm=tuple(layer.batch_norm for layer in first.layers),
        n_features=dataset.n_features,
        n_outputs=dataset.n_outputs,
        looped=stack.signature.looped,
    )


def _check_memory(stack: Stack, context: TrainingContext) -> None:
    """Refuse a stack that does not fit, before anything is allocated.

    Raises
    ------
    OutOfMemoryError
        When it needs more than `context.memory_bytes`, or, without one, than what the machine has left.
    """
    if len(stack.designs) == 1:
        check_memory(stack.designs[0], context, stack.n_bytes)
        return
    limit = memory_limit(context)
    if stack.n_bytes > limit:
        raise OutOfMemoryError(
            f"a stack must fit the worker's memory of {limit / 1e9:.3g} GB, got {stack.n_bytes / 1e9:.3g} GB"
        )


def _shares(members: "Sequence[Member]", shape: TableShape) -> list[float]:
    """Return each design's share of its stack's arithmetic, by the epochs it ran."""
    flops = [
        useful_flops(member.design, shape) * max(len(member.history.fitted), 1) / member.design.epochs
        for member in members
    ]
    return [one / sum(flops) for one in flops]


def _fitted(
    member: "Member",
    test: MeasuredRows | None,
    context: TrainingContext,
    spent: Spent,
) -> Fitted:
    """Return a member's trial, and its weights as they were tested."""
    design, dataset = member.design, context.dataset
    try:
        if member.error is not None:
            raise member.error
        if test is not None:
            check_finite(test.loss, "the rows it is measured on")
    except DivergedError as error:
        return _failed(design, error, context, spent)
    result = Result(
        history=member.history,
        measured=test,
        parameters=count_parameters(design, dataset.n_features, dataset.n_outputs),
        flops=count_flops(design, dataset.n_features, dataset.n_outputs),
        weights=lambda: member.weights,
    )
    trial = completed_trial(design, result, context, spent, engine=StackedEngine.name)
    return Fitted(trial, result.weights, result.predicted(context))


def _failed(design: Design, error: Exception, context: TrainingContext, spent: Spent) -> Fitted:
    return Fitted(failed_trial(design, error, context, spent, engine=StackedEngine.name))
