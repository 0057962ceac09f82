"""Which designs are trained together as one tensor program: from a list of designs to stacks.

Pure arithmetic, without TensorFlow. Designs of one structure are taken as one group, and a group is divided
until each part makes a stack: it fits the limits, little of its arithmetic is padding, and it is expected to
take no longer than its halves would. Whether a group makes a stack depends on nothing but the group, so that
an engine which plans a stack's designs again finds that stack.
"""

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import compress, pairwise
from typing import NamedTuple

from dnnflow.design.layers import Design, Layer, Scalar, residual_sources
from dnnflow.errors import InputError

UNROLLED = 16
"""Hidden layers from which on alike ones run as a loop: one trace for all depths."""
LONGEST_UNROLLED = 32
"""Hidden layers that may differ from each other; each is traced, so graphs grow with them."""
OWN_PALETTE = 8
"""Designs with the same activations that are worth stacks of their own, without partitions by activation."""
LEAST_CUT = 4
"""Designs that a stack keeps when it is cut only to occupy all workers."""

FLOPS_S = 60e9
"""Of one core in batched products of matrices that stay in its cache."""
MEMORY_BYTES_S = 30e9
"""What one core reads and writes in an update that is one operation."""
UPDATE_BYTES = 28
"""Read and written for a weight in a step of Adam: gradient, weight and two moments."""
STEP_S, LAYER_STEP_S = 30e-6, 25e-6
"""What a step takes besides arithmetic, and how much more with each hidden layer: starting operations."""

_FLOAT_BYTES = 4
_COPIES = 4
"""Weights, gradient and two moments of an optimizer; and what is kept of a layer's output in a step."""
_TESTED_ROWS = 1024


@dataclass(frozen=True)
class TableShape:
    """What a plan must know of a table."""

    n_rows: int
    """Rows fitted in an epoch; none counts as one."""
    n_features: int
    n_classes: int


