"""Divide designs into stacks, each of which is trained as one tensor program.

Pure arithmetic, without TensorFlow. Designs of one kind are a group, and a group is divided until each part
makes a stack: it fits the limits, little of its arithmetic is padding, and it is expected to take no longer
than its halves. Whether a group makes a stack depends on nothing but the group: an engine that plans a
stack's designs again finds that stack.
"""

import math
from collections import Counter
from collections.abc import Hashable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, lru_cache
from itertools import compress, pairwise
from typing import TYPE_CHECKING, NamedTuple

from dnnflow.design.layers import Design, Layer, Scalar, residual_sources
from dnnflow.errors import DesignError, InputError

if TYPE_CHECKING:
    from dnnflow.engines.records import TrainingSettings
    from dnnflow.table.store.dataset import Dataset

UNROLLED = 16
"""Most hidden layers that are traced one by one where they are alike; more run as a loop."""
LONGEST_UNROLLED = 32
"""Most hidden layers that may differ: each is traced, and takes its time to build."""
OWN_ACTIVATION = 32
"""Designs of a single activation that are worth a trace of their own. The others of their kind share stacks,
in which every layer is divided by activation: up to a quarter more time, where a trace takes 0.1 to 0.3 s."""
LEAST_CUT = 4
"""Designs that a stack keeps when it is cut only to occupy all workers."""
FLOPS_S = 60e9
"""Of one core, in products of matrices that stay in its cache."""
MEMORY_BYTES_S = 30e9
"""What one core reads and writes in an update that is one operation."""
UPDATE_BYTES = 28
"""Read and written for each weight in a step of Adam."""
STEP_S, LAYER_STEP_S = 80e-6, 25e-6
"""What a step takes besides, and what each hidden layer adds to it: starting operations."""
MIXED_LAYER_STEP_S = 50e-6
"""What each hidden layer adds where it is divided by activation."""
_FLOAT_BYTES = 4
_COPIES = 4
"""Of a weight: itself, gradient and two moments; and what a step keeps of each output of a layer."""
_HELD = 10
"""Of a weight in memory at most: those, the weight times its rate, a loop's copies, and those on the host."""
_TESTED_ROWS = 1024


@dataclass(frozen=True)
class TableShape:
    """What a plan must know of a table."""

    n_rows: int
    """Rows fitted in an epoch; none counts as one."""
    n_features: int
    n_outputs: int

    @classmethod
    def of(cls, dataset: "Dataset", held_share: float) -> "TableShape":
        """Return the shape of what an epoch of a dataset fits."""
        rows = dataset.rows["train"]
        return cls(rows - round(held_share * rows), dataset.n_features, dataset.n_outputs)

    def __post_init__(self) -> None:
        object.__setattr__(self, "n_rows", max(1, self.n_rows))


@dataclass(frozen=True)
class StackLimits:
    """How far stacks may grow. Defaults are the same everywhere: a study that goes on is cut as before."""

    slots: int = 1
    """Workers that should all have something to do."""
    memory_bytes: int = 512 * 2**20
    """Of weights, optimizer and outputs of layers."""
    cache_bytes: int = 8 * 2**20
    """Of what every step reads and writes: weights, gradients and two moments."""
    largest: int = 256
    """Designs in a stack."""
    longest_s: float = 60.0
    """Seconds that a stack may be expected to take, unless it is a single design."""
    waste: float = 0.5
    """Share of a stack's arithmetic that may be padding, in [0, 1)."""
    alone: bool = False
    """Whether each design is a stack by itself, so that its time is measured and not shared."""
    activations: tuple[str, ...] = ()
    """All that occur in the study: what stacks of several activations are made ready for."""

    @classmethod
    def of(
        cls, settings: "TrainingSettings", *, slots: int = 1, activations: tuple[str, ...]
    ) -> "StackLimits":
        """Return a study's limits: those for a processor's cache, larger where it asks for more memory."""
        factor = settings.stack_mb * 2**20 / cls.cache_bytes
        grown = max(1.0, factor)
        return cls(
            slots=slots,
            memory_bytes=round(cls.memory_bytes * grown),
            cache_bytes=max(1, round(cls.cache_bytes * factor)),
            largest=round(cls.largest * grown),
            longest_s=cls.longest_s * grown,
            alone=settings.measured_alone,
            activations=activations,
        )

    def __post_init__(self) -> None:
        for name in ("slots", "memory_bytes", "cache_bytes", "largest"):
            if getattr(self, name) < 1:
                raise InputError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0.0 <= self.waste < 1.0:
            raise InputError(f"waste must be in [0, 1), got {self.waste}")


