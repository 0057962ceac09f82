"""Train one stack from its initial weights to its test: epochs, stopping, and designs that leave early."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from dnnflow.design.initial import initial_weights, weight_shapes
from dnnflow.design.layers import Design
from dnnflow.engines.epoch_rows import RowBlock, TrainingRows
from dnnflow.engines.keras.build import dropout_seed
from dnnflow.engines.loop import Deadline, EpochTracker, Metrics, Weights
from dnnflow.engines.scoring import MeasuredRows, followed
from dnnflow.engines.stacked.stack_network import Options
from dnnflow.engines.stacked.stack_plan import Stack
from dnnflow.engines.stacked.stack_program import StackProgram
from dnnflow.engines.stacked.stack_weights import StackLayout
from dnnflow.engines.tensors import Tensors
from dnnflow.errors import DivergedError
from dnnflow.table.columns.kinds import Task

_CALL_FLOPS = 2e10
"""A call of TensorFlow takes at most so much work, well under a second: limits are checked between calls."""
_CALL_STEPS = 1000
_LANES = 8
"""Numbers that TensorFlow's elementwise operations take at once; what is left over at the end of an array is
rounded otherwise."""
_MEASURE_VALUES = 2**21
"""Outputs of a layer, over designs and rows, when nothing is learned; bounds the memory they take."""


class Member(EpochTracker):
    """One design of a stack that trains."""

    def __init__(self, design: Design, place: int) -> None:
        super().__init__(design)
        self.place = place
        """In the stack as it began."""
        self.weights: Weights = ()
        """The best so far with early stopping, else those at the end."""
        self.error: DivergedError | None = None

    def observe(self, fitted: Metrics, watched: Metrics | None) -> bool:
        """Take note of an epoch; a design that diverges ends alone."""
        try:
            return super().observe(fitted, watched)
        except DivergedError as error:
            self.error, self.is_running = error, False
            return False


def measures(task: Task, losses: np.ndarray, means: np.ndarray) -> list[Metrics]:
    """Return each design's measures from means over rows of losses and of what is followed, (designs,)."""
    pairs = zip(losses.tolist(), means.tolist(), strict=True)
    return [Metrics(loss, followed(task, mean)) for loss, mean in pairs]


def staying(running: Sequence[bool], edge: int, lanes: int = 8) -> list[int]:
    """Return which designs of a stack go on, so that they keep their bits.

    TensorFlow's elementwise operations take numbers by lanes, and what is left over at the end of an array is
    rounded otherwise. As many are left over, and of the same designs, where the number of designs changes by
    a multiple of the lanes and the last ones stay: `edge` designs at the end may have such numbers. One
    design alone is multiplied in another order.
    """
    count = len(running)
    wanted = [position for position in range(count) if running[position] or position >= count - edge]
    size = max(len(wanted), 2)
    size += (count - size) % lanes
    others = [position for position in range(count) if position not in set(wanted)]
    return sorted([*wanted, *others[: size - len(wanted)]])