@dataclass(frozen=True)
class StackLimits:
    """How far stacks may grow. Defaults are the same on all machines: a study that goes on cuts as before."""

    slots: int = 1
    """Workers that should all have something to do."""
    memory_bytes: int = 512 * 2**20
    """Of a stack's weights, optimizer and outputs of layers."""
    cache_bytes: int = 8 * 2**20
    """Of what every step reads and writes: weights, gradients and two moments."""
    largest: int = 256
    """Designs in a stack."""
    waste: float = 0.25
    """Share of a stack's arithmetic that may be padding, in [0, 1)."""
    alone: bool = False
    """Whether each design is a stack by itself, so that its time is measured and not shared."""

    def __post_init__(self) -> None:
        for name in ("slots", "memory_bytes", "cache_bytes", "largest"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0.0 <= self.waste < 1.0:
            raise InputError(f"waste must be in [0, 1), got {self.waste}")


@dataclass(frozen=True)
class Signature:
    """What the trace of a stack depends on: stacks of one signature share it, whatever their widths."""

    depth: int
    """Hidden layers; 0 where they run as a loop, whose trace is the same for all depths."""
    looped: bool
    batch_norm: tuple[bool, ...]
    """Of each hidden layer; one entry for all in a loop."""
    palette: tuple[str, ...]
    """Names of the activations in the stack, sorted."""
    dropout: bool
    """Whether any layer drops outputs."""
    l2: bool
    """Whether any layer has a penalty."""
    residual: tuple[tuple[int, int], ...]
    """(last layer, first layer) of each residual group; empty in a loop."""
    residual_every: int
    """Layers of a residual group in a loop, 0 for none."""
    residual_input: bool
    """Whether the first group of a loop adds the input, which then has the width of the layers."""
    optimizer: str
    parameters: tuple[tuple[str, Scalar], ...]
    """Of the optimizer, sorted by name, without its learning rate."""
    padded: bool = False
    """Whether designs differ in the width of some layer."""


@dataclass(frozen=True)
class Stack:
    """Designs that are trained as one tensor program."""

    designs: tuple[Design, ...]
    signature: Signature
    widths: tuple[int, ...]
    """Units of each hidden layer: the largest of its designs."""
    n_steps: int
    """Batches until the last design has ended."""
    useful_flops: int
    """Floating-point operations that its designs need for their training."""
    padded_flops: int
    """Those that are done, with padded units and with epochs after a design's last."""
    n_bytes: int
    """Expected use of memory, without the rows."""
    cost_s: float
    """Expected seconds of one core."""

    @property
    def waste(self) -> float:
        """Share of the arithmetic that no design needs, in [0, 1)."""
        return 1 - self.useful_flops / self.padded_flops

    @property
    def step_flops(self) -> float:
        """Floating-point operations of a step."""
        return self.padded_flops / self.n_steps


def why_not(design: Design) -> str | None:
    """Say why a design cannot be part of a stack, or return None if it can."""
    if design.reference is not None:
        return "the stacked engine trains no designs by reference; take engine keras or auto"
    if len(design.layers) > LONGEST_UNROLLED and not _are_alike(design.layers):
        return (
            f"the stacked engine takes up to {LONGEST_UNROLLED} hidden layers that differ from each other, "
            f"got {len(design.layers)}; make all layers alike or take engine keras or auto"
        )
    return None


def plan_stacks(
    designs: Sequence[Design], shape: TableShape, limits: StackLimits | None = None
) -> list[Stack]:
    """Divide designs into stacks, long ones first.

    Every design is in exactly one stack. To plan the designs of a stack again, with one slot and else the
    same limits, gives that stack.

    Parameters
    ----------
    designs
        Those for which `why_not` gives None.
    shape
        Of the table they are trained on.
    limits
        Defaults to `StackLimits()`.
    """
    limits = limits or StackLimits()
    entries = _entries(designs, shape)
    if limits.alone:
        return _in_order(_Group([entry], shape).stack() for entry in entries)
    groups = [part for group in _alike_groups(entries, shape) for part in _divide(group, limits)]
    return _in_order(group.stack() for group in _share_out(groups, limits))


def useful_flops(design: Design, shape: TableShape) -> int:
    """Return the floating-point operations of a design's training: products of matrices in all its epochs."""
    widths = tuple(layer.units for layer in design.layers)
    return design.epochs * max(1, shape.n_rows) * _row_flops(widths, shape)


def describe_plan(stacks: Sequence[Stack]) -> str:
    """Say a plan in one line, e.g. `90 designs in 3 stacks of 2 to 64, 2 signatures, padding 3.1 % of …`."""
    sizes = [len(stack.designs) for stack in stacks]
    signatures = len({stack.signature for stack in stacks})
    done = sum(stack.padded_flops for stack in stacks)
    waste = 1 - sum(stack.useful_flops for stack in stacks) / done if done else 0.0
    least, most = min(sizes, default=0), max(sizes, default=0)
    span = f"{least:,}" if least == most else f"{least:,} to {most:,}"
    return (
        f"{_count(sum(sizes), 'design')} in {_count(len(sizes), 'stack')} of {span}, "
        f"{_count(signatures, 'signature')}, padding {100 * waste:.1f} % of the arithmetic"
    )


class _Kind(NamedTuple):
    """What designs of one stack must have in common."""

    signature: Signature
    """Without what only the stack decides: its palette, and whether it is padded."""
    depth: int
    batch_size: int


class _Layers(NamedTuple):
    """What a plan must know of hidden layers."""

    widths: tuple[int, ...]
    batch_norm: tuple[bool, ...]
    palette: tuple[str, ...]
    dropout: bool
    l2: bool
    looped: bool
    row_flops: int


class _Entry(NamedTuple):
    """A design on its way into a stack."""

    design: Design
    kind: _Kind
    palette: tuple[str, ...]
    sizes: tuple[int, ...]
    """Epochs, then units of each hidden layer, or once of all in a loop: what padding evens out."""
    useful_flops: int


class _Group:
    """Designs of one kind, and what they would take as one stack."""

    def __init__(self, entries: list[_Entry], shape: TableShape) -> None:
        self.entries = entries
        self.shape = shape
        self.kind = entries[0].kind
        self.most = tuple(map(max, zip(*(entry.sizes for entry in entries), strict=True)))
        self.least = tuple(map(min, zip(*(entry.sizes for entry in entries), strict=True)))

    @property
    def is_alike(self) -> bool:
        """Whether all designs have the same widths and epochs."""
        return self.most == self.least

    @cached_property
    def widths(self) -> tuple[int, ...]:
        """Padded units of each hidden layer."""
        return self.most[1:] * (self.kind.depth if self.kind.signature.looped else 1)

    @cached_property
    def useful_flops(self) -> int:
        return sum(entry.useful_flops for entry in self.entries)

    @cached_property
    def padded_flops(self) -> int:
        each = self.most[0] * max(1, self.shape.n_rows) * _row_flops(self.widths, self.shape)
        return len(self.entries) * each

    @cached_property
    def n_weights(self) -> int:
        """Padded weights of one design."""
        signature, sizes = self.kind.signature, (*self.widths, self.shape.n_classes)
        normalized = signature.batch_norm * (self.kind.depth if signature.looped else 1)
        kernels = self.shape.n_features * sizes[0] + sum(a * b for a, b in pairwise(sizes))
        return kernels + sum(sizes) + 4 * sum(compress(self.widths, normalized))

    @cached_property
    def n_bytes_each(self) -> int:
        """Memory of one design of the stack."""
        sizes = (*self.widths, self.shape.n_classes)
        batch = min(self.kind.batch_size, max(1, self.shape.n_rows))
        outputs = batch * sum(sizes) * _COPIES
        tested = _TESTED_ROWS * max(sizes) * 2
        return (self.n_weights * _COPIES + outputs + tested) * _FLOAT_BYTES

    @property
    def n_steps(self) -> int:
        return self.most[0] * max(1, -(-self.shape.n_rows // self.kind.batch_size))

    @cached_property
    def cost_s(self) -> float:
        """Expected seconds of one core."""
        moved = UPDATE_BYTES * self.n_weights * len(self.entries) / MEMORY_BYTES_S
        return self.padded_flops / FLOPS_S + self.n_steps * (moved + STEP_S + LAYER_STEP_S * self.kind.depth)

    def room(self, limits: StackLimits) -> int:
        """Return how many designs of the group's widths a stack may hold, at least one."""
        stepped = self.n_weights * _COPIES * _FLOAT_BYTES
        return max(
            1, min(limits.largest, limits.memory_bytes // self.n_bytes_each, limits.cache_bytes // stepped)
        )

    def part(self, entries: list[_Entry]) -> "_Group":
        """Return a group of some of the entries."""
        return _Group(entries, self.shape)

    def parts(self, count: int) -> Iterator["_Group"]:
        """Yield parts of about the same length, in order."""
        n = len(self.entries)
        for index in range(count):
            yield self.part(self.entries[index * n // count : (index + 1) * n // count])

    def halves(self) -> list["_Group"]:
        """Divide the group where its designs differ most, in the middle of that range by ratio."""
        ratios = [most / least for most, least in zip(self.most, self.least, strict=True)]
        axis = ratios.index(max(ratios))
        middle = self.most[axis] * self.least[axis]
        low = [entry for entry in self.entries if entry.sizes[axis] ** 2 <= middle]
        high = [entry for entry in self.entries if entry.sizes[axis] ** 2 > middle]
        return [self.part(low), self.part(high)]

    def stack(self) -> Stack:
        """Return the group as a stack."""
        palette = {name for entry in self.entries for name in entry.palette}
        return Stack(
            designs=tuple(entry.design for entry in self.entries),
            signature=replace(
                self.kind.signature,
                palette=tuple(sorted(palette)),
                padded=self.most[1:] != self.least[1:],
            ),
            widths=self.widths,
            n_steps=self.n_steps,
            useful_flops=self.useful_flops,
            padded_flops=self.padded_flops,
            n_bytes=self.n_bytes_each * len(self.entries),
            cost_s=self.cost_s,
        )


def _alike_groups(entries: Iterable[_Entry], shape: TableShape) -> Iterator[_Group]:
    """Yield groups of one kind: a palette of many designs has one of its own, the others share one.

    A stack of those that share has less than `OWN_PALETTE` designs of any palette, so that they share again
    when the stack is planned by itself.
    """
    kinds: dict[_Kind, list[_Entry]] = {}
    for entry in entries:
        kinds.setdefault(entry.kind, []).append(entry)
    for members in kinds.values():
        counts = Counter(entry.palette for entry in members)
        groups: dict[tuple[str, ...] | None, list[_Entry]] = {}
        for entry in members:
            owns = counts[entry.palette] >= OWN_PALETTE
            groups.setdefault(entry.palette if owns else None, []).append(entry)
        yield from (_Group(group, shape) for group in groups.values())


def _divide(group: _Group, limits: StackLimits) -> Iterator[_Group]:
    """Yield the group in parts that each make a stack."""
    todo = [group]
    while todo:
        group = todo.pop()
        n, room = len(group.entries), group.room(limits)
        if group.is_alike:
            yield from group.parts(-(-n // room))
            continue
        halves = group.halves()
        fits = n <= room and 1 - group.useful_flops / group.padded_flops <= limits.waste
        if fits and group.cost_s <= sum(half.cost_s for half in halves):
            yield group
        else:
            todo += halves[::-1]


def _share_out(groups: Sequence[_Group], limits: StackLimits) -> Iterator[_Group]:
    """Cut groups that would keep one worker busy while the others have ended."""
    longest_s = sum(group.cost_s for group in groups) / (4 * limits.slots)
    for group in groups:
        parts = min(math.ceil(group.cost_s / longest_s), len(group.entries) // LEAST_CUT)
        if limits.slots == 1 or parts < 2:
            yield group
            continue
        group.entries.sort(key=lambda entry: entry.sizes)
        for part in group.parts(parts):
            yield from _divide(part, limits)


def _in_order(stacks: Iterable[Stack]) -> list[Stack]:
    """Sort long stacks first; where they take about the same, those of one signature side by side.

    A worker keeps traces, but not without end; the power of two is what "about the same" means.
    """
    found = list(stacks)
    places = {signature: place for place, signature in enumerate(dict.fromkeys(x.signature for x in found))}

    def key(stack: Stack) -> tuple[int, int, float]:
        return -math.frexp(stack.cost_s)[1], places[stack.signature], -stack.cost_s

    return sorted(found, key=key)


def _entries(designs: Iterable[Design], shape: TableShape) -> list[_Entry]:
    """Return what the planner must know of each design; equal parts of designs are looked at once."""
    known: dict[tuple[Layer, ...], _Layers] = {}
    kinds: dict[_Kind, _Kind] = {}
    entries = []
    for design in designs:
        layers = known.get(design.layers)
        if layers is None:
            layers = known[design.layers] = _read_layers(design.layers, shape)
        kind = _kind(design, layers, shape)
        sizes = (design.epochs, *(layers.widths[:1] if layers.looped else layers.widths))
        flops = design.epochs * max(1, shape.n_rows) * layers.row_flops
        entries.append(_Entry(design, kinds.setdefault(kind, kind), layers.palette, sizes, flops))
    return entries


def _read_layers(layers: tuple[Layer, ...], shape: TableShape) -> _Layers:
    widths = tuple(layer.units for layer in layers)
    return _Layers(
        widths=widths,
        batch_norm=tuple(layer.batch_norm for layer in layers),
        palette=tuple(sorted({layer.activation for layer in layers})),
        dropout=any(layer.dropout for layer in layers),
        l2=any(layer.l2 for layer in layers),
        looped=len(layers) > UNROLLED and _are_alike(layers),
        row_flops=_row_flops(widths, shape),
    )


def _kind(design: Design, layers: _Layers, shape: TableShape) -> _Kind:
    depth, looped = len(layers.widths), layers.looped
    every = design.residual if looped and design.residual <= depth else 0
    sources = {} if looped or not design.residual else residual_sources(design, shape.n_features)
    signature = Signature(
        depth=0 if looped else depth,
        looped=looped,
        batch_norm=layers.batch_norm[:1] if looped else layers.batch_norm,
        palette=(),
        dropout=layers.dropout,
        l2=layers.l2,
        residual=tuple(sorted(sources.items())),
        residual_every=every,
        residual_input=every > 0 and layers.widths[0] == shape.n_features,
        optimizer=design.optimizer.name,
        parameters=tuple(sorted(design.optimizer.parameters.items())),
    )
    return _Kind(signature, depth, design.batch_size)


def _are_alike(layers: tuple[Layer, ...]) -> bool:
    """Whether layers differ in nothing but their initializers."""
    first = layers[0]
    return all(
        layer is first or replace(layer, initializer=first.initializer) == first for layer in layers[1:]
    )


def _row_flops(widths: tuple[int, ...], shape: TableShape) -> int:
    """Count the floating-point operations of a row forwards and backwards; none towards the features."""
    sizes = (*widths, shape.n_classes)
    return 4 * shape.n_features * sizes[0] + 6 * sum(a * b for a, b in pairwise(sizes))


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
