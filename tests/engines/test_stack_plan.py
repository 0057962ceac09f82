"""Stacks are cut so that every design is trained once, as itself, in bounded memory and padding."""

import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from math import frexp
from typing import Any, NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.design import layers as design_layers
from dnnflow.design.layers import Design, EarlyStopping, Layer, Optimizer, Reference, Schedule, activations_of
from dnnflow.design.space import Space
from dnnflow.engines.stacked.stack_plan import (
    LEAST_CUT,
    OWN_ACTIVATION,
    UNROLLED,
    Stack,
    StackLimits,
    TableShape,
    describe_plan,
    plan_stacks,
    useful_flops,
    why_not,
)  # fmt: skip
from dnnflow.errors import DesignError, InputError

REPEATABLE = settings(max_examples=150, deadline=None, derandomize=True)
TABLE = TableShape(n_rows=1437, n_features=64, n_outputs=10)
"""The digits' training rows."""
DIGITS_SPACE = {
    "depth": {"int": [1, 5]},
    "units": {"choice": [16, 32, 64, 128]},
    "activation": {"choice": ["relu", "tanh"]},
    "learning_rate": {"loguniform": [1e-3, 1e-2]},
}
DIGITS = list(Space.from_dict(DIGITS_SPACE).sample(4000))

layers = st.builds(
    Layer,
    units=st.sampled_from([1, 2, 4]),
    activation=st.sampled_from(["relu", "tanh", "gelu"]),
    dropout=st.sampled_from([0.0, 0.2, 0.5]),
    batch_norm=st.booleans(),
    initializer=st.sampled_from(["glorot_uniform", "he_normal"]),
    l2=st.sampled_from([0.0, 0.01]),
)
plain_layers = st.builds(Layer, units=st.integers(1, 4), activation=st.sampled_from(["relu", "tanh"]))
depths = st.integers(UNROLLED - 1, UNROLLED + 3)
stacks_of_layers = st.one_of(
    st.lists(plain_layers, max_size=3).map(tuple),
    st.lists(layers, max_size=3).map(tuple),
    st.builds(lambda layer, depth: (layer,) * depth, layers, depths),
)
networks = st.builds(
    Design,
    layers=stacks_of_layers,
    residual=st.integers(0, 2),
    optimizer=st.sampled_from([Optimizer(), Optimizer("sgd", 0.1, {"momentum": 0.9}), Optimizer("sgd")]),
    batch_size=st.sampled_from([32, 5000]),
    epochs=st.sampled_from([1, 10, 11]),
    early_stopping=st.sampled_from([None, EarlyStopping()]),
)


@st.composite
def studies(draw: st.DrawFn) -> list[Design]:
    """Designs of a few networks, each in some widths, epochs, activations and seeds, in any order."""
    designs = []
    for network in draw(st.lists(networks, max_size=3)):
        epochs = draw(st.sampled_from([[network.epochs], [10, 11, 12, 20]]))
        for factors in draw(st.lists(st.lists(st.integers(10, 20), min_size=3, max_size=3), max_size=8)):
            scaled = scale(network, factors if len(network.layers) <= 3 else factors[:1] * 3)
            count = draw(st.sampled_from([1, 2, 5, 40]))
            designs += [replace(scaled, seed=n, epochs=epochs[n % len(epochs)]) for n in range(count)]
    return draw(st.permutations(list({design.design_id: design for design in designs}.values())))


def scale(network: Design, factors: list[int]) -> Design:
    """Return the network with layers of other widths."""
    made = [replace(x, units=x.units * factors[i % 3]) for i, x in enumerate(network.layers)]
    return replace(network, layers=tuple(made))


shapes = st.builds(TableShape, st.sampled_from([1, 100, 2000]), st.sampled_from([10, 40]), st.integers(2, 12))
limits_of_a_stack = st.builds(
    StackLimits,
    slots=st.sampled_from([1, 2, 8]),
    memory_bytes=st.sampled_from([2**29, 2**24, 2**22, 1]),
    cache_bytes=st.sampled_from([2**23, 2**20, 2**18, 1]),
    largest=st.sampled_from([256, 16, 3]),
    waste=st.sampled_from([0.25, 0.6, 0.05, 0.0]),
)


