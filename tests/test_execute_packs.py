"""Sizes of packs and the search for the design that kills its worker, without a cluster."""

from collections import Counter

from hypothesis import given, settings
from hypothesis import strategies as st

from dnnflow.design.layers import Design, Layer, Optimizer
from dnnflow.execute.packs import Backlog, Load, PackLimits, PackSize, alike_together, halves

LIMITS = PackLimits()


def designs(count: int) -> list[Design]:
    return [Design(seed=seed) for seed in range(count)]


def test_the_first_pack_is_a_single_design() -> None:
    assert PackSize(LIMITS).choose(waiting=50_000, slots=2) == 1


def test_short_designs_come_in_large_packs_and_long_ones_alone() -> None:
    short, long = PackSize(LIMITS), PackSize(LIMITS)
    for _ in range(8):
        short.observe(short.choose(waiting=50_000, slots=2), 1e-4)
        long.observe(long.choose(waiting=50_000, slots=2), 60.0)
    assert short.choose(waiting=50_000, slots=2) == LIMITS.largest
    assert long.choose(waiting=50_000, slots=2) == 1


def test_packs_last_about_five_seconds() -> None:
    size = PackSize(LIMITS)
    for _ in range(8):
        count = size.choose(waiting=50_000, slots=2)
        size.observe(count, count * 0.1)
    assert size.choose(waiting=50_000, slots=2) == 50


def test_one_slow_start_does_not_keep_packs_small() -> None:
    """The first design on a worker pays for the import of TensorFlow."""
    size = PackSize(LIMITS)
    size.observe(1, 8.0)
    for _ in range(4):
        size.observe(1, 0.01)
    assert size.choose(waiting=50_000, slots=2) == LIMITS.growth


def test_packs_shrink_towards_the_end_so_that_workers_finish_together() -> None:
    size = PackSize(LIMITS)
    for _ in range(8):
        size.observe(20, 20.0)
    assert size.choose(waiting=1000, slots=2) == 5
    assert size.choose(waiting=12, slots=4) == 2
    assert size.choose(waiting=1, slots=4) == 1


FINISHED_PACKS = st.lists(st.tuples(st.integers(1, 1000), st.floats(0, 1e4)), max_size=20)


@given(FINISHED_PACKS, st.integers(1, 10**6), st.integers(0, 1000))
def test_a_pack_is_neither_empty_nor_past_its_limit(
    seen: list[tuple[int, float]], waiting: int, slots: int
) -> None:
    size = PackSize(LIMITS)
    for count, seconds in seen:
        size.observe(count, seconds)
    assert 1 <= size.choose(waiting, slots) <= LIMITS.largest


def test_halves_keep_every_design_in_order() -> None:
    five = designs(5)
    assert halves(five) == [tuple(five[:3]), tuple(five[3:])]
    assert halves(five[:1]) == [(five[0],), ()]


def test_equal_designs_are_trained_once() -> None:
    backlog = Backlog([Design(), Design(), Design(seed=1)], LIMITS)
    assert backlog.unfinished == 2


def test_designs_of_one_network_follow_one_another() -> None:
    """A worker prepares a network once for all of them."""
    mixed = [
        Design(layers=(Layer(units),), optimizer=Optimizer(name, rate))
        for rate in (0.1, 0.2) for units in (8, 4) for name in ("sgd", "adam")
    ]  # fmt: skip
    ordered = alike_together(mixed)
    assert [(x.layers[0].units, x.optimizer.name, x.optimizer.learning_rate) for x in ordered] == [
        (8, "sgd", 0.1), (8, "sgd", 0.2), (8, "adam", 0.1), (8, "adam", 0.2),
        (4, "sgd", 0.1), (4, "sgd", 0.2), (4, "adam", 0.1), (4, "adam", 0.2),
    ]  # fmt: skip


def test_an_outcome_counts_once() -> None:
    backlog = Backlog(designs(1), LIMITS)
    (design,) = designs(1)
    assert backlog.finish(design.design_id)
    assert not backlog.finish(design.design_id)
    assert not backlog.finish("of another run")


def test_designs_given_back_are_first_in_line_and_under_no_suspicion() -> None:
    backlog = Backlog(designs(3), LIMITS)
    load = backlog.take(1)
    assert load is not None
    backlog.give_back(load)
    assert not backlog.suspected
    assert backlog.take(1) == load


def test_finished_members_of_a_lost_pack_are_not_run_again() -> None:
    backlog, four = Backlog(designs(4), LIMITS), designs(4)
    backlog.finish(four[0].design_id)
    backlog.lose(Load(tuple(four)))
    again = []
    while load := backlog.take_suspect():
        again += load.designs
    assert again == four[1:]


def run_to_the_end(backlog: Backlog, killers: set[int]) -> tuple[Counter[int], list[int]]:
    """Run everything where some designs kill their worker; return what was trained, and what was given up."""
    trained: Counter[int] = Counter()
    given_up: list[int] = []
    while backlog.unfinished:
        load = backlog.take_suspect() or backlog.take(2)
        assert load is not None, "a design is neither finished nor anywhere"
        for design in load.designs:
            if design.seed in killers:
                lost = backlog.lose(load)
                if lost is not None:
                    given_up.append(lost.seed)
                    backlog.finish(lost.design_id)
                break
            trained[design.seed] += backlog.finish(design.design_id)
        else:
            backlog.observe(len(load.designs), 1e-3)
    return trained, given_up


@settings(max_examples=60, deadline=None)
@given(st.integers(1, 120), st.data())
def test_only_designs_that_kill_their_worker_alone_are_given_up(count: int, data: st.DataObject) -> None:
    killers = data.draw(st.sets(st.integers(0, count - 1), max_size=5))
    trained, given_up = run_to_the_end(Backlog(designs(count), LIMITS), killers)
    assert sorted(given_up) == sorted(killers)
    assert trained == Counter(set(range(count)) - killers)