@dataclass(frozen=True)
class Signature:
    """What a trace depends on: stacks of one signature share it, whatever their widths and sizes."""

    depth: int
    """Hidden layers; 0 in a loop, whose trace is the same for all depths."""
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
    """Layers of a residual group in a loop; 0 for none."""
    residual_input: bool
    """Whether the first group of a loop adds the input, which then is as wide as the layers."""
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
    """Those that are done, with padded units, and with a design's steps after its end."""
    n_bytes: int
    """Memory it is expected to take, besides the rows."""
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
        return "the stacked engine cannot train designs by reference; take engine auto or keras"
    if len(design.layers) > LONGEST_UNROLLED and not _are_alike(design.layers):
        return (
            f"the stacked engine takes at most {LONGEST_UNROLLED} hidden layers that differ, "
            f"got {len(design.layers)}; make them alike, or take engine auto or keras"
        )
    return None


def plan_stacks(
    designs: Iterable[Design], shape: TableShape, limits: StackLimits | None = None
) -> list[Stack]:
    """Divide designs into stacks, long ones first; every design is in exactly one.

    To plan the designs of a stack again, with one slot and else the same limits, gives that stack.

    Raises
    ------
    DesignError
        For a design that cannot be stacked (`why_not`).
    """
    limits = limits or StackLimits()
    entries = _entries(designs, shape)
    if limits.alone:
        return _in_order(_Group([entry], shape).stack(limits.activations) for entry in entries)
    groups = [part for group in _groups(entries, shape) for part in _divide(group, limits)]
    return _in_order(group.stack(limits.activations) for group in _share_out(groups, limits))


def useful_flops(design: Design, shape: TableShape) -> int:
    """Return the floating-point operations of a training: its products of matrices, over all its epochs."""
    widths = tuple(layer.units for layer in design.layers)
    return design.epochs * shape.n_rows * _row_flops(widths, shape)


def describe_plan(stacks: Sequence[Stack]) -> str:
    """Say a plan in one line: designs, stacks, signatures, and how much of the arithmetic is padding."""
    sizes = [len(stack.designs) for stack in stacks]
    done = sum(stack.padded_flops for stack in stacks)
    waste = 1 - sum(stack.useful_flops for stack in stacks) / done if done else 0.0
    least, most = min(sizes, default=0), max(sizes, default=0)
    return (
        f"{_count(sum(sizes), 'design')} in {_count(len(sizes), 'stack')} of "
        f"{f'{least:,}' if least == most else f'{least:,} to {most:,}'}, "
        f"{_count(len({stack.signature for stack in stacks}), 'signature')}, "
        f"padding {100 * waste:.1f} % of the arithmetic"
    )


class _Kind(NamedTuple):
    """What designs of one stack must have in common."""

    signature: Signature
    """Without what only a stack has: a palette, and whether it is padded."""
    depth: int
    batch_size: int


class _Entry(NamedTuple):
    """A design on its way into a stack."""

    design: Design
    kind: _Kind
    palette: tuple[str, ...]
    sizes: tuple[int, ...]
    """Epochs, then units of each hidden layer, once for all in a loop: what padding evens out."""
    useful_flops: int