class Planned(NamedTuple):
    """Designs of a study, and the stacks that they were cut into."""

    designs: list[Design]
    shape: TableShape
    limits: StackLimits
    stacks: list[Stack]


@st.composite
def planned(draw: st.DrawFn) -> Planned:
    """Plan any study, for any table and limits."""
    designs, shape, limits = draw(studies()), draw(shapes), draw(limits_of_a_stack)
    return Planned(designs, shape, limits, plan_stacks(designs, shape, limits))


def ids(stacks: Sequence[Stack]) -> list[str]:
    return sorted(design.design_id for stack in stacks for design in stack.designs)


def widths(design: Design) -> tuple[int, ...]:
    return tuple(layer.units for layer in design.layers)


def same(count: int, *units: int, **fields: Any) -> list[Design]:
    """Designs of one network that differ in their seeds."""
    options = {name: fields.pop(name) for name in ("activation", "initializer") if name in fields}
    made = tuple(Layer(width, **options) for width in units)
    return [Design(made, seed=seed, **fields) for seed in range(count)]


def weights_of(stack: Stack, shape: TableShape) -> int:
    """Padded weights of one member, counted layer by layer."""
    total, width = 0, shape.n_features
    for layer, units in zip(stack.designs[0].layers, stack.widths, strict=True):
        total += (width + 1) * units + 4 * units * layer.batch_norm
        width = units
    return total + (width + 1) * shape.n_outputs


@pytest.mark.slow
@REPEATABLE
@given(planned())
def test_every_design_is_in_exactly_one_stack(plan: Planned) -> None:
    assert ids(plan.stacks) == sorted(design.design_id for design in plan.designs)


@pytest.mark.slow
@REPEATABLE
@given(planned())
def test_stacks_keep_to_the_limits_unless_a_design_alone_does_not(plan: Planned) -> None:
    for stack in plan.stacks:
        count = len(stack.designs)
        assert count <= plan.limits.largest
        assert stack.waste <= plan.limits.waste
        if count > 1:
            assert stack.n_bytes <= plan.limits.memory_bytes
            assert count * weights_of(stack, plan.shape) * 16 <= plan.limits.cache_bytes


