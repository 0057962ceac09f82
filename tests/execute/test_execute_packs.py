"""Sizes of packs and the search for the design that kills its worker, without a cluster."""

from collections import Counter
from itertools import islice

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.design.layers import Design
from dnnflow.engines.records import Portion
from dnnflow.errors import InputError
from dnnflow.execute.packs import Backlog, Load, PackLimits, PackSize, halves

LIMITS = PackLimits()


def designs(count: int) -> list[Design]:
    return [Design(seed=seed) for seed in range(count)]


def singles(count: int, cost: float = 1.0) -> list[Portion]:
    return [Portion((design,), cost) for design in designs(count)]


def stack(*seeds: int, cost: float = 1.0) -> Portion:
    return Portion(tuple(Design(seed=seed) for seed in seeds), cost)


def seeds(load: Load | None) -> list[list[int]]:
    """Return the seeds of each portion of a load."""
    assert load is not None
    return [[design.seed for design in portion.designs] for portion in load.portions]


def learned(unit_s: float, cost: float = 1000.0) -> PackSize:
    """Return a size that has seen what a unit of cost takes."""
    size = PackSize(LIMITS)
    for _ in range(8):
        size.observe(cost, cost * unit_s)
    return size


def test_the_first_pack_is_a_single_portion() -> None:
    assert PackSize(LIMITS).budget(waiting=50_000, slots=2) == 0
    assert seeds(Backlog([stack(0, 1), stack(2)], LIMITS).take(2)) == [[0, 1]]


def test_packs_last_about_five_seconds() -> None:
    assert learned(0.1).budget(waiting=50_000, slots=2) == pytest.approx(50)
    assert learned(60.0).budget(waiting=50_000, slots=2) < 1


def test_one_slow_start_does_not_keep_packs_small() -> None:
    """The first design on a worker pays for the import of TensorFlow."""
    size = PackSize(LIMITS)
    size.observe(1.0, 8.0)
    for _ in range(4):
        size.observe(1.0, 0.01)
    assert size.budget(waiting=50_000, slots=2) == LIMITS.growth


def test_packs_shrink_towards_the_end_so_that_workers_finish_together() -> None:
    size = learned(1.0)
    assert size.budget(waiting=1000, slots=2) == 5
    assert size.budget(waiting=16, slots=4) == 2
    # What takes a quarter of a second is not cut any more.
    assert size.budget(waiting=0.5, slots=4) == 0.25


FINISHED_PACKS = st.lists(st.tuples(st.floats(1e-3, 1e3), st.floats(0, 1e4)), max_size=20)


@given(FINISHED_PACKS, st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=40), st.integers(0, 1000))
def test_a_pack_is_neither_empty_nor_past_its_limits(
    seen: list[tuple[float, float]], costs: list[float], slots: int
) -> None:
    limits = PackLimits(largest=10)
    size = PackSize(limits)
    backlog = Backlog([stack(2 * seed, 2 * seed + 1, cost=cost) for seed, cost in enumerate(costs)], limits)
    for cost, seconds in seen:
        size.observe(cost, seconds)
        backlog.observe(Load((stack(0, cost=cost),)), seconds)
    load = backlog.take(slots)
    assert load is not None
    assert len(load.designs) <= limits.largest
    assert len(load.portions) == 1 or load.cost <= size.budget(sum(costs), slots)


def test_portions_are_taken_whole_and_in_their_order_until_the_time_is_full() -> None:
    backlog = Backlog([stack(0, 1, cost=3), stack(2, cost=2), stack(3, 4, cost=1), *singles(99)[5:]], LIMITS)
    for _ in range(8):
        backlog.observe(Load((stack(0, cost=10.0),)), 10.0)
    assert seeds(backlog.take(2)) == [[0, 1], [2]]
    assert seeds(backlog.take(2)) == [[3, 4], [5], [6], [7], [8]]


def test_a_task_is_told_which_designs_belong_together() -> None:
    pack = Load((stack(0, 1), stack(2))).pack(keep_above=0.5)
    assert [portion.designs for portion in pack.portions] == [tuple(designs(2)), (Design(seed=2),)]
    assert pack.keep_above == 0.5