class _Group:
    """Designs of one kind, and what they would take as one stack."""

    def __init__(self, entries: list[_Entry], shape: TableShape) -> None:
        self.entries, self.shape, self.kind = entries, shape, entries[0].kind
        columns = list(zip(*(entry.sizes for entry in entries), strict=True))
        self.most: tuple[int, ...] = tuple(map(max, columns))
        self.least: tuple[int, ...] = tuple(map(min, columns))
        self.widths = self.most[1:] * (self.kind.depth if self.kind.signature.looped else 1)
        self.n_steps = self.most[0] * -(-shape.n_rows // self.kind.batch_size)
        each = self.most[0] * shape.n_rows * _row_flops(self.widths, shape)
        self.padded_flops = len(entries) * each
        self.useful_flops = sum(entry.useful_flops for entry in entries)

    @cached_property
    def activations(self) -> set[str]:
        """Those of the designs."""
        return {name for entry in self.entries for name in entry.palette}

    @cached_property
    def n_weights(self) -> int:
        """Padded weights of one design, four a unit for batch normalisation."""
        looped, sizes = self.kind.signature.looped, (*self.widths, self.shape.n_outputs)
        normalized = self.kind.signature.batch_norm * (self.kind.depth if looped else 1)
        kernels = self.shape.n_features * sizes[0] + sum(a * b for a, b in pairwise(sizes))
        return kernels + sum(sizes) + 4 * sum(compress(self.widths, normalized))

    @cached_property
    def n_bytes_each(self) -> int:
        """Memory of one design."""
        sizes, rows = (*self.widths, self.shape.n_outputs), min(self.kind.batch_size, self.shape.n_rows)
        outputs = rows * sum(sizes) * _COPIES + 2 * _TESTED_ROWS * max(sizes)
        return (self.n_weights * _HELD + outputs) * _FLOAT_BYTES

    @cached_property
    def each_s(self) -> float:
        """Seconds that one design more takes."""
        updates_s = self.n_steps * self.n_weights * UPDATE_BYTES / MEMORY_BYTES_S
        return self.padded_flops / len(self.entries) / FLOPS_S + updates_s

    @cached_property
    def fixed_s(self) -> float:
        """Seconds that steps take however many designs there are."""
        layer_s = LAYER_STEP_S + MIXED_LAYER_STEP_S * (len(self.activations) > 1)
        return self.n_steps * (STEP_S + layer_s * self.kind.depth)

    @property
    def cost_s(self) -> float:
        """Expected seconds of one core."""
        return self.fixed_s + len(self.entries) * self.each_s

    def room(self, limits: StackLimits) -> int:
        """Return how many designs of these widths a stack may hold: at least one, however large."""
        in_cache = limits.cache_bytes // (self.n_weights * _COPIES * _FLOAT_BYTES)
        in_time = int(max(0.0, limits.longest_s - self.fixed_s) / self.each_s)
        return _rounded(min(limits.largest, limits.memory_bytes // self.n_bytes_each, in_cache, in_time))

    def halves(self) -> list["_Group"]:
        """Divide the group where its designs differ most, in the middle of that range by ratio."""
        ratios = [most / least for most, least in zip(self.most, self.least, strict=True)]
        axis = ratios.index(max(ratios))
        middle = self.most[axis] * self.least[axis]
        sides: tuple[list[_Entry], list[_Entry]] = ([], [])
        for entry in self.entries:
            sides[entry.sizes[axis] ** 2 > middle].append(entry)
        return [_Group(side, self.shape) for side in sides]

    def stack(self, activations: Iterable[str]) -> Stack:
        """Return the group as a stack.

        One of several activations is ready for all of the study's and for padding, to share its trace.
        """
        mixed = len(self.activations) > 1
        palette = self.activations.union(activations if mixed else ())
        padded = mixed or self.most[1:] != self.least[1:]
        return Stack(
            designs=tuple(entry.design for entry in self.entries),
            signature=replace(self.kind.signature, palette=tuple(sorted(palette)), padded=padded),
            widths=self.widths,
            n_steps=self.n_steps,
            useful_flops=self.useful_flops,
            padded_flops=self.padded_flops,
            n_bytes=self.n_bytes_each * len(self.entries),
            cost_s=self.cost_s,
        )


def _groups(entries: Iterable[_Entry], shape: TableShape) -> Iterator[_Group]:
    """Yield groups of one kind; an activation that many designs have throughout has a group of its own.

    What is left of a kind is one group: none of its stacks has enough designs of an activation to be divided
    when it is planned again.
    """
    kinds: dict[_Kind, list[_Entry]] = {}
    for entry in entries:
        kinds.setdefault(entry.kind, []).append(entry)
    for members in kinds.values():
        counts = Counter(entry.palette for entry in members)
        own = {palette for palette, n in counts.items() if len(palette) == 1 and n >= OWN_ACTIVATION}
        groups: dict[Hashable, list[_Entry]] = {}
        for entry in members:
            groups.setdefault(entry.palette if entry.palette in own else None, []).append(entry)
        yield from (_Group(group, shape) for group in groups.values())


def _divide(group: _Group, limits: StackLimits) -> Iterator[_Group]:
    """Yield the group in parts that each make a stack."""
    todo = [group]
    while todo:
        group = todo.pop()
        n, room = len(group.entries), group.room(limits)
        if group.most == group.least:
            for first in range(0, n, room):
                yield _Group(group.entries[first : first + room], group.shape)
            continue
        halves = group.halves()
        fits = n <= room and 1 - group.useful_flops / group.padded_flops <= limits.waste
        if fits and group.cost_s <= sum(half.cost_s for half in halves):
            yield group
        else:
            todo += halves


def _share_out(groups: Sequence[_Group], limits: StackLimits) -> Iterator[_Group]:
    """Cut groups that would keep one worker busy when the others have ended."""
    longest_s = sum(group.cost_s for group in groups) / (4 * limits.slots)
    for group in groups:
        count = min(math.ceil(group.cost_s / longest_s), len(group.entries) // LEAST_CUT)
        if limits.slots == 1 or count < 2:
            yield group
            continue
        by_size = _Group(sorted(group.entries, key=lambda entry: entry.sizes), group.shape)
        for part in _parts(by_size, count):
            yield from _divide(part, limits)


def _parts(group: _Group, count: int) -> Iterator[_Group]:
    """Yield parts of the group, in order, whose lengths differ by one at most."""
    n = len(group.entries)
    for index in range(count):
        yield _Group(group.entries[index * n // count : (index + 1) * n // count], group.shape)


def _rounded(room: int) -> int:
    """Return the next of 1, 2, 3, 4, 6, 8, 12, 16, 24, ... that is not larger, at least 1.

    TensorFlow keeps a compiled product for every shape it has met: with few sizes a worker's memory stays
    where it is.
    """
    power = 1 << max(room, 1).bit_length() - 1
    return power + power // 2 if 2 * room >= 3 * power else power


def _in_order(stacks: Iterable[Stack]) -> list[Stack]:
    """Sort long stacks first; within a power of two of seconds by signature, as a worker keeps its traces."""
    found = list(stacks)
    places = {signature: place for place, signature in enumerate(dict.fromkeys(x.signature for x in found))}
    return sorted(found, key=lambda x: (-math.frexp(x.cost_s)[1], places[x.signature], -x.cost_s))


def _entries(designs: Iterable[Design], shape: TableShape) -> list[_Entry]:
    """Return what the planner must know of each design; what is the same in many is worked out once."""
    signatures: dict[Hashable, Signature] = {}
    entries = []
    for design in designs:
        if reason := why_not(design):
            raise DesignError(reason)
        optimizer = design.optimizer
        key = (design.layers, design.residual, optimizer.name, *sorted(optimizer.parameters.items()))
        signature = signatures.get(key) or signatures.setdefault(key, _signature(design, shape))
        widths = tuple([layer.units for layer in design.layers])
        sizes = (design.epochs, *(widths[:1] if signature.looped else widths))
        useful = design.epochs * shape.n_rows * _row_flops(widths, shape)
        palette = tuple(sorted({layer.activation for layer in design.layers}))
        kind = _Kind(signature, len(widths), design.batch_size)
        entries.append(_Entry(design, kind, palette, sizes, useful))
    return entries


def _signature(design: Design, shape: TableShape) -> Signature:
    """Return a design's signature as far as it does not depend on its stack."""
    layers, residual = design.layers, design.residual
    looped = len(layers) > UNROLLED and _are_alike(layers)
    every = residual if looped and residual <= len(layers) else 0
    sources = {} if looped else residual_sources(design, shape.n_features)
    norms = tuple(layer.batch_norm for layer in layers)
    return Signature(
        depth=0 if looped else len(layers),
        looped=looped,
        batch_norm=norms[:1] if looped else norms,
        palette=(),
        dropout=any(layer.dropout for layer in layers),
        l2=any(layer.l2 for layer in layers),
        residual=tuple(sorted(sources.items())),
        residual_every=every,
        residual_input=every > 0 and layers[0].units == shape.n_features,
        optimizer=design.optimizer.name,
        parameters=tuple(sorted(design.optimizer.parameters.items())),
    )


def _are_alike(layers: tuple[Layer, ...]) -> bool:
    """Whether layers differ in nothing but their initializers."""
    first = layers[0]
    alike = replace(first, initializer="zeros")
    return all(layer is first or replace(layer, initializer="zeros") == alike for layer in layers)


@lru_cache(maxsize=4096)
def _row_flops(widths: tuple[int, ...], shape: TableShape) -> int:
    """Count the operations of a row, forwards and twice as many backwards; none towards the features."""
    sizes = (*widths, shape.n_outputs)
    return 4 * shape.n_features * sizes[0] + 6 * sum(a * b for a, b in pairwise(sizes))


def _count(n: int, what: str) -> str:
    return f"{n:,} {what}{'' if n == 1 else 's'}"