@REPEATABLE
@given(planned())
def test_what_a_stack_says_of_its_arithmetic_is_true_of_its_members(plan: Planned) -> None:
    for stack in plan.stacks:
        each = [useful_flops(design, plan.shape) for design in stack.designs]
        longest = max(stack.designs, key=lambda design: design.epochs)
        padded = replace(longest, layers=tuple(Layer(units) for units in stack.widths))
        assert stack.useful_flops == sum(each)
        assert stack.padded_flops == len(each) * useful_flops(padded, plan.shape)
        assert stack.n_steps == longest.epochs * -(-plan.shape.n_rows // longest.batch_size)
        assert stack.n_bytes >= len(each) * weights_of(stack, plan.shape) * 16
        assert stack.cost_s > 0


@pytest.mark.slow
@REPEATABLE
@given(planned())
def test_members_of_a_stack_are_what_its_signature_says(plan: Planned) -> None:
    for stack in plan.stacks:
        signature = stack.signature
        assert stack.widths == tuple(map(max, zip(*map(widths, stack.designs), strict=True)))
        assert signature.padded == (len(set(map(widths, stack.designs))) > 1 or len(signature.palette) > 1)
        used = {layer.activation for design in stack.designs for layer in design.layers}
        assert signature.palette == tuple(sorted(used))
        assert len({(len(design.layers), design.batch_size) for design in stack.designs}) == 1
        for design in stack.designs:
            depth = len(design.layers)
            forms = {replace(layer, initializer="zeros") for layer in design.layers}
            assert signature.looped == (depth > UNROLLED and len(forms) == 1)
            assert signature.depth == (0 if signature.looped else depth)
            norms = tuple(layer.batch_norm for layer in design.layers)
            assert signature.batch_norm * (depth if signature.looped else 1) == norms
            assert signature.dropout == any(layer.dropout > 0 for layer in design.layers)
            assert signature.l2 == any(layer.l2 > 0 for layer in design.layers)
            assert signature.optimizer == design.optimizer.name
            assert dict(signature.parameters) == design.optimizer.parameters


@REPEATABLE
@given(planned())
def test_residual_connections_of_a_stack_are_those_of_every_member(plan: Planned) -> None:
    for stack in plan.stacks:
        signature = stack.signature
        for design in stack.designs:
            sources = design_layers.residual_sources(design, plan.shape.n_features)
            if not signature.looped:
                assert dict(signature.residual) == sources
                continue
            every = signature.residual_every
            groups = range(every, len(design.layers) + 1, every) if every else ()
            summed = {end - 1: end - every for end in groups if end > every or signature.residual_input}
            assert summed == sources
            assert signature.residual == ()


@pytest.mark.slow
@REPEATABLE
@given(planned())
def test_a_stack_planned_again_by_itself_is_the_same_stack(plan: Planned) -> None:
    """Else an engine would train other stacks than the study planned, with other last digits."""
    for stack in plan.stacks:
        assert plan_stacks(stack.designs, plan.shape, replace(plan.limits, slots=1)) == [stack]


@pytest.mark.slow
@REPEATABLE
@given(planned())
def test_the_same_study_is_cut_the_same_way_when_it_is_read_again(plan: Planned) -> None:
    read = [Design.from_dict(design.to_dict()) for design in plan.designs]
    assert plan_stacks(read, plan.shape, plan.limits) == plan.stacks


@pytest.mark.slow
@REPEATABLE
@given(planned())
def test_long_stacks_come_first_and_equal_traces_side_by_side(plan: Planned) -> None:
    stacks = plan.stacks
    quanta = [frexp(stack.cost_s)[1] for stack in stacks]
    assert quanta == sorted(quanta, reverse=True)
    for _, group in groupby(stacks, lambda stack: frexp(stack.cost_s)[1]):
        runs = [signature for signature, _ in groupby(group, lambda stack: stack.signature)]
        assert len(runs) == len(set(runs))


@REPEATABLE
@given(studies(), shapes)
def test_designs_measured_alone_have_stacks_of_their_own(designs: list[Design], shape: TableShape) -> None:
    stacks = plan_stacks(designs, shape, StackLimits(slots=8, alone=True))
    assert ids(stacks) == sorted(design.design_id for design in designs)
    assert all(len(stack.designs) == 1 and stack.waste == 0 for stack in stacks)


def test_the_digits_space_takes_ten_traces_and_no_padding() -> None:
    """Five depths of two activations; the thousands of learning rates cost nothing."""
    stacks = plan_stacks(DIGITS, TABLE, StackLimits(slots=8))
    assert len({stack.signature for stack in stacks}) == 10
    assert max(stack.waste for stack in stacks) == 0
    assert len(stacks) < len(DIGITS) / 20


def test_designs_share_a_stack_in_spite_of_seeds_rates_schedules_and_initializers() -> None:
    designs = [
        *same(2, 64),
        *same(2, 64, optimizer=Optimizer(learning_rate=0.01)),
        *same(2, 64, schedule=Schedule("cosine")),
        *same(2, 64, initializer="he_normal"),
        *same(2, 64, early_stopping=EarlyStopping()),
    ]
    (stack,) = plan_stacks(designs, TABLE)
    assert stack.designs == tuple(designs)


@pytest.mark.parametrize(
    "other",
    [
        same(2, 64, 64),
        same(2, 64, batch_size=64),
        same(2, 64, optimizer=Optimizer("adam", parameters={"beta_1": 0.5})),
        same(2, 64, optimizer=Optimizer("sgd")),
        same(2, 64, residual=1),
        [Design((Layer(64, dropout=0.1),))],
        [Design((Layer(64, l2=0.1),))],
        [Design((Layer(64, batch_norm=True),))],
    ],
    ids=["depth", "batch size", "parameter", "optimizer", "residual", "dropout", "l2", "batch norm"],
)
def test_what_one_program_cannot_train_is_never_stacked(other: list[Design]) -> None:
    assert len(plan_stacks([*same(2, 64), *other], TABLE)) == 2


def test_all_depths_of_equal_layers_share_one_trace_beyond_the_unrolled_ones() -> None:
    designs = [design for depth in (17, 50, 1000) for design in same(1, *[64] * depth)]
    stacks = plan_stacks(designs, TABLE)
    assert sorted(len(stack.widths) for stack in stacks) == [17, 50, 1000]
    assert len({stack.signature for stack in stacks}) == 1


def test_residual_groups_of_a_loop_know_whether_they_begin_with_the_input() -> None:
    designs = [design for units in (64, 32) for design in same(1, *[units] * 20, residual=4)]
    found = {stack.widths[0]: stack.signature for stack in plan_stacks(designs, TABLE)}
    assert {units: (x.residual_every, x.residual_input) for units, x in found.items()} == {
        64: (4, True), 32: (4, False),
    }  # fmt: skip


def test_a_residual_group_longer_than_the_network_needs_no_trace_of_its_own() -> None:
    (stack,) = plan_stacks([*same(1, *[64] * 20), *same(1, *[64] * 20, residual=21)], TABLE)
    assert stack.signature.residual_every == 0


def test_an_activation_of_many_designs_is_not_slowed_down_by_those_of_others() -> None:
    many = same(OWN_ACTIVATION, 16, activation="relu")
    few = [*same(3, 16, activation="tanh"), *same(3, 16, activation="gelu")]
    stacks = plan_stacks([*many, *few], TABLE)
    palettes = Counter({stack.signature.palette: len(stack.designs) for stack in stacks})
    assert palettes == {("relu",): OWN_ACTIVATION, ("gelu", "tanh"): 6}


def test_a_few_designs_of_each_activation_are_traced_once_together() -> None:
    designs = [design for name in design_layers.ACTIVATIONS for design in same(3, 16, activation=name)]
    (stack,) = plan_stacks(designs, TABLE)
    assert stack.signature.palette == tuple(sorted(design_layers.ACTIVATIONS))


def test_activations_drawn_for_every_layer_take_few_traces() -> None:
    """A trace for every combination would take longer than the study; each layer is divided anyhow."""
    three = {"choice": ["relu", "tanh", "gelu"]}
    space = Space.from_dict({**DIGITS_SPACE, "activation": three, "per_layer": ["activation"]})
    stacks = plan_stacks(space.sample(4000), TABLE, StackLimits(slots=8))
    assert len({stack.signature for stack in stacks}) <= 5 * (3 + 1)


def test_mixed_stacks_share_a_trace_made_for_all_activations_of_the_study() -> None:
    """A trace for every set of activations that happen to meet would take longer than the training."""
    layers = [("relu", "tanh"), ("gelu", "relu"), ("elu", "tanh"), ("selu", "elu")]
    designs = [
        Design(tuple(Layer(units, name) for name in names), batch_size=size)
        for names, units, size in zip(layers, (8, 16, 32, 64), (8, 16, 32, 64), strict=True)
    ]
    limits = StackLimits(activations=activations_of(designs))
    signatures = {stack.signature for stack in plan_stacks(designs, TABLE, limits)}
    assert [signature.palette for signature in signatures] == [("elu", "gelu", "relu", "selu", "tanh")]
    (single,) = plan_stacks(same(3, 16, activation="elu"), TABLE, limits)
    assert single.signature.palette == ("elu",), "what is not mixed is not slowed down"


def test_similar_widths_are_padded_and_different_ones_are_not() -> None:
    some = [*same(3, 64, 60), *same(3, 62, 64), *same(3, 8, 8)]
    stacks = plan_stacks(some, TABLE, StackLimits(waste=0.25))
    assert {stack.widths: len(stack.designs) for stack in stacks} == {(64, 64): 6, (8, 8): 3}
    assert {stack.widths: stack.signature.padded for stack in stacks} == {(64, 64): True, (8, 8): False}


def test_padding_that_takes_longer_than_a_stack_more_is_left_out() -> None:
    """Within the bound of waste, but with large batches arithmetic outweighs the starting of operations."""
    large = [*same(2, 300, batch_size=1024), *same(2, 340, batch_size=1024)]
    small = [replace(design, batch_size=32) for design in large]
    assert len(plan_stacks(large, TABLE)) == 2
    assert len(plan_stacks(small, TABLE)) == 1


def test_a_design_of_many_epochs_does_not_carry_short_ones_along() -> None:
    stacks = plan_stacks([*same(5, 64, epochs=10), *same(5, 64, epochs=100)], TABLE)
    assert [{design.epochs for design in stack.designs} for stack in stacks] == [{100}, {10}]


@pytest.mark.slow
def test_equal_designs_are_cut_in_stacks_of_few_sizes() -> None:
    """TensorFlow keeps a compiled product for each shape: a worker that meets many grows."""
    sizes = [[len(stack.designs) for stack in plan_stacks(same(count, 16), TABLE)] for count in (257, 600)]
    assert [sorted(found) for found in sizes] == [[1, 256], [88, 256, 256]]
    for width in range(20, 300, 7):
        (full,) = {len(stack.designs) for stack in plan_stacks(same(2**10 * 3, width), TABLE)}
        assert full in (4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


def test_an_enormous_design_is_a_stack_by_itself() -> None:
    stacks = plan_stacks([*same(3, 10**12, 10**12), *same(2, 16, 16)], TABLE)
    assert [len(stack.designs) for stack in stacks] == [1, 1, 1, 2]


def test_workers_are_not_left_idle_by_a_few_long_stacks() -> None:
    alone, shared = (plan_stacks(same(200, 16), TABLE, StackLimits(slots=slots)) for slots in (1, 4))
    assert len(alone) == 1
    assert len(shared) == 16
    assert {len(stack.designs) for stack in shared} == {12, 13}


def test_a_stack_is_not_cut_below_a_few_designs_only_to_keep_workers_busy() -> None:
    stacks = plan_stacks(same(4 * LEAST_CUT + 1, 16), TABLE, StackLimits(slots=64))
    assert sorted(len(stack.designs) for stack in stacks) == [LEAST_CUT] * 3 + [LEAST_CUT + 1]


def test_a_part_of_a_stack_that_would_be_mostly_padding_is_divided_again() -> None:
    """Four narrow designs are little among forty, but not in a part of five."""
    designs, limits = [*same(36, 64), *same(4, 36)], StackLimits(waste=0.25)
    assert len(plan_stacks(designs, TABLE, limits)) == 1
    parts = plan_stacks(designs, TABLE, replace(limits, slots=2))
    assert max(stack.waste for stack in parts) <= limits.waste
    assert ids(parts) == sorted(design.design_id for design in designs)
    assert all(plan_stacks(stack.designs, TABLE, limits) == [stack] for stack in parts)


@pytest.mark.slow
@REPEATABLE
@given(planned())
def test_with_more_workers_a_stack_is_within_its_share_or_small(plan: Planned) -> None:
    whole = plan_stacks(plan.designs, plan.shape, replace(plan.limits, slots=1))
    share_s = sum(stack.cost_s for stack in whole) / (4 * plan.limits.slots)
    for stack in plan.stacks if plan.limits.slots > 1 else ():
        # What every step takes is not divided when designs are, nor is one design of a part
        alone = plan_stacks(stack.designs[:1], plan.shape, plan.limits)[0].cost_s
        assert stack.cost_s <= share_s + 2 * alone or len(stack.designs) < 2 * LEAST_CUT


def test_useful_arithmetic_is_counted_by_hand() -> None:
    shape, design = TableShape(10, 3, 2), same(1, 4, 5, epochs=7)[0]
    forward = 2 * (3 * 4 + 4 * 5 + 5 * 2)
    backward = 2 * forward - 2 * 3 * 4  # nothing flows back to the features
    assert useful_flops(design, shape) == 7 * 10 * (forward + backward)
    assert useful_flops(Design(epochs=1), shape) == 10 * (2 * 3 * 2 + 2 * 3 * 2)


def test_waste_and_steps_are_counted_by_hand() -> None:
    """In a table of 10 features and 2 classes, a unit of one hidden layer costs 4·10 + 6·2 = 52 a row."""
    (stack,) = plan_stacks([*same(1, 10, epochs=3), *same(1, 9, epochs=3)], TableShape(65, 10, 2))
    assert (stack.useful_flops, stack.padded_flops) == (3 * 65 * 52 * 19, 3 * 65 * 52 * 20)
    assert stack.waste == pytest.approx(0.05)
    assert stack.n_steps == 3 * 3
    assert stack.step_flops == pytest.approx(65 * 52 * 20 / 3)


def test_a_layer_option_in_the_last_of_many_layers_keeps_them_from_being_a_loop() -> None:
    tails = (
        Layer(64, dropout=0.1),
        Layer(64, l2=0.1),
        Layer(64, batch_norm=True),
        Layer(64, "tanh"),
        Layer(8),
    )
    for tail in tails:
        design = Design((*(Layer(64),) * 19, tail))
        assert not plan_stacks([design], TABLE)[0].signature.looped


def test_designs_that_cannot_be_stacked_are_told_apart_with_a_remedy() -> None:
    mixed = tuple(Layer(64 + index % 2) for index in range(33))
    by_code = Design(reference=Reference("module:build"))
    assert why_not(Design(mixed[:32])) is None
    assert why_not(Design((Layer(64), Layer(64, initializer="he_normal")) * 500)) is None
    assert "got 33; make them alike, or take engine auto" in str(why_not(Design(mixed)))
    assert "designs by reference; take engine auto" in str(why_not(by_code))
    for design in (Design(mixed), by_code):  # which would be planned as another network
        with pytest.raises(DesignError, match="take engine auto or keras"):
            plan_stacks([*same(2, 64), design], TABLE)


@pytest.mark.parametrize(
    "given_limits",
    [{"slots": 0}, {"memory_bytes": 0}, {"cache_bytes": -1}, {"largest": 0}, {"waste": 1.0}, {"waste": -0.1}],
)
def test_impossible_limits_are_refused(given_limits: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=f"{next(iter(given_limits))} must be"):
        StackLimits(**given_limits)


def test_a_plan_is_told_in_one_line() -> None:
    stacks = plan_stacks([*same(1200, 16), *same(1, 64, 64)], TABLE)
    assert describe_plan(stacks) == (
        "1,201 designs in 6 stacks of 1 to 256, 2 signatures, padding 0.0 % of the arithmetic"
    )
    (stack,) = plan_stacks([*same(1, 10, epochs=3), *same(1, 9, epochs=3)], TableShape(65, 10, 2))
    assert describe_plan([stack]) == (
        "2 designs in 1 stack of 2, 1 signature, padding 5.0 % of the arithmetic"
    )
    assert describe_plan(plan_stacks([], TABLE)).startswith("0 designs in 0 stacks")


def test_a_plan_is_made_without_loading_tensorflow() -> None:
    code = "import sys, dnnflow.engines.stacked.stack_plan; print(*sys.modules)"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"tensorflow", "keras", "dask"} & set(run.stdout.split())