class StackRun:
    """A stack on its way through the epochs; nothing else may use its program meanwhile."""

    def __init__(
        self, stack: Stack, layout: StackLayout, program: StackProgram, rows: TrainingRows, tensors: Tensors
    ) -> None:
        self._designs = stack.designs
        self._stack = stack
        self._layout = layout
        self._program = program
        self._rows = rows
        self._tensors = tensors
        self._options = _options(stack)
        self._batch_size = stack.designs[0].batch_size
        self._edge = 1
        # Parts of a layer by activation end anywhere, except where every design's part fills all lanes.
        whole = all(width % _LANES == 0 for width in stack.widths)
        self._may_shrink = len(stack.signature.palette) < 2 or whole
        self._shapes = [
            weight_shapes(design, layout.n_features, layout.n_outputs) for design in stack.designs
        ]

    def warm_up(self) -> None:
        """Have the rows as tensors, and the graph run once, for no step, before the clock starts."""
        if not self._program.has_run:
            tensors, *_ = next(self._calls(0))
            self._program.train(tensors, self._batch_size, 0, 0)

    def fit(self, deadline: Deadline) -> list[Member]:
        """Train every design as it says, and return them with their courses and weights.

        Raises
        ------
        TimeLimitError
            When the stack takes longer than its limit.
        """
        members = [Member(design, place) for place, design in enumerate(self._designs)]
        self._start(members)
        inside = members  # of the stack as it is now
        for epoch in range(max(member.design.epochs for member in members)):
            self._program.set_rates(np.array([member.rate(epoch) for member in inside]))
            self._run_epoch(epoch, inside, deadline)
            if not any(member.is_running for member in inside):
                break
            inside = self._compact(inside)
        self._program.release()
        return members

    def _compact(self, inside: list[Member]) -> list[Member]:
        """Go on with less than half of the stack where the others have ended; until then all go along."""
        stays = staying([member.is_running for member in inside], self._edge)
        if 2 * len(stays) > len(inside) or not self._may_shrink:
            return inside
        self._program.keep(stays)
        return [inside[position] for position in stays]

    def test(self, members: Sequence[Member]) -> list[MeasuredRows | None]:
        """Return what each design gives for the rows it is measured on; None where there are none.

        Measured with the weights that members have, so that what is recorded is what is kept.
        """
        if not self._rows.is_measured:
            return [None] * len(members)
        weights = [  # those that diverged keep their place, so that nobody else's numbers know of them
            member.weights or tuple(map(np.zeros, shapes))
            for member, shapes in zip(members, self._shapes, strict=True)
        ]
        arrays = self._layout.pack(weights, self._program.dtype)
        self._program.restart(arrays, self._options, np.ones(len(members)), 0)
        found = self._measure(self._rows.measured(), len(members))
        self._program.release()
        return list(found)

    def _start(self, members: Sequence[Member]) -> None:
        n_features, n_outputs = self._layout.n_features, self._layout.n_outputs
        dtype = self._program.dtype
        first = [initial_weights(design, n_features, n_outputs, dtype) for design in self._designs]
        arrays = self._layout.pack(first, dtype)
        rates = np.array([member.rate(0) for member in members])
        self._program.restart(arrays, self._options, rates, dropout_seed(self._designs[0], 0))

    def _run_epoch(self, epoch: int, inside: Sequence[Member], deadline: Deadline) -> None:
        """Train an epoch, measure the validation part, and let each design take note of both."""
        loss_sum, total, count = np.zeros(len(inside)), np.zeros(len(inside)), 0
        for tensors, first, last in self._calls(epoch):
            losses, found = self._program.train(tensors, self._batch_size, first, last)
            loss_sum, total, count = loss_sum + losses, total + found, count + last - first
            deadline.check(f"in epoch {epoch + 1}")
        fitted = measures(self._rows.dataset.task, loss_sum / count, total / count)
        watched = self._watch(len(inside))
        kept = []
        for position, member in enumerate(inside):
            seen = watched[position] if watched else None
            if member.is_running and member.observe(fitted[position], seen):
                kept.append(position)
        if kept:
            arrays = self._program.weights(kept)
            for position, place in enumerate(kept):
                member = inside[place]
                member.weights = self._layout.unpack(arrays, position, self._shapes[member.place])

    def _calls(self, epoch: int) -> Iterator[tuple[Any, int, int]]:
        """Yield tensors of rows, and which of them a call of TensorFlow learns from.

        By arithmetic and not by the clock, so that sums are repeatable.
        """
        steps = max(1, min(_CALL_STEPS, int(_CALL_FLOPS / self._stack.step_flops)))
        size = self._batch_size * steps
        for block in self._rows.epoch(epoch, self._batch_size):
            tensors, length = self._tensors.of(block), len(block.order)
            for first in range(0, length, size):
                yield tensors, first, min(first + size, length)
        self._edge = -(-_LANES // (length % self._batch_size or self._batch_size))

    def _watch(self, n_designs: int) -> list[Metrics] | None:
        if not self._rows.has_validation:
            return None
        found = self._measure(self._rows.validation(), n_designs)
        return [Metrics(one.loss, one.followed) for one in found]

    def _measure(self, blocks: Iterator[RowBlock], n_designs: int) -> list[MeasuredRows]:
        """Return what each design gives for some rows; of no rows, outputs of length 0 and a loss of NaN."""
        n_outputs, targets = self._layout.n_outputs, self._rows.dataset.targets
        loss_sum, truth, found = np.zeros(n_designs), [np.empty((0, *targets.shape), targets.dtype)], []
        size = max(32, _MEASURE_VALUES // (len(self._designs) * max((*self._layout.widths, n_outputs))))
        for block in blocks:
            for first in range(0, len(block.order), size):
                part = block.order[first : first + size]
                losses, outputs = self._program.measure(self._tensors.of(block._replace(order=part)))
                loss_sum += losses * len(part)
                truth.append(block.labels[part])
                found.append(outputs)
        true = np.concatenate(truth)
        outputs = np.concatenate(found, axis=1)  # (designs, rows, outputs)
        return [
            MeasuredRows(float(loss) / len(true), true, one, targets)
            for loss, one in zip(loss_sum, outputs, strict=True)
        ]


def _options(stack: Stack) -> Options:
    """Return what the designs of a stack differ in, as arrays."""
    columns = [design.layers[:1] if stack.signature.looped else design.layers for design in stack.designs]
    palette = stack.signature.palette

    def table(read: Any, dtype: type) -> np.ndarray:
        values = [[read(layer) for layer in layers] for layers in columns]
        return np.array(values, dtype).reshape(len(columns), -1)

    return Options(
        units=table(lambda layer: layer.units, np.int32),
        activation=table(lambda layer: palette.index(layer.activation), np.int32),
        dropout=table(lambda layer: layer.dropout, np.float64),
        l2=table(lambda layer: layer.l2, np.float64),
        member=np.arange(len(columns), dtype=np.int32),
    )