def test_a_portion_without_designs_or_cost_is_refused() -> None:
    with pytest.raises(InputError, match="at least one design"):
        Portion(())
    with pytest.raises(InputError, match=r"must be > 0 and finite, got 0\.0"):
        Portion((Design(),), 0.0)


def test_halves_keep_every_design_in_order() -> None:
    five = designs(5)
    assert halves(five) == [tuple(five[:3]), tuple(five[3:])]
    assert halves(five[:1]) == [(five[0],), ()]


def test_equal_designs_are_trained_once() -> None:
    backlog = Backlog([stack(0, 0), stack(0), stack(0, 1)], LIMITS)
    assert backlog.unfinished == 2
    assert seeds(backlog.take(1)) == [[0]]
    assert seeds(backlog.take(1)) == [[1]]
    assert backlog.take(1) is None


def test_an_outcome_counts_once() -> None:
    backlog = Backlog(singles(1), LIMITS)
    (design,) = designs(1)
    assert backlog.finish(design.design_id)
    assert not backlog.finish(design.design_id)
    assert not backlog.finish("of another run")


def test_portions_given_back_are_first_in_line_and_under_no_suspicion() -> None:
    backlog = Backlog([stack(0, 1), stack(2)], LIMITS)
    load = backlog.take(1)
    assert load is not None
    backlog.give_back(load)
    assert not backlog.suspected
    assert backlog.take(1) == load


def test_finished_portions_of_a_lost_pack_are_not_run_again() -> None:
    backlog = Backlog(singles(4), LIMITS)
    backlog.finish(Design(seed=0).design_id)
    backlog.lose(Load(tuple(singles(4))))
    again = []
    while backlog.suspected:
        again += seeds(backlog.take_suspect())
    assert again == [[1], [2], [3]]


def test_a_stack_is_run_once_more_whole_before_it_is_cut() -> None:
    """A worker may die for another reason; a stack of other members computes other last digits."""
    backlog = Backlog([stack(0, 1, 2, cost=3.0), stack(3, 4)], LIMITS)
    backlog.finish(Design(seed=0).design_id)
    backlog.lose(Load((stack(0, 1, 2, cost=3.0), stack(3, 4))))
    first, second = backlog.take_suspect(), backlog.take_suspect()
    assert (seeds(first), seeds(second)) == ([[0, 1, 2]], [[3, 4]])
    assert first is not None
    assert backlog.lose(first) is None
    parts = [backlog.take_suspect(), backlog.take_suspect()]
    assert [seeds(part) for part in parts] == [[[1]], [[2]]], "what is finished is left out of the parts"
    assert [part.cost for part in parts if part] == [1.0, 1.0]


def run_to_the_end(backlog: Backlog, killers: set[int]) -> tuple[Counter[int], list[int]]:
    """Run everything where some designs kill their worker; return what was trained, and what was given up."""
    trained: Counter[int] = Counter()
    given_up: list[int] = []
    while backlog.unfinished:
        load = backlog.take_suspect() or backlog.take(2)
        assert load is not None, "a design is neither finished nor anywhere"
        for portion in load.portions:
            if killers & {design.seed for design in portion.designs}:
                lost = backlog.lose(load)
                if lost is not None:
                    given_up.append(lost.seed)
                    backlog.finish(lost.design_id)
                break
            for design in portion.designs:
                trained[design.seed] += backlog.finish(design.design_id)
        else:
            backlog.observe(load, 1e-3)
    return trained, given_up


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 20), min_size=1, max_size=12), st.data())
def test_only_designs_that_kill_their_worker_alone_are_given_up(
    sizes: list[int], data: st.DataObject
) -> None:
    count = sum(sizes)
    killers = data.draw(st.sets(st.integers(0, count - 1), max_size=5))
    every = iter(designs(count))
    portions = [Portion(tuple(islice(every, size))) for size in sizes]
    trained, given_up = run_to_the_end(Backlog(portions, LIMITS), killers)
    assert sorted(given_up) == sorted(killers)
    assert trained == Counter(set(range(count)) - killers)
